"""Between which numbers the elements of a value lie, as far as the graph tells.

An interval holds in exact arithmetic, where no operand is NaN; only the underflow of Exp to 0 is
taken into account. Most values may be anything, and for these the search ends at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import FLOATS

Interval = tuple[float, float]

ANY: Interval = (-math.inf, math.inf)

# Larger constants are weights, which may be anything.
_SEARCHED = 1 << 16

_MOVES = {
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
    "Max", "Min", "ReduceMax", "ReduceMean", "ReduceMin", "Reshape", "Slice", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
# The intervals of operators that give them whatever their operands are.
_FIXED: dict[str, Interval] = {
    "Sigmoid": (0, 1), "HardSigmoid": (0, 1), "Softmax": (0, 1), "Tanh": (-1, 1), "Erf": (-1, 1),
    "Sin": (-1, 1), "Cos": (-1, 1), "Sign": (-1, 1), "Softsign": (-1, 1), "Softplus": (0, math.inf),
    "LogSoftmax": (-math.inf, 0),
    "Abs": (0, math.inf), "ReduceL1": (0, math.inf), "ReduceL2": (0, math.inf),
    "ReduceSumSquare": (0, math.inf), "Cosh": (1, math.inf), "Atan": (-2, 2),
    # A size may be 0, but then the tensor has no element that could be divided by it.
    "Shape": (1, math.inf), "Size": (1, math.inf),
}  # fmt: skip

V = TypeVar("V", bound=Hashable)


def decided(v: V, known: dict[V, Any], needs: Callable[[V], Sequence[V]], decide: Any) -> Any:
    """`decide(v)`, after the values that it needs have been decided and put into `known`.

    There is no recursion: a net can be deeper than Python's stack of calls.
    """
    if v in known:
        return known[v]
    stack = [v]
    while stack:
        top = stack[-1]
        if top in known:
            stack.pop()
        elif missing := [u for u in needs(top) if u not in known]:
            stack += missing
        else:
            known[top] = decide(top)
            stack.pop()
    return known[v]


class Bounds:
    """The intervals of a model's values; `of` finds one."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Interval] = {}

    def of(self, value: ir.Value) -> Interval:
        """The least and the greatest number that an element of `value` can be."""
        return decided(value, self._known, self._needs, self._decide)

    def _needs(self, v: ir.Value) -> list[ir.Value]:
        node = v.producer()
        if node is None or node.domain or node.op_type not in _RULES:
            return []
        return [u for u in node.inputs if u is not None]

    def _decide(self, v: ir.Value) -> Interval:
        node = v.producer()
        if node is not None and not node.domain and node.op_type in _FIXED:
            return _FIXED[node.op_type]
        if (extremes := _of_constant(v)) is not None:
            return extremes
        if node is None or node.domain or node.op_type not in _RULES:
            return ANY
        operands = [self._known[u] for u in node.inputs if u is not None]
        low, high = _RULES[node.op_type](node, operands)
        return (low, high) if low <= high else ANY  # NaN is neither


def _of_constant(v: ir.Value) -> Interval | None:
    tensor = None if v.is_graph_input() else ir.convenience.get_const_tensor(v)
    if tensor is not None and tensor.size > _SEARCHED:
        return None
    c = constant_of(v)
    if c is None or not c.size or c.dtype.kind not in "iufb" or (c != c).any():
        return None
    return float(c.min()), float(c.max())


def _hull(parts: Sequence[Interval]) -> Interval:
    return min(low for low, _ in parts), max(high for _, high in parts)


def _times(a: float, b: float) -> float:
    return a * b if a and b else 0.0


def _product(a: Interval, b: Interval) -> Interval:
    corners = [_times(p, q) for p in a for q in b]
    return min(corners), max(corners)


def excludes_zero(a: Interval) -> bool:
    """Whether no element can be 0."""
    return a[0] > 0 or a[1] < 0


def _inverse(a: Interval) -> Interval:
    if not excludes_zero(a):
        return (0.0, math.inf) if a[0] >= 0 else ANY
    return 1 / a[1], 1 / a[0]


def _mul(node: ir.Node, at: list[Interval]) -> Interval:
    same = node.inputs[0] is node.inputs[1]
    low, high = _product(at[0], at[1])
    return (max(low, 0.0), high) if same else (low, high)


def _div(node: ir.Node, at: list[Interval]) -> Interval:
    return (1.0, 1.0) if node.inputs[0] is node.inputs[1] else _product(at[0], _inverse(at[1]))


