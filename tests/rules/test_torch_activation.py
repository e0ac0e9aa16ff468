"""Activations at their kinks, far out, and beside PyTorch's formulas."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.samples import Sample, normal, sample_id
from tests.torch_gradients import assert_like_torch, torch

F = torch.nn.functional
# PyTorch gives NaN at the last of them for Mish and, without its threshold, Softplus.
FAR = np.array([-1e4, -700.0, -100.0, -20.0, -0.5, 0.5, 20.0, 100.0, 700.0, 1e4])


def at(*points):
    return np.array([*points, -0.7, 0.7], np.float64)


KINKS = [
    (Sample("Relu", [at(0)]), torch.relu),
    (Sample("LeakyRelu", [at(0)], {"alpha": 0.25}), lambda x: F.leaky_relu(x, 0.25)),
    (Sample("Elu", [at(0)], {"alpha": 0.5}), lambda x: F.elu(x, 0.5)),
    (Sample("Selu", [at(0)]), F.selu),
    (Sample("Celu", [at(0)], {"alpha": 0.5}, opset=28), lambda x: F.celu(x, 0.5)),
    (Sample("ThresholdedRelu", [at(0.5)], {"alpha": 0.5}), lambda x: F.threshold(x, 0.5, 0.0)),
    (Sample("HardSwish", [at(-3, 3)]), F.hardswish),
    # PyTorch's is of slope 1/6.
    (Sample("HardSigmoid", [at(-2, 2)], {"alpha": 0.25}), lambda x: F.hardsigmoid(x * 1.5)),
    (Sample("Shrink", [at(-0.5, 0.5)], {"bias": 0.5}), F.softshrink),
    (Sample("Shrink", [at(-0.5, 0.5)]), F.hardshrink),
    (Sample("PRelu", [at(0), np.array([0.25])]), F.prelu),
    (Sample("Softsign", [at(0)]), F.softsign),
    (Sample("Clip", [at(-0.5, 0.5), np.array(-0.5), np.array(0.5)]), torch.clamp),
    (Sample("Clip", [at(-0.5, 0.5), np.array(0.5), np.array(-0.5)]), torch.clamp),
    (Sample("Clip", [at(-0.5, 0.5), np.array(0.5), np.array(0.5)]), torch.clamp),
    (Sample("Clip", [at(-0.5, 0.5), np.array(-0.5)]), torch.clamp),
    (Sample("Clip", [at(0.5), None, np.array(0.5)]), torch.clamp),
]


@pytest.mark.parametrize(("sample", "function"), KINKS, ids=sample_id)
def test_kinks(sample, function):
    assert_like_torch(sample, function, rtol=1e-6)  # attributes are float32


def test_relu6():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (double[N] x) => (double[N] y) <double low = {0}, double high = {6}> {
            y = Clip(x, low, high)
        }""")
    x = at(0, 6)
    ours = runner(og.gradient(model, forward=False))({"x": x})[0]
    theirs = torch.from_numpy(x).requires_grad_()
    F.relu6(theirs).sum().backward()
    np.testing.assert_array_equal(ours, theirs.grad.numpy())


SMOOTH = [
    (Sample("Gelu", [FAR]), F.gelu),
    (Sample("Gelu", [FAR], {"approximate": "tanh"}), lambda x: F.gelu(x, approximate="tanh")),
    (Sample("Mish", [FAR[:-1]]), F.mish),
    (Sample("Softplus", [FAR[:-1]]), lambda x: F.softplus(x, threshold=1e9)),
    (Sample("Softsign", [FAR]), F.softsign),
    (Sample("Sigmoid", [FAR]), torch.sigmoid),
    (Sample("Swish", [FAR], opset=24), F.silu),
    (Sample("Elu", [FAR]), F.elu),
    (Sample("Celu", [FAR], opset=28), F.celu),
    (Sample("SwiGLU", [FAR, normal(10)], opset=28), lambda a, b: F.silu(a) * b),
    (Sample("Softmax", [FAR]), lambda x: torch.softmax(x, -1)),
    (Sample("LogSoftmax", [FAR]), lambda x: torch.log_softmax(x, -1)),
    (Sample("Softmax", [np.array([0.5, -np.inf, 1.0])]), lambda x: torch.softmax(x, -1)),
]


@pytest.mark.parametrize(("sample", "function"), SMOOTH, ids=sample_id)
def test_smooth(sample, function):
    # onnxruntime's Sigmoid and Tanh of float64 are good to 1e-12 absolutely.
    assert_like_torch(sample, function, second=True, rtol=1e-9, atol=1e-9)
