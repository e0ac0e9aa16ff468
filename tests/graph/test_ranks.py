"""Ranks: a file's declarations are not believed, and what nothing tells is no reason to refuse."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import onnxgrad as og
from tests.oracle import Feeds, accept, close
from tests.rules.test_rules import (
    SAMPLES,
    float_outputs,
    floats,
    runner_of,
    sample_model,
    vjp_error,
)
from tests.samples import Sample, sample_id

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
RNG = np.random.default_rng(0)


def net(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{HEAD} {text}")


def run(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feeds)


def rank(port: onnx.ValueInfoProto) -> int | None:
    kind = port.type.tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None


# -- declarations that are wrong -------------------------------------------------------------------

LIES = {
    "one axis for two": "g (float[N,2] x) => (float[N] y) { h = Mul(x, x) y = Exp(h) }",
    "one for a matrix": "g (float[N,2] x) => (float[1] y) <float[2,3] w = {1,2,3,4,5,6>> "
    "{ h = MatMul(x, w) y = Exp(h) }".replace(">>", "}>"),
    "concat": "g (float[N,2] x) => (float[N] y) { h = Exp(x) i = Sin(x) y = Concat<axis=1>(h, i) }",
    "state": "g (float[N,2] x) => (float[N] y) { k = Constant<value_int=2>() "
    "c = Constant<value=bool {1}>() h = Loop(k, c, x)<body = b (int64 i, bool d, float[A] s) "
    "=> (bool e, float[A,B,C] t) { e = Identity(d) t = Sin(s) }> y = Exp(h) }",
    "branches": "g (float[N,2] x) => (float[N] y) { k = Constant<value_int=3>() n = Size(x) "
    "c = Less(n, k) h = If(c)<then_branch = a () => (float[A] p) { p = Sin(x) }, "
    "else_branch = b () => (float[A,B,C] q) { q = Cos(x) }> y = Exp(h) }",
}


@pytest.mark.parametrize("name", LIES)
def test_a_declared_rank_that_is_wrong(name: str) -> None:
    model = net(LIES[name])
    backward = og.gradient(model, ograd=True)
    seed = next(port for port in backward.graph.input if port.name == "y_ograd")
    assert rank(seed) == 2
    x = RNG.standard_normal((3, 2)).astype(np.float32)
    analytic, numeric = vjp_error(model, backward, {"x": x}, RNG, lambda m: lambda f: run(m, f))
    assert close(analytic, numeric, 1e-2)


def test_an_inner_declaration_is_not_believed() -> None:
    model = net("g (float[N,2] x) => (float[N,2] y) { h = Exp(x) y = Softmax(h) }")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, [None]))
    backward = og.gradient(model, ograd=True)
    x, g = RNG.standard_normal((2, 3, 2)).astype(np.float32)
    _, grad = run(backward, {"x": x, "y_ograd": g})
    e = np.exp(x)
    p = np.exp(e) / np.exp(e).sum(1, keepdims=True)
    np.testing.assert_allclose(grad, e * p * (g - (g * p).sum(1, keepdims=True)), rtol=1e-4)


# -- ranks that nothing tells ----------------------------------------------------------------------

W = "float[3,2] w = {1, 2, 3, 4, 5, 6}"
STATS = ", ".join(f"float[3] {n} = {{{v}}}" for n, v in zip("abmv", ["1, 2, 3"] * 4, strict=True))
OPEN = {
    "a product": f"g (float[N,1,K] x) => (float[N] y) <{W}> {{ h = Squeeze(x) y = MatMul(h, w) }}",
    "a normalisation": f"g (float[N,1,K] x) => (float[N] y) <{STATS}> "
    "{ h = Squeeze(x) y = BatchNormalization(h, a, b, m, v) }",
    "rows by index": "g (float[N,1,K] x) => (float[N] y) <int64[2] i = {2, 2}> "
    "{ h = Squeeze(x) y = Gather(h, i) }",
    "columns by index": "g (float[N,1,K] x) => (float[N] y) <int64[2] i = {2, 2}> "
    "{ h = Squeeze(x) y = Gather<axis = -1>(h, i) }",
    "a sum of all": "g (float[N,1,K] x) => (float y) { h = Squeeze(x) p = Mul(h, h) "
    "y = ReduceSum<keepdims = 0>(p) }",
    "branches of two ranks": "g (float[N,3] x) => (float[N] y) { k = Constant<value_int=3>() "
    "n = Size(x) c = Less(n, k) a = Constant<value_ints = [0]>() h = If(c)<then_branch = p () => "
    "(float[A] s) { s = Sin(x) }, else_branch = q () => (float[A] t) { t = Unsqueeze(x, a) }> "
    "y = ReduceMean<axes = [-1], keepdims = 0>(h) }",
    "a computed target": "g (float[N,3] x) => (float[N] y) { s = Shape(x) n = NonZero(s) "
    "one = Constant<value_ints = [-1]>() t = Reshape(n, one) u = Gather(s, t) "
    "h = Reshape(x, u) y = Softmax(h) }",
    "in a loop": "g (float[N,1,K] x) => (float[N] y) { h = Squeeze(x) k = Constant<value_int=2>() "
    "c = Constant<value=bool {1}>() z = Loop(k, c, h)<body = b (int64 i, bool d, float[] s) "
    "=> (bool e, float[] t) { e = Identity(d) t = Sin(s) }> y = Mul(z, z) }",
}


def example_of(model: onnx.ModelProto) -> Feeds:
    sizes = {"N": 4, "K": 3}
    shape = [
        d.dim_value or sizes[d.dim_param] for d in model.graph.input[0].type.tensor_type.shape.dim
    ]
    return {"x": RNG.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("with_example", [False, True])
def test_a_rank_that_nothing_tells(name: str, with_example: bool) -> None:
    model = net(OPEN[name])
    feeds = example_of(model)
    options = {"example": feeds} if with_example else {}
    backward = og.gradient(model, ograd=True, **options)
    accept(backward)
    seed = next(port for port in backward.graph.input if port.name == "y_ograd")
    assert (rank(seed) is None) == (not with_example and name != "a sum of all")
    analytic, numeric = vjp_error(model, backward, feeds, RNG, lambda m: lambda f: run(m, f))
    assert close(analytic, numeric, 1e-2)


# Targets whose length the standard's inference does not calculate.
CALCULATED = {
    "by a negation": "p = Slice(s, zero, last) n = Neg(last) q = ConstantOfShape<value = int64[1] "
    "{1}>(n) t = Concat<axis = 0>(p, q) m = ReduceMean<axes = [-1]>(x) y = Reshape(m, t)",
    "a slice": "n = Neg(last) p = Slice(s, zero, n) t = Concat<axis = 0>(p, last, one, one) "
    "m = Exp(x) y = Reshape(m, t)",
    "of a branch": "n = Neg(last) k = Size(x) c = Less(k, one) h = If(c)<then_branch = a () => "
    "(int64[A] u) { u = Identity(s) }, else_branch = b () => (int64[B] v) { q = ConstantOfShape"
    "<value = int64[1] {1}>(n) v = Concat<axis = 0>(last, q, q, q) }> m = Exp(x) y = Reshape(m, h)",
}


@pytest.mark.parametrize("name", CALCULATED)
def test_a_rank_that_is_calculated(name: str) -> None:
    model = net(
        "g (float[4,3,2] x) => (float[A] y) <int64[1] zero = {0}, int64[1] one = {1}, int64[1] "
        f"last = {{-1}}> {{ s = Shape(x) {CALCULATED[name]} }}"
    )
    backward = og.gradient(model, ograd=True, forward=False)
    onnx.checker.check_model(backward, full_check=True)
    feeds = {"x": RNG.standard_normal((4, 3, 2)).astype(np.float32)}
    assert rank(backward.graph.input[-1]) == run(model, feeds)[0].ndim
    analytic, numeric = vjp_error(model, backward, feeds, RNG, lambda m: lambda f: run(m, f))
    assert close(analytic, numeric, 1e-2)


NEEDED = """g (float[N,1,K] x, float[K,1,N] z) => (float[N] y) {
  h = Squeeze(x) i = Squeeze(z) y = MatMul(h, i)
}"""


def test_what_needs_a_rank_says_so_and_takes_an_example() -> None:
    model = net(NEEDED)
    with pytest.raises(og.NoRuleError, match=r"MatMul.*rank of 'i' is not known.*example="):
        og.gradient(model)
    feeds = {
        "x": RNG.standard_normal((4, 1, 3)).astype(np.float32),
        "z": RNG.standard_normal((3, 1, 4)).astype(np.float32),
    }
    assert og.inspect(model, example=feeds).ok
    assert og.check(model, feeds).ok
    for transform in (og.gradient, og.vjp, og.jvp, og.hvp, og.jacobian, og.hessian):
        accept(transform(model, ["x", "z"], example=feeds))
    _, x_grad, _ = run(og.gradient(model, example=feeds), feeds)
    np.testing.assert_allclose(x_grad[:, 0], np.ones((4, 4)) @ feeds["z"][:, 0].T, rtol=1e-5)


def test_an_example_gives_the_same_file_each_time() -> None:
    feeds = {
        "x": np.zeros((4, 1, 3), np.float32),
        "z": np.zeros((3, 1, 4), np.float32),
    }
    model = net(NEEDED)
    files = {
        og.gradient(model, example=feeds).SerializeToString(deterministic=True) for _ in range(20)
    }
    assert len(files) == 1


def test_an_example_that_does_not_fit() -> None:
    model = net(NEEDED)
    with pytest.raises(og.FeedError, match="'z'"):
        og.gradient(model, example={"x": np.zeros((2, 1, 2), np.float32)})
    with pytest.raises(og.FeedError, match="example cannot be run"):
        og.gradient(model, example={n: np.zeros((2, 1, 3), np.float32) for n in "xz"})


def test_a_net_learns_ranks_from_its_feeds() -> None:
    f = og.Net(net(NEEDED))
    for n in (4, 1, 4):  # one that gives vectors, and other sizes
        feeds = {
            "x": RNG.standard_normal((n, 1, 3)).astype(np.float32),
            "z": RNG.standard_normal((3, 1, n)).astype(np.float32),
        }
        found = f(feeds, [og.NetPortGradient("x"), og.NetPortGradient("z")])
        want = np.ones((n, n)) @ feeds["z"][:, 0].T
        np.testing.assert_allclose(found["x"][:, 0], want, rtol=1e-4, atol=1e-6)
        assert f.jacobian(feeds, "x", of="y").shape == (*f(feeds).shape, n, 1, 3)


BY_VALUES = """g (float[N,2] x, float[A,B,C] z) => (float y, float k)
<float zero = {0}, int64[1] last = {-1}> {
  s = ReduceSum<keepdims = 0>(x, last) c = Greater(s, zero) rows = Compress<axis = 0>(x, c)
  h = Squeeze(rows) y = ReduceL2<axes = [-1], keepdims = 0>(h) v = Squeeze(z) k = MatMul(v, v)
}"""


def test_ranks_that_depend_on_values() -> None:
    """One row passes, or two, of feeds of equal shapes: the rank is checked as the net runs."""
    model = net(BY_VALUES)
    one = {"x": np.float32([[1, 2], [-1, -2]]), "z": np.ones((1, 2, 2), np.float32)}
    two = {**one, "x": np.float32([[1, 2], [3, 4]])}
    want = two["x"] / np.linalg.norm(two["x"], axis=1, keepdims=True)
    f, ask = og.Net(model), [og.NetPortGradient("x"), og.NetPortGradient("z")]
    for feeds in (one, two, one, two):
        found = f(feeds, ask)["x"]
        np.testing.assert_allclose(found[0], [0.2**0.5, 2 * 0.2**0.5], rtol=1e-6)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    backward = og.gradient(model, ["x", "z"], of=["y", "k"], example=one)
    run(backward, one)
    with pytest.raises(Exception, match="h/Reshape"):  # onnxruntime's own
        run(backward, two)


def test_a_scan_over_results_of_unknown_rank_is_refused() -> None:
    model = net("g (float[2,1,2] x, bool b) => (float[2] y) { c = Constant<value_ints = [1]>() "
    "h = If(b)<then_branch = p () => (float[A] s) { s = Squeeze(x, c) }, "
    "else_branch = q () => (float[A] t) { t = Sin(x) }> y = Sin(h) }")  # fmt: skip
    with pytest.raises(og.NoRuleError, match=r"rank of .* is not known"):
        og.vmap(model, batched="x")


# -- the table of samples, no input of which declares a shape --------------------------------------

# Operators whose mathematics differs by rank, where operands of such a rank are all they have.
RANKED = {
    "Attention", "CenterCropPad", "Conv", "ConvTranspose", "DFT", "DeformConv", "DequantizeLinear",
    "Det", "DynamicQuantizeLinear", "Einsum", "GridSample", "LinearAttention", "MatMul", "Pad",
    "Resize", "RotaryEmbedding", "STFT", "TensorScatter",
}  # fmt: skip


def unranked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the shapes of its floating-point inputs and of its outputs."""
    floating = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    for port in (*model.graph.input, *model.graph.output):
        if port.type.tensor_type.elem_type in floating:
            port.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("sample", SAMPLES[::3], ids=sample_id)
def test_no_input_declares_a_shape(sample: Sample) -> None:
    model, feeds = sample_model(sample, symbolic=False, fed=False)
    wrt, of = floats(sample), float_outputs(model, sample)
    if not wrt or not of:
        pytest.skip("nothing to differentiate")
    known = og.gradient(model, wrt, of=of, forward=False, unreachable="zeros")
    model = unranked(model)
    try:
        found = og.gradient(model, wrt, of=of, forward=False, unreachable="zeros")
    except og.NoRuleError as error:
        assert sample.op in RANKED
        assert "example=" in str(error)
        return
    for got, want in zip(
        runner_of(sample)(found)(feeds), runner_of(sample)(known)(feeds), strict=True
    ):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
