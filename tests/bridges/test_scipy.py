"""The bridge to scipy: its solvers, its own functions and differences as the oracles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy import integrate, optimize

import onnxgrad as og
from onnxgrad import bridges
from tests.bridges.page import run_example, run_part


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + text)


ROSENBROCK = """
rosen (double[N] x) => (double y) {
    zero = Constant<value_ints = [0]>()  one = Constant<value_ints = [1]>()
    last = Constant<value_ints = [-1]>()  end = Constant<value_ints = [1000]>()
    a = Slice(x, zero, last)  b = Slice(x, one, end)  aa = Mul(a, a)  d = Sub(b, aa)
    c = Constant<value = double {100.0}>()  i = Constant<value = double {1.0}>()
    dd = Mul(d, d)  cdd = Mul(c, dd)  e = Sub(i, a)  ee = Mul(e, e)  t = Add(cdd, ee)
    y = ReduceSum<keepdims = 0>(t) }
"""


def test_a_scalar_is_scipys_own_function_of_rosenbrock() -> None:
    f = bridges.scipy.objective(parse(ROSENBROCK))
    rng = np.random.default_rng(0)
    x, p = rng.standard_normal(5), rng.standard_normal(5)
    assert f.fun(x) == pytest.approx(optimize.rosen(x), rel=1e-13)
    np.testing.assert_allclose(f.jac(x), optimize.rosen_der(x), rtol=1e-12)
    np.testing.assert_allclose(f.hess(x), optimize.rosen_hess(x), rtol=1e-12)
    np.testing.assert_allclose(f.hessp(x, p), optimize.rosen_hess_prod(x, p), rtol=1e-11)
    found = optimize.minimize(f, x, jac=True, hessp=f.hessp, method="trust-krylov")
    np.testing.assert_allclose(found.x, 1, atol=1e-6)
    found = optimize.minimize(f.fun, x, jac=f.jac, hess=f.hess, method="trust-exact", args=({},))
    np.testing.assert_allclose(found.x, 1, atol=1e-6)


def test_weights_are_fitted() -> None:
    """The last layer, for which the least squares are linear: numpy knows the best ones."""
    rng = np.random.default_rng(1)
    feeds = {"input": rng.standard_normal((40, 4)), "labels": rng.standard_normal((40, 3))}
    wrt, loss = ["fc3.bias", "fc3.weight"], og.losses.mse("logits")
    single = bridges.scipy.objective("models/mlp.onnx", wrt, of=loss, feeds=feeds)
    double = og.to_double("models/mlp.onnx")
    f = bridges.scipy.objective(double, wrt, of=loss, feeds=feeds)
    assert f.x0.dtype == np.float64 and optimize.check_grad(f.fun, f.jac, f.x0) < 1e-6
    np.testing.assert_allclose(single.jac(f.x0), f.jac(f.x0), rtol=1e-4, atol=1e-6)
    hidden = og.Net(double)(feeds["input"], og.Value("v_Relu_3"))
    rows = np.hstack([hidden, np.ones((40, 1))])
    best = np.linalg.lstsq(rows, feeds["labels"], rcond=None)[0]
    least = np.mean((rows @ best - feeds["labels"]) ** 2)
    found = optimize.minimize(f.fun, f.x0, jac=f.jac, hess=f.hess, method="trust-exact")
    assert found.fun == pytest.approx(least, rel=1e-6)
    residuals = bridges.scipy.objective(double, wrt, feeds={"input": feeds["input"]})
    target = feeds["labels"].ravel()
    again = optimize.least_squares(lambda w: residuals.fun(w) - target, f.x0, residuals.jac)
    assert 2 * again.cost / target.size == pytest.approx(least, rel=1e-9)


CIRCLES = """
meet (double[2] x) => (double[2] y) {
    zero = Constant<value = double[2] {0.0, 1.0}>()  r = Constant<value = double[2] {1.0, 2.0}>()
    axis = Constant<value_ints = [0]>()  xx = Mul(x, x)  s = ReduceSum(xx, axis)
    d = Sub(x, zero)  dd = Mul(d, d)  t = ReduceSum(dd, axis)
    st = Concat<axis = 0>(s, t)  y = Sub(st, r) }
