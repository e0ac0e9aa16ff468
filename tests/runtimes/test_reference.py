"""`Net` on onnx's reference evaluator gives what it gives on onnxruntime."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad.graph import protos

RNG = np.random.default_rng(3)
X, T, U = (RNG.standard_normal(s).astype(np.float32) for s in ((4, 3), (4, 3), (4, 2)))
W = ", ".join(map(repr, RNG.standard_normal(6).tolist()))


def parse(text: str, domains: str = '"": 21') -> onnx.ModelProto:
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{domains}]>\n{text}")


NET = f"""g (float[N,3] x) => (float[N,2] y) <float[3,2] w = {{{W}}}> {{
  s = Sin(x)
  y = MatMul(s, w)
}}"""


@pytest.fixture
def nets() -> tuple[og.Net, og.Net]:
    return og.Net(parse(NET), runtime="reference"), og.Net(parse(NET))


def close(a: Any, b: Any) -> None:
    if isinstance(b, dict):
        assert a.keys() == b.keys()
        for name in b:
            close(a[name], b[name])
        return
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_values_and_gradients(nets: tuple[og.Net, og.Net]) -> None:
    imposed = {"x": X, og.NetPortGradient("y"): U}
    for call in (
        lambda net: net(X),
        lambda net: net(X, og.NetPortGradient("x")),
        lambda net: net(imposed, og.NetPortGradient("w")),
        lambda net: net(X, og.NetPortGradient(og.ALL)),
        lambda net: net(X, [og.NetPortGradient("s")], of="y"),
    ):
        close(*map(call, nets))


def test_transforms(nets: tuple[og.Net, og.Net]) -> None:
    for call in (
        lambda net: net.vjp(X, U),
        lambda net: net.jvp(X, T),
        lambda net: net.hvp(X, T),
        lambda net: net.jacobian(X),
        lambda net: net.jacobian(X, "w", of=["y"], mode="forward"),
        lambda net: net.hessian(X),
        lambda net: net.hessian(X, batched=True),
        lambda net: net.per_example_gradient(X),
    ):
        close(*map(call, nets))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision(dtype: Any) -> None:
    text = """g (T[N,3] x, T[3,2] w) => (T[N,2] y) {
      s = Sin(x)
      p = MatMul(s, w)
      y = Softmax(p)
    }"""
    feeds = {"x": X, "w": U[:3], og.NetPortGradient("y"): U}
    half = {key: value.astype(dtype) for key, value in feeds.items()}
    net = og.Net(parse(text.replace("T", np.dtype(dtype).name)), runtime="reference")
    single = og.Net(parse(text.replace("T", "float")))
    found = net(half, og.NetPortGradient(og.ALL))
    for name, want in single(feeds, og.NetPortGradient(og.ALL)).items():
        assert (found[name].dtype, found[name].shape) == (dtype, want.shape)
        np.testing.assert_allclose(found[name].astype(np.float32), want, atol=0.05)
    moved = net.jvp({"x": half["x"], "w": half["w"]}, {"x": T.astype(dtype)})
    want = single.jvp({"x": X, "w": U[:3]}, {"x": T})
    np.testing.assert_allclose(moved.astype(np.float32), want, atol=0.05)


def test_recurrent_nets_and_loops() -> None:
    """The backward pass of a Scan goes backwards, which onnx's own does not."""
    scan = parse("""g (float[T,2] x) => (float[2] last, float[T,2] y) <float[2] zero = {0, 0}> {
        last, y = Scan<num_scan_inputs = 1, body = b (float[2] s, float[2] u)
                                                => (float[2] t, float[2] v) {
            p = Mul(s, u)
            a = Add(p, u)
            t = Tanh(a)
            v = Mul(t, u)
        }>(zero, x)
    }""")
    x = X[:, :2].copy()
    for request in (None, og.NetPortGradient("x")):
        close(*(og.Net(scan, runtime=r)(x, request) for r in ("reference", "onnxruntime")))


def test_operators_of_other_domains() -> None:
    """The reference has none of com.microsoft: the net is run in the standard's operators."""
    net = parse(
        "g (float[N,3] x) => (float[N,3] y) { y = com.microsoft.QuickGelu(x) }",
        '"": 21, "com.microsoft": 1',
    )
    for request in (None, og.NetPortGradient("x")):
        close(*(og.Net(net, runtime=r)(X, request) for r in ("reference", "onnxruntime")))
    unknown = parse("g (float[2] x) => (float[2] y) { y = a.B(x) }", '"": 21, "a": 1')
    with pytest.raises(og.ModelError, match="reference evaluator cannot load"):
        og.Net(unknown, runtime="reference")(X[0, :2])


def test_weights_that_lie_in_files(tmp_path: Path) -> None:
    """Large and small ones, and those of branches."""
    branch = "g () => (float[N,400] {0}) <float[400] b_{0} = {{{1}}}> {{ {0} = Add(h, b_{0}) }}"
    one, other = (branch.format(name, ", ".join([n] * 400)) for name, n in (("p", "1"), ("q", "2")))
    weights = ", ".join(map(repr, RNG.standard_normal(1200).tolist()))
    net = parse(f"""g (float[N,3] x) => (float[N,400] y)
    <float[3,400] w = {{{weights}}}, float s = {{3}}> {{
      m = MatMul(x, w) h = Mul(m, s) n = ReduceSum<keepdims = 0>(h) c = Greater(n, s)
      y = If(c) <then_branch = {one}, else_branch = {other}>
    }}""")  # fmt: skip
    for tensor in protos.walk(net):
        if isinstance(tensor, onnx.TensorProto):  # only bytes are written to a file
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    path, inside = tmp_path / "net.onnx", og.Net(net)
    onnx.save(net, path, save_as_external_data=True, location="weights", size_threshold=0)
    assert path.stat().st_size < 2000
    for request in (None, og.NetPortGradient("x")):
        want = inside(X, request)
        for runtime in ("reference", "onnxruntime"):
            close(og.Net(path, runtime=runtime)(X, request), want)


def test_bound_runs_copy_into_the_same_places() -> None:
    net, x = og.Net(parse(NET), runtime="reference"), X.copy()
    bound = net.bind(x, og.NetPortGradient("x"))
    g = bound()
    close(g, net(X, og.NetPortGradient("x")))
    assert np.shares_memory(bound.inputs["x"], x)
    x += 1
    assert bound() is g
    close(g, net(X + 1, og.NetPortGradient("x")))
    strings = parse("g (string[1] x) => (string[1] y) { y = Identity(x) }")
    with pytest.raises(og.FeedError, match="'x' cannot be bound"):
        og.Net(strings, runtime="reference").bind(np.array(["a"], object))


def test_it_needs_no_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(builtins, "__import__", missing)
    net = og.Net(parse(NET), runtime="reference")
    assert net(X).shape == (4, 2)
    assert net(X, og.NetPortGradient("x")).shape == (4, 3)
    assert set(net.parameters) == {"w"}


def test_what_it_refuses_is_a_feed_error() -> None:
    net = parse("g (float[N] x) => (float[2,2] y) <int64[2] s = {2, 2}> { y = Reshape(x, s) }")
    with pytest.raises(og.FeedError, match="reference evaluator cannot run"):
        og.Net(net, runtime="reference")([1, 2, 3])
