"""Values that pass branches and loops unchanged: an input of a body, an outer tensor, one twice.

onnxruntime's own forward pass gives other numbers for some of these files and refuses others. What
is made of them is right on every runtime, so the values are compared with numpy's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Array, Feeds, Run, directional, inner, reference, runner
from tests.rules.test_rules import validate

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
X, W = np.array([0.4, -1.2]), np.array([1.5, 0.7])
ROWS = np.array([[1.5, -0.2], [0.3, 0.4], [-0.5, 0.6]])

LOOP = """g (double[2] x, double[2] w, int64 n) => (double[2] y, double[2] z) <bool t = {1}> {
  y, z = Loop <body = b (int64 i, bool c, double[2] s, double[2] k)
    => (bool c, double[2] OUT0, double[2] OUT1) { BODY }> (n, t, x, w)
}"""
SCAN = """g (double[2] x, double[3,2] w) => (double[2] y, double[3,2] z) {
  y, z = Scan <num_scan_inputs = 1, body = b (double[2] s, double[2] k)
    => (double[2] OUT0, double[2] OUT1) { BODY }> (x, w)
}"""
IF = """g (double[2] x, double[2] w, bool c) => (double[2] y, double[2] z) {
  h = Sin(x)
  y, z = If <then_branch = a () => (double[2] OUT0, double[2] OUT1) { BODY },
    else_branch = b () => (double[2] e, double[2] f) { e = Mul(h, w)  f = Exp(w) }> (c)
}"""
NESTED = """g (double[2] x, double[2] w, int64 n) => (double[2] y, double[2] z) <bool t = {1}> {
  h = Sin(x)
  y, z = Loop <body = b (int64 i, bool c, double[2] s, double[2] k)
    => (bool c, double[2] p, double[2] k) {
      one = Constant <value_int = 1> ()
      first = Less(i, one)
      p, q = If (first) <then_branch = d () => (double[2] OUT0, double[2] OUT1) { BODY },
        else_branch = e () => (double[2] u, double[2] v) { u = Mul(s, k)  v = Exp(s) }>
  }> (n, t, x, w)
}"""
LOOPED: Feeds = {"x": X, "w": W, "n": np.array(3)}
SCANNED: Feeds = {"x": X, "w": ROWS}
BRANCHED: Feeds = {"x": X, "w": W, "c": np.array(True)}

# What the inner graph gives out and how it makes that; what y and z are.
CASES: dict[str, tuple[str, str, str, Feeds, Callable[[Array, Array], tuple[Array, Array]]]] = {
    "loop a state": (LOOP, "p k", "p = Mul(s, k)", LOOPED, lambda x, w: (x * w**3, w)),
    "loop all": (LOOP, "s k", "", LOOPED, lambda x, w: (x, w)),
    "loop exchanged": (LOOP, "k s", "", LOOPED, lambda x, w: (w, x)),
    "loop twice": (LOOP, "p p", "p = Mul(s, k)", LOOPED, lambda x, w: ((x * w) ** 4,) * 2),
    "loop a capture": (LOOP, "x p", "p = Mul(s, k)", LOOPED, lambda x, w: (x, x**3 * w)),
    "loop of no step": (
        *(LOOP, "p k", "p = Mul(s, k)", LOOPED | {"n": np.array(0)}),
        lambda x, w: (x, w),
    ),
    "scan a slice": (SCAN, "p k", "p = Mul(s, k)", SCANNED, lambda x, w: (x * w.prod(0), w)),
    "scan a state": (SCAN, "s p", "p = Mul(s, k)", SCANNED, lambda x, w: (x, x * w)),
    "scan a slice into the state": (
        *(SCAN, "k s", "", SCANNED),
        lambda x, w: (w[2], np.stack([x, w[0], w[1]])),
    ),
    "scan a state before its step": (
        *(SCAN, "p s", "p = Mul(s, k)", SCANNED),
        lambda x, w: (x * w.prod(0), np.stack([x, x * w[0], x * w[0] * w[1]])),
    ),
    "scan nothing read": (
        *(SCAN, "p s", "p = Neg(s)", SCANNED),
        lambda x, w: (-x, np.stack([x, -x, x])),
    ),
    "if an outer tensor": (
        *(IF, "h p", "p = Mul(h, w)", BRANCHED),
        lambda x, w: (np.sin(x), np.sin(x) * w),
    ),
    "if inputs": (IF, "x w", "", BRANCHED, lambda x, w: (x, w)),
    "if an outer tensor twice": (IF, "h h", "", BRANCHED, lambda x, w: (np.sin(x),) * 2),
    "if one of its own twice": (
        *(IF, "p p", "p = Mul(h, w)", BRANCHED),
        lambda x, w: (np.sin(x) * w,) * 2,
    ),
    "if a constant": (
        *(IF, "p h", "p = Constant <value = double[2] {1, 2}> ()", BRANCHED),
        lambda x, w: (np.array([1.0, 2.0]), np.sin(x)),
    ),
    "if not taken": (
        *(IF, "h x", "", BRANCHED | {"c": np.array(False)}),
        lambda x, w: (np.sin(x) * w, np.exp(w)),
    ),
    "if in a loop": (NESTED, "h s", "", LOOPED, lambda x, w: (np.sin(x) * w * w, w)),
}
RUNTIMES = {"onnxruntime": runner, "reference": reference}
BOTH = [
    (name, runtime)
    for name in CASES
    for runtime in RUNTIMES
    if (name, runtime) != ("loop of no step", "reference")  # which cannot concatenate no slices
]


def case_of(name: str) -> tuple[onnx.ModelProto, Feeds, Run]:
    """The model, its feeds, and numpy's function of those."""
    text, outputs, body, feeds, function = CASES[name]
    for k, v in enumerate(outputs.split()):
        text = text.replace(f"OUT{k}", v)
    model = onnx.parser.parse_model(HEAD + text.replace("BODY", body))
    return model, feeds, lambda f: list(function(f["x"], f["w"]))


