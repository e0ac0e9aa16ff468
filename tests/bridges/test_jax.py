"""The bridge to JAX, compared with JAX's own derivatives of the same net and by its own checks."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import bridges
from tests.bridges.page import run_part, run_tutorial

jax = pytest.importorskip("jax", reason="JAX is not installed: make bridges")
test_util = pytest.importorskip("jax.test_util", reason="JAX is not installed: make bridges")
jnp = jax.numpy
pytest.importorskip("jax.export", reason="JAX is not installed: make bridges")

HEADER = '<ir_version: 10, opset_import: ["": 21]>'
MLP = "models/mlp.onnx"
# Smooth, with two outputs, of which one does not depend on the second weight.
NET = """ f (double[N,3] x) => (double[N,2] y, double[N] z)
<double[3,2] w = {0.5, -1, 0.3, 0.7, -0.2, 0.1}, double[2] v = {0.4, 1.5}, int64[1] axes = {1}> {
    a = MatMul(x, w)
    b = Tanh(a)
    y = Mul(b, v)
    s = ReduceSumSquare<keepdims = 0>(b, axes)
    z = Exp(s)
}"""
X = np.random.default_rng(0).standard_normal((4, 3))


def function_of(text: str, **options: Any) -> Any:
    return bridges.jax.function(onnx.parser.parse_model(HEADER + text), threads=1, **options)


def twin(x: Any, params: Any) -> Any:
    """The net in JAX."""
    b = jnp.tanh(x @ params["w"])
    return {"y": b * params["v"], "z": jnp.exp((b * b).sum(1))}


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture
def pair(double: None) -> Any:
    """The file as a function of JAX, and its parameters."""
    net = function_of(NET)
    return lambda x, params: net(x, params=params), net.params


def agree(ours: Any, theirs: Any, rtol: float = 1e-9) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol, strict=True),
        ours,
        theirs,
    )


def scalar(net: Callable[..., Any]) -> Callable[..., Any]:
    def loss(x: Any, params: Any) -> Any:
        found = net(x, params)
        return jnp.sin(found["y"]).sum() + (found["z"] ** 2).sum()

    return loss


def test_derivatives_pass_jaxs_checks_in_both_modes_to_the_second_order(pair: Any) -> None:
    net, params = pair
    for function in (net, jax.jit(net)):
        test_util.check_grads(function, (X, params), 2, modes=("fwd", "rev"))


def by_example(net: Any) -> Any:
    one = jax.grad(lambda params, x: scalar(net)(x[None], params))
    return lambda x, params: jax.vmap(one, (None, 0))(params, x)


def by_weights(net: Any) -> Any:
    """For several weights at once, which needs a Scan; its gradient is of another order."""

    def total(x: Any, params: Any) -> Any:
        scaled = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), params)
        return jax.vmap(scalar(net), (None, 0))(x, scaled).sum()

    return jax.grad(total, (0, 1))


def descent(net: Any) -> Any:
    def step(x: Any, _: Any) -> Any:
        return x - 0.1 * jax.grad(scalar(net))(x, jax.lax.stop_gradient(PARAMS)), None

    return lambda x, params: jax.grad(lambda x: jax.lax.scan(step, x, None, 3)[0].sum())(x)


PARAMS = {"w": np.array([[0.5, -1], [0.3, 0.7], [-0.2, 0.1]]), "v": np.array([0.4, 1.5])}


@pytest.mark.parametrize(
    "transform",
    [
        lambda net: net,
        lambda net: jax.jacfwd(net, 1),
        lambda net: jax.jit(jax.jacrev(net)),
        lambda net: jax.hessian(lambda x, params: scalar(net)(x[None], params)),
        lambda net: jax.vmap(lambda x, params: net(x, params), (1, None), 1),
        by_example,
        by_weights,
        descent,
    ],
    ids=["call", "jacfwd", "jacrev", "hessian", "vmap", "by_example", "by_weights", "descent"],
)
def test_the_transforms_of_jax(pair: Any, transform: Any, request: Any) -> None:
    net, params = pair
    name = request.node.callspec.id
    x = X[0] if name == "hessian" else np.stack([X, 2 * X], 1) if name == "vmap" else X
    agree(transform(net)(x, params), transform(twin)(x, params))


def test_a_batch_is_one_call_where_examples_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for a batch of one too: several trials are then one batch of it."""
    net = function_of(
        """ f (float[1,3] x) => (float[1,2] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}> {
            a = MatMul(x, w)
            y = Tanh(a)
        }"""
    )
    ran = []
    run = bridges.jax._run
    monkeypatch.setattr(bridges.jax, "_run", lambda f, a: ran.append(f) or run(f, a))
    xs = jnp.asarray(X, jnp.float32)
    hessians = jax.vmap(jax.hessian(lambda x: net(x[None]).sum()))(xs)
    assert hessians.shape == (4, 3, 3)
    kinds = {node.op_type for f in ran for node in f.model.graph}
    assert len(ran) <= 4 and "Scan" not in kinds
    with pytest.raises(og.FeedError, match=r"shape \(1, 3\)"):
        net(xs)


