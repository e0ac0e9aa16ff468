"""Sizes that real files compute with: a branch that they decide, a rank that they leave open."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnxgrad as og
from tests.oracle import accept

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEADER} {text}")


def run(net: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    accept(net)
    session = onnxruntime.InferenceSession(net.SerializeToString())
    return session.run(None, feeds)


SQUEEZE = """g (float[N,3,L] x) => (float[N] y) <float[1,3,1] w = {1, 2, 3}, int64[1] i = {1}> {
  c = Conv(x, w)
  s = Shape(c)
  size = Gather(s, i)
  one = Equal(size, i)
  d = If(one) <
    then_branch = then_graph () => (float[N,L] a) { a = Squeeze(c, i) },
    else_branch = else_graph () => (float[N,C,L] b) { b = Identity(c) }
  >
  y = ReduceMean<axes=[1], keepdims=0>(d)
}"""


def test_squeeze_written_as_a_branch_on_the_size() -> None:
    grad = og.gradient(model(SQUEEZE), ["x", "w"])
    assert not any(node.op_type == "If" for node in grad.graph.node)
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y, x_grad, w_grad = run(grad, x=x)
    np.testing.assert_allclose(y, np.einsum("ncl,c->nl", x, [1, 2, 3]).mean(1))
    np.testing.assert_allclose(x_grad, np.broadcast_to([[0.25], [0.5], [0.75]], x.shape))
    np.testing.assert_allclose(w_grad[0, :, 0], x.mean(2).sum(0), rtol=1e-6)


def test_a_decided_branch_keeps_its_name_and_its_weights() -> None:
    net = model("""g (float[2] x) => (float[2] y) <bool c = {1}> {
      y = If(c) <
        then_branch = t () => (float[2] a) {
          w = Constant<value = float[2] {3, 4}>()
          a = Mul(x, w)
        },
        else_branch = e () => (float[2] b) { b = Neg(x) }
      >
    }""")
    net.graph.node[0].attribute[0].g.node[0].name = "weight"
    y, x_grad, w_grad = run(og.gradient(net, ["x", "w"], of="y"), x=np.float32([5, 6]))
    np.testing.assert_array_equal(y, [15, 24])
    np.testing.assert_array_equal(x_grad, [3, 4])
    np.testing.assert_array_equal(w_grad, [5, 6])


def test_a_branch_on_a_size_that_is_not_known_remains() -> None:
    net = model(SQUEEZE.replace("float[N] y", "float[?,?] y"))
    net.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.int64([2]), "last"))
    net.graph.node[2].input[1] = "last"
    net.graph.node[5].attribute[0].ints[0] = 0
    grad = og.gradient(net, "x")
    # The net's own; the cotangent of what both branches show takes the shape of that.
    assert sum(node.op_type == "If" for node in grad.graph.node) == 1
    _, x_grad = run(grad, x=np.ones((2, 3, 4), np.float32))
    np.testing.assert_allclose(x_grad, np.broadcast_to([[0.5], [1], [1.5]], x_grad.shape))


def test_slices_of_a_tensor_of_unknown_rank() -> None:
    net = model("""g (float[N,1,M] x) => (float[K] y) {
      s = Squeeze(x)
      e = Sigmoid(s)
      one = Constant<value_ints = [1]>()
      three = Constant<value_ints = [3]>()
      zero = Constant<value_ints = [0]>()
      a = Slice(e, one, three, zero)
      y = Mul(a, a)
    }""")
    x = np.linspace(-1, 1, 4, dtype=np.float32).reshape(4, 1, 1)
    s = 1 / (1 + np.exp(-x))
    want = 2 * s * s * (1 - s) * (np.arange(4) % 3 > 0).reshape(x.shape)
    np.testing.assert_allclose(run(og.gradient(net, "x"), x=x)[1], want, rtol=1e-5)


def test_ranks_within_a_branch_follow_from_weights_of_the_main_graph() -> None:
    net = model("""g (float[N,3,L] x, bool c) => (float[N] y) <float[1,3,1] w = {1, 2, 3}> {
      y = If(c) <
        then_branch = t () => (float[N] a) {
          i = Constant<value_ints = [2]>()
          size = Constant<value_ints = [7]>()
          s = Shape(x)
          length = Gather(s, i)
          short = Equal(length, size)
          d = If(short) <
            then_branch = t1 () => (float[N,3] e) { e = Squeeze(x, i) },
            else_branch = e1 () => (float[N,3,L] f) { f = Identity(x) }
          >
          conv = Conv(d, w)
          one = Constant<value_ints = [1]>()
          q = Squeeze(conv, one)
          a = ReduceMean<axes=[-1], keepdims=0>(q)
        },
        else_branch = e () => (float[N] b) { b = ReduceMax<axes=[1, 2], keepdims=0>(x) }
      >
    }""")
    x, c = np.ones((2, 3, 4), np.float32), np.array(True)
    _, x_grad = run(og.gradient(net, "x"), x=x, c=c)
    np.testing.assert_allclose(x_grad, np.broadcast_to([[0.25], [0.5], [0.75]], x.shape))


def test_an_optional_output_keeps_its_name_when_nothing_uses_it_any_more() -> None:
    net = model("""g (float[L,N,2] x) => (float[1,N,2] h, float[1,N,2] c)
    <float[1,8,2] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1},
     float[1,8,2] r = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}> {
      y, h, c = LSTM<hidden_size = 2>(x, w, r)
    }""")
    grad = og.gradient(net, "x", ograd=True, forward=False)
    ograds = next(p.value for p in grad.metadata_props if p.key == "onnxgrad.ograds")
    assert json.loads(ograds) == {"h": "h_ograd", "c": "c_ograd"}


@pytest.mark.parametrize("transform", [og.gradient, og.jvp, og.hvp])
def test_what_holds_in_a_branch_is_not_declared_outside(
    transform: Callable[..., onnx.ModelProto],
) -> None:
    """Exporters squeeze an axis by an If on its size: branches then have different ranks."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    net (float[N, 2] x) => (float[M] y)
    <int64[1] axis = {0}, int64 one = {1}, int64[1] flat = {-1}> {
        shape = Shape<end = 1>(x)
        size = Squeeze(shape, axis)
        single = Equal(size, one)
        s = Sin(x)
        h = If(single)<
            then_branch = a () => (float[2] p) { p = Squeeze(s, axis) },
            else_branch = b () => (float[3, 2] q) { q = Mul(s, s) }
        >
        e = Exp(h)
        g = If(single)<
            then_branch = c () => (float[2] t) { t = Identity(e) },
            else_branch = d () => (float[6] u) { u = Reshape(e, flat) }
        >
        y = Mul(g, g)
    }"""
    model = transform(onnx.parser.parse_model(text))
    declared = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in model.graph.value_info
        if v.type.tensor_type.HasField("shape")
    }
    model.graph.output.extend(v for v in model.graph.value_info if v.name in declared)
    for n in (1, 3):
        x = np.random.default_rng(n).standard_normal((n, 2)).astype(np.float32)
        found = run(model, **{i.name: x for i in model.graph.input})
        for name, value in zip([o.name for o in model.graph.output], found, strict=True):
            sizes = declared.get(name, [0] * value.ndim)
            assert len(sizes) == value.ndim, name
            assert all(s in (0, size) for s, size in zip(sizes, value.shape, strict=True)), name


def test_the_rank_of_a_spectrum_is_known() -> None:
    """Inference says nothing of an STFT of symbolic length."""
    net = model("""g (float[B,L,1] x, float[5] w) => (float[B,K,M,2] y) <int64 step = {2}> {
      s = STFT <onesided = 1> (x, step, w)
      t = Transpose <perm = [0,2,1,3]> (s)
      y = Mul(t, t)
    }""")
    rng = np.random.default_rng(0)
    x, w, d = (rng.standard_normal(s).astype(np.float32) for s in ((2, 11, 1), 5, (2, 11, 1)))
    (g,) = run(og.gradient(net, "x", forward=False), x=x, w=w)
    # The sum is quadratic in x, so this difference is exact.
    up, down = (run(net, x=x + h * d, w=w)[0].astype(np.float64).sum() for h in (1, -1))
    np.testing.assert_allclose((g * d).sum(), (up - down) / 2, rtol=1e-4)
