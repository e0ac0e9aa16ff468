"""Losses where they are delicate: large logits, masked classes, nothing that counts."""

from __future__ import annotations

import numpy as np
import pytest

from tests.node_gradients import node_gradients
from tests.samples import Sample, ints, normal

torch = pytest.importorskip("torch", reason="PyTorch is what the conventions are compared with")

WEIGHTS = np.array([0.5, 0.0, 2.0])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        (normal(3, 3), ints(0, 2, 1)),
        (normal(3, 3) * 1e4, ints(0, 1, 2)),  # large logits
        (np.array([[0.0, -np.inf, 1.0], [2.0, 3.0, -np.inf]]), ints(0, 0)),  # masked classes
        (normal(2, 3), ints(-100, -100)),  # nothing counts: PyTorch's loss is NaN, its gradient 0
        (normal(2, 3), ints(-100, 2)),
    ],
)
def test_cross_entropy(scores, labels, weights, reduction):
    x = torch.tensor(scores, requires_grad=True)
    w = None if weights is None else torch.tensor(weights)
    loss = torch.nn.functional.cross_entropy(
        x, torch.tensor(labels), w, ignore_index=-100, reduction=reduction
    )
    loss.sum().backward()
    sample = Sample(
        "SoftmaxCrossEntropyLoss",
        [scores, labels] if weights is None else [scores, labels, weights],
        {"reduction": reduction, "ignore_index": -100},
        wrt=[0],
    )
    np.testing.assert_allclose(node_gradients(sample)[0], x.grad, rtol=1e-12, atol=1e-15)
