"""Gradients have no more passes over tensors than they need, and the numbers that they had."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner


def net(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]> ' + text)


def count(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


SWISH = "net (float[N, 6] x) => (float[N, 6] y) { s = Sigmoid(x)  y = Mul(x, s) }"
HARD = """net (float[N, 6] x) => (float[N, 6] y)
    <float three = {3}, float zero = {0}, float six = {6}, float[1] k = {0.5}, float[1] j = {2}> {
    a = Mul(x, k)  b = Add(a, three)  u = Clip(b, zero, six)  m = Mul(a, u)  d = Div(m, six)
    y = Mul(d, j) }"""
X = np.array([[-7, -6, -1.5, 0, 2, 6], [7, 8, 0.25, -0.5, -5.5, 3]], np.float32)


def swish(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = 1 / (1 + np.exp(-x))
    first = s * (1 - s)
    return s + x * first, first * (2 + x * (1 - 2 * s))


def hard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2/6 a clip(a + 3, 0, 6) of a = x / 2; a clipped at neither of both ends counts."""
    a = x / 2
    inside = (a > -3) & (a < 3)
    return (np.clip(a + 3, 0, 6) + a * inside) / 6, inside / 6


@pytest.mark.parametrize(("text", "expected", "products"), [(SWISH, swish, 2), (HARD, hard, 3)])
def test_parts_of_a_cotangent_share_their_factor(text, expected, products):
    """x f(x) has the cotangent g (f(x) + x f'(x)): one product with g, and one with all numbers.

    Of the numbers themselves there are products too.
    """
    model = net(text)
    grad = og.gradient(model, ograd=True)
    numbers = {t.name for t in grad.graph.initializer}
    for node in grad.graph.node:
        numbers.update(node.output if set(node.input) <= numbers else ())
    whole = [n for n in grad.graph.node if n.op_type == "Mul" and not {*n.output} <= numbers]
    assert len(whole) - count(model)["Mul"] == products
    g = np.linspace(-1, 2, X.size, dtype=np.float32).reshape(X.shape)
    first, second = expected(X.astype(np.float64))
    np.testing.assert_allclose(
        runner(grad)({"x": X, "y_ograd": g})[1], g * first, rtol=1e-5, atol=1e-6
    )
    twice = og.gradient(og.gradient(model, forward=False), "x", forward=False)
    np.testing.assert_allclose(runner(twice)({"x": X})[0], second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", ["d = Mul(n, k)  y = Tanh(d)", "s = Sigmoid(n)  y = Mul(n, s)"])
def test_a_weight_of_one_number_is_differentiated_twice(gate):
    """It is no number to be collected with others, or the second gradient would not see it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    rng = np.random.default_rng(0)
    x, f = (rng.standard_normal(s).astype(np.float32) for s in ((2, 2, 5), (1, 2, 3)))
    w, seed = np.float32([0.7]), rng.standard_normal((2, 2, 5)).astype(np.float32)
    model = net(f"""net (float[2, 2, 5] x) => (float[2, 1, 5] y) <float k = {{0.5}}> {{
        c = Conv<pads = [1, 1]>(x, f)  n = Mul(c, w)  {gate} }}""")
    constants = {"f": f, "w": w}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    twice = og.gradient(
        og.gradient(model, "x", forward=False), ["w", "f"], of="x_grad", ograd=True, forward=False
    )
    t = {n: torch.tensor(a, requires_grad=True) for n, a in (constants | {"x": x}).items()}
    n = torch.nn.functional.conv1d(t["x"], t["f"], None, 1, 1) * t["w"]
    y = n * torch.sigmoid(n) if "Sigmoid" in gate else torch.tanh(n * 0.5)
    (first,) = torch.autograd.grad(y.sum(), t["x"], create_graph=True)
    want = torch.autograd.grad(first, [t["w"], t["f"]], torch.tensor(seed))
    for got, g in zip(runner(twice)({"x": x, "x_grad_ograd": seed}), want, strict=True):
        np.testing.assert_allclose(got, g.numpy(), rtol=1e-4, atol=1e-5)


def test_parts_side_by_side_are_joined():
    """The parts of slices that make up a tensor; those that overlap are padded and added."""
    text = """net (float[N, 6, 4] x) => (float[N, 2, 4] a, float[N, K, 3] b)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] end = {100}> {
        a = Slice(x, zero, two, one)  c = Slice(x, two, end, one)  d = Slice(c, one, end, two)
        b = Exp(d) }"""
    x = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)
    for start in (2, 1):
        model = net(text if start == 2 else text.replace("Slice(x, two", "Slice(x, one"))
        grad = og.gradient(model, ograd=True, forward=False)
        want = np.zeros_like(x)
        want[:, :2] = 1
        want[:, start:, 1:] += np.exp(x[:, start:, 1:])
        seeds = {"a_ograd": np.ones((2, 2, 4)), "b_ograd": np.ones((2, 6 - start, 3))}
        feeds = {"x": x} | {k: v.astype(np.float32) for k, v in seeds.items()}
        np.testing.assert_allclose(runner(grad)(feeds)[0], want, rtol=1e-6)
        assert (count(grad)["Concat"], count(grad)["Add"]) == ((1, 0) if start == 2 else (0, 1))
        assert not count(grad)["Shape"]


def test_sizes_that_follow_from_constants_are_known():
    """Pads as PyTorch's exporter computes them: no size is left to a run, nor an empty Pad."""
    model = net("""net (float[2, 8] x) => (float[2, L] y)
        <int64[2] given = {2, 1}, int64[1] two = {2}, int64[2] pairs = {-1, 2}, int64[1] zero = {0},
        int64[1] last = {-1}, int64[1] far = {-9223372036854775807}, int64[1] one = {1}> {
        none = ConstantOfShape(two)  all = Concat<axis = 0>(given, none)  p = Reshape(all, pairs)
        r = Slice(p, last, far, zero, last)  t = Transpose<perm = [1, 0]>(r)  f = Reshape(t, last)
        pads = Cast<to = 7>(f)  w = Pad<mode = "reflect">(x, pads)  u = Unsqueeze(w, one)
        q = Squeeze(u, one)  y = Mul(q, q) }""")
    grad = og.gradient(model, ograd=True, forward=False)
    assert "Shape" not in count(grad)
    assert {n.op_type for n in grad.graph.node if "eeze/grad" in n.name} == set()
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    want = 2 * x
    want[:, 1:3] *= 2
    want[:, 6] *= 2
    seed = np.ones((2, 11), np.float32)
    np.testing.assert_allclose(runner(grad)({"x": x, "y_ograd": seed})[0], want)


