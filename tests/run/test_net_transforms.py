"""The transforms as methods of `Net`, against derivatives worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.run.net import Net, NetPortGradient

RNG = np.random.default_rng(7)
X, T, U = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 3)), RNG.standard_normal((4, 2))
W, DW = RNG.standard_normal((3, 2)), RNG.standard_normal((3, 2))
ELEMENTS = ", ".join(map(repr, W.ravel().tolist()))


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')


# y = sin(x) @ w, for a batch of any size.
NET = f"""g (double[N,3] x) => (double[N,2] y) <double[3,2] w = {{{ELEMENTS}}}> {{
  s = Sin(x)
  y = MatMul(s, w)
}}"""
TWO = "g (double[N] a, double[N] b) => (double[N] p, double[N] q) { p = Mul(a, b) q = Sin(a) }"


def close(got: Any, want: Any) -> None:
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def dy_dx() -> np.ndarray:
    full = np.zeros((4, 2, 4, 3))
    for n in range(4):
        full[n, :, n] = W.T * np.cos(X[n])
    return full


def test_jvp_and_vjp() -> None:
    net = Net(parse(NET))
    close(net.jvp(X, T), (np.cos(X) * T) @ W)
    close(net.jvp({"x": X}, {"x": T, "w": DW}), (np.cos(X) * T) @ W + np.sin(X) @ DW)
    close(net.jvp(X, {"x": T}, of=["s"])["s"], np.cos(X) * T)
    close(net.vjp(X, U), np.cos(X) * (U @ W.T))
    close(net.vjp({"x": X}, {"y": U}, "w"), np.sin(X).T @ U)
    close(net.vjp(X, U, ["w"])["w"], np.sin(X).T @ U)
    assert list(net.vjp(X, U, og.ALL)) == ["x", "w"]


def test_several_inputs_and_outputs() -> None:
    net = Net(parse(TWO))
    feeds = {"a": X[0], "b": T[0]}
    moved = net.jvp(feeds, {"a": T[1]})
    close(moved["p"], T[0] * T[1])
    close(moved["q"], np.cos(X[0]) * T[1])
    close(net.jvp(feeds, {"a": T[1], "b": T[2]}, of="p"), T[0] * T[1] + X[0] * T[2])
    rows = net.jacobian(feeds, ["a", "b"], of=["p"])
    close(rows["p"]["b"], np.diag(X[0]))
    assert list(net.jacobian(feeds, "a")) == ["p", "q"]
    close(net.jacobian(feeds, "a", of="q"), np.diag(np.cos(X[0])))
    blocks = net.hessian(feeds)
    close(blocks["a"]["a"], np.diag(-np.sin(X[0])))
    close(blocks["a"]["b"], np.eye(3))
    close(blocks["b"]["b"], np.zeros((3, 3)))
    for what in (net.jvp, net.vjp, net.hvp):
        with pytest.raises(og.ArgumentError, match="give a dict"):
            what(feeds, X[0])
        with pytest.raises(og.ArgumentError, match="none is given"):
            what(feeds, {})


def test_jacobian() -> None:
    net = Net(parse(NET))
    close(net.jacobian(X), dy_dx())
    close(net.jacobian(X, mode="forward"), dy_dx())
    close(net.jacobian(X[:1], of="y")[0, :, 0], W.T * np.cos(X[0]))
    assert list(net.jacobian(X, og.ALL)) == ["x", "w"]


def test_the_sizes_of_the_feed_choose_the_mode() -> None:
    """The batch is symbolic: only the feed tells that y has more elements than w."""
    net = Net(parse(NET))
    want = np.zeros((4, 2, 3, 2))
    for k in range(2):
        want[:, k, :, k] = np.sin(X)
    close(net.jacobian(X, "w"), want)
    close(net.jacobian(X[:1], "w"), want[:1])
    assert {mode for _, mode in net._sessions.modes.items()} == {"forward", "reverse"}


def test_hessian_and_hvp() -> None:
    net = Net(parse(NET))
    want = -np.sin(X) * W.sum(1)
    close(net.hvp(X, T), want * T)
    close(net.hvp(X, {"x": T})["x"], want * T)
    close(net.hessian(X).reshape(12, 12), np.diag(want.ravel()))
    imposed = {"x": X, NetPortGradient("y"): U}
    close(net.hvp(imposed, T), -np.sin(X) * (U @ W.T) * T)
    close(net.hessian(imposed).reshape(12, 12), np.diag((-np.sin(X) * (U @ W.T)).ravel()))


def test_per_example_gradient() -> None:
    net = Net(parse(NET))
    close(net.per_example_gradient(X, "w"), np.repeat(np.sin(X)[:, :, None], 2, 2))
    assert list(net.per_example_gradient(X)) == ["w"]


def test_each_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(parse(NET))
    built = []
    build = net_module_built(monkeypatch, built)
    for n in (4, 2, 3):
        net.jacobian(X[:n]), net.hessian(X[:n]), net.hvp(X[:n], T[:n]), net.jvp(X[:n], T[:n])
        net.per_example_gradient(X[:n]), net.vjp(X[:n], U[:n])
    assert len(built) == 6, build


def net_module_built(monkeypatch: pytest.MonkeyPatch, built: list[Any]) -> Any:
    from onnxgrad.run import sessions as module

    class Counted(module.TransformSession):
        def __init__(self, *arguments: Any) -> None:
            built.append(self)
            super().__init__(*arguments)

    monkeypatch.setattr(module, "TransformSession", Counted)
    return Counted


def test_too_large_for_the_feed() -> None:
    """Refused before anything runs, with the size: 1000 x 2 x 1000 x 3 doubles."""
    net = Net(parse(NET))
    many = np.zeros((1000, 3))
    net.jacobian(X, max_bytes=10**6)
    with pytest.raises(og.ArgumentError, match="48,000,000 bytes, more than max_bytes=1,000,000"):
        net.jacobian(many, max_bytes=10**6)
    with pytest.raises(og.ArgumentError, match=r"'x' .1000,3. .*72,000,000 bytes"):
        net.hessian(many, max_bytes=10**6)
    with pytest.raises(og.ArgumentError, match=r"48,000 bytes.* Feed fewer examples"):
        net.per_example_gradient(many, max_bytes=10**4)
    built = [transform for (transform, *_), _ in net._sessions.transformed.items()]
    assert og.hessian not in built


def test_what_makes_no_sense() -> None:
    net = Net(parse(NET))
    imposed = {"x": X, NetPortGradient("y"): U}
    for refused in (
        lambda: net.jvp(imposed, T),
        lambda: net.vjp(imposed, U),
        lambda: net.jacobian(imposed),
        lambda: net.per_example_gradient(imposed),
    ):
        with pytest.raises(og.ArgumentError, match="impose"):
            refused()
    with pytest.raises(og.FeedError, match="shape"):
        net.jvp(X, T[:2])
    with pytest.raises(og.FeedError, match="float64"):
        net.hvp(X, T.astype(np.float32))
    with pytest.raises(og.UnknownNameError, match="Nearest"):
        net.jacobian(X, "ww")
    with pytest.raises(og.ArgumentError, match="mode"):
        net.jacobian(X, mode="sideways")  # type: ignore[arg-type]
    with pytest.raises(og.ArgumentError, match="leave it out"):
        net.jvp(X, {"s": T}, of=["s", "y"])
    with pytest.raises(og.ArgumentError):
        net.jacobian(X, {"x"})  # type: ignore[arg-type]


def test_a_net_that_was_differentiated_before() -> None:
    """Notes of an earlier transform in the model do not confuse those of the next."""
    net = Net(og.jacobian(parse(NET), of="y", forward=False))
    close(net(X, NetPortGradient("x")), -np.sin(X) * W.sum(1))
    close(net.jvp(X, T)[:, 1, :, 2].diagonal(), -np.sin(X[:, 2]) * W[2, 1] * T[:, 2])
