"""The files of a training: any runtime trains with them, and they agree with each other."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxgrad as og
from onnxgrad import losses, train
from onnxgrad.graph import protos
from onnxgrad.graph import shared as shared_module
from onnxgrad.train.artifacts import parts

MODELS = Path(__file__).parents[2] / "models"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((6, 4)).astype(np.float32)
LABELS = np.arange(6) % 3

Run = Any


def with_onnxruntime(path: Path) -> Run:
    session = ort.InferenceSession(path)
    names = [v.name for v in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def with_reference(path: Path) -> Run:
    evaluator = ReferenceEvaluator(str(path))
    return lambda feeds: dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def trained(folder: Path, load: Any, steps: int, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """The loop that the docstring of `artifacts` shows: the state after some steps."""
    proto = onnx.load(folder / "step.onnx", load_external_data=False)
    table = json.loads({p.key: p.value for p in proto.metadata_props}["onnxgrad.state"])
    state, step = load(folder / "init.onnx")({}), load(folder / "step.onnx")
    assert set(state) == set(table)
    for _ in range(steps):
        out = step({**state, **batch, "learning_rate": np.array(0.05, np.float32)})
        state = {name: out[following] for name, following in table.items()}
    return state


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("load", [with_onnxruntime, with_reference])
def test_the_files_train(load: Any, external: bool, tmp_path: Path) -> None:
    folder = tmp_path / "mlp"
    train.artifacts(
        MODELS / "mlp.onnx", folder, losses.cross_entropy("logits"), train.AdamW(),
        external_data=external,
    )  # fmt: skip
    for name in ("init", "step", "eval", "infer"):
        onnx.checker.check_model(folder / f"{name}.onnx", full_check=True)
    state = trained(folder, load, 5, {"input": X, "labels": LABELS})
    weights = [v.name for v in onnx.load(folder / "infer.onnx").graph.input if v.name != "input"]
    given = {name: state[name] for name in weights}
    (logits,) = load(folder / "infer.onnx")({"input": X, **given}).values()
    found = load(folder / "eval.onnx")({"input": X, "labels": LABELS, **given})
    np.testing.assert_array_equal(found["logits"], logits)
    scores = logits.astype(np.float64)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    np.testing.assert_allclose(found["loss"], -scores[np.arange(6), LABELS].mean(), rtol=1e-5)
    first = load(folder / "eval.onnx")(
        {"input": X, "labels": LABELS}
        | {n: a for n, a in load(folder / "init.onnx")({}).items() if n in weights}
    )
    assert found["loss"] < first["loss"] - 0.1
    exported = train.export(MODELS / "mlp.onnx", state)
    np.testing.assert_allclose(og.Net(exported)(X), logits, rtol=1e-5, atol=1e-6)


def frozen_base(size: int = 40) -> onnx.ModelProto:
    """y = x @ base @ head, of which the base is large, and equal to a second one."""
    base = RNG.standard_normal((size, size)).astype(np.float32)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N,{size}] x) => (float[N,3] y)'
        "{ h = MatMul(x, base) i = MatMul(h, twin) y = MatMul(i, head) }"
    )
    weights = {"base": base, "twin": base, "head": base[:, :3]}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


def test_large_weights_lie_in_one_file_once(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(protos, "LIMIT", 4096)  # as if a message could not hold more
    folder, model = tmp_path / "large", frozen_base()
    optimizer = train.SGD(momentum=0.9)
    train.artifacts(model, folder, losses.mse("y"), optimizer, wrt=["head"])
    size = 40 * 40 * 4
    (data,) = folder.glob("*.data")
    assert size <= data.stat().st_size <= 2 * size  # the base, not its twin
    for name in ("step", "eval", "infer"):
        assert (folder / f"{name}.onnx").stat().st_size < size
    batch = {"x": RNG.standard_normal((2, 40)).astype(np.float32)}
    batch["labels"] = np.zeros((2, 3), np.float32)
    state = trained(folder, with_onnxruntime, 3, batch)
    (tmp_path / "small").mkdir()
    monkeypatch.undo()
    train.artifacts(model, tmp_path / "small", losses.mse("y"), optimizer, wrt=["head"])
    assert not [*(tmp_path / "small").glob("*.data")]
    expected = trained(tmp_path / "small", with_onnxruntime, 3, batch)
    np.testing.assert_array_equal(state["head"], expected["head"])


def test_nothing_is_left_of_an_interrupted_write(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "mlp"
    arguments = (MODELS / "mlp.onnx", folder, losses.cross_entropy("logits"))
    train.artifacts(*arguments, train.SGD())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real, calls = shared_module.ir.save, []

    def full(*args: Any, **options: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(*args, **options)

    monkeypatch.setattr(shared_module.ir, "save", full)
    with pytest.raises(og.SaveError, match="No space left"):
        train.artifacts(*arguments, train.AdamW())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]


def test_places_to_write(tmp_path: Path) -> None:
    loss = losses.cross_entropy("logits")
    with pytest.raises(og.SaveError, match="no folder"):
        train.artifacts(MODELS / "mlp.onnx", tmp_path / "no" / "mlp", loss, train.SGD())
    (tmp_path / "file").write_text("")
    with pytest.raises(og.SaveError, match="is a file"):
        train.artifacts(MODELS / "mlp.onnx", tmp_path / "file", loss, train.SGD())


def test_a_loss_that_the_net_has(tmp_path: Path) -> None:
    """Its elements are summed; the output that it is of is not listed twice."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x) => (float[N] loss, float[N] y)'
        " <float[2] w = {1, 2}> { p = MatMul(x, w) y = Relu(p) loss = Mul(y, y) }"
    )
    train.artifacts(model, tmp_path / "own", "loss", train.SGD())
    found = with_onnxruntime(tmp_path / "own" / "eval.onnx")(
        {"x": np.array([[1, 1], [2, 0]], np.float32), "w": np.array([1, 2], np.float32)}
    )
    assert list(found) == ["loss", "y"]
    assert found["loss"] == 9 + 4


