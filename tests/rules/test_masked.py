"""What a mask discards has no influence: its derivatives count as 0, infinite or NaN as they are.

Each net is run twice, with numbers in the discarded places that make it fail there, and with
harmless ones. Nothing of what is kept may change, of any order, and what is discarded has 0. That
the harmless one is right central differences tell.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import directional, runner

GOOD = np.array([[0.3, 0.6, 0.9], [0.4, 0.2, 0.7], [0.5, 0.8, 0.1]])
KEPT = np.array([[True, True, False], [False, False, False], [True, True, True]])
ROWS = np.array([[True, True, True], [False, False, False], [True, True, True]])

# By name: the node that gives p of x, w and v, and what is put in the place of discarded elements.
ELEMENTS = {
    "Pow to 1.5": ("p = Pow(x, c)", 1.5, [-1, 0, -np.inf]),
    "Pow to 0.5": ("p = Pow(x, c)", 0.5, [-1, 0, 0]),
    "Pow to -1": ("p = Pow(x, c)", -1.0, [0, 0, -np.inf]),
    "Pow to -2.5": ("p = Pow(x, c)", -2.5, [0, -1, np.inf]),
    "Pow to w": ("p = Pow(x, w)", 0, [-1, 0, np.inf]),
    "Sqrt": ("p = Sqrt(x)", 0, [-1, 0, 0]),
    "Log": ("p = Log(x)", 0, [-1, 0, 0]),
    "Div": ("p = Div(w, x)", 0, [0, 0, np.nan]),
    "Div by itself": ("p = Div(x, x)", 0, [0, 0, np.inf]),
    "Reciprocal": ("p = Reciprocal(x)", 0, [0, 0, np.nan]),
    "Acos": ("p = Acos(x)", 0, [1, 2, -3]),
    "Asin": ("p = Asin(x)", 0, [1, -1, 3]),
    "Atanh": ("p = Atanh(x)", 0, [1, -1, 3]),
    "Acosh": ("e = Exp(x) p = Acosh(e)", 0, [0, -1, -2]),
    "Exp": ("p = Exp(x)", 0, [1e3, 1e4, np.inf]),
    "Sinh": ("p = Sinh(x)", 0, [1e3, -1e4, 1e5]),
    "Cosh": ("p = Cosh(x)", 0, [1e3, -1e4, 1e5]),
    "Tan": ("p = Tan(x)", 0, [np.inf, np.inf, np.nan]),
    "Softplus by hand": ("e = Exp(x) a = Add(e, one) p = Log(a)", 0, [1e3, 1e3, 1e3]),
    "a product": ("l = Log(x) p = Mul(l, w)", 0, [-1, 0, 0]),
    "a quotient": ("l = Log(x) s = Sqrt(x) t = Mul(l, w) p = Div(t, s)", 0, [-1, 0, 0]),
    "Max": ("q = Log(x) p = Max(q, w)", 0, [-1, -2, -3]),
    "Min": ("q = Log(x) p = Min(q, w)", 0, [-1, -2, -3]),
    "Einsum": ('l = Log(x) p = Einsum<equation = "ij,ij->ij">(l, l)', 0, [-1, 0, 0]),
    "Einsum of three": (
        'l = Log(x) p = Einsum<equation = "...i,...i,i->...i">(l, w, v)', 0, [-1, 0, 0]),
    "ReduceL2 of one": ("l = Log(x) o = Unsqueeze(l, last) p = ReduceL2<keepdims = 0>(o, last)",
                        0, [-1, 0, 0]),
    "ReduceProd of two": (
        "l = Log(x) o = Unsqueeze(l, last) e = Concat<axis = 2>(o, o) "
        "p = ReduceProd<keepdims = 0>(e, last)", 0, [-1, 0, 0]),
    "a chain": ("s = Sqrt(x) r = Reciprocal(s) l = Log(r) p = Mul(l, l)", 0, [-1, 0, 0]),
}  # fmt: skip
WHOLE_ROWS = {
    "a norm by hand": (
        "q = Mul(x, x) n = ReduceSum<keepdims = 1>(q, axes) s = Sqrt(n) p = Div(x, s)", 0, [0] * 3),
    "ReduceL2": ("n = ReduceL2<keepdims = 1>(x, axes) p = Div(x, n)", 0, [0] * 3),
    "ReduceLogSum": ("n = ReduceLogSum<keepdims = 1>(x, axes) p = Mul(x, n)", 0, [0] * 3),
    "ReduceMax": ("l = Log(x) n = ReduceMax<keepdims = 1>(l, axes) p = Mul(x, n)", 0, [-1] * 3),
    "ReduceMin": ("l = Log(x) n = ReduceMin<keepdims = 1>(l, axes) p = Mul(x, n)", 0, [-1] * 3),
    "ReduceLogSumExp": (
        "l = Log(x) n = ReduceLogSumExp<keepdims = 1>(l, axes) p = Mul(x, n)", 0, [0] * 3),
    "LpNormalization": ("l = Log(x) p = LpNormalization<axis = 1>(l)", 0, [-1, 0, 0]),
    "Softmax": ("l = Log(x) p = Softmax(l)", 0, [0, 0, 0]),
    "LogSoftmax": ("l = Log(x) p = LogSoftmax(l)", 0, [0, 0, 0]),
    "MatMul": ("l = Log(x) p = MatMul(l, w)", 0, [-1, 0, 0.5]),
    "Gemm": ("l = Log(x) p = Gemm(l, w)", 0, [-1, 0, 0.5]),
    "Gemm turned": ("l = Log(x) p = Gemm<transB = 1>(l, w)", 0, [-1, 0, 0.5]),
    "ReduceProd": ("l = Log(x) n = ReduceProd<keepdims = 1>(l, axes) p = Mul(n, w)", 0, [-1, 0, 2]),
    "CumProd": ("l = Log(x) p = CumProd(l, axis)", 0, [-1, 0, 2]),
    "standardised": (
        "m = ReduceMean<keepdims = 1>(x, axes) d = Sub(x, m) q = Mul(d, d) "
        "n = ReduceMean<keepdims = 1>(q, axes) s = Sqrt(n) p = Div(d, s)", 0, [2] * 3),
    "Einsum of matrices": ('l = Log(x) p = Einsum<equation = "ij,jk->ik">(l, w)', 0, [-1, 0, 2]),
    "Einsum turned": ('l = Log(x) p = Einsum<equation = "ij,kj,k->ik">(l, w, v)', 0, [-1, 0, 2]),
    "Einsum with a diagonal": (
        'l = Log(x) p = Einsum<equation = "ij,jj->ij">(l, w)', 0, [-1, 0, 2]),
    "LayerNormalization": ("l = Log(x) p = LayerNormalization(l, v)", 0, [-1, 0, 0]),
}  # fmt: skip

# How p is discarded where `kept` is false.
PICKED = {
    "Where": "y = Where(kept, p, zero)",
    "Where of a function": "h = Mul(p, p) u = Mul(h, w) y = Where(kept, u, x)",
}


# Masks that are no picking: what they discard is finite, or infinite, and its derivative is not.
FINITE = {
    "Sqrt": ("p = Sqrt(x)", 0, [0] * 3),
    "Sqrt of a product": ("q = Mul(x, w) p = Sqrt(q)", 0, [0] * 3),
    "Pow to 0.5": ("p = Pow(x, c)", 0.5, [0] * 3),
    "Pow to w": ("s = Sigmoid(w) p = Pow(x, s)", 0, [0] * 3),
    "Acos": ("p = Acos(x)", 0, [1, -1, 1]),
    "Asin": ("p = Asin(x)", 0, [1, -1, 1]),
    "Acosh": ("e = Exp(x) p = Acosh(e)", 0, [0, 0, 0]),
    "a norm": ("q = Mul(x, x) n = ReduceSum<keepdims = 1>(q, axes) s = Sqrt(n) p = Mul(s, w)",
               0, [0] * 3),
}  # fmt: skip
INFINITE = {
    "Log": ("p = Log(x)", 0, [0] * 3),
    "Log of a square": ("q = Mul(x, x) p = Log(q)", 0, [0] * 3),
    "minus a reciprocal": ("q = Mul(x, x) r = Reciprocal(q) p = Neg(r)", 0, [0] * 3),
    "minus an exponential": ("e = Exp(x) p = Neg(e)", 0, [1e3] * 3),
}
_SHIFTED = "b = Where(kept, much, little) d = Add(p, b) "
FACTORS = {
    "Mul": "m = Cast<to = 11>(kept) y = Mul(p, m)",
    "Mul before": "m = Cast<to = 11>(kept) h = Mul(p, p) o = Mul(h, p) f = Mul(m, o) y = Neg(f)",
}
HINGES = {
    "Relu": _SHIFTED + "y = Relu(d)",
    "Max": _SHIFTED + "y = Max(d, zero)",
    "Min": _SHIFTED + "f = Neg(d) y = Min(f, zero)",
    "Clip": _SHIFTED + "y = Clip(d, zero, more)",
}
PARTS = {
    "Slice": "y = Slice(p, first, second)",
    "Gather": "y = Gather(p, rows)",
    "Split": "y, f, g = Split<num_outputs = 3>(p)",
    "Compress": """k = Constant<value = bool[3] {1, 0, 1}>()
        h = Compress<axis = 0>(p, k)
        y = Mul(h, h)""",
}


def net(body: str, c: float, discard: str, opset: int = 21) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": {opset}]>
        net (double[3, 3] x, double[3, 3] w, double[3] v, bool[3, 3] kept) => (double[M, N] y)
        <double c = {{{c}}}, double zero = {{0.0}}, double one = {{1.0}}, int64[1] axes = {{1}},
         int64[1] last = {{2}},
         double much = {{500.0}}, double little = {{-500.0}}, double more = {{1000.0}},
         int64[2] rows = {{0, 2}}, int64 axis = {{1}}, int64[1] first = {{0}},
         int64[1] second = {{1}}> {{
            {body}
            {discard}
        }}""")


