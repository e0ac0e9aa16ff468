"""Pooling against PyTorch: ties, padding, overhanging windows, vectors of zeros."""

from __future__ import annotations

import numpy as np
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.samples import Sample, distinct, normal, sample_id
from tests.test_rules import sample_model
from tests.torch_gradients import assert_like_torch, torch

F = torch.nn.functional
TIES = np.array([[1.0, 1, 0, 2, 2], [1, 1, 2, 2, 0], [0, 3, 3, 3, 3], [3, 3, 3, 0, 0]])[None, None]


def window(kernel, stride, padding, ceil):
    return {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [padding] * 4,
        "ceil_mode": int(ceil),
    }


SHAPES = [(2, 2, 0, False), (3, 2, 1, False), (3, 2, 0, True), (2, 1, 0, False), (3, 2, 1, True)]
CASES = [
    *(
        (
            Sample("MaxPool", [x], window(*w)),
            lambda x, w=w: F.max_pool2d(x, w[0], w[1], w[2], ceil_mode=w[3]),
        )
        for x in (TIES, normal(2, 3, 6, 7))
        for w in SHAPES
    ),
    *(
        (
            Sample("AveragePool", [normal(2, 3, 6, 7)], window(*w) | {"count_include_pad": count}),
            lambda x, w=w, count=count: F.avg_pool2d(
                x, w[0], w[1], w[2], ceil_mode=w[3], count_include_pad=bool(count)
            ),
        )
        for w in SHAPES
        for count in (0, 1)
    ),
    *(
        (Sample("LpPool", [distinct(1, 2, 6, 6)], window(*SHAPES[k]) | {"p": p}),
         lambda x, p=p, k=k: F.lp_pool2d(x.abs(), p, SHAPES[k][0], SHAPES[k][1]))
        for k in (0, 3)
        for p in (1, 2, 3)
    ),
    (Sample("GlobalAveragePool", [normal(2, 3, 4, 5)]), lambda x: x.mean((2, 3), keepdim=True)),
    (Sample("GlobalMaxPool", [TIES]), lambda x: x.amax((2, 3), keepdim=True)),
    (Sample("GlobalMaxPool", [distinct(2, 3, 5)]), lambda x: x.amax(2, keepdim=True)),
]  # fmt: skip


@pytest.mark.parametrize(("sample", "function"), CASES, ids=sample_id)
def test_pooling(sample, function):
    assert_like_torch(sample, function)


def test_unpooling():
    x = torch.tensor(distinct(1, 2, 4, 6))
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    planes = np.arange(2).reshape(1, 2, 1, 1) * 24  # ONNX counts over all planes
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    sample = Sample("MaxUnpool", [y.numpy(), indices.numpy() + planes], attributes)
    assert_like_torch(sample, lambda y, i: F.max_unpool2d(y, i - torch.tensor(planes), 2))


@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_zeros_have_a_gradient_of_zero(op, p):
    attributes = {"p": p} | ({"kernel_shape": [2]} if op == "LpPool" else {})
    x = np.array([[[0.0, 0, 0, 2, 0, 0]], [[0.0] * 6]])
    model, feeds = sample_model(Sample(op, [x], attributes), False, False)
    (gradient,) = runner(og.gradient(model, forward=False))(feeds)
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