def like(arrays: list[Array], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(a.shape) for a in arrays]


@pytest.mark.parametrize(("name", "runtime"), BOTH)
def test_first_order(name: str, runtime: str) -> None:
    model, feeds, function = case_of(name)
    backward = og.gradient(model, ["x", "w"], ograd=True, unreachable="zeros")
    validate(backward)
    seeds, moves = like(function(feeds), 0), like([feeds["x"], feeds["w"]], 1)
    given = {f"{n}_ograd": s for n, s in zip("yz", seeds, strict=True)}
    y, z, *gradients = RUNTIMES[runtime](backward)(feeds | given)
    for got, wanted in zip([y, z], function(feeds), strict=True):
        np.testing.assert_allclose(got, wanted)
    change = directional(function, feeds, ["x", "w"], moves, 1e-3)
    assert inner(gradients, moves) == pytest.approx(inner(seeds, change), 1e-8)


@pytest.mark.parametrize(("name", "runtime"), BOTH)
def test_second_order(name: str, runtime: str) -> None:
    model, feeds, _ = case_of(name)
    first = og.gradient(model, ["x", "w"], forward=False, unreachable="zeros")
    second = og.gradient(first, ["x", "w"], forward=False, ograd=True, unreachable="zeros")
    validate(second)
    seeds, moves = (like([feeds["x"], feeds["w"]], k) for k in (0, 1))
    given = {f"{n}_grad_ograd": s for n, s in zip("xw", seeds, strict=True)}
    gradients = RUNTIMES[runtime](second)(feeds | given)
    change = directional(RUNTIMES[runtime](first), feeds, ["x", "w"], moves, 1e-3)
    assert inner(gradients, moves) == pytest.approx(inner(seeds, change), 1e-8, 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_forward_mode(name: str) -> None:
    model, feeds, function = case_of(name)
    forward = og.jvp(model, ["x", "w"], forward=False)
    validate(forward)
    moves = like([feeds["x"], feeds["w"]], 1)
    got = runner(forward)(feeds | {"x_tangent": moves[0], "w_tangent": moves[1]})
    for a, b in zip(got, directional(function, feeds, ["x", "w"], moves, 1e-3), strict=True):
        np.testing.assert_allclose(a, b, 1e-8, 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_vmap(name: str) -> None:
    model, feeds, function = case_of(name)
    many = og.vmap(model, batched=["x", "w"])
    validate(many)
    other = {"x": feeds["x"] + 1, "w": feeds["w"] * 2}
    got = runner(many)(feeds | {n: np.stack([feeds[n], other[n]]) for n in "xw"})
    for k, f in enumerate([feeds, other]):
        for a, b in zip(got, function(f), strict=True):
            np.testing.assert_allclose(a[k], b)


@pytest.mark.parametrize("name", CASES)
def test_net(name: str) -> None:
    model, feeds, function = case_of(name)
    got = og.Net(model)(feeds)
    for n, wanted in zip("yz", function(feeds), strict=True):
        np.testing.assert_allclose(got[n], wanted)


def test_too_few_outputs() -> None:
    """A body that gives less than the node takes is named."""
    model, _, _ = case_of("loop all")
    body = model.graph.node[0].attribute[0].g
    del body.output[-1]
    with pytest.raises(og.ModelError, match=r"operator Loop, node .* 2 outputs"):
        og.gradient(model, ["x"])


def test_an_output_that_nothing_gives() -> None:
    model, _, _ = case_of("if inputs")
    model.graph.node[1].attribute[0].g.output[0].name = "hh"
    with pytest.raises(og.ModelError, match=r"nothing gives the output 'hh'.*'h'"):
        og.gradient(model, ["x"])


def test_an_input_listed_twice() -> None:
    model, _, _ = case_of("if inputs")
    model.graph.input.append(model.graph.input[0])
    with pytest.raises(og.ModelError, match="input 'x' twice"):
        og.gradient(model, og.ALL)
