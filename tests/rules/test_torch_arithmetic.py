"""Pow at base 0 and at negative bases, ties, remainders, and what Where does not select."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.node_gradients import node_gradients
from tests.oracle import runner
from tests.samples import Sample, ints, sample_id
from tests.torch_gradients import assert_like_torch, torch

BASES = np.array([0.0, 0.0, 0.0, 0.0, -2.0, -2.0, -2.0, -2.0, 2.0, 2.0])
TIES = np.array([[1.0, 2.0, -np.inf], [3.0, 0.0, 5.0]])
OTHERS = np.array([1.0, 0.0, -np.inf])

CASES = [
    *(Sample("Pow", [BASES, np.array(c)]) for c in (0.0, 1.0, 2.0, 3.0, 4.0)),
    *(Sample("Pow", [BASES, np.array(c)]) for c in (0, 1, 2, 5)),
    *(Sample("Pow", [abs(BASES) + 0.5, np.array(c)]) for c in (-1.0, 0.5, -0.5, 2.5)),
    Sample("Pow", [BASES, ints(0, 1, 2, 3, 0, 1, 2, 3, 0, -1)]),
    Sample("Pow", [BASES, np.array([0.0, 1, 2, 0.5, 0, 1, 2, 3, 0, -1])]),
    Sample("Max", [TIES, OTHERS]),
    Sample("Min", [TIES, OTHERS]),
    *(
        Sample("Mod", [np.array([3, -3, 3.5, -3.5, 4]), np.array(b)], {"fmod": f}, opset=28)
        for f in (0, 1)
        for b in (2.0, -2.0)
    ),
]
FUNCTIONS = {
    "Pow": torch.pow,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Mod": {0: torch.remainder, 1: torch.fmod},
}


@pytest.mark.parametrize("sample", CASES, ids=sample_id)
def test_like_torch(sample):
    function = FUNCTIONS[sample.op]
    if sample.op == "Mod":
        function = function[sample.attributes["fmod"]]
    assert_like_torch(sample, function)


@pytest.mark.parametrize("exponent", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_pow_second_order(exponent, dtype):
    """At base 0 too, with an exponent known only at run time. (For exponent 0 PyTorch has NaN.)"""
    y = np.full(len(BASES), exponent, dtype)
    sample = Sample("Pow", [BASES, y], wrt=[0])
    assert_like_torch(sample, torch.pow, second=True)


def test_ties_of_three():
    """All that tie share evenly; PyTorch has no maximum of three."""
    x = [np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.0, 0.0])]
    want = [[1 / 3, 1 / 2, 1], [1 / 3, 1 / 2, 0], [1 / 3, 0, 0]]

    for got, w in zip(node_gradients(Sample("Max", x)), want, strict=True):
        np.testing.assert_allclose(got, w)


@pytest.mark.parametrize("guard", ["Where", "Max", "Clip", "Relu"])
def test_singular_branch(guard):
    """An infinite derivative downstream reaches only what was selected: no 0 * inf."""
    guards = {
        "Where": "c = Greater(x, zero) y = Where(c, x, zero)",
        "Max": "m = Sub(x, one) y = Max(m, zero)",
        "Clip": "m = Sub(x, one) y = Clip(m, zero)",
        "Relu": "m = Sub(x, one) y = Relu(m)",
    }
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21]>
        g (double[3] x) => (double[3] z) <double zero = {{0}}, double one = {{1}}>
        {{ {guards[guard]} z = Sqrt(y) }}"""
    )
    gradient = runner(og.gradient(model, forward=False))({"x": np.array([-1.0, -2.0, 4.0])})[0]
    assert gradient[:2].tolist() == [0, 0]
    assert gradient[2] > 0
