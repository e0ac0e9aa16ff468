"""The bridge to PyTensor, checked by its own `verify_grad` and compared with JAX's bridge."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import bridges
from tests.bridges.page import run_part, run_tutorial

pytensor = pytest.importorskip("pytensor", reason="PyTensor is not installed: make bridges")
pt = pytest.importorskip("pytensor.tensor", reason="PyTensor is not installed: make bridges")

ROOT = Path(__file__).parents[2]
HEADER = '<ir_version: 10, opset_import: ["": 21]>'
# Smooth, with two outputs; nothing depends on u but by rounding.
NET = """ f (double[N,3] x, double[N] u) => (double[N,2] y, double[N] z)
<double[3,2] w = {0.5, -1, 0.3, 0.7, -0.2, 0.1}, int64[1] axes = {1}> {
    a = MatMul(x, w)
    y = Tanh(a)
    s = ReduceSumSquare<keepdims = 0>(y, axes)
    e = Exp(s)
    r = Round(u)
    z = Add(e, r)
}"""
RNG = np.random.default_rng(0)
X, U = RNG.standard_normal((4, 3)), RNG.standard_normal(4)


@pytest.fixture(scope="module", autouse=True)
def python_mode() -> Any:
    """Nothing is compiled, which takes long and is not what is tested."""
    with pytensor.config.change_flags(mode="FAST_COMPILE", cxx="", compute_test_value="off"):
        yield


@pytest.fixture(scope="module")
def net() -> Any:
    return bridges.pytensor.op(onnx.parser.parse_model(HEADER + NET), trainable=["w"])


def test_derivatives_pass_verify_grad_to_the_second_order(net: Any) -> None:
    verify, w = pytensor.gradient.verify_grad, net.weights["w"]
    verify(lambda x, w: net(x, U, w)[0], [X, w], rng=RNG)
    verify(lambda x, w: net(x, U, w)[1], [X, w], rng=RNG)
    verify(lambda x: pytensor.grad(net(x, U, w)[1].sum(), x), [X], rng=RNG)


@pytest.mark.parametrize("by_jvp", [False, True])
def test_rop_is_the_derivative_along_a_tangent(net: Any, by_jvp: bool) -> None:
    """By R_op, and as PyTensor makes it of two L_ops; compared with differences."""
    x, t, w = pt.matrix(), RNG.standard_normal((4, 3)), net.weights["w"]
    moved = pytensor.gradient.Rop(net(x, U, w), x, t, use_op_rop_implementation=by_jvp)
    along = [net.function([X + e * t, U, w]) for e in (-1e-5, 1e-5)]
    for found, low, high in zip(pytensor.function([x], moved)(X), *along, strict=True):
        np.testing.assert_allclose(found, (high - low) / 2e-5, rtol=1e-7, atol=1e-8)


def test_shapes_are_told_without_a_run(net: Any) -> None:
    x, u, w = pt.matrix(), pt.vector(), pt.matrix()
    g = pytensor.grad(net(x, u, w)[1].sum(), x)
    shapes = pytensor.function([x, u, w], [net(x, u, w)[0].shape, g.shape])
    assert not any(isinstance(node.op, type(net)) for node in shapes.maker.fgraph.toposort())
    assert [tuple(s) for s in shapes(X, U, net.weights["w"])] == [(4, 2), (4, 3)]


def test_it_is_pickled_with_its_derivatives(net: Any) -> None:
    x = pt.matrix()
    gradient = pytensor.grad(net(x, U, net.weights["w"])[0].sum(), x)
    again = pickle.loads(pickle.dumps(gradient))
    (source,) = pytensor.graph.traversal.explicit_graph_inputs([again])
    np.testing.assert_array_equal(again.eval({source: X}), gradient.eval({x: X}))


def test_the_backend_of_jax_runs_the_bridge_to_jax(net: Any) -> None:
    pytest.importorskip("jax", reason="JAX is not installed: make bridges")
    x = pt.matrix()
    y, z = net(x, U, net.weights["w"])
    loss = (y**2).sum() + z.sum()
    outputs = [loss, pytensor.grad(loss, x)]
    found = pytensor.function([x], outputs, mode="JAX")(X)
    expected = pytensor.function([x], outputs)(X)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


def test_what_nothing_depends_on_is_disconnected_and_errors_are_ours(net: Any) -> None:
    x, u, w = pt.matrix(), pt.vector(), pt.matrix()
    with pytest.raises(pytensor.gradient.DisconnectedInputError):
        pytensor.grad(net(x, u, w)[1].sum(), u)
    for given, said in (
        ((x, u), "3 tensors are needed, 'x', 'u', 'w', not 2"),
        ((x.astype("float32"), u, w), "'x' takes float64, and float32 was given"),
        ((u, u, w), r"shape \(N, 3\), and a tensor of 1 axes"),
    ):
        with pytest.raises(og.FeedError, match=said):
            net(*given)
    tokens = bridges.pytensor.op(
        onnx.parser.parse_model(
            HEADER + " f (int64[N] i, float[5] t) => (float[N] y) { y = Gather(t, i) }"
        )
    )
    t = pt.vector(dtype="float32")
    g = pytensor.grad(tokens([1, 1, 4], t).sum(), t)
    assert g.eval({t: np.ones(5, np.float32)}).tolist() == [0, 2, 0, 0, 1]


def test_pymc_samples_the_posterior_of_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymc", reason="PyMC is not installed: make bridges")
    path = ROOT / "examples" / "pymc_posterior.py"
    spec = importlib.util.spec_from_file_location("pymc_posterior", path)
    assert spec and spec.loader
    example = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pymc_posterior", example)
    spec.loader.exec_module(example)
    found = example.main(trials=1000, draws=150, tune=150, chains=1)
    for (mean, deviation), (true_mean, true_deviation) in found.values():
        assert abs(mean - true_mean) < 0.5 * true_deviation
        assert 0.6 < deviation / true_deviation < 1.5


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_part("PyTensor and PyMC", tmp_path, monkeypatch)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pymc", reason="PyMC is not installed: make bridges")
    run_tutorial("pymc", tmp_path, monkeypatch)
