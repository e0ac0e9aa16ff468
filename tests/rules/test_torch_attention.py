"""Attention against PyTorch: queries that attend nothing, large scores, masks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.node_gradients import node_gradients
from tests.samples import Sample, normal

torch = pytest.importorskip("torch", reason="PyTorch is what the conventions are compared with")

SEEN = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
MASKS = {
    "none": None,
    "boolean": SEEN,
    "infinite": np.where(SEEN, 0.5, -np.inf),
    "very low": np.where(SEEN, 0.5, np.finfo(np.float32).min),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("size", [1, 1e3], ids=["small", "large"])
@pytest.mark.parametrize("heads", [2, 4], ids=["MHA", "GQA"])
def test_attention(mask, size, heads):
    operands = [normal(2, heads, 3, 4) * size, normal(2, 2, 5, 4), normal(2, 2, 5, 3)]
    seed = normal(2, heads, 3, 3)
    q, k, v = (torch.tensor(a, requires_grad=True) for a in operands)
    y = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, None if mask is None else torch.tensor(mask), enable_gqa=heads != 2
    )
    y.backward(torch.tensor(seed))
    sample = Sample(
        "Attention", operands if mask is None else [*operands, mask], opset=24, wrt=[0, 1, 2]
    )
    for got, want in zip(node_gradients(sample, seed), (q.grad, k.grad, v.grad), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)
