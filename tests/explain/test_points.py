"""Points of nets whose examples are not the first axis, or not apart: none are mixed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import explain
from tests.explain.test_paths import run

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
WEIGHTS = """<float[3, 2] w = {1, 2, 3, -1, 2, 0.5}, int64[1] zero = {0}, int64[1] one = {1},
int64 nought = {0}, float none = {0}>"""
TIME = "s = Sigmoid(x) q = ReduceSum<keepdims = 0>(s, zero) z = Mul(q, q) y = MatMul(z, w)"
GRAPH = (
    "s = Sigmoid(x) h = MatMul(s, w) m = Gather(h, src) d = Unsqueeze(dst, one) sh = Shape(h) "
    'z = Expand(none, sh) a = ScatterND<reduction = "add">(z, d, m) t = Add(a, h) y = Mul(t, t)'
)
RNG = np.random.default_rng(0)
EDGES = {"src": np.array([0, 1, 2, 0]), "dst": np.array([1, 2, 3, 2])}
NETS = {
    "time first": ("float[T, N, 3] x", TIME, (3, 2, 3), {}),
    "time first, static": ("float[3, 2, 3] x", TIME, (3, 2, 3), {}),
    "time first, unnamed": ("float[?, ?, 3] x", TIME, (3, 2, 3), {}),
    "one step": ("float[1, 1, 3] x", TIME, (1, 1, 3), {}),
    "graph": ("float[n, 3] x, int64[e] src, int64[e] dst", GRAPH, (4, 3), EDGES),
    "graph, unnamed": ("float[?, 3] x, int64[?] src, int64[?] dst", GRAPH, (4, 3), EDGES),
    "a bank": (
        "float[N, 3] x, float[M, 3] bank",
        "b = Transpose(bank) s = MatMul(x, b) q = Sigmoid(s) y = ReduceSum(q, one)",
        (2, 3),
        {"bank": RNG.standard_normal((5, 3)).astype(np.float32)},
    ),
    "centred": (
        "float[N, 3] x",
        "s = Sigmoid(x) m = ReduceMean(s, zero) d = Sub(s, m) e = Mul(d, d) y = MatMul(e, w)",
        (3, 3),
        {},
    ),
    "running sum": ("float[N, 3] x", "q = CumSum(x, nought) y = Mul(q, q)", (3, 3), {}),
    "squeezed": ("float[1, 3] x", "s = Sigmoid(x) q = Squeeze(s, zero) y = Mul(q, q)", (1, 3), {}),
    "examples": ("float[N, 3] x", "s = Sigmoid(x) y = MatMul(s, w)", (3, 3), {}),
}


def net(name: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    inputs, body, shape, feeds = NETS[name]
    model = onnx.parser.parse_model(f"{HEAD}({inputs}) => (float y) {WEIGHTS} {{ {body} }}")
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    return model, {"x": x, **feeds}


@pytest.mark.parametrize("target", [1, "argmax", None])
@pytest.mark.parametrize("name", NETS)
def test_a_tunnel_without_noise(name: str, target: Any) -> None:
    model, feeds = net(name)
    target = 0 if name == "a bank" and target == 1 else target
    plain = run(explain.saliency(model, "x", target=target), feeds)["x_attribution"]
    tunnel = explain.noise_tunnel(model, explain.saliency, "x", stdevs=0.0, target=target)
    np.testing.assert_allclose(run(tunnel, feeds)["x_attribution"], plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", [1, None])
@pytest.mark.parametrize("name", NETS)
def test_a_path_is_the_mean_of_its_points(name: str, target: Any) -> None:
    model, feeds = net(name)
    target = 0 if name == "a bank" and target == 1 else target
    gradient = explain.saliency(model, "x", target=target, abs=False)
    total = np.zeros_like(feeds["x"])
    for at in (0.125, 0.375, 0.625, 0.875):
        total += run(gradient, feeds | {"x": np.float32(at) * feeds["x"]})["x_attribution"] / 4
    for size in (None, 4):
        model_of_path = explain.integrated_gradients(
            model, "x", target=target, n_steps=4, method="riemann_middle", internal_batch_size=size
        )
        found = run(model_of_path, feeds)["x_attribution"]
        np.testing.assert_allclose(found, total * feeds["x"], rtol=1e-4, atol=1e-5)


def test_a_state_with_the_batch_on_its_second_axis() -> None:
    """It is repeated along that axis; the points are one batch."""
    model = onnx.parser.parse_model(
        f"{HEAD}(float[N, 3] x, float[2, N, 3] state) => (float[N, 2] y) {WEIGHTS}"
        "{ s = ReduceMean<keepdims = 0>(state, zero) a = Mul(x, s) t = Tanh(a) y = MatMul(t, w) }"
    )
    feeds = {"x": RNG.standard_normal((2, 3)), "state": RNG.standard_normal((2, 2, 3))}
    feeds = {name: x.astype(np.float32) for name, x in feeds.items()}
    whole = explain.integrated_gradients(model, "x", target=1, convergence_delta=True)
    steps = explain.integrated_gradients(model, "x", target=1, convergence_delta=True, batched=[])
    assert not any(n.op_type == "Scan" for n in whole.graph.node)
    a, b = run(whole, feeds), run(steps, feeds)
    for name in ("x_attribution", "convergence_delta"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6)
    assert a["convergence_delta"].shape == (2,)


PRODUCT = onnx.parser.parse_model(
    f"{HEAD}(float[N, 2] a, float[N, 2] b) => (float[N, 2] y)"
    "{ s = Mul(a, b) t = Sigmoid(s) y = Mul(t, a) }"
)


@pytest.mark.parametrize("method", [explain.integrated_gradients, explain.deep_lift])
def test_a_tuple_of_baselines(method: Any) -> None:
    feeds = {n: RNG.standard_normal((2, 2)).astype(np.float32) for n in "ab"}
    found = run(method(PRODUCT, baselines=(0.0, np.ones(2)), target=1), feeds)
    expected = run(method(PRODUCT, baselines={"a": 0.0, "b": 1.0}, target=1), feeds)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    with pytest.raises(og.ArgumentError, match="a tuple has one for each of 'a', 'b', not 1"):
        method(PRODUCT, baselines=(0.0,))


def test_baselines_of_another_length() -> None:
    """It shows in a run; the node says so. One example is not stretched to many."""
    model = explain.integrated_gradients(PRODUCT, "a", baselines=np.ones((3, 2)), target=1)
    for n in (1, 2):
        with pytest.raises(Exception, match="baselines of a are to have its shape"):
            run(model, {n_: np.ones((n, 2), np.float32) for n_ in "ab"})


def test_numbers_of_numpy_and_others() -> None:
    tunnel = functools.partial(explain.noise_tunnel, PRODUCT, explain.saliency)
    tunnel(nt_samples=np.int64(2), nt_samples_batch_size=np.int32(1), stdevs=np.float32(0.1))
    explain.integrated_gradients(PRODUCT, n_steps=np.int64(3), internal_batch_size=np.int64(2))
    for wrong in (0, -3, 2.5, "a", True):
        for argument in ("nt_samples", "nt_samples_batch_size"):
            with pytest.raises(og.ArgumentError, match=f"{argument} is a whole number, 1 or more"):
                tunnel(**{argument: wrong})
        for argument in ("n_steps", "internal_batch_size"):
            with pytest.raises(og.ArgumentError, match=f"{argument} is a whole number, 1 or more"):
                explain.integrated_gradients(PRODUCT, **{argument: wrong})
    for stdev in (-1, float("nan"), True, "a"):
        with pytest.raises(og.ArgumentError, match="stdevs"):
            tunnel(stdevs=stdev)


def test_baselines_of_several_are_one_input() -> None:
    model = explain.several(
        PRODUCT,
        [
            functools.partial(explain.deep_lift_shap, baselines="input"),
            functools.partial(explain.gradient_shap, baselines="input", seed=0),
        ],
        "a",
        target=1,
    )
    assert [v.name for v in model.graph.input] == ["a", "b", "a_baselines"]
