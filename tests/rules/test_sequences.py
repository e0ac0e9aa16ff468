"""Sequences, known element by element or at run time only, and states whose shape changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import accept, close, directional, inner, runner
from tests.rules.test_control_flow import undeclared
from tests.rules.test_rules import validate, vjp_error

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'
ZERO, ONE, LAST = (
    f"{n} = Constant<value = int64 {{{v}}}>()" for n, v in (("i", 0), ("j", 1), ("l", -1))
)

NETS = {
    "construct": f"s = SequenceConstruct(x, z) {ONE} a = SequenceAt(s, j) y = Mul(a, x)",
    "twice": f"s = SequenceConstruct(x, z) {ZERO} {LAST} a = SequenceAt(s, i) "
    "b = SequenceAt(s, l) c = SequenceAt(s, i) ab = Mul(a, b) y = Mul(ab, c)",
    "insert and erase": f"e = SequenceEmpty() s = SequenceInsert(e, x) {ZERO} "
    "t = SequenceInsert(s, z, i) u = SequenceErase(t) a = SequenceAt(u, i) y = Mul(a, x)",
    "concat": "s = SequenceConstruct(x, z, x) c = ConcatFromSequence<axis = 1>(s) y = Mul(c, c)",
    "stack": "s = SequenceConstruct(x, z) c = ConcatFromSequence<axis = 0, new_axis = 1>(s) "
    "y = Mul(c, c)",
    "split": f"s = SplitToSequence<axis = 1>(x) {ONE} a = SequenceAt(s, j) y = Mul(a, z)",
    "unstack": f"s = SplitToSequence<axis = 1, keepdims = 0>(x) {LAST} a = SequenceAt(s, l) "
    "y = Mul(a, a)",
    "chunks": f"n = Constant<value = int64 {{3}}>() s = SplitToSequence<axis = 1>(x, n) {ONE} "
    "a = SequenceAt(s, j) b = Mul(a, a) y = Identity(b)",
    "sizes": f"n = Constant<value = int64[2] {{1, 3}}>() s = SplitToSequence<axis = -1>(x, n) "
    f"{ONE} a = SequenceAt(s, j) y = Mul(a, a)",
    "optional": "o = Optional(x) a = OptionalGetElement(o) y = Mul(a, z)",
    "optional of a sequence": f"s = SequenceConstruct(x, z) o = Optional(s) "
    f"t = OptionalGetElement(o) {ONE} a = SequenceAt(t, j) y = Mul(a, x)",
    "no optional": "a = OptionalGetElement(x) y = Mul(a, z)",
}


@pytest.mark.parametrize("name", NETS)
def test_gradient(name: str) -> None:
    unknown = "A, B, C" if name == "stack" else "A" if name == "unstack" else "A, B"
    text = f"{HEAD} net (float[2, 4] x, float[2, 4] z) => (float[{unknown}] y) {{ {NETS[name]} }}"
    model = onnx.parser.parse_model(text)
    full = og.gradient(model, ["x", "z"], ograd=True, forward=False, unreachable="zeros")
    accept(full)
    assert not any("Sequence" in n.op_type or "Optional" in n.op_type for n in full.graph.node)
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((2, 4)).astype(np.float32) for n in "xz"}
    run = runner(model)
    seed = rng.standard_normal(run(feeds)[0].shape).astype(np.float32)
    directions = [rng.standard_normal((2, 4)).astype(np.float32) for _ in "xz"]
    gradients = runner(full)(feeds | {"y_ograd": seed})
    (slope,) = directional(run, feeds, "xz", directions, 1e-2)
    assert close(inner(gradients, directions), inner([seed], [slope]), 1e-3)


# -- what is known at run time only ----------------------------------------------------------------

TEXT = HEAD + " net (double[N] x, double[2] w, int64 i, int64 k) => (double[K] y) <bool t = {1}> "
LOOP = "Loop <body = b (int64 j, bool c, "
STEP = "d = Identity(c)"
AT_RUN_TIME = {
    "split and take": "{ s = SplitToSequence<axis = 0, keepdims = 0>(x) a = SequenceAt(s, i) "
    "b = Mul(a, w) y = Mul(b, a) }",
    "chunks and all": "{ s = SplitToSequence(x, k) n = SequenceInsert(s, w) "
    "c = ConcatFromSequence<axis = 0>(n) y = Sin(c) }",
    "insert": "{ s = SequenceConstruct(x, w, x) n = SequenceInsert(s, w, i) "
    "c = ConcatFromSequence<axis = -1>(n) y = Mul(c, c) }",
    "erase": "{ s = SequenceConstruct(x, w, x) n = SequenceErase(s, i) "
    "c = ConcatFromSequence<axis = 0>(n) y = Mul(c, c) }",
    "erase the last": "{ s = SequenceConstruct(x, w) n = SequenceInsert(s, x, i) "
    "m = SequenceErase(n) c = ConcatFromSequence<axis = 0>(m) y = Mul(c, c) }",
    "map": "{ s = SplitToSequence(x, k) "
    "m = SequenceMap <body = b (double[A] a) => (double[A] o) { p = Sin(a) q = ReduceSum(w) "
    "o = Mul(p, q) }> (s) y = ConcatFromSequence<axis = 0>(m) }",
    "map of several": "{ s = SplitToSequence(x, k) u = SplitToSequence(x, k) "
    "m, n = SequenceMap <body = b (double[A] a, double[A] b, double[2] v) => "
    "(double[A] o, double[2] r) { o = Mul(a, b) q = ReduceSum(o) r = Mul(q, v) }> (s, u, w) "
    "c = ConcatFromSequence<axis = 0>(m) e = ConcatFromSequence<axis = 0>(n) "
    "y = Concat<axis = 0>(c, e) }",
    "map of known ones": "{ s = SequenceConstruct(x, w) "
    "m = SequenceMap <body = b (double[A] a) => (double[A] o) { p = ReduceSum(w) o = Mul(a, p) }> "
    "(s) c = ConcatFromSequence<axis = 0>(m) y = Mul(c, c) }",
    "collect": f"{{ e = SequenceEmpty<dtype = 11>() v, s = {LOOP} double[2] u, seq(double[A]) r) "
    f"=> (bool d, double[2] o, seq(double[A]) q) {{ {STEP} o = Sin(u) p = Mul(o, w) "
    "q = SequenceInsert(r, p) }> (k, t, w, e) c = ConcatFromSequence<axis = 0>(s) "
    "y = Concat<axis = 0>(x, v, c) }",
    "collect onto some": f"{{ e = SequenceConstruct(x, w) s = {LOOP} seq(double[A]) r) "
    f"=> (bool d, seq(double[A]) q) {{ {STEP} f = Cast<to = 11>(j) p = Mul(w, f) "
    "u = Mul(p, w) q = SequenceInsert(r, u) }> (k, t, e) c = ConcatFromSequence<axis = 0>(s) "
    "y = Sin(c) }",
    "read in a loop": f"{{ s = SplitToSequence<keepdims = 0>(x) y = {LOOP} double[2] u) "
    f"=> (bool d, double[2] o) {{ {STEP} a = SequenceAt(s, j) p = Sin(u) o = Mul(p, a) }}> "
    "(k, t, w) }",
    "grow": f"{{ y = {LOOP} double[A] u) => (bool d, double[B] o) {{ {STEP} p = Sin(u) "
    "q = ReduceSum(p) r = Mul(w, q) o = Concat<axis = 0>(u, r) }> (k, t, x) }",
    "grow and scan": f"{{ v, z = {LOOP} double[A] u) => (bool d, double[B] o, double[2] m) "
    f"{{ {STEP} p = Sin(u) q = ReduceSum(p) m = Mul(w, q) o = Concat<axis = 0>(u, m) }}> "
    "(k, t, x) l = Constant<value_ints = [1]>() a = ReduceSum<keepdims = 0>(z, l) "
    "y = Concat<axis = 0>(v, a) }",
    "grow while short": f"{{ y = {LOOP} double[A] u) => (bool d, double[B] o) {{ p = Sin(u) "
    "q = ReduceSum(p) r = Mul(w, q) o = Concat<axis = 0>(u, r) n = Size(o) "
    "most = Constant<value_int = 11>() d = Less(n, most) }> (, t, x) }",
    "grow a matrix": "{ axes = Constant<value_ints = [0, 1]>() m = Unsqueeze(x, axes) "
    f"z = {LOOP} double[1, A, N] u) => (bool d, double[1, B, N] o) {{ {STEP} p = Sin(u) "
    "one = Constant<value_ints = [1]>() q = ReduceSum(p, one) e = ReduceSum(w) r = Mul(q, e) "
    "o = Concat<axis = 1>(u, r) }> (k, t, m) y = ReduceSum<keepdims = 0>(z, axes) }",
    "grow in a loop": f"{{ y = {LOOP} double[2] u) => (bool d, double[2] o) {{ {STEP} "
    "two = Constant<value_int = 2>() g = Loop <body = h (int64 l, bool f, double[C] v) => "
    "(bool e, double[D] b) { e = Identity(f) p = Sin(v) s = ReduceSum(p) "
    "r = Mul(u, s) b = Concat<axis = 0>(v, r) }> (two, c, x) q = ReduceSum(g) o = Mul(u, q) }> "
    "(k, t, w) }",
    "collect in a branch": "{ zero = Constant<value_int = 0>() b = Less(zero, k) "
    "y = If <then_branch = f () => (double[P] q) { e = SequenceEmpty<dtype = 11>() "
    f"s = {LOOP} seq(double[A]) r) => (bool d, seq(double[A]) q) {{ {STEP} u = Mul(w, w) "
    "q = SequenceInsert(r, u) }> (k, t, e) c = ConcatFromSequence<axis = 0>(s) q = Sin(c) }, "
    "else_branch = g () => (double[P] p) { p = Mul(x, x) }> (b) }",
    "shrink": f"{{ y = {LOOP} double[A] u) => (bool d, double[B] o) {{ {STEP} "
    "one = Constant<value_ints = [1]>() end = Constant<value_ints = [9]>() "
    "m = Slice(u, one, end) p = ReduceSum(w) o = Mul(m, p) }> (k, t, x) }",
    "positions that grow": f"{{ zero = Constant<value_ints = [0]>() n, y = {LOOP} int64[A] a, "
    f"double[2] u) => (bool d, int64[B] b, double[2] o) {{ {STEP} g = Gather(x, a) "
    "p = ReduceSum(g) o = Mul(u, p) one = Constant<value_ints = [1]>() "
    "b = Concat<axis = 0>(a, one) }> (k, t, zero, w) }",
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", AT_RUN_TIME)
def test_at_run_time(name: str, order: int) -> None:
    model = onnx.parser.parse_model(TEXT + AT_RUN_TIME[name])
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal(5), "w": rng.standard_normal(2)}
    feeds |= {"i": np.array(-1), "k": np.array(2)}
    for _ in range(order - 1):
        model = og.gradient(model, ["x", "w"], forward=False, unreachable="zeros")
    backward = og.gradient(model, ["x", "w"], ograd=True, unreachable="zeros")
    validate(backward)
    # Without a step a list of nothing cannot be concatenated.
    for steps in (0, 2) if "Loop" in AT_RUN_TIME[name] and name != "collect" else (2,):
        feeds["k"] = np.array(steps)
        analytic, numeric = vjp_error(model, backward, feeds, rng, runner)
        assert close(analytic, numeric, 1e-6), (steps, analytic, numeric)


def untyped(graph: onnx.GraphProto) -> None:
    """Take the types from the states and outputs of every inner graph, as torch's exporter does."""
    for node in graph.node:
        for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            untyped(body)
            for info in [*body.input[2:], *body.output]:
                info.ClearField("type")


