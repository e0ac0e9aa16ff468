"""The transforms of whole nets in float64 against torch.func, up to the third order."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Array, Feeds, accept, reference, runner

torch = pytest.importorskip("torch", reason="PyTorch is what the transforms are compared with")
F = torch.nn.functional

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


@dataclass
class Twin:
    """A net as ONNX text and the same in PyTorch; both take x and the weights as inputs."""

    text: str
    function: Callable[..., Any]
    shapes: dict[str, list[int]]

    @property
    def model(self) -> onnx.ModelProto:
        model = onnx.parser.parse_model(HEAD + self.text)
        accept(model)
        return model

    def feeds(self, seed: int = 0) -> Feeds:
        rng = np.random.default_rng(seed)
        return {k: rng.standard_normal(s) * 0.7 for k, s in self.shapes.items()}


def mlp(x: Any, v: Any, b: Any, w: Any) -> Any:
    return torch.tanh(x @ v + b) @ w


def cnn(x: Any, k: Any, b: Any, w: Any) -> Any:
    h = F.max_pool2d(torch.tanh(F.conv2d(x, k, b, padding=1)), 2, 2)
    h = F.conv2d(h, k[:, :1, :2, :2])
    return F.softplus(F.avg_pool2d(h, 1)).flatten(1) @ w


def layer_norm(x: Any, s: Any) -> Any:
    """Finite differences contradict the third derivative through F.layer_norm."""
    d = x - x.mean(-1, keepdim=True)
    return d * torch.rsqrt((d * d).mean(-1, keepdim=True) + 1e-5) * s


def transformer(x: Any, q: Any, k: Any, v: Any, s: Any, w: Any) -> Any:
    n = layer_norm(x, s)
    x = x + torch.softmax((n @ q) @ (n @ k).transpose(1, 2) * 0.5, -1) @ (n @ v)
    return x + F.gelu(layer_norm(x, s) @ w)


def gru(x: Any, w: Any, r: Any, b: Any) -> Any:
    """The standard's order of gates: update, reset, hidden."""
    wz, wr, wh = w[0].chunk(3)
    rz, rr, rh = r[0].chunk(3)
    bz, br, bh, cz, cr, ch = b[0].chunk(6)
    h = x.new_zeros(x.shape[0], 2)
    for t in range(x.shape[1]):
        z = torch.sigmoid(x[:, t] @ wz.T + h @ rz.T + bz + cz)
        reset = torch.sigmoid(x[:, t] @ wr.T + h @ rr.T + br + cr)
        new = torch.tanh(x[:, t] @ wh.T + reset * (h @ rh.T + ch) + bh)
        h = (1 - z) * new + z * h
    return h


def lstm(x: Any, w: Any, r: Any, b: Any) -> Any:
    """The standard's order of gates: input, output, forget, cell."""
    h = c = x.new_zeros(x.shape[0], 2)
    for t in range(x.shape[1]):
        i, o, f, g = (x[:, t] @ w[0].T + h @ r[0].T + b[0, :8] + b[0, 8:]).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return h


