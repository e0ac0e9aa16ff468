"""Operators of ai.onnx.ml beside a path: what they give has a type, and no gradient."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

NET = """
<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
net (string[N] s, double[N] d, float[N] w) => (float[N] y) {
    e = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_floats = [2.0, 5.0]>(s)
    b = ai.onnx.ml.Binarizer<threshold = 0.5>(d)
    f = Cast<to = 1>(b)
    v = Mul(e, w)
    y = Mul(v, f)
}
"""


def test_types_follow_from_the_schema() -> None:
    model = og.gradient(onnx.parser.parse_model(NET), "w", forward=False)
    feeds = {
        "s": np.array(["a", "b", "b"], object),
        "d": np.array([0.7, 0.6, 0.2]),
        "w": np.ones(3, np.float32),
    }
    np.testing.assert_array_equal(runner(model)(feeds)[0], np.float32([2, 5, 0]))


def test_zero_derivative_is_named() -> None:
    with pytest.raises(og.UnreachableError, match=r"Binarizer.*piecewise constant"):
        og.gradient(onnx.parser.parse_model(NET), "d")


def test_what_has_no_rule_is_refused_by_name() -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 3]>'
        "net (float[N, 2] x) => (float[N, 2] y) { l, y = ai.onnx.ml.SVMClassifier"
        '<post_transform = "PROBIT", coefficients = [1.0, 2.0, 3.0, 4.0], '
        "classlabels_ints = [0, 1]>(x) }"
    )
    with pytest.raises(og.NoRuleError, match=r"SVMClassifier.*PROBIT"):
        og.gradient(net)