def numbered_by_vectors(graph: onnx.GraphProto) -> None:
    """Declare the number of a step as a vector of one, as which onnxruntime then gives it."""
    for node in graph.node:
        for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            numbered_by_vectors(body)
            if node.op_type == "Loop":
                body.input[0].type.tensor_type.shape.dim.add().dim_value = 1


GROW = [n for n in AT_RUN_TIME if "grow" in n or n == "shrink"]
COLLECT = [n for n in AT_RUN_TIME if "collect" in n]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((n, undeclared) for n in GROW),
        *((n, untyped) for n in [*COLLECT, *GROW]),
        *((n, numbered_by_vectors) for n in [*COLLECT, *GROW]),
    ],
)
def test_as_exporters_declare(name: str, change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.parser.parse_model(TEXT + AT_RUN_TIME[name])
    change(model.graph)
    backward = og.gradient(model, ["x", "w"], ograd=True, unreachable="zeros")
    validate(backward)
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal(5), "w": rng.standard_normal(2)}
    feeds |= {"i": np.array(-1), "k": np.array(2)}
    analytic, numeric = vjp_error(model, backward, feeds, rng, runner)
    assert close(analytic, numeric, 1e-6), (analytic, numeric)


@pytest.mark.parametrize("name", ["split and take", "insert", "collect", "grow"])
def test_checkpoints(name: str) -> None:
    """What is computed again waits for a cotangent, which can be a sequence."""
    model = onnx.parser.parse_model(TEXT + AT_RUN_TIME[name])
    feeds = {"x": np.arange(5.0), "w": np.array([0.5, 2]), "i": np.array(1), "k": np.array(2)}
    for first, second in zip(
        *(runner(og.gradient(model, "x", checkpoints=c))(feeds) for c in (False, True)),
        strict=True,
    ):
        np.testing.assert_array_equal(first, second)
