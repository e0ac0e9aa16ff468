"""If, Loop and Scan: first and second order against central differences, nested and captured."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Feeds, accept, close, runner
from tests.rules.test_rules import validate, vjp_error

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
RNG = np.random.default_rng(1)

SCAN = """g (double[N,3] x, double[3] s, double[3] w) => (double[3] y, double[N,3] z) {
  y, z = Scan <num_scan_inputs = 1,
    body = b (double[3] si, double[3] xi) => (double[3] so, double[3] o) {
    p = Mul(w, xi)
    q = Mul(si, xi)
    so = Tanh(q)
    o = Mul(so, p)
  }> (s, x)
}"""
SCAN_AXES = """g (double[3,N] x, double[3] s, double[3] w) => (double[3] y, double[3,N] z) {
  y, z = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
    scan_output_axes = [1], scan_output_directions = [1],
    body = b (double[3] si, double[3] xi) => (double[3] so, double[3] o) {
      q = Mul(si, xi)
      so = Sin(q)
      o = Mul(so, w)
    }> (s, x)
}"""
IF = """g (double[N,3] x, bool c, double[3] w) => (double[N,3] y) {
  h = Tanh(x)
  y = If <
    then_branch = a () => (double[N,3] t) { t = Mul(h, w) },
    else_branch = b () => (double[N,3] e) { e0 = Mul(h, h)
      e = Mul(e0, x) }
  > (c)
}"""
LOOP = """g (double[3] x, int64 M, double[3] w) => (double[3] y, double[K,3] z) <bool t = {1}> {
  y, z = Loop <body = a (int64 i, bool ci, double[3] v) => (bool co, double[3] vo, double[3] o) {
    co = Identity(ci)
    p = Mul(v, w)
    vo = Sin(p)
    o = Mul(vo, vo)
  }> (M, t, x)
}"""
# Ends when the state grows above 3: the trip count depends on the data.
WHILE = """g (double[1] x, double[1] w) => (double[1] y) <bool t = {1}, double[1] three = {3}> {
  y = Loop <body = a (int64 i, bool ci, double[1] v) => (bool co, double[1] vo) {
    vo = Mul(v, w)
    less = Less(vo, three)
    zero = Constant <value_ints = [0]> ()
    co = Squeeze(less, zero)
  }> (, t, x)
}"""
# A branch inside a loop, which captures from both scopes around it.
NESTED = """g (double[3] x, int64 M, double[3] w) => (double[3] y) <bool t = {1}, int64 two = {2}> {
  h = Mul(x, w)
  y = Loop <body = a (int64 i, bool ci, double[3] v) => (bool co, double[3] vo) {
    co = Identity(ci)
    even = Less(i, two)
    p = Sin(v)
    vo = If <
      then_branch = b () => (double[3] q) { q = Mul(p, h) },
      else_branch = c () => (double[3] r) { r = Mul(v, w) }
    > (even)
  }> (M, t, x)
}"""
# Branches that show what they capture in other shapes, one of them by another If.
SHOWN = """g (double[N,1,3] x, bool c) => (double[K] y) <int64[1] one = {1}, int64[1] all = {-1}> {
  h = Sin(x)
  a, b = If <
    then_branch = t () => (double[N,3] p, double[N,3] q) { p = Squeeze(h, one)
      q = Mul(p, p) },
    else_branch = e () => (double[N,1,3] r, double[N,1,3] s) {
      r = If < then_branch = tt () => (double[N,3] u) { u = Squeeze(h, one) },
               else_branch = ee () => (double[N,1,3] v) { v = Identity(h) } > (c)
      s = Exp(h) }
  > (c)
  f = Reshape(a, all)
  g = Reshape(b, all)
  y = Mul(f, g)
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


CASES = {
    "scan": (SCAN, {"x": normal(4, 3), "s": normal(3), "w": normal(3)}, ["x", "s", "w"]),
    "scan axes": (SCAN_AXES, {"x": normal(3, 4), "s": normal(3), "w": normal(3)}, ["x", "s", "w"]),
    "then": (IF, {"x": normal(4, 3), "c": np.array(True), "w": normal(3)}, ["x", "w"]),
    "else": (IF, {"x": normal(4, 3), "c": np.array(False), "w": normal(3)}, ["x", "w"]),
    "loop": (LOOP, {"x": normal(3), "M": np.array(3), "w": normal(3)}, ["x", "w"]),
    "loop of no step": (LOOP, {"x": normal(3), "M": np.array(0), "w": normal(3)}, ["x", "w"]),
    "while": (WHILE, {"x": np.array([0.5]), "w": np.array([1.7])}, ["x", "w"]),
    "shown": (SHOWN, {"x": normal(4, 1, 3), "c": np.array(False)}, ["x"]),
    "nested": (NESTED, {"x": normal(3), "M": np.array(4), "w": normal(3)}, ["x", "w"]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("order", [1, 2])
def test_against_differences(name: str, order: int) -> None:
    text, feeds, wrt = CASES[name]
    model = onnx.parser.parse_model(HEAD + text)
    accept(model)
    for _ in range(order - 1):
        model = og.gradient(model, wrt, forward=False)
    backward = og.gradient(model, wrt, ograd=True, unreachable="zeros")
    validate(backward)
    compare(model, backward, feeds)


def compare(model: onnx.ModelProto, backward: onnx.ModelProto, feeds: Feeds) -> None:
    analytic, numeric = vjp_error(model, backward, feeds, np.random.default_rng(0), runner)
    assert close(analytic, numeric, 1e-6), (analytic, numeric)


def undeclared(graph: onnx.GraphProto) -> None:
    """Take the shapes of its states from every Loop, as exporters leave them out."""
    for node in graph.node:
        for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            undeclared(body)
            if node.op_type == "Loop":
                for info in [*body.input[2:], *body.output[1 : len(body.input) - 1]]:
                    info.type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("name", ["loop", "loop of no step", "while", "nested"])
def test_states_of_undeclared_shape(name: str) -> None:
    text, feeds, wrt = CASES[name]
    model = onnx.parser.parse_model(HEAD + text)
    undeclared(model.graph)
    backward = og.gradient(model, wrt, ograd=True)
    validate(backward)
    assert "Scan" in str(backward)  # the shapes do not change, and it is known that they do not
    compare(model, backward, feeds)


def test_missing_rule_inside() -> None:
    """A refusal names the operator inside the graph, not only the node that holds it."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "com.acme": 1]>'
        """g (float[3] x, bool c) => (float[3] y) {
          y = If <
            then_branch = a () => (float[3] t) { t = com.acme.Strange(x) },
            else_branch = b () => (float[3] e) { e = Neg(x) }
          > (c)
        }"""
    )
    with pytest.raises(og.NoRuleError, match=r"com\.acme::Strange"):
        og.gradient(model)


DRAWS = {
    "Loop": """g (float[3] x, int64 n) => (float[3] y) <bool t = {1}> {
      y = Loop <body = a (int64 i, bool ci, float[3] v) => (bool co, float[3] vo) {
        co = Identity(ci)
        r = RandomNormalLike(v)
        vo = Mul(v, r)
      }> (n, t, x)
    }""",
    "If": """g (float[3] x, bool c) => (float[3] y) <float half = {0.5}> {
      y = If <
        then_branch = a () => (float[3] t) { t = Dropout(x, half, c) },
        else_branch = b () => (float[3] e) { e = Neg(x) }
      > (c)
    }""",
}


@pytest.mark.parametrize("operator", DRAWS)
def test_random_numbers_inside_are_not_drawn_again(operator: str) -> None:
    with pytest.raises(og.NoRuleError, match="would draw other numbers"):
        og.gradient(onnx.parser.parse_model(HEAD + DRAWS[operator]))


def test_random_numbers_inside_that_are_not_needed_again() -> None:
    text = DRAWS["Loop"].replace("Mul(v, r)", "Add(v, r)")
    backward = og.gradient(onnx.parser.parse_model(HEAD + text), forward=False)
    (g,) = runner(backward)({"x": np.ones(3, np.float32), "n": np.array(2)})
    assert g.tolist() == [1, 1, 1]


def test_a_path_through_a_sequence_is_refused_or_right() -> None:
    """A sequence of floating-point tensors is no dead end: zero would be silent and wrong."""
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[3] x) => (float[3] y) <int64 first = {0}> {
          s = SequenceConstruct(x, x)
          y = SequenceAt(s, first)
        }"""
    )
    try:
        backward = og.gradient(model)
    except og.NoRuleError as error:
        assert "Sequence" in str(error)
    else:
        got = runner(backward)({"x": np.ones(3, np.float32)})
        assert got[1].tolist() == [1, 1, 1]
