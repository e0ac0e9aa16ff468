"""Reductions at ties, zeros and the zero vector, and with large values."""

from __future__ import annotations

import numpy as np
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.rules.test_rules import sample_model
from tests.samples import Sample, ints, normal, sample_id
from tests.torch_gradients import assert_like_torch, torch

ZEROS = np.array([[0.0, 2, 3, 4], [0, 0, 3, 4], [5, 2, 3, 4], [0, 0, 0, 0]])
TIES = np.array([[1.0, 3, 3, 0], [2, 2, 2, 2], [-1, 5, 5, 5]])
LARGE = np.array([[1000.0, 1001, 900], [-1000, -1001, -2000], [0, -np.inf, 1]])
LAST = ints(-1)
ALL = {"keepdims": 0}

FIRST = [
    (Sample("ReduceProd", [ZEROS, LAST]), lambda x, _: x.prod(-1, keepdim=True)),
    (Sample("ReduceProd", [ZEROS], ALL), torch.prod),
    (Sample("ReduceMax", [TIES, LAST]), lambda x, _: x.amax(-1, keepdim=True)),
    (Sample("ReduceMin", [TIES, LAST]), lambda x, _: x.amin(-1, keepdim=True)),
    (Sample("ReduceMax", [TIES], ALL), torch.amax),
    (Sample("ReduceL1", [ZEROS, LAST]), lambda x, _: x.norm(1, -1, keepdim=True)),
    (Sample("ReduceL2", [ZEROS, LAST]), lambda x, _: x.norm(2, -1, keepdim=True)),
    (Sample("ReduceL2", [np.zeros((2, 3))], ALL), torch.norm),
]


@pytest.mark.parametrize(("sample", "function"), FIRST, ids=sample_id)
def test_first_order(sample, function):
    assert_like_torch(sample, function)


SECOND = [
    # PyTorch's second derivative is right with one zero, and 0 with more.
    (Sample("ReduceProd", [ZEROS[0]], ALL), torch.prod),
    (Sample("ReduceL2", [normal(2, 3)], ALL), torch.norm),
    (Sample("ReduceSumSquare", [ZEROS], ALL), lambda x: (x * x).sum()),
    (Sample("ReduceLogSumExp", [LARGE, LAST]), lambda x, _: x.logsumexp(-1, keepdim=True)),
    (Sample("ReduceLogSum", [np.exp(normal(2, 3))], ALL), lambda x: x.sum().log()),
    (Sample("CumProd", [ZEROS, np.array(-1)], opset=26), lambda x, _: x.cumprod(-1)),
    (Sample("CumProd", [ZEROS, np.array(0)], opset=26), lambda x, _: x.cumprod(0)),
]


@pytest.mark.parametrize(("sample", "function"), SECOND, ids=sample_id)
def test_second_order(sample, function):
    assert_like_torch(sample, function, second=True)


def test_zero_vector_has_finite_second_derivative():
    """The true one is infinite and PyTorch's NaN; it is 0 here."""
    model, feeds = sample_model(Sample("ReduceL2", [np.zeros(3)]), symbolic=True, fed=True)
    second = og.gradient(og.gradient(model, forward=False), ["x0"], forward=False)
    assert runner(second)(feeds)[0].tolist() == [0, 0, 0]