def bad(kept: np.ndarray, values: list[float]) -> np.ndarray:
    """The good numbers, with others in the places that are not kept."""
    x = GOOD.copy()
    x[~kept] = np.resize(values, int((~kept).sum()))
    return x


def results(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [o.name for o in model.graph.output]
    with np.errstate(all="ignore"):
        return dict(zip(names, runner(model)(feeds), strict=True))


CASES = [
    pytest.param(*case, discard, kept, id=f"{name}-{how}")
    for table, discards, kept in (
        (ELEMENTS, PICKED, KEPT),
        (WHOLE_ROWS, PICKED, ROWS),
        (FINITE, FACTORS | HINGES, ROWS),
        (INFINITE, HINGES, ROWS),
        (ELEMENTS | WHOLE_ROWS, {"Slice": PARTS["Slice"]}, ROWS),
        ({name: ELEMENTS[name] for name in ("Pow to 1.5", "Log")}, PARTS, ROWS),
    )
    for name, case in table.items()
    for how, discard in discards.items()
]


@pytest.mark.parametrize(("body", "c", "values", "discard", "kept"), CASES)
def test_what_is_discarded_has_no_influence(body, c, values, discard, kept) -> None:
    model = net(body, c, discard, 26 if "CumProd" in body else 21)
    rng = np.random.default_rng(0)
    feeds = {"w": np.abs(rng.standard_normal((3, 3))) + 1, "v": np.ones(3), "kept": kept}
    wrt = [n for n in "xwv" if re.search(rf"[(, ]{n}[,)]", body + discard)]
    sizes = {"x": (3, 3), "w": (3, 3), "v": (3,)}
    tangents = {f"{n}_tangent": rng.standard_normal(sizes[n]) for n in wrt}
    transforms = [og.gradient, og.hvp, og.jvp]
    if discard == PICKED["Where"]:
        transforms += [og.jacobian, og.hessian]
    for transform in transforms:
        built = transform(model, wrt, forward=False)
        more = tangents if transform in (og.hvp, og.jvp) else {}
        good, found = (results(built, feeds | {"x": x} | more) for x in (GOOD, bad(kept, values)))
        for name, value in good.items():
            where = f"{transform.__name__}, {name}"
            assert np.isfinite(value).all(), where
            if "u, x" in discard:  # what is taken in its place is not the same
                assert np.isfinite(found[name]).all(), where
            else:
                np.testing.assert_allclose(found[name], value, 1e-12, 1e-13, err_msg=where)


@pytest.mark.parametrize(
    ("body", "c", "values", "discard", "kept"),
    [c for c in CASES if c.values[3] in (PICKED["Where"], FACTORS["Mul"], HINGES["Clip"])],
)
def test_what_is_kept_has_its_derivative(body, c, values, discard, kept) -> None:
    """Differences cannot be had of the failing numbers; with the harmless ones it is the same."""
    model = net(body, c, discard, 26 if "CumProd" in body else 21)
    rng = np.random.default_rng(1)
    feeds = {"w": np.abs(rng.standard_normal((3, 3))) + 1, "v": np.ones(3), "kept": kept}
    feeds["x"], direction = GOOD, rng.standard_normal((3, 3))
    (moved,) = directional(runner(model), feeds, ["x"], [direction], 1e-4)
    (g,) = runner(og.gradient(model, "x", of="y", forward=False))(feeds)
    np.testing.assert_allclose((g * direction).sum(), moved.sum(), rtol=1e-7, atol=1e-9)


def test_a_transformer_of_powers() -> None:
    """Of scikit-learn: powers of negative numbers in the lane that a mask discards."""
    folder = Path(__file__).parents[1] / "cases"
    arrays = dict(np.load(folder / "power_transformer.npz"))
    model = og.vjp(onnx.load(folder / "power_transformer.onnx"))
    feeds = {"X": arrays["in:X"], "variable_ograd": arrays["ograd:variable"]}
    np.testing.assert_allclose(results(model, feeds)["X_grad"], arrays["grad:X"], rtol=1e-5)


SINGLE = """
    <ir_version: 10, opset_import: ["": 21]>
    net (double[3] x) => (double[3] y) {{ {} }}"""


def test_the_zeros_of_seeds_and_tangents_are_masks() -> None:
    model = onnx.parser.parse_model(SINGLE.format("y = Sqrt(x)"))
    feeds, some = {"x": np.array([0.0, 1, 4])}, np.array([0.0, 1, 1])
    for mode in ("reverse", "forward"):
        found = results(og.jacobian(model, mode=mode), feeds)["y_x_jacobian"]
        np.testing.assert_array_equal(found, np.diag([np.inf, 0.5, 0.25]))
    found = results(og.vjp(model), feeds | {"y_ograd": some})["x_grad"]
    np.testing.assert_array_equal(found, [0, 0.5, 0.25])
    for tangent, first in ((some, 0), (np.ones(3), np.inf)):
        found = results(og.jvp(model), feeds | {"x_tangent": tangent})["y_tangent"]
        np.testing.assert_array_equal(found, [first, 0.5, 0.25])


@pytest.mark.parametrize(
    "body", ["s = Sqrt(x) y = Mul(s, s)", "s = Sqrt(x) t = Mul(s, s) y = Relu(t)"]
)
@pytest.mark.parametrize("transform", [og.gradient, og.vjp])
def test_a_zero_that_no_mask_made_is_none(body, transform) -> None:
    """Of sqrt(x)^2 at 0 the derivative is 1, not 0: what rounds to 0 times infinity stays NaN."""
    model = transform(onnx.parser.parse_model(SINGLE.format(body)), forward=False)
    feeds = {"x": np.array([0.0, 1, 4]), "y_ograd": np.ones(3)}
    found = results(model, {i.name: feeds[i.name] for i in model.graph.input})["x_grad"]
    np.testing.assert_array_equal(found[1:], [1, 1])
    assert np.isnan(found[0]) or "Relu" in body


BOUNDED = {
    "an epsilon": "q = Mul(x, x) a = Add(q, eps) s = Sqrt(a) p = Div(x, s)",
    "a norm with a least value": "n = ReduceL2(x) a = Max(n, eps) p = Div(x, a)",
    "a clipped logarithm": "a = Clip(x, eps, one) p = Log(a)",
    "a softmax in parts": """m = ReduceMax(x) d = Sub(x, m) e = Exp(d) n = ReduceSum(e)
        p = Div(e, n)""",
    "a square": "p = Pow(x, two)",
    "a scaling": "a = Div(x, two) s = Sqrt(two) p = Div(a, s)",
    "a division by a size": """n = Shape(x) f = Cast<to = 1>(n) s = Sqrt(f) p = Div(x, s)""",
    "an error function": "a = Erf(x) p = Mul(a, x)",
}


@pytest.mark.parametrize("body", BOUNDED.values(), ids=list(BOUNDED))
def test_what_cannot_fail_is_not_guarded(body: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[N] x, bool[N] kept) => (float[N] y)
        <float eps = {{0.001}}, float one = {{1.0}}, float two = {{2.0}}, float zero = {{0.0}}> {{
            {body}
            y = Where(kept, p, zero)
        }}""")
    nodes = [n.op_type for n in og.gradient(model, "x", forward=False).graph.node]
    assert "And" not in nodes, nodes