def _sub(node: ir.Node, at: list[Interval]) -> Interval:
    (a, b), (c, d) = at
    if node.inputs[0] is node.inputs[1]:
        return 0.0, 0.0
    return a - d, 0.0 if _below_its_maximum(node) else b - c


def _producer(node: ir.Node, k: int) -> ir.Node | None:
    v = node.inputs[k]
    return None if v is None else v.producer()


def _below_its_maximum(node: ir.Node | None) -> bool:
    """Whether a node is the x - ReduceMax(x) of a softmax in parts."""
    if node is None or node.op_type != "Sub" or (maximum := _producer(node, 1)) is None:
        return False
    return maximum.op_type == "ReduceMax" and maximum.inputs[0] is node.inputs[0]


def _sum_over_axes(node: ir.Node, at: list[Interval]) -> Interval:
    """The sum of a softmax in parts is at least 1, since it adds exp(0) for the maximum."""
    low, high = at[0]
    exp = _producer(node, 0)
    if exp is not None and exp.op_type == "Exp" and _below_its_maximum(_producer(exp, 0)):
        return 1.0, math.inf
    return (low if low >= 0 else -math.inf), (high if high <= 0 else math.inf)


def _moved(node: ir.Node, at: list[Interval]) -> Interval:
    """The interval of an operator that picks among elements; Max and Min narrow it."""
    if node.op_type in ("Max", "Min"):
        chosen = max if node.op_type == "Max" else min
        return chosen(low for low, _ in at), chosen(high for _, high in at)
    if node.op_type == "Where":
        return (-math.inf, 0) if _is_minus_abs(node) else _hull(at[1:])
    return _hull(at) if node.op_type == "Concat" else at[0]


def _is_minus_abs(node: ir.Node) -> bool:
    """Whether a Where is -|x|, of one branch alone at 0: x where x < 0, else -x."""
    condition, x, other = node.inputs
    test, negated = (None if v is None else v.producer() for v in (condition, other))
    if test is None or negated is None or (test.op_type, negated.op_type) != ("Less", "Neg"):
        return False
    zero = None if test.inputs[1] is None else constant_of(test.inputs[1])
    return (test.inputs[0] is x is negated.inputs[0]) and zero is not None and not zero.any()


def _cast(node: ir.Node, at: list[Interval]) -> Interval:
    """Round the ends to the new dtype: an epsilon may become 0."""
    dtype = node.outputs[0].dtype
    if dtype not in FLOATS:  # the only integers of interest are sizes, and they fit any dtype
        return at[0] if float(at[0][0]).is_integer() else ANY
    with np.errstate(over="ignore"):
        low, high = np.array(at[0]).astype(dtype.numpy())
    return float(low), float(high)


def _pow(node: ir.Node, at: list[Interval]) -> Interval:
    (low, high), (c, d) = at
    even = c == d and c % 2 == 0
    if low > 0 and c == d:
        ends = (_power(low, c), _power(high, c))
        return min(ends), max(ends)
    return (0.0, math.inf) if even or low >= 0 else ANY


def _power(x: float, c: float) -> float:
    try:
        return x**c
    except (OverflowError, ZeroDivisionError):
        return math.inf


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x) if x > -80 else 0.0


def _clip(node: ir.Node, at: list[Interval]) -> Interval:
    (low, high), rest = at[0], iter(at[1:])
    bounds = [next(rest) if v is not None else ANY for v in [*node.inputs[1:], None, None][:2]]
    return min(max(low, bounds[0][0]), bounds[1][1]), max(min(high, bounds[1][1]), bounds[0][0])


def _log(x: float) -> float:
    return -math.inf if x <= 0 else math.log(x)


def _unary(function: Callable[[float], float]) -> Callable[[ir.Node, list[Interval]], Interval]:
    return lambda _, at: (function(at[0][0]), function(at[0][1]))


_RULES: dict[str, Callable[[ir.Node, list[Interval]], Interval]] = {
    "Add": lambda _, at: (at[0][0] + at[1][0], at[0][1] + at[1][1]),
    "Sum": lambda _, at: (sum(low for low, _ in at), sum(high for _, high in at)),
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Neg": lambda _, at: (-at[0][1], -at[0][0]),
    "Reciprocal": lambda _, at: _inverse(at[0]),
    "Sqrt": _unary(lambda x: math.sqrt(max(x, 0))),
    "Exp": _unary(_exp),
    "Log": _unary(_log),
    "Relu": _unary(lambda x: max(x, 0)),
    "Clip": _clip,
    "Pow": _pow,
    "ReduceSum": _sum_over_axes,
    "Cast": _cast,
    **dict.fromkeys(_MOVES, _moved),
}
