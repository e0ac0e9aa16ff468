"""PyTorch's side: autograd on a twin of the net, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import twins

from gpu.plan import Way


class Theirs:
    """The gradient by PyTorch, on the device and in the precision of the task."""

    def __init__(self, way: Way, task: Mapping[str, Any]) -> None:
        self.task, self.compiles = task, way.library == "torch.compile"
        torch.set_num_threads(task["threads"])

    def build(self) -> dict[str, Any]:
        """There is no file."""
        return {}

    def open(self) -> Callable[[], Any]:
        """Everything before the first call; returns the call, which waits for its results."""
        precision = self.task["precision"]
        half = torch.float16 if precision == "float16" else torch.float32
        return self._call(half, tf32=precision == "tf32", compiles=self.compiles)

    def reference(self) -> dict[str, np.ndarray]:
        """The gradients in float32, without TF32."""
        call = self._call(torch.float32, tf32=False, compiles=False)
        found = self.numbers(call())
        _allow_tf32(self.task["precision"] == "tf32")
        return found

    def _call(self, dtype: torch.dtype, *, tf32: bool, compiles: bool) -> Callable[[], Any]:
        device, name = self.task["device"], self.task["net"]
        _allow_tf32(tf32)

        def place(array: np.ndarray) -> torch.Tensor:
            t = torch.from_numpy(array).to(device)
            return t.to(dtype) if t.is_floating_point() else t

        weights = {k: place(v) for k, v in np.load(self.task["weights"]).items()}
        weights = twins.to_torch(weights)
        feeds = dict(np.load(self.task["feeds"]))
        seed = place(feeds.pop("ograd")) if "ograd" in feeds else None
        inputs = {k: place(v) for k, v in feeds.items()}
        wanted = inputs if set(self.task["wrt"]) <= set(inputs) else weights
        wanted = {k: v.requires_grad_() for k, v in wanted.items() if v.is_floating_point()}
        twin = twins.TWINS[name]
        if compiles:
            twin = torch.compile(twin, dynamic=False)

        def call() -> dict[str, torch.Tensor]:
            y = twin(weights, *inputs.values())
            found = torch.autograd.grad(y, list(wanted.values()), seed)
            if device == "cuda":
                torch.cuda.synchronize()
            return dict(zip(wanted, found, strict=True))

        return call

    def numbers(self, results: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Gradients by the names of the ONNX net."""
        found = twins.to_onnx({k: v.detach().float() for k, v in results.items()})
        return {name: value.cpu().numpy() for name, value in found.items()}


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cudnn.benchmark = True  # as onnxruntime searches for the fastest convolution


def free() -> None:
    """Give memory back, and forget what was compiled."""
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
