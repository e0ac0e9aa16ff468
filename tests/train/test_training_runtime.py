"""Losses as those of onnxruntime-training's own artifacts; for `make training-runtime`.

Its Python package needs PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import train
from tests.train.running import Loop

pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
artifacts = pytest.importorskip(
    "onnxruntime.training.artifacts", reason="onnxruntime-training is not installed"
)
from onnxruntime.training import onnxblock  # noqa: E402
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # noqa: E402

MODELS = Path(__file__).parents[2] / "models"
STEPS, LR, EPS = 50, 5e-4, 1e-12  # they do not correct epsilon as PyTorch does
RNG = np.random.default_rng(0)


def net(name: str) -> tuple[onnx.ModelProto, str, list[int]]:
    """A model, its output of classes, and the shape of its input."""
    model = onnx.load(MODELS / f"{name}.onnx")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return model, model.graph.output[0].name, [d.dim_value or 6 for d in dims]


class Theirs:
    """The artifacts of onnxruntime-training, loaded."""

    def __init__(self, model: onnx.ModelProto, weights: list[str], loss: Any, folder: str) -> None:
        artifacts.generate_artifacts(
            model,
            requires_grad=weights,
            loss=loss,
            optimizer=onnxblock.optim.AdamW(eps=EPS),
            artifact_directory=folder,
        )
        made = onnx.load(f"{folder}/optimizer_model.onnx")
        made.ir_version = 10  # a newer onnx has written its own, which that runtime does not read
        onnx.save(made, f"{folder}/optimizer_model.onnx")
        state = CheckpointState.load_checkpoint(f"{folder}/checkpoint")
        evaluation = f"{folder}/eval_model.onnx"
        self.module = Module(f"{folder}/training_model.onnx", state, evaluation)
        self.optimizer = Optimizer(f"{folder}/optimizer_model.onnx", self.module)
        self.optimizer.set_learning_rate(LR)

    def __call__(self, x: Any, labels: Any) -> Any:
        self.module.train()
        loss = self.module(x, labels)
        self.optimizer.step()
        self.module.lazy_reset_grad()
        return loss


@pytest.mark.parametrize("name", ["mlp", "cnn", "digits"])
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "MSELoss"])
def test_losses_as_onnxruntime_training(name: str, loss: str, tmp_path: Path) -> None:
    model, output, shape = net(name)
    mine = og.losses.cross_entropy(output) if loss[0] == "C" else og.losses.mse(output)
    step = train.step(
        model, mine, train.Adam(eps=EPS), batch_norm="train" if name == "cnn" else "frozen"
    )
    loop = Loop(step, model)
    weights = [
        t.name for t in model.graph.initializer if t.name in loop.state and "running" not in t.name
    ]
    theirs = Theirs(model, weights, artifacts.LossType[loss], str(tmp_path))
    x = RNG.random(shape).astype(np.float32)
    labels = next(v.type.tensor_type for v in step.graph.input if v.name == "labels")
    sizes = [d.dim_value or len(x) for d in labels.shape.dim]
    classes = RNG.integers(0, 3, sizes)
    given = classes if loss[0] == "C" else RNG.standard_normal(sizes).astype(np.float32)
    found, expected = [], []
    for _ in range(STEPS):
        found.append(loop(LR, **{model.graph.input[0].name: x, "labels": given})["loss"])
        expected.append(theirs(x, given))
    assert expected[-1] < 0.9 * expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
