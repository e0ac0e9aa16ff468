"""A trained state back in the file: nothing else changes, wherever the file has its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad import losses, train
from onnxgrad.train.release import known_weights
from onnxgrad.transforms.options import Options

MODELS = Path(__file__).parents[2] / "models"
RNG = np.random.default_rng(0)


def parsed(text: str, opset: int = 21, ir_version: int = 10) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "f" : 1]> {text}'
    )


def step_of(model: Any, **options: Any) -> dict[str, np.ndarray]:
    """The state after a step, by the trainer."""
    trainer = train.Trainer(model, losses.mse("y"), train.Adam(lr=0.1), **options)
    trainer.fit(({"x": np.ones((4, 2), np.float32), "labels": np.zeros((4, 2), np.float32)}), 3)
    return trainer.state


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString()).run(None, feeds)


def without_tensors(model: onnx.ModelProto) -> bytes:
    """A model's message without the contents of its tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)

    def strip(graph: Any) -> None:
        for tensor in graph.initializer:
            empty(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    empty(attribute.t)
                if attribute.HasField("g"):
                    strip(attribute.g)

    def empty(tensor: onnx.TensorProto) -> None:
        for field in ("raw_data", "float_data", "int64_data", "int32_data"):
            tensor.ClearField(field)

    strip(copy.graph)
    for function in copy.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    empty(attribute.t)
    return copy.SerializeToString(deterministic=True)


W = "<float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 1}>"
NETS = {
    "initializers": parsed(
        f"g (float[N,2] x) => (float[N,2] y) {W} {{ h = MatMul(x, w) y = Add(h, b) }}"
    ),
    "opset 9": parsed(
        f"g (float[N,2] x) => (float[N,2] y) {W} {{ h = MatMul(x, w) y = Add(h, b) }}", 9, 4
    ),
    "initializers that are inputs": parsed(
        "g (float[N,2] x, float[2,2] w, float[2] b) => (float[N,2] y) "
        f"{W} {{ h = MatMul(x, w) y = Add(h, b) }}", 9, 3,
    ),
    "Constant nodes": parsed(
        "g (float[N,2] x) => (float[N,2] y) { w = Constant<value = float[2,2] {1, 2, 3, 4}>() "
        "b = Constant<value_floats = [1.0, 1.0]>() h = MatMul(x, w) y = Add(h, b) }"
    ),
    "transposed": parsed(
        f"g (float[N,2] x) => (float[N,2] y) {W} "
        "{ t = Transpose<perm = [1, 0]>(w) h = MatMul(x, t) y = Add(h, b) }"
    ),
    "a branch": parsed(
        "g (float[N,2] x, bool c) => (float[N,2] y) "
        "{ y = If(c) <then_branch = t () => (float[N,2] u) <float[2,2] w = {1, 2, 3, 4}> "
        "{ u = MatMul(x, w) }, else_branch = e () => (float[N,2] v) "
        "{ w2 = Constant<value = float[2,2] {1, 0, 0, 1}>() v = MatMul(x, w2) }> }"
    ),
    "a function": parsed(
        "g (float[N,2] x) => (float[N,2] y) { y = f.layer(x) }"
        '<domain: "f", opset_import: ["" : 21]> layer (x) => (y) '
        "{ w = Constant<value = float[2,2] {1, 2, 3, 4}>() y = MatMul(x, w) }"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_nothing_else_changes(name: str) -> None:
    model = NETS[name]
    feeds: dict[str, Any] = {"x": RNG.standard_normal((3, 2)).astype(np.float32)}
    batch: dict[str, Any] = {
        "x": np.ones((4, 2), np.float32),
        "labels": np.zeros((4, 2), np.float32),
    }
    if name == "a branch":
        feeds["c"] = batch["c"] = np.array(True)
    trainer = train.Trainer(model, losses.mse("y"), train.Adam(lr=0.1))
    trainer.fit(batch, 2)
    found = trainer.export()
    onnx.checker.check_model(found)
    if name != "Constant nodes":  # there an attribute becomes a tensor
        assert without_tensors(found) == without_tensors(model)
    assert [n.op_type for n in found.graph.node] == [n.op_type for n in model.graph.node]
    assert found.opset_import == model.opset_import
    (y,) = outputs(found, feeds)
    np.testing.assert_allclose(y, trainer.predict(feeds), rtol=1e-6)
    assert np.abs(y - outputs(model, feeds)[0]).max() > 0.1  # it was trained


def test_each_of_several_weights_in_attributes_is_found() -> None:
    names = "abcd"
    constants = " ".join(f"{n} = Constant<value_floats = [1.0, 2.0]>()" for n in names)
    model = parsed(
        f"g (float[2] x) => (float[2] y) {{ {constants} "
        "p = Add(x, a) q = Mul(p, b) r = Add(q, c) y = Mul(r, d) }"
    )
    new = {name: np.array([k, 5], np.float32) for k, name in enumerate(names[:3])}
    x = np.array([3, 4], np.float32)
    (y,) = outputs(train.export(model, new), {"x": x})
    expected = ((x + new["a"]) * new["b"] + new["c"]) * np.array([1, 2])
    np.testing.assert_array_equal(y, expected)


def test_the_dtype_of_the_file_is_kept() -> None:
    model = parsed(
        "g (float16[N,2] x) => (float16[N,2] y) <float16[2,2] w = {1, 2, 3, 4}> "
        "{ y = MatMul(x, w) }"
    )
    trainer = train.Trainer(model, losses.mse("y"), train.SGD(lr=0.1))
    x = np.ones((4, 2), np.float16)
    trainer.fit((x, np.zeros((4, 2), np.float16)))
    assert trainer.state["w"].dtype == np.float32
    found = trainer.export()
    w = numpy_helper.to_array(found.graph.initializer[0])
    assert w.dtype == np.float16
    np.testing.assert_array_equal(w, trainer.state["w"].astype(np.float16))
    np.testing.assert_allclose(
        outputs(found, {"x": x})[0], trainer.predict(x), rtol=1e-3, atol=1e-3
    )


def test_what_was_not_trained_stays_as_it_is() -> None:
    """The quantised part of a net, and weights that are as they were, to the byte."""
    model = parsed(
        "g (float[N,2] x) => (float[N,2] y) <int8[2,2] q = {1, 2, 3, 4}, float s = {0.5}, "
        "float[2,2] w = {1, 2, 3, 4}, float[2,2] v = {1, 2, 3, 4}> "
        "{ d = DequantizeLinear(q, s) h = MatMul(x, d) i = MatMul(h, w) y = MatMul(i, v) }"
    )
    before = {t.name: t.SerializeToString() for t in model.graph.initializer}
    weights = {"w": numpy_helper.to_array(model.graph.initializer[2]), "v": np.eye(2, dtype="f4")}
    found = train.export(model, weights)
    after = {t.name: t for t in found.graph.initializer}
    for name in ("q", "s", "w"):
        content = numpy_helper.to_array(onnx.TensorProto.FromString(before[name]))
        np.testing.assert_array_equal(numpy_helper.to_array(after[name]), content)
    np.testing.assert_array_equal(numpy_helper.to_array(after["v"]), np.eye(2))


def test_every_kind_of_model(tmp_path: Path) -> None:
    path = MODELS / "mlp.onnx"
    weights = {"fc1.bias": np.full(len(fc1_bias(onnx.load(path))), 2, np.float32)}
    found = train.export(path, weights)
    assert isinstance(found, onnx.ModelProto)
    assert isinstance(train.export(ir.load(path), weights), ir.Model)
    assert isinstance(train.export(path.read_bytes(), weights), onnx.ModelProto)
    assert (fc1_bias(found) == 2).all()
    assert (fc1_bias(onnx.load(path)) != 2).any()


def fc1_bias(model: onnx.ModelProto) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "fc1.bias")


def shared() -> onnx.ModelProto:
    return parsed(
        "g (float[N,2] x) => (float[N,2] y) { h = f.layer(x) y = f.layer(h) }"
        '<domain: "f", opset_import: ["" : 21]> layer (x) => (y) '
        "{ w = Constant<value = float[2,2] {1, 2, 3, 4}>() y = MatMul(x, w) }"
    )


def two_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """A state in which the weights of two calls differ, as of a step of one's own."""
    names = known_weights(ir.from_proto(model), Options())
    assert len(names) == 2
    return {name: np.full((2, 2), k, np.float32) for k, name in enumerate(names)}


def test_calls_of_a_function_share_a_weight() -> None:
    """Its gradient is that of both calls; here y = x w w, and the loss is the mean of y²."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    trainer = train.Trainer(shared(), losses.mse("y"), train.SGD(lr=0.01))
    x = RNG.standard_normal((4, 2)).astype(np.float32)
    trainer.fit({"x": x, "labels": np.zeros((4, 2), np.float32)})
    w = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    (torch.tensor(x) @ w @ w).square().mean().backward()
    expected = (w - 0.01 * w.grad).detach().numpy()
    (found,) = (array for name, array in trainer.state.items() if name != "step")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    exported = trainer.export()
    assert len(exported.functions) == 1
    for y in (outputs(exported, {"x": x})[0], trainer.predict(x)):
        np.testing.assert_allclose(y, x @ expected @ expected, rtol=1e-3, atol=1e-4)


BIAS = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    "make, says",
    [
        (
            lambda: train.export(NETS["initializers"], {"v": np.zeros((2, 2), "f4")}),
            "no weight 'v'",
        ),
        (lambda: train.export(NETS["initializers"], {"b": np.zeros(3, "f4")}), "shape"),
        (lambda: train.export(NETS["initializers"], {"step": np.array(3)}), "none of the weights"),
        (lambda: train.export(NETS["initializers"], {"b": BIAS, "z.m": BIAS}), "no weight 'z.m'"),
        (lambda: train.export(NETS["initializers"], [BIAS]), "arrays by name"),
        (lambda: train.export(shared(), two_of(shared())), "one tensor"),
    ],
)
def test_mistakes(make: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        make()