TWINS = {
    "mlp": Twin(
        """mlp (double[N,3] x, double[3,4] v, double[4] b, double[4,2] w) => (double[N,2] y) {
          g = Gemm(x, v, b)
          h = Tanh(g)
          y = MatMul(h, w)
        }""",
        mlp,
        {"x": [2, 3], "v": [3, 4], "b": [4], "w": [4, 2]},
    ),
    "cnn": Twin(
        """cnn (double[N,2,4,4] x, double[1,2,3,3] k, double[1] b, double[1,2] w) => (double[N,2] y)
          <int64[3] start = {0,0,0}, int64[3] end = {1,2,2}, int64[3] axes = {1,2,3}> {
          c = Conv <pads = [1,1,1,1]> (x, k, b)
          t = Tanh(c)
          m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (t)
          small = Slice(k, start, end, axes)
          d = Conv(m, small)
          a = AveragePool <kernel_shape = [1,1]> (d)
          p = Softplus(a)
          f = Flatten(p)
          y = MatMul(f, w)
        }""",
        cnn,
        {"x": [2, 2, 4, 4], "k": [1, 2, 3, 3], "b": [1], "w": [1, 2]},
    ),
    "transformer": Twin(
        """block (double[N,S,4] x, double[4,4] q, double[4,4] k, double[4,4] v, double[4] s,
                  double[4,4] w) => (double[N,S,4] y) <double half = {0.5}> {
          n = LayerNormalization(x, s)
          nq = MatMul(n, q)
          nk = MatMul(n, k)
          nv = MatMul(n, v)
          nkt = Transpose <perm = [0,2,1]> (nk)
          scores = MatMul(nq, nkt)
          scaled = Mul(scores, half)
          p = Softmax(scaled)
          mixed = MatMul(p, nv)
          x1 = Add(x, mixed)
          n1 = LayerNormalization(x1, s)
          h = MatMul(n1, w)
          g = Gelu(h)
          y = Add(x1, g)
        }""",
        transformer,
        {"x": [2, 2, 4], "q": [4, 4], "k": [4, 4], "v": [4, 4], "s": [4], "w": [4, 4]},
    ),
    "gru": Twin(
        """gru (double[N,T,3] x, double[1,6,3] w, double[1,6,2] r, double[1,12] b)
             => (double[N,2] y) <int64[1] zero = {0}> {
          t = Transpose <perm = [1,0,2]> (x)
          , h = GRU <hidden_size = 2, linear_before_reset = 1> (t, w, r, b)
          y = Squeeze(h, zero)
        }""",
        gru,
        {"x": [2, 3, 3], "w": [1, 6, 3], "r": [1, 6, 2], "b": [1, 12]},
    ),
    "lstm": Twin(
        """lstm (double[N,T,3] x, double[1,8,3] w, double[1,8,2] r, double[1,16] b)
             => (double[N,2] y) <int64[1] zero = {0}> {
          t = Transpose <perm = [1,0,2]> (x)
          , h = LSTM <hidden_size = 2> (t, w, r, b)
          y = Squeeze(h, zero)
        }""",
        lstm,
        {"x": [2, 3, 3], "w": [1, 8, 3], "r": [1, 8, 2], "b": [1, 16]},
    ),
}
NAMES = pytest.mark.parametrize("name", TWINS)


def run(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    accept(model)
    wanted = {i.name for i in model.graph.input}
    # onnxruntime takes these in float64, then says that it cannot.
    recurrent = any(op in model.SerializeToString() for op in (b"GRU", b"LSTM"))
    values = (reference if recurrent else runner)(model)(
        {k: v for k, v in feeds.items() if k in wanted}
    )
    return dict(zip([o.name for o in model.graph.output], values, strict=True))


def tensors(feeds: Feeds) -> tuple[Any, ...]:
    return tuple(torch.tensor(a) for a in feeds.values())


def close(got: Array, want: Any) -> None:
    want = want.detach().numpy()
    assert got.shape == want.shape
    scale = max(abs(want).max(), 1e-3)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-10 * scale)


@NAMES
def test_forward(name: str) -> None:
    twin = TWINS[name]
    feeds = twin.feeds()
    close(run(twin.model, feeds)["y"], twin.function(*tensors(feeds)))


@NAMES
def test_jvp_and_vjp(name: str) -> None:
    twin = TWINS[name]
    feeds, moves = twin.feeds(), twin.feeds(1)
    y, moved = torch.func.jvp(twin.function, tensors(feeds), tensors(moves))
    got = run(og.jvp(twin.model), feeds | {f"{k}_tangent": v for k, v in moves.items()})
    close(got["y_tangent"], moved)
    seed = np.random.default_rng(3).standard_normal(y.shape)
    want = torch.func.vjp(twin.function, *tensors(feeds))[1](torch.tensor(seed))
    got = run(og.vjp(twin.model), feeds | {"y_ograd": seed})
    for k, w in zip(feeds, want, strict=True):
        close(got[f"{k}_grad"], w)


@NAMES
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian(name: str, mode: Any) -> None:
    twin = TWINS[name]
    feeds = twin.feeds()
    other = list(feeds)[-1]
    places = (0, len(feeds) - 1)
    transform = torch.func.jacrev if mode == "reverse" else torch.func.jacfwd
    want = transform(twin.function, places)(*tensors(feeds))
    got = run(og.jacobian(twin.model, ["x", other], mode=mode), feeds)
    close(got["y_x_jacobian"], want[0])
    close(got[f"y_{other}_jacobian"], want[1])


