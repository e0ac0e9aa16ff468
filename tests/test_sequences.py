"""Sequences that are known element by element, against the same net without them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import close, directional, inner, runner

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
    onnx.checker.check_model(full, full_check=True)
    assert not any("Sequence" in n.op_type or "Optional" in n.op_type for n in full.graph.node)
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((2, 4)).astype(np.float32) for n in "xz"}
    run = runner(model)
    seed = rng.standard_normal(run(feeds)[0].shape).astype(np.float32)
    directions = [rng.standard_normal((2, 4)).astype(np.float32) for _ in "xz"]
    gradients = runner(full)(feeds | {"y_ograd": seed})
    (slope,) = directional(run, feeds, "xz", directions, 1e-2)
    assert close(inner(gradients, directions), inner([seed], [slope]), 1e-3)


def test_a_split_of_unknown_size_is_refused_with_the_reason() -> None:
    text = f"""{HEAD} net (float[N] x) => (float[M] y) {{
        s = SplitToSequence(x)
        {ZERO}
        y = SequenceAt(s, i)
    }}"""
    with pytest.raises(og.NoRuleError, match="how many parts"):
        og.gradient(onnx.parser.parse_model(text))


def test_a_position_known_at_run_time_is_refused_with_the_reason() -> None:
    text = f"""{HEAD} net (float[N] x, int64 i) => (float[M] y) {{
        s = SequenceConstruct(x, x)
        y = SequenceAt(s, i)
    }}"""
    with pytest.raises(og.NoRuleError, match="a later use"):
        og.gradient(onnx.parser.parse_model(text))
