"""The commands under `onnxgrad train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import losses, train
from tests.cli.test_cli import Run, refused, run

__all__ = ["run"]

MLP = str(Path(__file__).parents[2] / "models" / "mlp.onnx")
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int64)
LOSS = ("--loss", "cross_entropy", "--loss-of", "logits")


@pytest.fixture
def fed(run: Run) -> Run:
    """The command line, with data in its folder."""
    np.savez("data.npz", input=X, labels=LABELS)
    return run


def test_step(fed: Run) -> None:
    result = fed(
        "train", "step", MLP, "-o", "step.onnx", *LOSS, "--optimizer", "sgd", "--setting",
        "momentum=0.9", "--setting", "nesterov=true", "--frozen", "fc1.*", "--clip-grad-norm", "1",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "learning_rate" in result.out and "Wrote step.onnx" in result.out
    found = onnx.load("step.onnx")
    expected = train.step(
        MLP, losses.cross_entropy("logits"), train.SGD(momentum=0.9, nesterov=True),
        groups=[train.Group("fc1.*", frozen=True)], clip_grad_norm=1,
    )  # fmt: skip
    assert found.graph.node == expected.graph.node
    state = json.loads({p.key: p.value for p in found.metadata_props}["onnxgrad.state"])
    assert "fc2.weight.momentum_buffer" in state and "fc1.weight" not in state


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "one_cycle"])
def test_fit(fed: Run, schedule: str) -> None:
    arguments = (
        "train", "fit", MLP, "data.npz", *LOSS, "--accuracy", "--lr", "0.05", "--batch-size", "8",
        "--schedule", schedule, "--warm-up", "3", "--validation", "data.npz", "--threads", "1",
    )  # fmt: skip
    result = fed(*arguments, "-o", "trained.onnx", "--epochs", "4", "--checkpoint", "run.onnx")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [["epoch", str(k + 1)] for k in range(4)]
    first, last = (float(line.split("val_loss ")[1].split()[0]) for line in (lines[0], lines[3]))
    assert last < first and "val_accuracy" in lines[0]
    # The same in two parts, and written back from the checkpoint.
    half = (*arguments, "-o", "half.onnx", "--checkpoint", "half.run.onnx", "--resume")
    if schedule == "constant":
        assert fed(*half, "--epochs", "2").code == 0
        assert fed(*half, "--epochs", "4").out.splitlines()[:2] == lines[2:4]
        assert Path("half.onnx").read_bytes() == Path("trained.onnx").read_bytes()
    assert fed("train", "export", MLP, "run.onnx", "-o", "exported.onnx").code == 0
    np.testing.assert_array_equal(og.Net("exported.onnx")(X), og.Net("trained.onnx")(X))


def test_export_of_arrays(fed: Run) -> None:
    bias = onnx.numpy_helper.to_array(
        next(t for t in onnx.load(MLP).graph.initializer if t.name == "fc3.bias")
    )
    np.savez("weights.npz", **{"fc3.bias": bias + 1})
    assert fed("train", "export", MLP, "weights.npz", "-o", "moved.onnx").code == 0
    np.testing.assert_allclose(og.Net("moved.onnx")(X), og.Net(MLP)(X) + 1, rtol=1e-5, atol=1e-6)


def test_early_stopping(fed: Run) -> None:
    np.savez("worse.npz", input=X, labels=1 - LABELS)
    result = fed(
        "train", "fit", MLP, "data.npz", "-o", "t.onnx", *LOSS, "--lr", "0.1", "--epochs", "30",
        "--validation", "worse.npz", "--patience", "2",
    )  # fmt: skip
    assert result.code == 0 and len(result.out.splitlines()) < 30


@pytest.mark.parametrize(
    "more, says",
    [
        (("--optimizer", "adm"), "adam"),
        (("--setting", "momentm=0.9"), "momentm"),
        (("--setting", "momentum"), "NAME=VALUE"),
        (("--privacy", "noise_multiplier=1"), "max_grad_norm"),
        (("--resume",), "--checkpoint"),
        (("--batch-norm", "train"), "BatchNormalization"),
        (("--validation", "none.npz"), "none.npz"),
        (("--lr", "1e30", "--epochs", "3"), "not|nan|inf"),
        (("--lr", "1e39"), "The learning rate is 1e+39 at epoch 1/1"),
        (("--epochs", "-3"), "epochs is a whole number, 0 or more, not -3"),
        (("--batch-size", "0"), "batch_size is a whole number, 1 or more, not 0"),
        (("--threads", "-4"), "threads is a whole number"),
        (("--seed", "-1"), "seed is a whole number"),
    ],
    ids=str,
)
def test_refusals(fed: Run, more: Any, says: str) -> None:
    result = fed("train", "fit", MLP, "data.npz", "-o", "t.onnx", *LOSS, *more)
    refused(result, *([] if "|" in says else [says]))
    assert not Path("t.onnx").exists()


def test_a_fixed_batch(fed: Run) -> None:
    model = onnx.load(MLP)
    for port in (model.graph.input[0], model.graph.output[0]):
        port.type.tensor_type.shape.dim[0].dim_value = 12
    onnx.save(model, "fixed.onnx")
    fit = ("train", "fit", "fixed.onnx", "data.npz", "-o", "t.onnx", *LOSS)
    refused(fed(*fit), "give drop_last=True (--drop-last)")
    assert "after 3 steps" in fed(*fit, "--drop-last", "--validation", "data.npz").out


def test_a_checkpoint_of_early_stopping_is_trained_on(fed: Run) -> None:
    """Without --patience the best state of the first run is no longer gone back to."""
    fit = ("train", "fit", MLP, "data.npz", *LOSS, "--lr", "0.1", "--threads", "1")
    assert fed(*fit, "-o", "a.onnx", "--patience", "5", "--checkpoint", "run.onnx").code == 0
    again = ("--checkpoint", "run.onnx", "--resume", "--epochs", "4")
    assert fed(*fit, "-o", "b.onnx", *again).code == 0
    assert fed(*fit, "-o", "c.onnx", "--epochs", "4").code == 0
    assert Path("b.onnx").read_bytes() == Path("c.onnx").read_bytes() != Path("a.onnx").read_bytes()


def test_more_refusals(fed: Run) -> None:
    step = ("train", "step", MLP, "-o", "s.onnx")
    refused(fed(*step, "--loss", "crossentropy"), "crossentropy")
    refused(fed(*step, "--loss", "crossentropy", "--loss-of", "logits"), "cross_entropy")
    refused(fed("train", "export", MLP, MLP, "-o", "e.onnx"), "gives no state")
    refused(fed("train", "export", MLP, "none.npz", "-o", "e.onnx"), "none.npz")


@pytest.mark.parametrize(
    "arguments",
    [
        ("step", "net.onnx", "-o", "net.onnx", *LOSS),
        ("fit", "net.onnx", "data.npz", "-o", "o.onnx", "--checkpoint", "net.onnx", *LOSS),
        ("fit", "net.onnx", "data.npz", "-o", "o.onnx", "--checkpoint", "o.onnx", *LOSS),
        ("fit", "net.onnx", "data.npz", "-o", "data.npz", *LOSS),
        ("export", "net.onnx", "data.npz", "-o", "data.npz"),
    ],
)
def test_no_file_that_is_given_is_replaced(fed: Run, arguments: tuple[str, ...]) -> None:
    Path("net.onnx").write_bytes(Path(MLP).read_bytes())
    before = {path: path.read_bytes() for path in Path().iterdir()}
    result = fed("train", *arguments)
    assert result.code != 0 and ("would be lost" in result.err or "would replace" in result.err)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
