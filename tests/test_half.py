"""Half precision where onnxruntime's CPU kernels differ from those of float32."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.samples import Array, Sample, ints, normal
from tests.test_rules import floats, sample_model

SAMPLES = [
    Sample("Gather", [normal(3, 4), ints(0, 0, 2)], note="rows taken twice are summed"),
    Sample("GatherElements", [normal(3, 4), np.array([[0, 0, 2, 1]])]),
    Sample("LayerNormalization", [normal(3, 8), normal(8), normal(8)]),
    Sample("RMSNormalization", [normal(3, 8), normal(8)], opset=23),
    Sample("SoftmaxCrossEntropyLoss", [normal(4, 3), ints(0, 2, 1, 1)]),
    Sample("Attention", [normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)], opset=23),
    Sample("MatMul", [normal(2, 3, 4), normal(4, 5)]),
    Sample("BatchNormalization", [normal(2, 3, 4), *(np.abs(normal(3)) + 0.5 for _ in range(4))]),
]


def run(sample: Sample, dtype: type) -> list[Array]:
    half = [
        a.astype(np.float16).astype(dtype) if np.issubdtype(a.dtype, np.floating) else a
        for a in sample.inputs
    ]
    model, feeds = sample_model(dataclasses.replace(sample, inputs=half), False, False)
    backward = og.gradient(model, floats(sample), of="y0", forward=False)
    onnx.checker.check_model(backward, full_check=True)
    return runner(backward)(feeds)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_float16(sample: Sample) -> None:
    for got, want in zip(run(sample, np.float16), run(sample, np.float32), strict=True):
        assert got.dtype == np.float16
        np.testing.assert_allclose(got, want, rtol=2e-2, atol=2e-2)
