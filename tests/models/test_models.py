"""The nets of models/: they are what their scripts write, and the trained one reads digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import author, train_digits
from tests.oracle import accept

FOLDER = Path(author.__file__).parent
AUTHORED = author.authored()


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def structure(model: onnx.ModelProto) -> list[object]:
    graph = model.graph
    nodes = [(n.op_type, list(n.input), sorted(map(str, n.attribute))) for n in graph.node]
    return [nodes, list(graph.input), list(graph.output), model.ir_version, model.opset_import]


@pytest.mark.parametrize("name", [*AUTHORED, "digits"])
def test_is_valid_and_small(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    model = onnx.load(path)
    accept(model)
    assert model.ir_version == 10
    assert [o.version for o in model.opset_import] == [21]
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("name", AUTHORED)
def test_is_what_the_script_writes(name: str) -> None:
    stored, fresh = onnx.load(FOLDER / f"{name}.onnx"), ir.to_proto(AUTHORED[name])
    assert structure(stored) == structure(fresh)
    assert weights(stored).keys() == weights(fresh).keys()
    for key, value in weights(stored).items():
        np.testing.assert_array_equal(value, weights(fresh)[key], err_msg=key)


def test_digits_net_is_the_one_that_the_script_trains() -> None:
    net = author.build(train_digits.Digits(np.random.default_rng(train_digits.SEED)), "digits")
    assert structure(onnx.load(FOLDER / "digits.onnx")) == structure(ir.to_proto(net))


def test_digits_accuracy_on_held_back_digits() -> None:
    model = onnx.load(FOLDER / "digits.onnx")
    _, held_back = train_digits.split()
    accuracy = train_digits.accuracy(model, held_back)
    assert accuracy >= 0.97
    stored = {p.key: p.value for p in model.metadata_props}["accuracy"]
    assert stored.startswith(f"{accuracy:.4f}")


def test_the_sample_digit_was_held_back() -> None:
    digit = np.load(FOLDER / "digit.npy")
    training, held_back = train_digits.split()
    assert (held_back["image"] == digit).all(axis=(1, 2, 3)).any()
    assert not (training["image"] == digit).all(axis=(1, 2, 3)).any()


def test_a_training_step_lowers_the_loss() -> None:
    digits, _ = train_digits.split()
    batch = {name: values[:128] for name, values in digits.items()}
    net = author.build(train_digits.Digits(np.random.default_rng(5)), "digits")
    trainer = train_digits.Trainer(net)
    losses = [trainer.step(batch, rate=1e-3) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1