@NAMES
def test_by_example(name: str) -> None:
    """The input with the batch, and the last weight, which all examples share."""
    twin = TWINS[name]
    feeds = twin.feeds()
    other, last = list(feeds)[-1], len(feeds) - 1
    dims = (0,) + (None,) * last

    def of_one(*values: Any) -> Any:
        return twin.function(values[0][None], *values[1:])[0]

    def total(*values: Any) -> Any:
        return of_one(*values).sum()

    rows = torch.func.vmap(torch.func.jacrev(of_one, (0, last)), dims)(*tensors(feeds))
    for mode in ("reverse", "forward"):
        options = {"mode": mode, "batched": "x", "forward": False}
        got = run(og.jacobian(twin.model, ["x", other], **options), feeds)
        close(got["y_x_jacobian"], rows[0])
        close(got[f"y_{other}_jacobian"], rows[1])
    want = torch.func.vmap(torch.func.hessian(total, (0, last)), dims)(*tensors(feeds))
    alone = run(og.hessian(twin.model, "x", batched="x", forward=False), feeds)
    both = run(og.hessian(twin.model, ["x", other], batched="x", forward=False), feeds)
    close(alone["x_x_hessian"], want[0][0])
    for i, a in enumerate(("x", other)):
        for j, b in enumerate(("x", other)):
            close(both[f"{a}_{b}_hessian"], want[i][j])


@NAMES
def test_hessian_and_hvp(name: str) -> None:
    twin = TWINS[name]
    feeds, moves = twin.feeds(), twin.feeds(1)

    def total(x: Any) -> Any:
        return twin.function(x, *tensors(feeds)[1:]).sum()

    x = tensors(feeds)[0]
    want = torch.func.hessian(total)(x)
    got = run(og.hessian(twin.model, "x", forward=False), feeds)["x_x_hessian"]
    close(got, want)
    square = got.reshape(x.numel(), x.numel())
    np.testing.assert_allclose(square, square.T, atol=1e-12 * max(abs(square).max(), 1))
    along = run(og.hvp(twin.model, "x", forward=False), feeds | {"x_tangent": moves["x"]})
    close(
        along["x_hvp"],
        torch.einsum(
            want,
            [*range(2 * x.ndim)],
            torch.tensor(moves["x"]),
            [*range(x.ndim, 2 * x.ndim)],
            [*range(x.ndim)],
        ),
    )


@NAMES
def test_per_example_gradient(name: str) -> None:
    twin = TWINS[name]
    feeds = twin.feeds()

    def one(x: Any, *weights: Any) -> Any:
        return twin.function(x[None], *weights).sum()

    weights = list(feeds)[1:]
    places = tuple(range(1, len(feeds)))
    grads = torch.func.grad(one, places)
    axes = (0, *[None] * len(weights))
    want = torch.func.vmap(grads, axes)(*tensors(feeds))
    got = run(og.per_example_gradient(twin.model, weights, batched="x", forward=False), feeds)
    for k, w in zip(weights, want, strict=True):
        close(got[f"{k}_grad"], w)


@NAMES
@pytest.mark.parametrize("place", [0, 1], ids=["input", "weight"])
def test_third_order(name: str, place: int) -> None:
    """og.gradient three times over, each of the sum of the one before; sizes stay symbolic."""
    twin = TWINS[name]
    feeds = twin.feeds()
    x = list(feeds)[place]
    model, values = twin.model, [t.requires_grad_() for t in tensors(feeds)]
    want, outputs = twin.function(*values), ["y"]
    for _ in range(3):
        model = og.gradient(model, x, of=outputs[-1])
        outputs.append(f"{outputs[-1]}_grad" if len(outputs) > 1 else f"{x}_grad")
        notes = {p.key: json.loads(p.value) for p in model.metadata_props}
        assert notes["onnxgrad.gradients"] == {x: outputs[-1]}
        (want,) = torch.autograd.grad(want.sum(), values[place], create_graph=True)
        got = run(model, feeds)
        assert list(got) == outputs
        close(got[outputs[-1]], want)
