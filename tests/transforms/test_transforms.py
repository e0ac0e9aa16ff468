"""jvp, hvp, jacobian, hessian, per_example_gradient and vmap against hand-written derivatives."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad as og
from tests.oracle import Array, accept

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
RNG = np.random.default_rng(3)

# y = sin(x) @ w, z = y * y summed over the last axis; the batch symbolic.
NET = """g (double[N,3] x, double[3,2] w) => (double[N,2] y, double[N] z) <int64[1] last = {1}> {
  s = Sin(x)
  y = MatMul(s, w)
  q = Mul(y, y)
  z = ReduceSum <keepdims = 0> (q, last)
}"""
X, W = RNG.standard_normal((4, 3)), RNG.standard_normal((3, 2))
DX, DW = RNG.standard_normal((4, 3)), RNG.standard_normal((3, 2))
FEEDS = {"x": X, "w": W}


def parse(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    accept(model)
    return model


def static(model: onnx.ModelProto, n: int) -> onnx.ModelProto:
    for v in (*model.graph.input, *model.graph.output):
        for d in v.type.tensor_type.shape.dim:
            if d.dim_param:
                d.dim_value = n
    return model


def run(model: onnx.ModelProto, **feeds: Array) -> dict[str, Array]:
    accept(model)
    assert all(n.domain == "" for n in model.graph.node)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = [o.name for o in session.get_outputs()]
    return dict(zip(wanted, session.run(None, feeds), strict=True))


def body(graph: onnx.GraphProto) -> list[str]:
    """The operators of the first Scan's body, in the graph or in a branch."""
    for node in graph.node:
        for inner in (a.g for a in node.attribute if a.HasField("g")):
            found = [n.op_type for n in inner.node] if node.op_type == "Scan" else body(inner)
            if found:
                return found
    return []


def metadata(model: onnx.ModelProto, key: str) -> dict:
    return json.loads(next(p.value for p in model.metadata_props if p.key == key))


def test_jvp() -> None:
    model = og.jvp(parse(NET))
    assert [i.name for i in model.graph.input] == ["x", "w", "x_tangent", "w_tangent"]
    assert metadata(model, "onnxgrad.tangents") == {
        "x": "x_tangent", "w": "w_tangent", "y": "y_tangent", "z": "z_tangent",
    }  # fmt: skip
    got = run(model, **FEEDS, x_tangent=DX, w_tangent=DW)
    dy = (np.cos(X) * DX) @ W + np.sin(X) @ DW
    y = np.sin(X) @ W
    np.testing.assert_allclose(got["y_tangent"], dy, rtol=1e-12)
    np.testing.assert_allclose(got["z_tangent"], (2 * y * dy).sum(1), rtol=1e-12)
    np.testing.assert_allclose(got["y"], y, rtol=1e-12)


def test_jvp_is_lean() -> None:
    """The stand-in seed of the backward pass leaves no node behind."""
    model = og.jvp(parse("g (double[N] x) => (double[N] y) { y = Tanh(x) }"), forward=False)
    assert [n.op_type for n in model.graph.node] == ["Tanh", "Mul", "Sub", "Mul"]
    assert [i.name for i in model.graph.input] == ["x", "x_tangent"]


def test_jvp_of_an_output_that_does_not_move() -> None:
    text = "g (double[N] x, double[N] c) => (double[N] y, double[N] z) { y = Sin(x) z = Sin(c) }"
    with pytest.raises(og.UnreachableError, match="'z' does not depend on 'x'"):
        og.jvp(parse(text), "x")
    got = run(og.jvp(parse(text), "x", unreachable="zeros"), x=X[0], c=X[1], x_tangent=DX[0])
    np.testing.assert_allclose(got["y_tangent"], np.cos(X[0]) * DX[0])
    assert got["z_tangent"].tolist() == [0, 0, 0]


