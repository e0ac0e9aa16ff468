"""Stop-gradient: a net with `constant` is the net in which an input takes that tensor's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Array, runner

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'

# By name: the net, of double x [2,3], whose tensor `h` is the constant.
NETS = {
    "beside": """g (double[N,3] x) => (double[N,3] y) {
        h = Exp(x) t = Tanh(x) y = Mul(h, t) }""",
    "twice the same node": """g (double[N,3] x) => (double[N,3] y) {
        h = Cos(x) s = Sin(x) y = Mul(s, h) }""",
    "of an output": """g (double[N,3] x) => (double[N,3] y, double[N,3] h) {
        h = Sin(x) t = Mul(h, x) y = Mul(t, t) }""",
    "one of two outputs": """g (double[N,3] x) => (double[N,3] y) <double[3] s = {1.0, 2.0, 3.0}> {
        n, h = LayerNormalization(x, s) m = Cast <to = 11> (h) a = Mul(n, m) y = Mul(a, x) }""",
    "captured by a branch": """g (double[N,3] x) => (double[N,3] y)
      <bool c = {1}> {
        h = Exp(x)
        b = If <
          then_branch = a () => (double[N,3] p) { q = Mul(x, h) p = Mul(q, q) },
          else_branch = e () => (double[N,3] r) { r = Identity(h) }> (c)
        y = Mul(b, h) }""",
    "captured by a loop": """g (double[N,3] x) => (double[N,3] y)
      <int64 n = {3}, bool t = {1}> {
        h = Tanh(x)
        y = Loop <body = b (int64 i, bool c, double[N,3] v) => (bool d, double[N,3] o) {
          d = Identity(c) u = Mul(v, h) w = Sin(u) o = Add(w, x) }> (n, t, x) }""",
    "a state of a loop": """g (double[N,3] x) => (double[N,3] y) <int64 n = {3}, bool t = {1}> {
        h = Tanh(x)
        z = Loop <body = b (int64 i, bool c, double[N,3] v) => (bool d, double[N,3] o) {
          d = Identity(c) u = Mul(v, x) o = Sin(u) }> (n, t, h)
        y = Mul(z, z) }""",
    "captured by a scan": """g (double[N,3] x) => (double[N,3] y) {
        h = Exp(x) axis = Constant <value = int64[1] {0}> () m = ReduceSum <keepdims = 0> (h, axis)
        k = Identity(m)
        y = Scan <num_scan_inputs = 1, body = b (double[3] v) => (double[3] o) {
          u = Mul(v, v) o = Mul(u, k) }> (x) }""",
    "another output of a recurrent net": """g (float[2,3] x) => (float[1,2] y)
      <int64[3] three = {2, 1, 3}, int64[1] one = {1}> {
        s = Reshape(x, three)
        h, last = LSTM <hidden_size = 2> (s, w, r)
        f = Squeeze(last, one)
        a = ReduceSum <keepdims = 0> (h)
        y = Mul(f, a) }""",
}
CONSTANT = {"captured by a scan": "k"}


def parse(name: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + NETS[name])
    if "recurrent" in name:
        for key, shape in {"w": (1, 8, 3), "r": (1, 8, 2)}.items():
            weight = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight, key))
    onnx.checker.check_model(model, full_check=True)
    return model


def cut(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The net with an input in the place of the tensor; it gives the tensor as `<name>_was`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    known = onnx.shape_inference.infer_shapes(model).graph
    (info,) = [v for v in (*known.value_info, *known.output) if v.name == name]
    for node in graph.node:
        node.output[:] = [f"{o}_was" if o == name else o for o in node.output]
    kept = [o for o in graph.output if o.name != name]
    del graph.output[:]
    graph.output.extend(kept)
    graph.input.append(info)
    return copy


def values(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    return dict(zip([o.name for o in model.graph.output], runner(model)(feeds), strict=True))


def fetch(model: onnx.ModelProto, name: str, feeds: dict[str, Array]) -> Array:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if name not in [o.name for o in copy.graph.output]:
        copy.graph.output.add().name = name
    return values(copy, feeds)[name]


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "gradient": og.gradient,
    "with checkpoints": lambda m, *a, **k: og.gradient(m, *a, checkpoints=True, **k),
    "hvp": og.hvp,
    "jvp": og.jvp,
    "rows": lambda m, *a, **k: og.jacobian(m, *a, mode="reverse", **k),
    "columns": lambda m, *a, **k: og.jacobian(m, *a, mode="forward", **k),
    "hessian": og.hessian,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("net", NETS)
def test_as_if_it_were_an_input(net: str, transform: str) -> None:
    model, name = parse(net), CONSTANT.get(net, "h")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    x, tangent = (np.random.default_rng(1).standard_normal((2, 2, 3)) * 0.7).astype(dtype)
    feeds = {"x": x}
    build, options = TRANSFORMS[transform], {"of": "y", "forward": False}
    got = build(model, "x", constant=name, **options)
    onnx.checker.check_model(got, full_check=True)
    want = build(cut(model, name), "x", **options)
    if transform in ("jvp", "hvp"):
        feeds["x_tangent"] = tangent
    given = feeds | {name: fetch(model, name, {"x": x})}
    given = {k: v for k, v in given.items() if k in [i.name for i in want.graph.input]}
    expected = values(want, given)
    for key, value in values(got, feeds).items():
        rtol = 1e-9 if dtype == np.float64 else 1e-4
        np.testing.assert_allclose(value, expected[key], rtol, rtol / 100, err_msg=key)
    plain = values(build(model, "x", **options), feeds)
    assert any(not np.allclose(plain[k], v, rtol=1e-3) for k, v in expected.items())


def test_nothing_of_it_is_left() -> None:
    """Names and outputs are those of the net, and a later differentiation is free."""
    model = parse("of an output")
    got = og.gradient(model, constant=["h"])
    names = [o.name for o in got.graph.output]
    assert names == ["y", "h", "x_grad"]
    assert not any(n.op_type == "Identity" for n in got.graph.node)
    free = og.gradient(got, of="y", forward=False)
    want = og.gradient(model, of="y", forward=False)
    x = {"x": np.ones((2, 3))}
    np.testing.assert_allclose(runner(free)(x), runner(want)(x))


REPLACED = {
    "a fused operator": "h = com.microsoft.BiasGelu(x, b)",
    "a function": "h = own.f(x)",
    "a branch that always runs": """s = Shape <start = 1> (x) c = Equal(s, three) k = Squeeze(c)
        h = If (k) <then_branch = t () => (float[N,3] p) { p = Exp(x) },
          else_branch = e () => (float[N,3] q) { q = Neg(x) }>""",
}


@pytest.mark.parametrize("name", REPLACED)
def test_by_the_names_of_the_file(name: str) -> None:
    """Also of what is replaced or inlined before."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "own" : 1]>
        g (float[N,3] x) => (float[N,3] y, float[N,3] h) <float[3] b = {{1.0, 2.0, 3.0}},
          int64[1] three = {{3}}> {{ {REPLACED[name]} y = Mul(h, x) }}
        <domain: "own", opset_import: ["" : 21]> f (a) => (b) {{ c = Neg(a) b = Exp(c) }}"""
    )
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    found = values(og.gradient(model, constant="h"), {"x": x})
    np.testing.assert_allclose(found["x_grad"], found["h"])


def test_given_out_by_a_branch_as_it_is() -> None:
    """Which onnxruntime takes only through an Identity."""
    text = """g (double[N,3] x) => (double[N,3] y) {
        h = Exp(x) m = ReduceMax <keepdims = 0> (x) zero = Constant <value = double {0}> ()
        c = Greater(m, zero)
        b = If (c) <then_branch = t () => (double[N,3] h) {},
          else_branch = e () => (double[N,3] q) { q = Mul(x, h) }>
        y = Mul(b, x) }"""
    got = og.gradient(onnx.parser.parse_model(HEAD + text), constant="h", forward=False)
    for x in (np.full((2, 3), 0.5), np.full((2, 3), -0.5)):
        want = np.exp(x) * (1 if x[0, 0] > 0 else 2 * x)
        np.testing.assert_allclose(runner(got)({"x": x})[0], want)


def test_by_example() -> None:
    text = """g (float[N,3] x) => (float[N,3] y) <float[3] w = {1.0, -2.0, 0.5}> {
        h = Mul(x, w) t = Tanh(h) y = Mul(h, t) }"""
    model = onnx.parser.parse_model(HEAD + text)
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    got = og.per_example_gradient(model, "w", constant="t", forward=False)
    onnx.checker.check_model(got, full_check=True)
    want = x * np.tanh(x * [1, -2, 0.5])
    np.testing.assert_allclose(runner(got)({"x": x})[0], want, rtol=1e-5)
    net = og.Net(model, constant=["t"])
    np.testing.assert_allclose(net.per_example_gradient(x)["w"], want, rtol=1e-5)


LINEAR = """g (float[N,3] x, float[N,3] z) => (float[N,3] y) <float[3] w = {1.0, -2.0, 0.5}> {
    h = Mul(x, w) r = Round(h) k = Relu(h) s = Add(r, k) y = Mul(s, z) }"""


def test_what_is_not_named_leaves_it_out() -> None:
    model = onnx.parser.parse_model(HEAD + LINEAR)
    names = [o.name for o in og.gradient(model, constant="x", forward=False).graph.output]
    assert names == ["z_grad"]
    names = [o.name for o in og.gradient(model, og.ALL, constant="w", forward=False).graph.output]
    assert names == ["x_grad", "z_grad"]


@pytest.mark.parametrize(
    ("wrt", "constant", "error", "message"),
    [
        (["x", "w"], ["z", "w"], og.ArgumentError, "'w' cannot be in wrt and in constant"),
        ("x", "hh", og.UnknownNameError, "no tensor 'hh'.*Nearest: 'h'"),
        ("x", 3, og.ArgumentError, "a name or a sequence of names is needed, not 3"),
        (None, ["x", "z"], og.ArgumentError, "no floating-point input"),
        ("x", "h", og.UnreachableError, "'x' to 'y' passes a tensor of constant: 'h'. Choose"),
        ("x", "y", og.UnreachableError, "passes a tensor of constant: 'y'"),
        ("x", "k", og.UnreachableError, "constant: 'k' or an operator of zero .*Round.*straight"),
    ],
)
def test_refusals(wrt: Any, constant: Any, error: type, message: str) -> None:
    model = onnx.parser.parse_model(HEAD + LINEAR)
    with pytest.raises(error, match=message):
        og.gradient(model, wrt, constant=constant)


def test_zeros_where_they_are_asked_for() -> None:
    model = onnx.parser.parse_model(HEAD + LINEAR)
    x = np.ones((1, 3), np.float32)
    zeros = og.gradient(model, "x", constant="h", unreachable="zeros", forward=False)
    assert not runner(zeros)({"x": x, "z": x})[0].any()


def test_sequences_are_refused() -> None:
    """The net without one whose elements are known reads those where they come from."""
    text = """g (double[4,3] x) => (double[2,3] y) <int64 i = {0}, int64 two = {2}> {
        s = Sin(x) h = SplitToSequence <axis = 0> (s, two) y = SequenceAt(h, i) }"""
    model = onnx.parser.parse_model(HEAD + text)
    with pytest.raises(og.ArgumentError, match="'h' is no tensor; name the tensors"):
        og.gradient(model, constant="h")
    with pytest.raises(og.UnreachableError, match="'y'"):
        og.gradient(model, constant="y")


def test_by_position() -> None:
    model = onnx.parser.parse_model(HEAD + LINEAR)
    free = og.gradient(model, "z", constant=[[1, "X"], "k"], forward=False)
    assert [o.name for o in free.graph.output] == ["z_grad"]
    with pytest.raises(og.UnreachableError, match="'h'"):
        og.gradient(model, "x", constant=[[1, "X"]])


def test_rounded_integers_too() -> None:
    model = onnx.parser.parse_model(
        HEAD + "g (float[N] x) => (float[N] y) { i = Cast <to = 7> (x) y = Cast <to = 1> (i) }"
    )
    og.gradient(model, straight_through=True)
    with pytest.raises(og.UnreachableError, match="constant: 'i'"):
        og.gradient(model, straight_through=True, constant="i")


def test_inspect_says_so() -> None:
    model = onnx.parser.parse_model(HEAD + LINEAR)
    report = og.inspect(model, "x", constant="h")
    assert report.unreached == ("x",)
    assert "'h' is constant" in str(report)


def test_check_holds_it() -> None:
    """Differences of a net whose tensor keeps its value, of which a gradient without it is not."""
    model = parse("captured by a loop")
    x = np.random.default_rng(1).standard_normal((2, 3))
    assert og.check(model, x, constant="h")
    assert og.check(parse("of an output"), x, constant="h")
    free = og.check(model, x).rows[0].analytic
    assert abs(free - og.check(model, x, constant="h").rows[0].analytic) > 1e-3


def test_nets_take_it_for_all_that_they_give() -> None:
    model = onnx.parser.parse_model(HEAD + LINEAR)
    x = np.array([[0.3, -1.2, 2.0]], np.float32)
    net, free = og.Net(model, constant="s"), og.Net(model)
    feeds = {"x": x, "z": x}
    np.testing.assert_array_equal(net(feeds)[0], free(feeds)[0])
    at = og.NetPortGradient("z")
    np.testing.assert_array_equal(net(feeds, at), free(feeds, at))
    with pytest.raises(og.UnreachableError, match="constant: 's'"):
        net(feeds, og.NetPortGradient("x"))
    with pytest.raises(og.UnreachableError, match="constant: 's'"):
        net.jvp(feeds, {"x": x})
    with pytest.raises(og.UnreachableError, match="constant: 's'"):
        net.hessian(feeds, ["x", "z"])
