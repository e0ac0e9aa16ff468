"""A net as a function of a list of arrays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.bridges.frameworks import needs
from onnxgrad.bridges.function import Function

MLP = "models/mlp.onnx"
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def test_derivatives_are_those_of_the_net() -> None:
    function, weights = Function.of(MLP, og.ALL, threads=1)
    net = og.Net(MLP, threads=1)
    assert tuple(weights) == net.parameters
    x, seed = normal(5, 4), normal(5, 3)
    arrays = [x, *weights.values()]
    feeds = {"input": x, og.NetPortGradient("logits"): seed}
    expected = net(feeds, og.NetPortGradient(og.ALL))
    parts = function.split()
    given = parts.forward(arrays)
    np.testing.assert_allclose(given[0], net(x), rtol=1e-6)
    residuals = [given[k] for k in parts.residuals]
    for found in (parts.backward()([*arrays, seed, *residuals]), function.vjp()([*arrays, seed])):
        for port, one in zip(function.inputs, found, strict=True):
            np.testing.assert_allclose(one, expected[port.name], rtol=1e-5, atol=1e-6)
    (tangent,) = function.jvp([0])([*arrays, x])
    np.testing.assert_allclose(tangent, net.jvp(x, x), rtol=1e-5)


def test_the_second_order_is_a_vjp_of_the_vjp() -> None:
    function, _ = Function.of(MLP, threads=1)
    x, seed, t = normal(2, 4), np.ones((2, 3), np.float32), normal(2, 4)
    second = function.vjp().vjp([0])
    (found,) = second([x, seed, t])
    np.testing.assert_allclose(found, og.Net(MLP).hvp(x, t), rtol=1e-4, atol=1e-6)


def test_the_backward_part_has_none_of_the_forward_pass() -> None:
    """The convolutions of the net lie in the forward part alone, but for those of the gradient."""
    parts = Function.of("models/cnn.onnx")[0].split()
    forward = {node.name for node in parts.forward.model.graph}
    assert forward.isdisjoint(node.name for node in parts.backward().model.graph)


HEADER = '<ir_version: 10, opset_import: ["": 21]>'
NETS = {
    "outputs that a rule asks for": """ f (float[N,3,4] x) => (float[N,3] y)
        <float[4] s = {1, 2, 3, 4}> {
        a = LayerNormalization(x, s)
        k = Constant<value_ints = [2]>()
        b, i = TopK(a, k)
        m = Constant<value_ints = [2]>()
        y = ReduceProd<keepdims = 0>(b, m)
    }""",
    "inner graphs": """ f (float[N,3,4] x) => (float[N,3,4] y) {
        t = Tanh(x)
        s = ReduceSum<keepdims = 0>(t)
        zero = Constant<value_float = 0.0>()
        c = Greater(s, zero)
        e = If(c) <then_branch = g () => (float[N,3,4] a) { a = Mul(t, x) },
                   else_branch = h () => (float[N,3,4] b) { b = Exp(t) }>
        axis = Constant<value_ints = [1]>()
        u = ReduceMean<keepdims = 0>(t, axis)
        last, y = Scan(u, e) <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
            body = step (float[N,4] u0, float[N,4] e0) => (float[N,4] u1, float[N,4] y0)
            { u1 = Mul(u0, e0) y0 = Sin(u1) }>
    }""",
    "sequences": """ f (float[N,3,4] x) => (float[N,4] y) {
        t = Tanh(x)
        s = SplitToSequence<axis = 1, keepdims = 0>(t)
        k = Constant<value_int = 1>()
        e = SequenceAt(s, k)
        y = Mul(e, e)
    }""",
}


@pytest.mark.parametrize("name", NETS)
def test_the_parts_agree_with_the_whole(name: str) -> None:
    function = Function.of(onnx.parser.parse_model(HEADER + NETS[name]), threads=1)[0]
    x, parts = normal(2, 3, 4), function.split()
    (y,), (expected, *residuals) = function([x]), parts.forward([x])
    np.testing.assert_array_equal(y, expected)
    seed = normal(*y.shape)
    given = [parts.forward([x])[k] for k in parts.residuals]
    (found,) = parts.backward()([x, seed, *given])
    np.testing.assert_allclose(found, function.vjp()([x, seed])[0], rtol=1e-5, atol=1e-6)
    assert residuals


def test_several_calls_are_one_batch_where_examples_are_apart() -> None:
    function, weights = Function.of(MLP, og.ALL, threads=1)
    assert function.batch == [0]
    assert function.vjp([0]).batch == [0, 7]
    assert not function.vjp().batch  # gradients of weights are sums over the batch
    x, seed = normal(3, 2, 4), normal(3, 2, 3)
    vjp, values = function.vjp(), list(weights.values())
    stacked = vjp.vmapped([0, 7])([x, *values, seed])
    for k in range(3):
        for a, b in zip(stacked, vjp([x[k], *values, seed[k]]), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-6)


def test_errors_say_what_to_do() -> None:
    function, _ = Function.of(MLP)
    with pytest.raises(og.FeedError, match="takes float32"):
        function([np.ones((2, 4))])
    with pytest.raises(og.FeedError, match="1 arrays are needed"):
        function([])
    with pytest.raises(og.ArgumentError, match="no weight"):
        Function.of(MLP, ["logits"])
    with (
        pytest.raises(og.RuntimeMissingError, match=r"pip install 'onnxgrad\[torch\]'"),
        needs("torch"),
    ):
        import no_such_framework  # noqa: F401