def test_an_operand_beside_scalars_is_not_summed():
    """Whatever its rank: broadcasting with a number stretches nothing."""
    model = net("""net (float[A, B] x, int64[R] target) => (float[D] y)
        <float two = {2}> { r = Reshape(x, target)  y = Mul(r, two) }""")
    grad = og.gradient(model, "x", forward=False)
    assert "ReduceSum" not in count(grad)
    feeds = {"x": np.ones((2, 3), np.float32), "target": np.array([3, 1, 2])}
    np.testing.assert_array_equal(runner(grad)(feeds)[0], np.full((2, 3), 2))


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_sums_found_at_run_time_are_over_stretched_axes(shape):
    model = net("net (float[A, B] x, float[C, D] z) => (float[E, F] y) { y = Mul(x, z) }")
    z = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    found = runner(og.gradient(model, "x", forward=False))(
        {"x": np.ones(shape, np.float32), "z": z}
    )
    axes = tuple(a for a in (0, 1) if shape[a] == 1)
    np.testing.assert_allclose(found[0], z.sum(axis=axes, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "products"),
    [
        ("N, 12, 1", "N, 1, 8", 2),  # columns and rows
        ("12, 1", "N, 1, 8", 0),  # of all examples, and of all elements of each
        ("N, 2, 6, 1", "N, 1, 1, 8", 2),  # several axes that are one
        ("N, 12, 1", "8", 2),
        ("N, 12, 1", "N, 12, 8", 0),  # no matrix: each number has a row of its own
    ],
)
def test_sums_of_products_are_products_of_matrices(a, b, products):
    """Where one factor is the same along axes of the result: those of first and second order."""
    model = net(f"net (float[{a}] a, float[{b}] b) => (y) {{ y = Mul(a, b) }}")
    grad = og.gradient(model, ["a", "b"], ograd=True, forward=False)
    assert count(grad)["MatMul"] == products
    rng = np.random.default_rng(0)
    sizes = [[int(d.replace("N", "3")) for d in dims.split(",")] for dims in (a, b)]
    x = [rng.standard_normal(s).astype(np.float32) for s in sizes]
    g = rng.standard_normal((x[0] * x[1]).shape, dtype=np.float32)

    def summed(t: np.ndarray, like: np.ndarray) -> np.ndarray:
        t = t.sum(axis=tuple(range(t.ndim - like.ndim)))
        return t.sum(axis=tuple(k for k, n in enumerate(like.shape) if n == 1), keepdims=True)

    feeds = {"a": x[0], "b": x[1], "y_ograd": g}
    want = [summed(g * x[1], x[0]), summed(g * x[0], x[1])]
    for got, its in zip(runner(grad)(feeds), want, strict=True):
        np.testing.assert_allclose(got, its, rtol=1e-5, atol=1e-5)
    twice = og.gradient(grad, "b", of="a_grad", ograd=True, forward=False)
    seed = rng.standard_normal(x[0].shape, dtype=np.float32)
    feeds = {"y_ograd": g, "a_grad_ograd": seed, "b": x[1]}
    asked = {i.name: feeds[i.name] for i in twice.graph.input if i.name in feeds}
    asked |= {"a": x[0]} if "a" in {i.name for i in twice.graph.input} else {}
    np.testing.assert_allclose(
        runner(twice)(asked)[0], summed(g * seed, x[1]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("gate", ["BatchNormalization(c, k, b, m, v)", "Mul(c, e)", "Mul(c, h)"])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_constant_factors_of_channels_go_into_filters(gate, group):
    """Not those that a run computes."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 4 // group, 3, 3)).astype(np.float32)
    k, b, m, v = (rng.uniform(0.5, 2, 4).astype(np.float32) for _ in range(4))
    model = net(f"""net (float[N, 4, 5, 6] x, float[N, 4, 1, 1] h) => (float[N, 4, 5, 6] y) {{
        c = Conv<pads = [1, 1, 1, 1], group = {group}>(x, w)
        n = {gate}
        y = HardSwish(n) }}""")
    constants = {"w": w, "k": k, "b": b, "m": m, "v": v, "e": k.reshape(4, 1, 1)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    grad = og.gradient(model, "x", ograd=True, forward=False)
    dims = {v.name: v.type.tensor_type.shape.dim
            for v in onnx.shape_inference.infer_shapes(grad).graph.value_info}  # fmt: skip
    products = [n for n in grad.graph.node if n.op_type == "Mul"
                and [d.dim_value for d in dims[n.output[0]]][2:] == [5, 6]]  # fmt: skip
    forward = gate.startswith("Mul")
    assert len(products) - forward == (3 if gate.endswith("h)") else 1)

    x, seed = (rng.uniform(-4, 4, (2, 4, 5, 6)).astype(np.float32) for _ in range(2))
    h = rng.standard_normal((2, 4, 1, 1)).astype(np.float32)
    t = {n: torch.tensor(a) for n, a in (constants | {"x": x, "h": h}).items()}
    c = torch.nn.functional.conv2d(t["x"].requires_grad_(), t["w"], None, 1, 1, 1, group)
    if gate.startswith("B"):
        n = torch.nn.functional.batch_norm(c, t["m"], t["v"], t["k"], t["b"])
    else:
        n = c * t[gate[-2]]
    torch.nn.functional.hardswish(n).backward(torch.tensor(seed))
    feeds = {"x": x, "h": h, "y_ograd": seed}
    feeds = {i.name: feeds[i.name] for i in grad.graph.input}
    (got,) = runner(grad)(feeds)
    np.testing.assert_allclose(got, t["x"].grad.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("samples", "first", "read"), [("L", 0, 2), ("300", 1, 0)])
def test_the_spectrum_of_samples_without_a_name(samples, first, read):
    """In a branch, from a first frame on: few sizes are read, and no sum is found at run time.

    They are the shape of the branch's result, for the seed, and where the Conv's cotangent ends.
    What a Slice leaves out is not filled with zeros first.
    """
    model = net(f"""net (float[N, {samples}] x, bool c) => (float[M] y) {{
        y = If(c) <then_branch = t () => (float[A, 2, B] s) {{
            one = Constant<value_ints = [1]>()  axes = Constant<value_ints = [1, 2]>()
            a = Constant<value_ints = [0, {first}]>()  b = Constant<value_ints = [2, {first}]>()
            d = Constant<value_ints = [2, {2**31 - 1}]>()  u = Unsqueeze(x, one)
            e = Constant<value_ints = [4, {2**31 - 1}]>()  f = Conv<strides = [64]>(u, w)
            r = Slice(f, a, d, axes)  i = Slice(f, b, e, axes)
            p = Mul(r, r)  q = Exp(i)  s = Add(p, q) }},
        else_branch = o () => (float[C, D] z) {{ z = Identity(x) }}> }}""")
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((4, 1, 128)) / 9).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.ClearField("dim_param")
    grad = og.gradient(model, "x", ograd=True, forward=False)
    assert not any(d.dim_param for d in grad.graph.input[0].type.tensor_type.shape.dim)
    (back,) = (a.g for n in grad.graph.node for a in n.attribute if a.name == "then_branch")
    used = Counter(n.op_type for n in [*grad.graph.node, *back.node])
    assert used["ReduceSum"] == used["ConvTranspose"] == 0 and used["Shape"] == read
    assert used["Pad"] == 2  # of windows that overlap
    x = rng.standard_normal((2, 300)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(x, 128, axis=1)[:, 64 * first :: 64]
    want = np.zeros_like(x)
    for k, frame in enumerate(frames.transpose(1, 0, 2), first):
        seen = frame @ w[:, 0].T
        g = np.concatenate([2 * seen[:, :2], np.exp(seen[:, 2:])], axis=1)
        want[:, 64 * k : 64 * k + 128] += g @ w[:, 0]
    seed = np.ones((2, 2, frames.shape[1]), np.float32)
    found = runner(grad)({"x": x, "c": np.array(True), "y_ograd": seed})
    np.testing.assert_allclose(found[0], want, rtol=1e-4, atol=1e-5)