def test_a_net_that_gives_maps(tmp_path: Path) -> None:
    maps = helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, []))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["p"]),
            helper.make_node(
                "ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[3, 5]
            ),
        ],
        "net",
        [helper.make_tensor_value_info("x", 1, ["N", 3])],
        [helper.make_value_info("z", helper.make_sequence_type_proto(maps))],
        [numpy_helper.from_array(np.zeros((3, 2), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    net = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    train.artifacts(net, tmp_path, losses.cross_entropy("logits"), train.SGD())
    state = with_onnxruntime(tmp_path / "init.onnx")({})
    feeds = {"x": np.ones((1, 3), np.float32), "w": state["w"]}
    found = with_onnxruntime(tmp_path / "infer.onnx")(feeds)
    assert found["z"] == [{3: 0.5, 5: 0.5}]


def test_options_of_the_step(tmp_path: Path) -> None:
    """State that options add has its first values in init.onnx."""
    train.artifacts(
        MODELS / "cnn.onnx", tmp_path / "cnn", losses.cross_entropy("logits"), train.NAdam(),
        accumulate=2, loss_scale="dynamic", batch_norm="train",
    )  # fmt: skip
    x = RNG.standard_normal((4, 3, 16, 16)).astype(np.float32)
    first = with_onnxruntime(tmp_path / "cnn" / "init.onnx")({})
    assert first["loss_scale"] == 65536
    assert all(a == 1 for n, a in first.items() if n.endswith(".mu_product"))
    state = trained(tmp_path / "cnn", with_onnxruntime, 4, {"input": x, "labels": np.arange(4)})
    assert state["step"] == 2
    moved = [n for n in state if "running_mean" in n]
    assert moved and all(np.abs(state[n] - first[n]).max() > 0 for n in moved)
    inputs = {v.name for v in onnx.load(tmp_path / "cnn" / "infer.onnx").graph.input}
    assert set(moved) <= inputs


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_the_net_keeps_its_opset(opset: int, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 7, opset_import: ["" : {opset}]> g (float[N,2] x) => (float[N,2] y)'
        " <float[2,2] w = {1, 2, 3, 4}> { h = MatMul(x, w) y = Softmax(h) }"
    )
    train.artifacts(model, tmp_path / "old", losses.mse("y"), train.SGD())
    infer = onnx.load(tmp_path / "old" / "infer.onnx")
    assert infer.opset_import[0].version == opset
    assert os.listdir(tmp_path) == ["old"]


@pytest.mark.parametrize("example", [{"x": np.ones((2, 2), np.float32)}, np.ones((2, 2), "f4")])
def test_an_example_is_of_the_net_as_it_is(example: Any, tmp_path: Path) -> None:
    """Weights are no inputs of the net that the caller has, so an example does not hold them."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,2] x) => (float[N,2] y)'
        " <float16[2,2] w = {1, 2, 3, 4}> { c = CastLike(w, x) h = MatMul(x, c) y = Squeeze(h) }"
    )
    train.artifacts(model, tmp_path / "net", losses.mse("y"), train.SGD(), example=example)
    assert (tmp_path / "net" / "eval.onnx").exists()


def test_sessions_share_the_weights_that_are_not_trained() -> None:
    """Each large array is one in the models for training, evaluation and prediction."""
    made = parts(frozen_base(), losses.mse("y"), train.SGD(), ["head"])
    arrays = [
        {n: v.const_value.numpy() for n, v in m.graph.initializers.items() if n in ("base", "twin")}
        for m in (made.step, made.evaluate, made.infer)
    ]
    for name in ("base", "twin"):
        assert all(np.shares_memory(one[name], arrays[0][name]) for one in arrays)


def with_data(folder: Path, name: str = "net.onnx", data: str = "weights.data") -> Path:
    """The model of three layers with its weights in a file of their own."""
    model = onnx.load(MODELS / "mlp.onnx")
    onnx.save(model, folder / name, save_as_external_data=True, location=data, size_threshold=10)
    return folder / name


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_in_the_folder_keeps_its_weights(tmp_path: Path) -> None:
    path = with_data(tmp_path)
    before = files(tmp_path)
    loss = losses.cross_entropy("logits")
    train.artifacts(path, tmp_path, loss, train.AdamW(), external_data=True)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 5


@pytest.mark.parametrize("name", ["init", "step", "eval", "infer"])
def test_a_model_of_a_name_that_is_written_is_not_replaced(name: str, tmp_path: Path) -> None:
    loss, names = losses.cross_entropy("logits"), (f"{name}.onnx", f"{name}.data")
    path = with_data(tmp_path, *names)
    before = files(tmp_path)
    with pytest.raises(og.SaveError, match="the model itself, which would be lost"):
        train.artifacts(path, tmp_path, loss, train.AdamW())
    assert files(tmp_path) == before
    (tmp_path / f"{name}.onnx").unlink()
    path = with_data(tmp_path, "net.onnx", f"{name}.onnx")
    with pytest.raises(og.SaveError, match="the model's weights, which would be lost"):
        train.artifacts(path, tmp_path, loss, train.AdamW())


def test_a_trainer_does_not_replace_what_it_trains(tmp_path: Path) -> None:
    path = with_data(tmp_path)
    before = files(tmp_path)
    trainer = train.Trainer(path, losses.cross_entropy("logits"), train.SGD())
    for place in (path, tmp_path / "weights.data"):
        with pytest.raises(og.SaveError, match="would be lost"):
            trainer.fit((X, LABELS), checkpoint=place)
        with pytest.raises(og.SaveError, match="would be lost"):
            trainer.checkpoint(place)
    with pytest.raises(og.SaveError, match="would be lost"):
        trainer.save(tmp_path / "weights.data")
    assert files(tmp_path) == before and trainer.steps == 0
    trainer.fit((X, LABELS))
    trainer.save(path)  # with its weights beside it, as they were
    trained = onnx.load(path, load_external_data=False)
    assert any(t.external_data for t in trained.graph.initializer)
    np.testing.assert_array_equal(og.Net(path)(X), trainer.predict(X))