def test_dtypes_are_kept() -> None:
    net = function_of(
        """ f (bfloat16[N] x, int64[N] i) => (bfloat16[N] y, int64[N] j) {
            a = Cast<to = 1>(x)
            b = Mul(a, a)
            y = CastLike(b, x)
            j = Mul(i, i)
        }"""
    )
    x, i = jnp.ones(2, jnp.bfloat16), jnp.array([1, 2], jnp.int32)
    with jax.enable_x64(False):
        found = jax.jit(net)(x, i)
        assert (found["y"].dtype, found["j"].dtype) == (jnp.bfloat16, jnp.int32)
        assert jax.grad(lambda x: net(x, i)["y"].sum())(x).dtype == jnp.bfloat16
        assert net(jnp.ones(0, jnp.bfloat16), jnp.ones(0, jnp.int32))["y"].shape == (0,)
        with pytest.raises(og.FeedError, match="does not fit into int32"):
            net(x, i * 100_000)


def test_threads_share_a_function_and_another_process_can_have_it() -> None:
    net, x = bridges.jax.function(MLP, threads=1), jnp.asarray(np.ones((2, 4)), jnp.float32)
    again = pickle.loads(pickle.dumps(net))
    agree(jax.grad(lambda w: again(x, params=w).sum())(net.params),
          jax.grad(lambda w: net(x, params=w).sum())(again.params))  # fmt: skip
    gradient = jax.jit(jax.grad(lambda x: net(x).sum()))
    with ThreadPoolExecutor(8) as pool:
        first, *others = pool.map(lambda _: np.asarray(gradient(x)), range(16))
    np.testing.assert_allclose(first, og.Net(MLP).gradient(np.ones((2, 4), np.float32)), rtol=1e-5)
    assert all((first == other).all() for other in others)


def test_losses_and_the_straight_through_gradient() -> None:
    loss = bridges.jax.function(MLP, of=og.losses.cross_entropy("logits"))
    x, labels = np.ones((2, 4), np.float32), np.array([1, 2])
    ours = jax.grad(lambda params: loss(x, labels, params=params))(loss.params)
    net = og.Net(MLP)
    feeds = {"input": x, "labels": labels}
    theirs = net.gradient(feeds, net.parameters, of=og.losses.cross_entropy("logits"))
    agree(ours, {k: jnp.asarray(v) for k, v in theirs.items()}, rtol=1e-5)
    text = " f (float[N] x) => (float[N] y) { y = Round(x) }"
    for mode in (jax.jacfwd, jax.jacrev):
        with pytest.raises(og.UnreachableError, match="Round"):
            mode(function_of(text))(jnp.ones(1))
        assert mode(function_of(text, straight_through=True))(jnp.ones(1)) == 1


def test_inputs_that_nothing_uses_and_inputs_that_are_outputs(double: None) -> None:
    unused = function_of(" f (double[N] x, double[N] u) => (double[N] y) { y = Mul(x, x) }")
    found = jax.grad(lambda x, u: unused(x, u).sum(), (0, 1))(X[0], X[1])
    agree(found, (2 * X[0], 0 * X[1]))
    through = function_of(" f (double[N] x) => (double[N] x, double[N] y) { y = Mul(x, x) }")
    agree(jax.vmap(jax.grad(lambda x: through(x)["x"].sum() + through(x)["y"].sum()))(X), 1 + 2 * X)


def test_sizes_that_depend_on_values_are_no_silent_zeros(double: None) -> None:
    part = function_of(
        """ f (double[N] x, int64[1] k) => (double[M] y) {
            zero = Constant<value_ints = [0]>()
            y = Slice(x, zero, k)
        }"""
    )
    assert part(X[0], jnp.array([2])).shape == (2,)
    with pytest.raises(og.FeedError, match="depend on the values"):
        jax.jit(part)(X[0], jnp.array([2]))
    # Runs on zeros and on ones tell that here as many numbers are distinct, which is not so.
    distinct = function_of(" f (double[N] x) => (double[M] y) { y = Unique<sorted = 1>(x) }")
    with pytest.raises(jax.errors.JaxRuntimeError, match="depend on the values"):
        jax.jit(distinct)(X[0]).block_until_ready()


def test_errors_are_ours() -> None:
    net = bridges.jax.function(MLP)
    for given, said in (
        ((), "has 1 inputs, 'input'"),
        ((jnp.ones((2, 4), jnp.int32),), "takes float32, and int32"),
        ((jnp.ones((2, 3)),), r"shape \(N, 4\)"),
        (({"inputs": 1},), "Nearest: 'input'"),
        (({},), "No value for the input 'input'"),
    ):
        with pytest.raises(og.FeedError, match=said):
            jax.jit(net)(*given)
    with pytest.raises(og.FeedError, match="no weight"):
        net(jnp.ones((2, 4)), params={"fc1.wait": 1})
    with jax.enable_x64(False), pytest.raises(og.FeedError, match="jax_enable_x64"):
        function_of(NET)(X)
    symbols = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 4"), jnp.float32)
    with pytest.raises(og.FeedError, match="not for symbols"):
        jax.export.export(jax.jit(net))(symbols)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64(False):
        run_part("JAX", tmp_path, monkeypatch)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with jax.enable_x64(False):
        run_tutorial("jax", tmp_path, monkeypatch)
