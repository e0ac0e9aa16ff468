"""A classifier of PyTorch and its ONNX file."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import torch
from torch import nn
from torch.nn import functional as F

Array = np.ndarray


class Classifier(nn.Module):
    """A convolution, BatchNorm, Dropout, and two linear layers, for images of 3 x 6 x 6."""

    def __init__(self, time: bool = False, smooth: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.first, self.last = nn.Linear(32, 16), nn.Linear(16, 5)
        self.time, self.act = nn.Linear(1, 8) if time else None, F.silu if smooth else F.relu
        self.norm.running_mean = torch.linspace(-0.3, 0.3, 8)
        self.norm.running_var = torch.linspace(0.5, 2, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        h = self.act(self.norm(self.conv(x)))
        if self.time is not None and t is not None:
            h = h + self.time(t[:, None])[:, :, None, None]
        h = F.avg_pool2d(h, 2).flatten(1)
        return self.last(self.drop(self.act(self.first(h))))


def classifier(**options: bool) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**options).eval()


def exported(
    module: nn.Module,
    batch: int | str = "N",
    inputs: tuple[str, ...] = ("x",),
    name: str = "logits",
) -> onnx.ModelProto:
    size = batch if isinstance(batch, int) else 2
    x = torch.zeros(size, 3, 6, 6, dtype=next(module.parameters()).dtype)
    axes = {} if isinstance(batch, int) else {n: {0: batch} for n in (*inputs, name)}
    file = io.BytesIO()
    arguments = (x, torch.zeros(size, dtype=x.dtype))[: len(inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of this exporter's age
        torch.onnx.export(
            module,
            arguments,
            file,
            input_names=list(inputs),
            output_names=[name],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(file.getvalue())


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, Array]:
    """All outputs, on onnxruntime."""
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString())
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, as_arrays(feeds)), strict=True))


def reference(model: onnx.ModelProto, **feeds: Any) -> dict[str, Array]:
    """All outputs, on onnx's evaluator."""
    found = onnx.reference.ReferenceEvaluator(model).run(None, as_arrays(feeds))
    return dict(zip([v.name for v in model.graph.output], found, strict=True))


def as_arrays(feeds: dict[str, Any]) -> dict[str, Array]:
    return {name: np.asarray(x) for name, x in feeds.items()}
