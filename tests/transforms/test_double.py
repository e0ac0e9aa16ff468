"""A net in double precision: its values against onnx's evaluator, fed float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import accept


def test_all_is_calculated_in_double() -> None:
    """The weights, a constant of a function, a Cast; and an integer input stays as it is."""
    net = onnx.parser.parse_model("""
    <ir_version: 10, opset_import: ["" : 18, "own" : 1]>
    net (float[N,2] x, int64[N] k) => (float[N,2] y) <float[2,2] w = {0.1, 0.2, 0.3, 0.4}>
    { h = MatMul(x, w)  s = own.Soft(h)  f = Cast<to = 1>(k)
      axes = Constant<value_ints = [1]>()  c = Unsqueeze(f, axes)  y = Mul(s, c) }
    <domain: "own", opset_import: ["" : 18]>
    Soft (x) => (y) { one = Constant<value_float = 1.0>()  e = Exp(x)  z = Add(e, one)  y = Log(z) }
    """)
    model = og.to_double(net)
    accept(model)
    x, k = np.random.default_rng(0).standard_normal((3, 2)), np.array([1, 2, 3])
    found = og.Net(model)({"x": x, "k": k})
    w = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32).astype(np.float64)
    np.testing.assert_allclose(found, np.log1p(np.exp(x @ w)) * k[:, None], rtol=1e-14)
    assert found.dtype == np.float64
    assert og.Net(net)({"x": x.astype(np.float32), "k": k}).dtype == np.float32  # as it was


def test_operators_of_other_domains() -> None:
    """One that has an expansion, here in half precision; and one that nobody knows."""
    text = """
    <ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "own" : 1]>
    net (float16[N] x) => (float16[N] y)
    { h = com.microsoft.QuickGelu<alpha = 2.0>(x)  y = Sqrt(h) }
    """
    x = np.array([0.5, 2.0])
    found = og.Net(og.to_double(onnx.parser.parse_model(text)))(x)
    np.testing.assert_allclose(found, np.sqrt(x / (1 + np.exp(-2 * x))), rtol=1e-14)
    unknown = onnx.parser.parse_model(
        text.replace("com.microsoft.QuickGelu<alpha = 2.0>", "own.Gelu")
    )
    with pytest.raises(og.ModelError, match=r"own.*Gelu.* has a result of unknown dtype"):
        og.to_double(unknown)
