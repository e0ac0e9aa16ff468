"""Each transform of the result of each other, over five small nets, against finite differences.

Of two transforms the second is compared with differences of what the first one's file gives, in
float64 and along one direction; the first is then one that another test, or another pair here, has
compared. The tests take a part of all pairs, `make sweep` takes all of them.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad as og
from tests.oracle import Array, Feeds, directional, reference, runner

ALL_PAIRS = bool(os.environ.get("ALL_PAIRS"))
# The elements of a first result up to which the slow evaluator takes part in the tests.
FEW = 100

NETS = {
    "mlp": """g (double[N,3] x, double[3,2] w) => (double[N,2] y) <double[2] b = {0.3, -0.2}> {
      h = MatMul(x, w)
      s = Add(h, b)
      t = Tanh(s)
      y = Mul(t, s)
    }""",
    "pool": """g (double[N,1,2,4] x, double[1,1,3,3] w) => (double[N,2] y)
    <double[2,2] v = {0.5, -1, 0.2, 1}> {
      c = Conv <pads = [1, 1, 1, 1]> (x, w)
      t = Tanh(c)
      p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (t)
      f = Flatten(p)
      y = MatMul(f, v)
    }""",
    "branch": """g (double[N,3] x, double[3] w) => (double[N,3] y) <double zero = {0}> {
      h = Mul(x, w)
      e = Tanh(h)
      s = ReduceSum <keepdims = 0> (x)
      c = Greater(s, zero)
      k = If (c) <
        then_branch = a () => (double[N,3] p) { q = Mul(e, h) p = Sin(q) },
        else_branch = b () => (double[N,3] r) { r = Mul(e, w) }
      >
      y = Mul(k, h)
    }""",
    "loop": """g (double[N,2] x, double[2] w) => (double[N,2] y) <int64 m = {3}, bool go = {1}> {
      y = Loop <body = a (int64 i, bool ci, double[N,2] v) => (bool co, double[N,2] vo) {
        co = Identity(ci)
        p = Mul(v, w)
        q = Add(p, x)
        vo = Sin(q)
      }> (m, go, x)
    }""",
    "attention": """g (double[N,2,2] x, double[2,2] w) => (double[N,2,2] y) {
      q = MatMul(x, w)
      k = Transpose <perm = [0, 2, 1]> (x)
      s = MatMul(q, k)
      p = Softmax <axis = -1> (s)
      y = MatMul(p, x)
    }""",
}
SHAPES = {
    "mlp": ((3,), (3, 2)),
    "pool": ((1, 2, 4), (1, 1, 3, 3)),
    "branch": ((3,), (3,)),
    "loop": ((2,), (2,)),
    "attention": ((2, 2), (2, 2)),
}


def rows(model: onnx.ModelProto) -> list[str]:
    """The inputs with a batch: all but the weight."""
    return [i.name for i in model.graph.input if i.name != "w"]


LAST = {"forward": False, "unreachable": "zeros"}
TRANSFORMS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "gradient": lambda m: og.gradient(m, "x", **LAST),
    "vjp": lambda m: og.vjp(m, "x", **LAST),
    "jvp": lambda m: og.jvp(m, "x", **LAST),
    "hvp": lambda m: og.hvp(m, "x", **LAST),
    "jacobian": lambda m: og.jacobian(m, "x", mode="reverse", **LAST),
    "by columns": lambda m: og.jacobian(m, "x", mode="forward", **LAST),
    "jacobian by example": lambda m: og.jacobian(m, "x", batched=rows(m), **LAST),
    "hessian": lambda m: og.hessian(m, "x", **LAST),
    "hessian by example": lambda m: og.hessian(m, "x", batched=rows(m), **LAST),
    "per example": lambda m: og.per_example_gradient(m, "w", batched=rows(m), **LAST),
    "vmap": lambda m: og.vmap(m, batched=rows(m)),
}
# What these give has no batch for its first axis, but of the batch within it.
MIXED = {"jacobian", "by columns", "hessian"}
PAIRS = [
    (net, first, second)
    for (k, net), (i, first), (j, second) in itertools.product(
        enumerate(NETS), enumerate(TRANSFORMS), enumerate(TRANSFORMS)
    )
    if (ALL_PAIRS or (i + j) % 5 == k) and not (second == "jacobian by example" and first in MIXED)
]


@functools.cache
def after(net: str, *names: str, dtype: str = "double") -> onnx.ModelProto:
    """The file that the transforms of these names make of a net, one after the other."""
    if not names:
        text = NETS[net].replace("double", dtype)
        return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    model = TRANSFORMS[names[-1]](after(net, *names[:-1], dtype=dtype))
    onnx.checker.check_model(model, full_check=True)
    return model


def result(model: onnx.ModelProto, feeds: Feeds, run: Any = runner) -> Array:
    """The one output."""
    (value,) = run(model)(feeds)
    return value


def grown(model: onnx.ModelProto, name: str, feeds: Feeds, y: Array, rng: Any) -> Feeds:
    """The feeds of what a transform made of a model with these feeds and this output."""
    if name == "vmap":
        return {k: v if k == "w" else np.stack([v, v[..., ::-1]]) for k, v in feeds.items()}
    new = {i.name for i in model.graph.input} - set(feeds)
    like = {n: feeds["x"] if n.endswith("_tangent") else y for n in new}
    return feeds | {n: rng.standard_normal(v.shape) for n, v in like.items()}


def single(net: str, n: int, rng: Any) -> Feeds:
    x, w = SHAPES[net]
    return {"x": rng.standard_normal((n, *x)), "w": rng.standard_normal(w)}


def wanted(second: str, model: onnx.ModelProto, feeds: Feeds, more: Feeds, got: Array) -> Any:
    """What a transform gives of a model, contracted with a direction; and differences for it."""
    rng = np.random.default_rng(5)
    if second == "vmap":
        each = [{k: v if k == "w" else v[b] for k, v in more.items()} for b in range(2)]
        return got, np.stack([result(model, one) for one in each])
    if second == "per example":
        d = rng.standard_normal(feeds["w"].shape)
        batch = range(len(feeds["x"]))
        each = [{k: v if k == "w" else v[n : n + 1] for k, v in feeds.items()} for n in batch]
        moved = [directional(runner(model), one, ["w"], [d], 1e-4)[0].sum() for one in each]
        return np.tensordot(got, d, d.ndim), np.array(moved)
    d = next((more[k] for k in set(more) - set(feeds) if k.endswith("_tangent")), None)
    if d is None:
        d = rng.standard_normal(feeds["x"].shape)
    source = og.gradient(model, "x", **LAST) if second[0] == "h" else model
    (moved,) = directional(runner(source), feeds, ["x"], [d], 1e-4)
    if second in ("gradient", "vjp"):
        seed = next((more[k] for k in set(more) - set(feeds)), np.ones(()))
        return np.vdot(got, d), (seed * moved).sum()
    if second in ("jvp", "hvp"):
        return got, moved
    if "example" in second:
        return np.stack([np.tensordot(j, v, v.ndim) for j, v in zip(got, d, strict=True)]), moved
    return np.tensordot(got, d, d.ndim), moved


def in_single(net: str, names: tuple[str, ...], feeds: Feeds) -> Array:
    """The output on onnxruntime in float32, of which it has every kernel."""
    model = after(net, *names, dtype="float")
    return result(model, {k: v.astype(np.float32) for k, v in feeds.items()}, on_runtime)


def on_runtime(model: onnx.ModelProto) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return functools.partial(session.run, None)


@pytest.mark.parametrize(("net", "first", "second"), PAIRS)
def test_two(net: str, first: str, second: str) -> None:
    rng = np.random.default_rng(3)
    base = single(net, 2, rng)
    feeds = grown(after(net, first), first, base, result(after(net), base), rng)
    y = result(after(net, first), feeds)
    model = after(net, first, second)
    more = grown(model, second, feeds, y, rng)
    got = result(model, more)
    scale = max(abs(got).max(), 1e-3)
    left, right = wanted(second, after(net, first), feeds, more, got)
    np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-7 * scale)
    if net == "pool":  # onnxruntime has no Conv in float64
        single_precision = in_single(net, (first, second), more)
        np.testing.assert_allclose(single_precision, got, rtol=1e-3, atol=1e-4 * scale)
    elif ALL_PAIRS or y.size <= FEW:
        by_reference = result(model, more, reference)
        np.testing.assert_allclose(by_reference, got, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize(("net", "first", "second"), PAIRS)
def test_no_example(net: str, first: str, second: str) -> None:
    """An empty batch runs, and gives what an empty batch has: nothing, or zeros."""
    rng = np.random.default_rng(3)
    shapes = []
    for n in (0, 2):
        base = single(net, n, rng)
        feeds = grown(after(net, first), first, base, in_single(net, (), base), rng)
        y = in_single(net, (first,), feeds)
        model = after(net, first, second)
        got = in_single(net, (first, second), grown(model, second, feeds, y, rng))
        shapes.append(got.shape)
        assert n or not got.any()
    assert len(shapes[0]) == len(shapes[1])
    assert all(a in (b, 0) for a, b in zip(*shapes, strict=True))


@pytest.mark.parametrize("first", ["gradient", "vjp", "jvp", "hvp"])
@pytest.mark.parametrize("net", ["mlp", "branch", "loop"])
def test_the_family_of_a_result(net: str, first: str, tmp_path: Any) -> None:
    """The adjoint for two seeds at once, one beside the other."""
    rng = np.random.default_rng(3)
    base = single(net, 2, rng)
    model = after(net, first)
    feeds = grown(model, first, base, result(after(net), base), rng)
    seeds = [rng.standard_normal(result(model, feeds).shape) for _ in range(2)]
    _, path, _ = og.family(model, tmp_path, name="f")
    adjoint = onnx.load(path)
    (y,) = (o.name for o in model.graph.output)
    names = [o.name for o in adjoint.graph.output]
    values = runner(adjoint)(feeds | {f"adj_{y}": np.concatenate(seeds, 1)})
    got = dict(zip(names, values, strict=True))["adj_x"]
    vjp = og.vjp(model, "x", of=y, **LAST)
    want = [result(vjp, feeds | {f"{y}_ograd": seed}) for seed in seeds]
    np.testing.assert_allclose(got, np.concatenate(want, 1), rtol=1e-9, atol=1e-12)