def hessian_of_z() -> Array:
    """d2 sum(z) / dx dx, zero between examples."""
    full = np.zeros((4, 3, 4, 3))
    for n in range(4):
        y = np.sin(X[n]) @ W
        outer = 2 * (W @ W.T) * np.outer(np.cos(X[n]), np.cos(X[n]))
        full[n, :, n, :] = outer + np.diag(-np.sin(X[n]) * 2 * (W @ y))
    return full


def test_hvp() -> None:
    got = run(og.hvp(parse(NET), "x", of="z"), **FEEDS, x_tangent=DX)
    want = np.einsum("abcd,cd->ab", hessian_of_z(), DX)
    np.testing.assert_allclose(got["x_hvp"], want, rtol=1e-10)


@pytest.mark.parametrize("fixed", [False, True])
def test_hessian(fixed: bool) -> None:
    model = og.hessian(static(parse(NET), 4) if fixed else parse(NET), "x", of="z")
    assert metadata(model, "onnxgrad.jacobians") == {"x": {"x": "x_x_hessian"}}
    got = run(model, **FEEDS)["x_x_hessian"]
    np.testing.assert_allclose(got, hessian_of_z(), rtol=1e-10, atol=1e-12)


def test_hessian_between_inputs() -> None:
    got = run(og.hessian(parse(NET), ["x", "w"], of="z", forward=False), **FEEDS)
    assert got["x_w_hessian"].shape == (4, 3, 3, 2)
    np.testing.assert_allclose(
        got["x_w_hessian"], got["w_x_hessian"].transpose(2, 3, 0, 1), rtol=1e-10
    )


