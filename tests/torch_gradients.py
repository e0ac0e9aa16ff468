"""PyTorch's gradients of first and second order, for tests that hold a rule to its conventions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Feeds, runner
from tests.rules.test_rules import floats, sample_model
from tests.samples import Sample

torch = pytest.importorskip("torch", reason="PyTorch is what the conventions are compared with")


def assert_like_torch(
    sample: Sample, function: Callable[..., Any], second: bool = False, **tolerance: float
) -> None:
    """That the gradients of a sample's first output, and if asked theirs, are PyTorch's.

    Args:
        sample: One node.
        function: The operator in PyTorch, of all operands.
        second: Compare the gradient of the gradients' sum too.
        tolerance: rtol and atol where the default is too tight.
    """
    operands = [None if a is None else torch.tensor(a) for a in sample.inputs]
    names = floats(sample)
    leaves = [t.requires_grad_() for k, t in enumerate(operands) if f"x{k}" in names]
    y = function(*operands)
    seed = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)
    want = torch.autograd.grad(y, leaves, seed, create_graph=second)
    model, feeds = sample_model(sample, symbolic=True, fed=True)
    feeds["y0_ograd"] = seed.numpy()
    first = og.gradient(model, names, of="y0", ograd=True, forward=False)
    _compare(first, feeds, names, want, tolerance)
    if second:
        want = torch.autograd.grad(sum(g.sum() for g in want), leaves)
        _compare(og.gradient(first, names), feeds, names, want, tolerance)


def _compare(
    model: onnx.ModelProto, feeds: Feeds, names: list[str], want: Any, tolerance: dict[str, float]
) -> None:
    properties = {p.key: p.value for p in model.metadata_props}
    outputs = dict(zip([o.name for o in model.graph.output], runner(model)(feeds), strict=True))
    for name, w in zip(names, want, strict=True):
        got = outputs[json.loads(properties["onnxgrad.gradients"])[name]]
        limits = {"rtol": 1e-11, "atol": 1e-14} | tolerance
        np.testing.assert_allclose(got, w.detach().numpy(), **limits, err_msg=name)
