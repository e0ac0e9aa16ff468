"""The table of kinks in docs/semantics.md, row by row, and the values that are not finite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner


def gradient(body: str, outputs: int = 1, **feeds: list) -> dict[str, list]:
    """The gradients of a net of one line, given its inputs, as lists by input name."""
    arrays = {name: np.array(value, np.float32) for name, value in feeds.items()}
    inputs = ", ".join(f"float[{','.join(map(str, a.shape))}] {n}" for n, a in arrays.items())
    inputs = inputs.replace("float[] ", "float ")
    unknown = f"float[{','.join('ABCD'[: next(iter(arrays.values())).ndim])}]"
    text = f"""<ir_version: 10, opset_import: ["" : 24]>
    net ({inputs}) => ({unknown} y) {{ {body} }}"""
    model = og.gradient(onnx.parser.parse_model(text), list(feeds), forward=False)
    return dict(zip(feeds, (g.tolist() for g in runner(model)(arrays)), strict=True))


ONE = 1.0507009873554805  # Selu's gamma
LEFT = ONE * 1.6732632423543772

KINKS = [
    ("y = Relu(x)", [0], [0]),
    ("y = ThresholdedRelu<alpha = 0.5>(x)", [0.5], [0]),
    ("y = Shrink<lambd = 0.5, bias = 0.5>(x)", [-0.5, 0.5], [0, 0]),
    ("y = LeakyRelu<alpha = 0.25>(x)", [0], [0.25]),
    ("y = Elu<alpha = 0.25>(x)", [0], [0.25]),
    ("y = Celu<alpha = 0.25>(x)", [0], [1]),
    ("y = Selu(x)", [0], [LEFT]),
    ("y = HardSigmoid<alpha = 0.25, beta = 0.5>(x)", [-2, 2], [0, 0]),
    ("y = HardSwish(x)", [-3, 3], [0, 1]),
    ("y = Abs(x)", [0], [0]),
    ("y = ReduceL1<keepdims = 1>(x)", [0, 2], [0, 1]),
    ("y = ReduceL2<keepdims = 1>(x)", [0, 0], [0, 0]),
    ("y = LpNormalization<axis = 0>(x)", [0, 0], [0, 0]),
    ("y = ReduceMax<keepdims = 1>(x)", [1, 3, 3], [0, 0.5, 0.5]),
    ("y = ReduceMin<keepdims = 1>(x)", [1, 1, 3], [0.5, 0.5, 0]),
    ("y = GlobalMaxPool(x)", [[[1, 4, 4]]], [[[0, 0.5, 0.5]]]),
    ("y = MaxPool<kernel_shape = [3]>(x)", [[[1, 4, 4]]], [[[0, 1, 0]]]),
]


@pytest.mark.parametrize(("body", "x", "expected"), KINKS, ids=lambda k: str(k).partition("(")[0])
def test_of_one_operand(body: str, x: list, expected: list) -> None:
    np.testing.assert_allclose(gradient(body, x=x)["x"], expected, rtol=1e-6)


def test_clip_passes_at_both_bounds_and_gives_the_bound_what_lies_beyond() -> None:
    found = gradient("y = Clip(x, low, high)", x=[-2, -1, 0, 1, 2, 3], low=-1, high=1)
    assert found == {"x": [0, 1, 1, 1, 0, 0], "low": 1, "high": 2}


def test_prelu_at_0() -> None:
    assert gradient("y = PRelu(x, s)", x=[0], s=[0.25]) == {"x": [0.25], "s": [0]}


@pytest.mark.parametrize("operator", ["Max", "Min"])
def test_operands_that_tie_share_evenly(operator: str) -> None:
    found = gradient(f"y = {operator}(a, b, c, d)", a=[3], b=[3], c=[3], d=[3])
    assert found == {name: [0.25] for name in "abcd"}


@pytest.mark.parametrize("reduction", ["max", "min"])
def test_scattered_elements_that_tie_share_evenly(reduction: str) -> None:
    body = f"""i = Constant<value = int64[2] {{0, 0}}>()
    y = ScatterElements<reduction = "{reduction}">(x, i, u)"""
    found = gradient(body, x=[3, 1], u=[3, 3])
    np.testing.assert_allclose(found["x"], [1 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(found["u"], [1 / 3, 1 / 3], rtol=1e-6)


def test_a_query_that_attends_nothing() -> None:
    body = """m = Constant<value = bool[1, 2] {0, 0}>()
    y = Attention(q, k, v, m)"""
    found = gradient(body, q=[[[[1]]]], k=[[[[1], [2]]]], v=[[[[1], [2]]]])
    assert found == {"q": [[[[0]]]], "k": [[[[0], [0]]]], "v": [[[[0], [0]]]]}


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_a_mean_over_nothing(loss: str) -> None:
    body = f"""i = Constant<value = int64[1] {{1}}>()
    l = {loss}<ignore_index = 1>(x, i)
    y = Add(x, l)"""
    assert gradient(body, x=[[1, 2, 3]]) == {"x": [[1, 1, 1]]}


def test_a_masked_softmax_is_finite() -> None:
    body = """
        zero = Constant<value = float {0.0}>()
        low = Constant<value = float {-3.4e38}>()
        keep = Greater(x, zero)
        masked = Where(keep, x, low)
        p = Softmax(masked)
        y = Mul(p, p)
    """
    assert np.isfinite(gradient(body, x=[[1, -2], [-1, -2]])["x"]).all()


def test_a_where_may_discard_the_rows_of_a_softmax_that_are_masked_as_a_whole() -> None:
    """As the standard's body of Attention does; elsewhere a softmax of nothing is NaN."""
    body = """
        zero = Constant<value = float {0.0}>()
        masked = Add(x, m)
        p = Softmax(masked)
        nothing = IsNaN(p)
        safe = Where(nothing, zero, p)
        y = Mul(safe, w)
    """
    hidden = [[0, 0], [-np.inf, -np.inf], [0, -np.inf]]
    found = gradient(body, x=[[0, 0], [1, 2], [3, 4]], m=hidden, w=[[1, 3], [1, 3], [1, 3]])
    assert found["x"] == [[-0.5, 0.5], [0, 0], [0, 0]]
    assert found["m"] == [[-0.5, 0.5], [0, 0], [0, 0]]


def test_a_where_protects_what_it_discards() -> None:
    """More of it is in test_masked.py."""
    body = """
        zero = Constant<value = float {0.0}>()
        valid = Greater(x, zero)
        root = Sqrt(x)
        y = Where(valid, root, x)
    """
    assert gradient(body, x=[4, 0, -1])["x"] == [0.25, 1, 1]


def test_powers_and_products_with_zeros() -> None:
    assert gradient("y = Pow(x, p)", x=[0, 0], p=[2, 1])["x"] == [0, 1]
    assert gradient("y = ReduceProd<keepdims = 1>(x)", x=[0, 2, 3])["x"] == [6, 0, 0]
    assert gradient("y = ReduceProd<keepdims = 1>(x)", x=[0, 2, 0])["x"] == [0, 0, 0]


def test_an_infinite_derivative_is_infinite() -> None:
    assert gradient("y = Sqrt(x)", x=[0])["x"] == [np.inf]