def test_hessian_of_one_element() -> None:
    """An ograd of one 1 among zeros picks an element of a larger output."""
    pick = np.array([0.0, 0, 1, 0])
    got = run(og.hessian(parse(NET), "x", of="z", ograd=True), **FEEDS, z_ograd=pick)
    want = np.where(np.arange(4)[:, None, None, None] == 2, hessian_of_z(), 0)
    np.testing.assert_allclose(got["x_x_hessian"], want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
@pytest.mark.parametrize("fixed", [False, True])
def test_jacobian(mode: str, fixed: bool) -> None:
    net = static(parse(NET), 4) if fixed else parse(NET)
    model = og.jacobian(net, of="y", mode=mode)
    assert metadata(model, "onnxgrad.jacobians") == {
        "y": {"x": "y_x_jacobian", "w": "y_w_jacobian"}
    }
    got = run(model, **FEEDS)
    want_x = np.zeros((4, 2, 4, 3))
    want_w = np.zeros((4, 2, 3, 2))
    for n in range(4):
        want_x[n, :, n, :] = W.T * np.cos(X[n])
        for k in range(2):
            want_w[n, k, :, k] = np.sin(X[n])
    np.testing.assert_allclose(got["y_x_jacobian"], want_x, rtol=1e-12)
    np.testing.assert_allclose(got["y_w_jacobian"], want_w, rtol=1e-12)


def test_jacobian_computes_the_forward_pass_once() -> None:
    model = og.jacobian(parse(NET), "x", of="y")
    assert body(model.graph) and "Cos" not in body(model.graph)
    assert [n.op_type for n in model.graph.node].count("Sin") == 1


def test_jacobian_too_large() -> None:
    net = parse("g (float[100000] x) => (float[100000] y) { y = Sin(x) }")
    with pytest.raises(og.ArgumentError, match="40,000,000,000 bytes"):
        og.jacobian(net)
    with pytest.raises(og.ArgumentError, match="mode"):
        og.jacobian(net, mode="sideways")


@pytest.mark.parametrize("sizes", [lambda m: m, lambda m: static(m, 4)], ids=["N", "4"])
def test_per_example_gradient(sizes: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    text = """g (double[N,3] x) => (double[N,2] y)
    <double[3,2] w = {1,2,3,4,5,6}, double[2] b = {0,1}> {
      h = MatMul(x, w)
      i = Add(h, b)
      y = Sin(i)
    }"""
    model = og.per_example_gradient(sizes(parse(text)))
    assert metadata(model, "onnxgrad.gradients") == {"w": "w_grad", "b": "b_grad"}
    got = run(model, x=X)
    inner = np.cos(X @ np.array([[1.0, 2], [3, 4], [5, 6]]) + np.array([0.0, 1]))
    np.testing.assert_allclose(got["b_grad"], inner, rtol=1e-12)
    np.testing.assert_allclose(got["w_grad"], X[:, :, None] * inner[:, None, :], rtol=1e-12)
    summed = run(og.gradient(parse(text), ["w", "b"]), x=X)
    np.testing.assert_allclose(got["w_grad"].sum(0), summed["w_grad"], rtol=1e-12)


@pytest.mark.parametrize("n", [1, 4])
def test_per_example_gradients_of_a_known_batch_are_those_of_batches_of_one(n: int) -> None:
    """Of a net that reads its sizes, whose branches depend on them, with a normalization."""
    text = """g (double[N,2,3] x) => (double[N] y, double m)
    <double[3,2] w = {1,2,3,4,5,6}, double[2] b = {0,1}, int64[1] axis = {0}, int64 one = {1}> {
      h = MatMul(x, w)
      i = Add(h, b)
      r = Softmax <axis = 1> (i)
      shape = Shape <end = 1> (r)
      size = Squeeze(shape, axis)
      alone = Equal(size, one)
      k = If (alone) <
        then_branch = a () => (double[A,2,2] p) {
          three = Constant <value = double {3.0}> ()
          p = Mul(r, three)
        },
        else_branch = o () => (double[B,2,2] q) { q = Sin(r) }
      >
      rest = Constant <value = int64[1] {-1}> ()
      flat = Concat <axis = 0> (shape, rest)
      f = Reshape(k, flat)
      l = ReduceLogSumExp <keepdims = 0> (f, rest)
      y = Mul(l, l)
      m = ReduceSum <keepdims = 0> (f)
    }"""
    x = RNG.standard_normal((n, 2, 3))
    got = run(og.per_example_gradient(static(parse(text), n), forward=False), x=x)
    alone = og.gradient(static(parse(text), 1), ["w", "b"], forward=False)
    for name in ("w_grad", "b_grad"):
        want = np.stack([run(alone, x=row[None])[name] for row in x])
        np.testing.assert_allclose(got[name], want, rtol=1e-10)


def test_per_example_gradient_of_a_batched_input_is_refused() -> None:
    with pytest.raises(og.ArgumentError, match="no sum over the batch"):
        og.per_example_gradient(parse(NET), "x")


def test_a_net_for_batches_of_one_size() -> None:
    net = parse("g (double[3] x, double[3, 2] w) => (double[2] y) { y = MatMul(x, w) }")
    with pytest.raises(og.ArgumentError, match="for batches of 3 and does not fit one example"):
        og.per_example_gradient(net, "w", batched="x")


def test_vmap() -> None:
    net = parse("g (double[3] x, double[3] w) => (double y) { s = Sin(x) y = MatMul(s, w) }")
    both = run(og.vmap(net), x=X, w=DX)
    np.testing.assert_allclose(both["y"], (np.sin(X) * DX).sum(1))
    one = og.vmap(net, batched=["x"])
    np.testing.assert_allclose(run(one, x=X, w=DX[0])["y"], np.sin(X) @ DX[0])
    grad = run(og.gradient(one, "w"), x=X, w=DX[0])["w_grad"]
    np.testing.assert_allclose(grad, np.sin(X).sum(0))
    with pytest.raises(og.ArgumentError, match="no graph input"):
        og.vmap(net, batched=["y"])


@pytest.mark.parametrize("count", [0, 3])
def test_vmap_of_strings(count: int) -> None:
    net = parse("""g (string[2] s, float[2] x) => (float[2] y)
        { a = Constant<value_strings = ["a"]>() e = Equal(s, a) c = Cast<to = 1>(e)
          y = Mul(x, c) }""")
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    s = np.array([["b", "a"]] * count, object).reshape(count, 2)
    np.testing.assert_array_equal(run(og.vmap(net), s=s, x=x)["y"], x * [0, 1])


def test_what_is_the_same_for_all_examples_is_computed_once() -> None:
    """Weights too that are kept as integers: onnxruntime 1.32 takes none of those in a Scan."""
    weights = "<int8[2, 2] q = {1, 2, 3, 4}, float s = {0.5}>"
    product = "w = DequantizeLinear(q, s) y = MatMul(x, w)"
    net = parse(
        f"""g (float[2] x) => (float[2] y, float[2] r) {weights} {{
          {product} n = RandomUniform <shape = [2]> () r = Mul(y, n)
        }}"""
    )
    batched = og.vmap(net)
    nodes = [n.op_type for n in batched.graph.node]
    assert nodes == ["DequantizeLinear", "Shape", "Cast", "If"]
    assert "RandomUniform" in body(batched.graph)  # to each its own
    x = X[:, :2].astype(np.float32)
    found = run(batched, x=x)
    np.testing.assert_allclose(found["y"], x @ np.array([[0.5, 1], [1.5, 2]]), rtol=1e-6)
    assert np.unique(found["r"] / found["y"]).size == found["r"].size
    net = parse(f"g (float[N, 2] x) => (float[N, 2] y) {weights} {{ {product} }}")
    scales = run(og.per_example_gradient(net, "s", forward=False), x=x)
    np.testing.assert_allclose(scales["s_grad"], x @ [3, 7], rtol=1e-5)


def test_they_compose() -> None:
    """jvp of gradient is hvp; gradient of hvp is a third derivative."""
    cube = parse("g (double[N] x) => (double[N] y) { s = Mul(x, x) y = Mul(s, x) }")
    x, v = X[0], DX[0]
    forward_over_reverse = og.jvp(og.gradient(cube, forward=False), "x")
    assert np.allclose(run(forward_over_reverse, x=x, x_tangent=v)["x_grad_tangent"], 6 * x * v)
    third = og.gradient(og.hvp(cube, forward=False), "x", of="x_hvp")
    np.testing.assert_allclose(run(third, x=x, x_tangent=v)["x_grad"], 6 * v)


LATER = {
    "gradient": (og.gradient, "x_grad_grad", lambda x, v: 6 * x),
    "jvp": (og.jvp, "x_grad_tangent", lambda x, v: 6 * x * v),
    "hvp": (og.hvp, "x_hvp", lambda x, v: 6 * v),
    "jacobian": (og.jacobian, "x_grad_x_jacobian", lambda x, v: np.diag(6 * x)),
    "hessian": (og.hessian, "x_x_hessian", lambda x, v: np.diag([6.0] * len(x))),
}


@pytest.mark.parametrize("name", LATER)
def test_what_carries_gradients_is_differentiated_at_those(name: str) -> None:
    """By default, though the outputs of the model are there too; with no notes but the latest."""
    cube = parse("g (double[N] x) => (double[N] y) { s = Mul(x, x) y = Mul(s, x) }")
    transform, result, expected = LATER[name]
    x, v = X[0], DX[0]
    model = transform(og.gradient(cube), "x")
    assert [o.name for o in model.graph.output] == ["y", "x_grad", result]
    feeds = {"x": x, "x_tangent": v} if "tangent" in str(model.graph.input) else {"x": x}
    np.testing.assert_allclose(run(model, **feeds)[result], expected(x, v), rtol=1e-12)
    fourth = og.gradient(model, "x", unreachable="zeros")
    assert fourth.graph.output[-1].name in ("x_grad_grad", "x_grad_grad_grad")
    keys = {p.key for p in model.metadata_props} - {"onnxgrad.ograds", "onnxgrad.tangents"}
    assert len(keys) <= 1
    report = og.inspect(model, "x")
    assert report.of == (result,)
    free = [o for o in model.graph.output if o.name != result]
    del model.graph.output[:]
    model.graph.output.extend(free)
    assert og.inspect(model, "x").of == ("y", "x_grad")


def test_through_control_flow() -> None:
    net = parse(
        """g (double[2] x, double[2] w) => (double[2] y) <int64 m = {3}, bool t = {1}> {
          y = Loop <body = a (int64 i, bool ci, double[2] v) => (bool co, double[2] vo) {
            co = Identity(ci)
            p = Mul(v, w)
            vo = Sin(p)
          }> (m, t, x)
        }"""
    )
    feeds = {"x": X[0, :2], "w": DX[0, :2]}
    rows = run(og.jacobian(net, of="y", mode="reverse", forward=False), **feeds)
    columns = run(og.jacobian(net, of="y", mode="forward", forward=False), **feeds)
    step = 1e-6
    for name in ("x", "w"):
        for k in range(2):
            e = np.eye(2)[k] * step
            up, down = (run(net, **(feeds | {name: feeds[name] + s * e}))["y"] for s in (1, -1))
            numeric = (up - down) / (2 * step)
            np.testing.assert_allclose(rows[f"y_{name}_jacobian"][:, k], numeric, atol=1e-8)
            np.testing.assert_allclose(columns[f"y_{name}_jacobian"][:, k], numeric, atol=1e-8)
    h = run(og.hessian(net, "x", forward=False), **feeds)["x_x_hessian"]
    np.testing.assert_allclose(h, h.T, atol=1e-12)


def test_transforms_of_transforms_that_scan() -> None:
    """vmap twice, each with a dimension of its own; a Jacobian and a jvp of what vmap gives."""
    net = parse("g (double[3] x, double[3] w) => (double[3] y) { s = Sin(x) y = Mul(s, w) }")
    both = og.vmap(og.vmap(net, batched="x"))
    assert [d.dim_param for d in both.graph.input[0].type.tensor_type.shape.dim[:2]] == [
        "batch_2", "batch",
    ]  # fmt: skip
    x, w = RNG.standard_normal((2, 4, 3)), RNG.standard_normal((2, 3))
    np.testing.assert_allclose(run(both, x=x, w=w)["y"], np.sin(x) * w[:, None])
    one = og.vmap(net, batched="x")
    for mode in ("reverse", "forward"):
        rows = run(og.jacobian(one, "w", mode=mode), x=x[0], w=w[0])["y_w_jacobian"]
        np.testing.assert_allclose(rows, np.sin(x[0])[:, :, None] * np.eye(3))
    moved = run(og.jvp(one, "x"), x=x[0], w=w[0], x_tangent=x[1])["y_tangent"]
    np.testing.assert_allclose(moved, np.cos(x[0]) * w[0] * x[1])
    curved = run(og.hvp(one, "x", forward=False), x=x[0], w=w[0], x_tangent=x[1])["x_hvp"]
    np.testing.assert_allclose(curved, -np.sin(x[0]) * w[0] * x[1])


@pytest.mark.parametrize("flag", [True, False])
def test_through_a_branch(flag: bool) -> None:
    net = parse(
        """g (double[3] x, bool c) => (double[3] y) {
          y = If (c) <
            then_branch = a () => (double[3] p) { s = Sin(x) p = Mul(s, x) },
            else_branch = b () => (double[3] q) { e = Exp(x) q = Mul(e, x) }
          >
        }"""
    )
    x, t, c = X[0], DX[0], np.array(flag)
    first = np.sin(x) + x * np.cos(x) if flag else np.exp(x) * (1 + x)
    second = 2 * np.cos(x) - x * np.sin(x) if flag else np.exp(x) * (2 + x)
    for mode in ("reverse", "forward"):
        got = run(og.jacobian(net, mode=mode), x=x, c=c)["y_x_jacobian"]
        np.testing.assert_allclose(got, np.diag(first), rtol=1e-10)
    got = run(og.hvp(net, forward=False), x=x, c=c, x_tangent=t)["x_hvp"]
    np.testing.assert_allclose(got, second * t, rtol=1e-10)
    third = og.gradient(og.hvp(net, forward=False), "x", of="x_hvp")
    jump = -3 * np.sin(x) - x * np.cos(x) if flag else np.exp(x) * (3 + x)
    np.testing.assert_allclose(run(third, x=x, c=c, x_tangent=t)["x_grad"], jump * t, rtol=1e-10)


def test_blocks_of_zero() -> None:
    """A pair without a path has a block of zeros; a tensor without any path is refused."""
    net = parse(
        "g (double[2] a, double[2] b) => (double[2] p, double[2] q) { p = Sin(a) q = Mul(a, b) }"
    )
    for mode in ("reverse", "forward"):
        got = run(og.jacobian(net, mode=mode), a=X[0, :2], b=DX[0, :2])
        assert not got["p_b_jacobian"].any()
        np.testing.assert_allclose(got["q_b_jacobian"], np.diag(X[0, :2]))
    for wrt, of in (("b", ["p", "q"]), (["a", "b"], "p")):
        with pytest.raises(og.UnreachableError, match="'p' does not depend on 'b'"):
            og.jacobian(net, wrt, of=of)


ODD = """g (double[N] x, int64[N] i) => (double[N] y, int64[N] j, double[N] z) {
  y = Sin(x)
  j = Neg(i)
  z = Round(x)
}"""
ALL_OF_THEM = [og.vjp, og.jvp, og.hvp, og.jacobian, og.hessian, og.per_example_gradient]


@pytest.mark.parametrize("transform", ALL_OF_THEM, ids=lambda t: t.__name__)
def test_what_makes_no_sense(transform: Any) -> None:
    net = parse(ODD)
    for arguments, error, words in (
        ({"wrt": "i", "of": "y"}, og.ArgumentError, "'i' is INT64"),
        ({"wrt": "x", "of": "j"}, og.ArgumentError, "'j' is INT64"),
        ({"wrt": "xx"}, og.UnknownNameError, "Nearest: 'x'"),
        ({"wrt": "x", "of": "zz"}, og.UnknownNameError, "Nearest: 'z'"),
        ({"wrt": []}, og.ArgumentError, "a name or a sequence"),
        ({"of": []}, og.ArgumentError, "a name or a sequence"),
        ({"wrt": 5}, og.ArgumentError, "a name or a sequence"),
        ({"wrt": "x", "unreachable": "maybe"}, og.ArgumentError, "'maybe'"),
    ):
        with pytest.raises(error, match=words):
            transform(net, **arguments)
    if transform is not og.per_example_gradient:
        with pytest.raises(og.UnreachableError, match="Round"):
            transform(net, "x", of="z")


def test_what_cannot_have_a_batch() -> None:
    net = parse(ODD)
    for transform in (og.vmap, og.per_example_gradient):
        options = {} if transform is og.vmap else {"wrt": "x"}
        for batched in (5, [], "y", ["x", "k"]):
            with pytest.raises(og.ArgumentError):
                transform(net, batched=batched, **options)
    for batch in ("", 3):
        with pytest.raises(og.ArgumentError, match="name of a dimension"):
            og.vmap(net, batch=batch)
    passed = parse("g (double[N] x) => (double[N] x, double[N] y) { y = Sin(x) }")
    with pytest.raises(og.ArgumentError, match="an input too"):
        og.vmap(passed)
    scalar = parse("g (double x) => (double y) <double w = {2}> { y = Mul(x, w) }")
    with pytest.raises(og.ArgumentError, match="is a scalar"):
        og.per_example_gradient(scalar, "w")
    for wrt, words in (
        (None, "no trainable weight"),
        ("y", "an inner tensor"),
        (og.ALL, "the batch"),
    ):
        with pytest.raises(og.ArgumentError, match=words):
            og.per_example_gradient(net, wrt)


def test_too_large_together() -> None:
    """The Hessians of each pair would fit, but not all four."""
    net = parse("g (float[100] a, float[100] b) => (float[100] y) { y = Mul(a, b) }")
    og.hessian(net, max_bytes=160_000)
    with pytest.raises(og.ArgumentError, match=r"40,000 bytes \(all 4 together: 160,000\)"):
        og.hessian(net, max_bytes=159_999)
    weighted = parse("g (float[100,1] x) => (float[100,1] y) <float[1] w = {2}> { y = Mul(x, w) }")
    with pytest.raises(og.ArgumentError, match=r"'w' by example takes 400 bytes.* Feed fewer"):
        og.per_example_gradient(weighted, "w", max_bytes=399)


def test_jvp_leaves_nothing_of_the_backward_pass() -> None:
    """Softmax's rule asks for the shape of what the pass calculates; the input has the same."""
    net = parse("g (double[N,3] x) => (double[N,3] y) { y = Softmax(x) }")
    model = og.jvp(net, forward=False)
    shapes = [n.input[0] for n in model.graph.node if n.op_type == "Shape"]
    assert set(shapes) <= {"x"}
    assert [n.op_type for n in model.graph.node].count("Softmax") == 1
    y = run(net, x=X)["y"]
    got = run(model, x=X, x_tangent=DX)["y_tangent"]
    np.testing.assert_allclose(got, y * (DX - (y * DX).sum(1, keepdims=True)), rtol=1e-12)


def test_vmap_leaves_nothing_of_a_net_with_graphs_outside() -> None:
    """What the graph of a dead node captures is dead too."""
    net = parse(
        """g (double[3] x) => (double[3] y) <double zero = {0}> {
          e = Exp(x)
          s = ReduceSum <keepdims = 0> (x)
          c = Greater(s, zero)
          y = If (c) <
            then_branch = a () => (double[3] p) { p = Mul(e, x) },
            else_branch = b () => (double[3] q) { q = Sin(e) }
          >
        }"""
    )
    batched = og.vmap(net)
    assert [n.op_type for n in batched.graph.node] == ["Shape", "Cast", "If"]
    assert body(batched.graph) == ["Exp", "ReduceSum", "Greater", "If"]
    want = np.where(X.sum(1, keepdims=True) > 0, np.exp(X) * X, np.sin(np.exp(X)))
    np.testing.assert_allclose(run(batched, x=X)["y"], want)
    rows = run(og.vmap(og.jacobian(net, forward=False)), x=X)["y_x_jacobian"]
    np.testing.assert_allclose(rows[0], run(og.jacobian(net), x=X[0])["y_x_jacobian"])


def test_a_batch_of_no_example() -> None:
    """Sizes that only a run tells are those of an example of zeros."""
    net = parse(
        """g (double[N] x, double[K] w) => (double[M] y, double z, double[N,K] p) {
          both = Concat <axis = 0> (x, w)
          y = Sin(both)
          z = ReduceSum <keepdims = 0> (both)
          one = Constant <value = int64[1] {1}> ()
          column = Unsqueeze(x, one)
          p = Mul(column, w)
        }"""
    )
    batched = og.vmap(net, batched="x")
    for n in (2, 0):
        got = run(batched, x=np.ones((n, 3)), w=np.ones(4))
        assert {k: v.shape for k, v in got.items()} == {"y": (n, 7), "z": (n,), "p": (n, 3, 4)}
    none = X[:0]
    for mode in ("reverse", "forward"):
        got = run(og.jacobian(parse(NET), of="y", mode=mode, forward=False), x=none, w=W)
        assert [v.shape for v in got.values()] == [(0, 2, 0, 3), (0, 2, 3, 2)]
    got = run(og.hessian(parse(NET), of="z", forward=False), x=none, w=W)
    assert [v.shape for v in got.values()] == [
        (0, 3, 0, 3), (0, 3, 3, 2), (3, 2, 0, 3), (3, 2, 3, 2),
    ]  # fmt: skip
    assert not got["w_w_hessian"].any()
    fixed = static(parse(NET), 0)
    assert run(og.hessian(fixed, "x", of="z", forward=False), x=none, w=W)["x_x_hessian"].size == 0
    got = run(og.per_example_gradient(parse(NET), "w", batched="x", forward=False), x=none, w=W)
    assert got["w_grad"].shape == (0, 3, 2)


def test_a_known_number_of_steps_needs_no_branch() -> None:
    model = og.jacobian(static(parse(NET), 4), "x", of="y")
    assert "If" not in [n.op_type for n in model.graph.node]