"""


def test_a_vector_has_a_root_and_is_a_constraint() -> None:
    f = bridges.scipy.objective(parse(CIRCLES))
    x, v = np.array([0.3, -0.8]), np.array([2.0, -3.0])
    np.testing.assert_allclose(f.jac(x), [2 * x, 2 * (x - [0, 1])], rtol=1e-14)
    np.testing.assert_allclose(f.hess(x, v), -2 * np.eye(2), rtol=1e-14)
    for found in (optimize.root(f.fun, x, jac=f.jac), optimize.root(f, x, jac=True)):
        np.testing.assert_allclose(np.abs(found.x), [1, 0], atol=1e-9)
    both = optimize.NonlinearConstraint(f.fun, [0, -np.inf], [0, 0], jac=f.jac, hess=f.hess)
    best = optimize.minimize(
        lambda x: -x[1],
        x,
        jac=lambda x: np.array([0.0, -1]),
        hess=lambda x: np.zeros((2, 2)),
        constraints=both,
        method="trust-constr",
    )
    np.testing.assert_allclose(best.x, [0, 1], atol=1e-3)
    with pytest.raises(og.ArgumentError, match="v is needed for a vector"):
        f.hess(x)
    with pytest.raises(og.ArgumentError, match="scalar=True"):
        f.hessp(x, x)
    with pytest.raises(og.FeedError, match=r"'x', 2 elements, and is of shape \(3,\)"):
        f.fun(np.zeros(3))


def test_a_stiff_equation_of_two_inputs_and_a_time() -> None:
    """Van der Pol's, with a push: the state is two inputs, and the time one of float32."""
    f = bridges.scipy.objective(
        parse(
            """vdp (double x, double v, float t) => (double dx, double dv) {
            dx = Identity(v)  m = Constant<value = double {50.0}>()
            i = Constant<value = double {1.0}>()  xx = Mul(x, x)  e = Sub(i, xx)
            w = Mul(m, e)  f = Mul(w, v)  g = Sub(f, x)  s = Sin(t)  c = Cast<to = 11>(s)
            dv = Add(g, c) }"""
        ),
        ["x", "v"],
    )
    times = np.array([20.0])
    found = integrate.solve_ivp(
        lambda t, y: f.fun(y, {"t": t}),
        (0, 20),
        [2.0, 0.0],
        "BDF",
        times,
        jac=lambda t, y: f.jac(y, {"t": t}),
        rtol=1e-6,
    )
    plain = integrate.solve_ivp(
        lambda t, y: [y[1], 50 * (1 - y[0] ** 2) * y[1] - y[0] + np.sin(np.float32(t))],
        (0, 20),
        [2.0, 0.0],
        "BDF",
        times,
        rtol=1e-6,
    )
    np.testing.assert_allclose(found.y, plain.y, rtol=1e-3)


def test_sizes_that_nobody_tells_are_asked_for() -> None:
    net = parse("g (float[M,N] x, float[M] c) => (float[N] y) { y = MatMul(c, x) }")
    with pytest.raises(og.ArgumentError, match=r"'x' is of shape \(M, N\): give a value of it"):
        bridges.scipy.objective(net, "x")
    f = bridges.scipy.objective(net, "x", feeds={"x": np.ones((2, 1)), "c": np.array([3.0, 4])})
    assert f.fun(f.x0) == 7.0 and f.jac(f.x0).tolist() == [3, 4]
    assert bridges.scipy.objective(net, "x", feeds={"x": np.ones((2, 1))}, scalar=False).jac(
        f.x0, {"c": np.array([3.0, 4])}
    ).tolist() == [[3, 4]]
    with pytest.raises(og.ArgumentError, match="'y' is neither an input nor a weight"):
        bridges.scipy.objective(net, ["c", "y"])
    with pytest.raises(og.FeedError, match="No value for the input 'c'"):
        bridges.scipy.objective(net, "x", feeds={"x": np.ones((2, 1))}).fun(f.x0)
    empty = bridges.scipy.objective(net, ["c", "x"], feeds={"c": np.ones(0), "x": np.ones((0, 2))})
    assert empty.fun([]).tolist() == [0, 0] and empty.jac([]).shape == (2, 0)
    free = bridges.scipy.objective(parse("g (double[N] x) => (double[N] y) { y = Mul(x, x) }"))
    assert free.fun([3]) == 9 and free.fun([3, 4]).tolist() == [9, 16]  # as if it were the first
    for wrong in ([1j], "x", None):
        with pytest.raises(og.FeedError, match="The vector is of real numbers"):
            free.fun(wrong)


def test_a_dtype_that_numpy_lacks_is_named() -> None:
    text = "g (bfloat16[3] x) => (float y) { f = Cast<to=1>(x) y = ReduceSumSquare<keepdims=0>(f) }"
    f = bridges.scipy.objective(parse(text), feeds={"x": [1, 2, 3]})
    with pytest.raises(og.FeedError, match=r"of 'x' \(bfloat16\)\. onnxgrad.to_double\(model\)"):
        f.fun(f.x0)
    f = bridges.scipy.objective(og.to_double(parse(text)), feeds={"x": [1, 2, 3]})
    assert f(f.x0)[0] == 14 and f(f.x0)[1].tolist() == [2, 4, 6]


def test_threads_share_one() -> None:
    f = bridges.scipy.objective(parse(ROSENBROCK))
    points = np.random.default_rng(0).standard_normal((64, 3))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: (f.jac(x), f.hess(x)), points))
    for x, (slope, curve) in zip(points, found, strict=True):
        np.testing.assert_allclose(slope, optimize.rosen_der(x), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(curve, optimize.rosen_hess(x), rtol=1e-10, atol=1e-10)


def test_the_page_and_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_part("scipy", tmp_path, monkeypatch)
    run_example(bridges.scipy.objective, monkeypatch)
