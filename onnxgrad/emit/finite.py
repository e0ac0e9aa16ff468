"""Zero times infinity: the product is 0 where a mask has made a cotangent zero.

A Where, a Relu or a Slice discards elements of its operand: their cotangents are 0. The derivative
of a discarded element may be infinite or NaN, as that of Sqrt at 0 or of a power of a negative
number, and 0 times that is NaN. So where one factor is a mask's zero, the other is replaced by 0 if
it may not be finite, and a divisor that may be 0 by 1. Nothing is emitted for factors behind no
mask, or that are known to be finite; `Numbers` tells.

A zero counts only if a mask put it there, as far as that can be told. The derivative of
sqrt(x) sqrt(x) at 0 is 1: there the product of the zero 2 sqrt(x) with an infinite derivative
stays NaN.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxgrad.emit.einsum import ELLIPSIS, einsum, parse
from onnxgrad.emit.rewrites import Call, rewrite
from onnxgrad.emit.steps import is_step
from onnxgrad.graph.bounds import Bounds, decided, excludes_zero
from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import FLOATS, HALVES, dims_of

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder
    from onnxgrad.emit.tensor import Tensor

# The elements, not finite, that a value may have though the inputs of the net are finite.
_INF, _NAN = 1, 2
# How a mask discards: by a factor of 0, which makes 0 of finite numbers only; or by picking, which
# makes 0 of all.
FACTOR, PICK = 1, 3

_TESTS = {"IsInf", "IsNaN"}
# Operators that give their limit for an infinite operand, which may be infinite, and not NaN.
_LIMITS = {
    "Abs", "Cast", "Clip", "Concat", "Elu", "Erf", "Exp", "Expand", "Gather", "Identity", "Log",
    "Max", "Min", "Neg", "Pad", "Reciprocal", "Relu", "Reshape", "Sigmoid", "Slice", "Softplus",
    "Sqrt", "Squeeze", "Tanh", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
_MOVES = {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
# The result is a mask's zero only where all terms are.
_SUMS = {"Add", "Sub", "Sum", "Mean", "Max", "Min"}
_IN_PLACE = {"Add", "Cast", "Div", "Mul", "Neg", "Sub", "Sum"}
# Operators that put zeros among the elements of their operands, as cotangents of elements that
# were not picked.
_PICKS = {"MaxUnpool", "Pad", "ScatterElements", "ScatterND"}
_FACTORS = {"EyeLike", "OneHot", "Trilu"}
# Operators that mix elements: one that is not finite makes NaN of others.
_MIXES = {"Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
# Larger constants are weights.
_SEARCHED = 1 << 20


class Numbers:
    """What is known of the numbers in a model's values: whether they are finite, whether masked."""

    def __init__(self, graph: ir.Graph, emitted: set[ir.Value]) -> None:
        self.graph = graph
        self.emitted = emitted  # the values of the backward pass
        self._faults: dict[ir.Value, int] = {}
        self._masks: dict[ir.Value, int] = {}
        self._carriers: dict[ir.Value, ir.Value] = {}
        self.bounds = Bounds()

    # -- not finite ----------------------------------------------------------------------------

    def may_fail(self, value: ir.Value) -> bool:
        """Whether an element can be infinite or NaN though the inputs of the net are finite.

        The overflow of sums and products does not count.
        """
        found = self._faults.get(value)
        if found is None:
            found = decided(value, self._faults, _judged, self._fault)
        return bool(found)

    def trust(self, value: ir.Value) -> None:
        """Take `value` for finite wherever all forward values are that it depends on."""
        found, stack, seen = 0, [value], {value}
        while stack:
            for u in _floats(stack.pop()):
                if u not in self.emitted:
                    found |= decided(u, self._faults, _judged, self._fault)
                elif u not in seen:
                    seen.add(u)
                    stack.append(u)
        self._faults[value] = found

    def _fault(self, value: ir.Value) -> int:
        node, before = value.producer(), 0
        if value.dtype not in FLOATS:
            return 0
        for use in value.uses():
            if use.node.op_type in _TESTS:
                return _INF | _NAN  # the net expects it
        if node is None:
            return 0
        for u in _floats(value):
            before |= self._faults[u]
        test = _SINGULAR.get(node.op_type) if not node.domain else None
        if not before and test is None:
            return 0
        if before and not self._has_limit(node):
            before |= _NAN
        if before and node.op_type in _MIXES:
            before = _NAN
        if node.op_type == "Where" and value not in self.emitted and not self._compares(node):
            # A Where of the net: it is taken to discard what is not finite in one branch.
            before = functools.reduce(operator.and_, (self._faults[u] for u in _floats(value)))
        own = test(self, node) if test else 0
        found = before | own
        if found == _INF and not any(map(math.isinf, self.bounds.of(value))):
            return 0  # the limit is finite, such as the 0 of 1 / (1 + exp(x))
        return found

    def _compares(self, node: ir.Node) -> bool:
        """Whether a Where tests by Equal alone for a number; what it tests may be NaN still."""
        return any(self._faults[u] for u in _compared(node))

    def _has_limit(self, node: ir.Node) -> bool:
        """Whether a node gives its limit for an infinite operand, and not NaN, as inf - inf is."""
        if node.op_type in ("Add", "Sub", "Div") and not node.domain:
            a, b = (v is not None and self._faults.get(v, 0) for v in node.inputs)
            return not a if node.op_type == "Div" else not (a and b)
        return node.op_type in _LIMITS

    def may_be_zero(self, value: ir.Value) -> bool:
        """Whether a divisor can be 0."""
        node = value.producer()
        while node is not None and node.op_type in _MOVES and node.inputs[0] is not None:
            value = node.inputs[0]
            node = value.producer()
        return not _is_kept_from_zero(node) and not excludes_zero(self.bounds.of(value))

    # -- zeros ---------------------------------------------------------------------------------

    def masked(self, value: ir.Value) -> int:
        """Whether an element can be 0 because a mask discards it: 0, FACTOR or PICK."""
        return decided(value, self._masks, _floats, self._mask)

    def note_mask(self, value: ir.Value, mask: int) -> None:
        """Take the zeros of `value` for those of a mask of this kind, whatever its node is.

        The kind is `PICK` for a seed or tangent, `FACTOR` for a Where in the place of a product.
        """
        self._masks[value] = mask

    def _mask(self, value: ir.Value) -> int:
        node = value.producer()
        if node is None:
            inner = value.is_graph_input() and value.graph is not self.graph
            # The values that inputs of an inner graph get are not followed.
            return PICK if inner else FACTOR * _has_zeros(value)
        first = node.inputs[0] if node.op_type in ("Cast", "CastLike") else None
        if first is not None and first.dtype not in FLOATS:
            return 0 if excludes_zero(self.bounds.of(first)) else FACTOR
        if is_step(node):
            return FACTOR
        if node.op_type in ("ConstantOfShape", *_FACTORS):
            return FACTOR * (node.op_type in _FACTORS or _has_zeros(value))
        before = [self._masks[u] for u in _floats(value)]
        if node.op_type in _SUMS:
            return functools.reduce(operator.and_, before, before[0] if before else 0)
        found = functools.reduce(operator.or_, before, 0)
        if node.op_type in ("Where", "Concat"):
            parts = node.inputs[1:] if node.op_type == "Where" else node.inputs
            return found | PICK * any(map(_has_zeros, parts))
        if node.op_type in _PICKS:
            mode = node.attributes.get("mode")
            return found | PICK * (mode is None or mode.as_string() == "constant")
        return found

    def harms(self, factor: ir.Value, mask: ir.Value) -> bool:
        """Whether `factor` may not be finite where `mask` is the zero of a mask."""
        if not (fault := decided(factor, self._faults, _judged, self._fault)):
            return False
        mine = self.masked(mask)
        return bool((fault & _INF and mine) or (fault & _NAN and mine == PICK))

    def carrier(self, value: ir.Value) -> ir.Value:
        """A value with the zeros that masks made in `value`, and as few others as possible.

        It is found behind `value`: the only factor with a mask's zeros, or a carrier that all terms
        have in common.
        """
        return decided(value, self._carriers, self._carried, self._carrier)

    def _carried(self, value: ir.Value) -> list[ir.Value]:
        """The operands with a mask's zeros, of a node that keeps elements in place."""
        node = value.producer()
        if node is None or node.domain or node.op_type not in _IN_PLACE:
            return []
        found = [u for u in _floats(value) if self.masked(u) and _same_shape(u, value)]
        return found if all(u in found for u in _floats(value) if self.masked(u)) else []

    def _carrier(self, value: ir.Value) -> ir.Value:
        found = {self._carriers[u] for u in self._carried(value)}
        return found.pop() if len(found) == 1 else value


def _floats(value: ir.Value) -> list[ir.Value]:
    """The floating-point operands of the node that gives `value`."""
    node = value.producer()
    if node is None:
        return []
    return [v for v in node.inputs if v is not None and v.dtype in FLOATS]


def _judged(value: ir.Value) -> list[ir.Value]:
    """The values on which it depends whether `value` is finite."""
    node, found = value.producer(), _floats(value)
    return found + _compared(node) if node is not None and node.op_type == "Where" else found


def _compared(node: ir.Node) -> list[ir.Value]:
    """The floating-point values that the condition of a Where compares, if it does so by Equal."""
    found, stack = [], [node.inputs[0]]
    while stack:
        test = None if (v := stack.pop()) is None else v.producer()
        if test is not None and test.op_type in ("And", "Not", "Or"):
            stack += test.inputs
        elif test is not None and test.op_type == "Equal":
            found += [u for u in test.inputs if u is not None and u.dtype in FLOATS]
        else:
            return []
    return found


def _same_shape(a: ir.Value, b: ir.Value) -> bool:
    mine, its = dims_of(a), dims_of(b)
    return mine is not None and None not in mine and mine == its


def _has_zeros(value: ir.Value | None) -> bool:
    """Whether a constant holds a 0."""
    node = None if value is None else value.producer()
    if node is not None and node.op_type in ("ConstantOfShape", "Expand"):
        filled = node.attributes.get("value")
        if node.op_type == "Expand":
            return _has_zeros(node.inputs[0])
        return filled is None or not filled.as_tensor().numpy().any()
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if value is None or (tensor is not None and tensor.size > _SEARCHED):
        return False
    c = constant_of(value)
    return c is not None and bool((c == 0).any())


def _is_kept_from_zero(node: ir.Node | None) -> bool:
    """Whether a node is Where(x == 0, c, x) with another c."""
    if node is None or node.op_type != "Where" or None in node.inputs:
        return False
    condition, other, x = node.inputs
    test = condition.producer()  # type: ignore[union-attr]
    if test is None or test.op_type != "Equal" or None in test.inputs or test.inputs[0] is not x:
        return False
    compared, c = (constant_of(v) for v in (test.inputs[1], other))  # type: ignore[arg-type]
    return compared is not None and c is not None and not compared.any() and bool(c.all())


# -- which operators give numbers that are not finite ----------------------------------------------


def _if_zero(k: int, fault: int) -> Any:
    return lambda numbers, node: fault if numbers.may_be_zero(node.inputs[k]) else 0


def _within(low: float, high: float, fault: int) -> Any:
    def test(numbers: Numbers, node: ir.Node) -> int:
        least, most = numbers.bounds.of(node.inputs[0])  # type: ignore[arg-type]
        return 0 if low <= least and most <= high else fault

    return test


def _of_log(numbers: Numbers, node: ir.Node) -> int:
    least, _ = numbers.bounds.of(node.inputs[0])  # type: ignore[arg-type]
    return 0 if least > 0 else _INF if least == 0 else _INF | _NAN


def _of_exp(numbers: Numbers, node: ir.Node) -> int:
    _, most = numbers.bounds.of(node.inputs[0])  # type: ignore[arg-type]
    return 0 if most <= (11 if node.outputs[0].dtype in HALVES else 88) else _INF


def _of_pow(numbers: Numbers, node: ir.Node) -> int:
    base, exponent = (numbers.bounds.of(v) for v in node.inputs)  # type: ignore[arg-type]
    whole = exponent[0] == exponent[1] and float(exponent[0]).is_integer()
    nan = 0 if whole or base[0] >= 0 else _NAN
    return nan | (0 if exponent[0] >= 0 or excludes_zero(base) else _INF)


_SINGULAR: dict[str, Any] = {
    "Acos": _within(-1, 1, _NAN),
    "Acosh": _within(1, math.inf, _NAN),
    "Asin": _within(-1, 1, _NAN),
    "Atanh": _within(-0.99, 0.99, _INF | _NAN),
    "Cosh": _within(-10, 10, _INF),
    "Div": _if_zero(1, _INF | _NAN),
    "Exp": _of_exp,
    "Log": _of_log,
    "Mod": _if_zero(1, _NAN),
    "Pow": _of_pow,
    "Reciprocal": _if_zero(0, _INF),
    "ReduceLogSum": _of_log,
    "Sinh": _within(-10, 10, _INF),
    "Sqrt": _within(0, math.inf, _NAN),
    "Tan": _within(-1.5, 1.5, _INF),
}

# -- what is emitted -------------------------------------------------------------------------------


def _guard(op_type: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function that guards the operands of a product or quotient that the walk emits.

    It returns operands that are finite where the other one is a mask's zero.
    """

    def register(operands: Callable[..., Any]) -> Callable[..., Any]:
        @rewrite(op_type)
        def guarded(op: Builder, call: Call) -> Call:
            inputs = call.inputs
            if not op.guards or len(inputs) < 2 or inputs[0].dtype not in FLOATS:  # type: ignore[union-attr]
                return call
            a, b, fails = inputs[0], inputs[1], op.numbers.may_fail
            if op_type != "Div" and not fails(a.value) and not fails(b.value):  # type: ignore[union-attr]
                return call
            return call._replace(inputs=operands(op, *inputs, **call.attributes))

        return operands

    return register


def _counts(op: Builder, mask: Tensor) -> Tensor:
    """Where a factor is not the zero of a mask."""
    return op.Cast(op.tensor(op.numbers.carrier(mask.value)), to=ir.DataType.BOOL)


@_guard("Mul")
def _product(op: Builder, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return (
        _finite(a, _counts(op, b)) if op.numbers.harms(a.value, b.value) else a,
        _finite(b, _counts(op, a)) if op.numbers.harms(b.value, a.value) else b,
    )


def _finite(factor: Tensor, counts: Tensor) -> Tensor:
    """`factor`, with 0 where it is not finite and does not count."""
    op = factor.op
    size = factor if op.numbers.bounds.of(factor.value)[0] >= 0 else op.Abs(factor)
    y = op.Where(counts | (size < math.inf), factor, op.const(0, like=factor))
    op.numbers.note_mask(y.value, op.numbers.masked(factor.value))
    return y


@_guard("Div")
def _quotient(op: Builder, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    numbers = op.numbers
    zero = numbers.may_be_zero(b.value) and numbers.masked(a.value)
    if not zero and not numbers.harms(b.value, a.value):
        return a, b
    return a, op.Where(_counts(op, a) | (op.Abs(b) > 0), b, op.const(1, like=b))


@_guard("MatMul")
def _matrices(op: Builder, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A row of `b` counts unless the column of `a` that it meets is all zero, and conversely."""
    if len(a.shape or ()) < 2 or len(b.shape or ()) < 2:
        return a, b
    if op.numbers.harms(b.value, a.value):
        b = _finite(b, _transposed(_any(a, -2)))
    elif op.numbers.harms(a.value, b.value):
        a = _finite(a, _transposed(_any(b, -1)))
    return a, b


@_guard("Gemm")
def _gemm(
    op: Builder, a: Tensor, b: Tensor, *rest: Any, transA: int = 0, transB: int = 0, **_: Any
) -> tuple[Any, ...]:
    """The same for a Gemm, whose operands may be transposed."""
    if op.numbers.harms(b.value, a.value):
        some = _any(a, -1 if transA else -2)
        b = _finite(b, some if bool(transA) != bool(transB) else _transposed(some))
    elif op.numbers.harms(a.value, b.value):
        some = _any(b, -2 if transB else -1)
        a = _finite(a, some if bool(transA) != bool(transB) else _transposed(some))
    return a, b, *rest


@_guard("Einsum")
def _labelled(op: Builder, *inputs: Tensor, equation: str, **_: Any) -> tuple[Tensor, ...]:
    """The same for an Einsum: an element counts unless all that it meets of a factor is zero."""
    terms, found = parse(equation)[0], list(inputs)
    for k, m in itertools.permutations(range(len(inputs)), 2):
        labels, its = terms[k], terms[m]
        if ELLIPSIS in labels[1:] or (ELLIPSIS in its and ELLIPSIS not in labels):
            continue
        if op.numbers.harms(inputs[k].value, inputs[m].value):
            met = [a for a in dict.fromkeys(labels) if a in its]
            sizes = einsum([(its, op.Abs(inputs[m]))], met)
            first = [labels.index(a) for a in met]
            others = [j - len(labels) for j in range(len(labels)) if j not in first]
            some = op.Cast(sizes, to=ir.DataType.BOOL)
            found[k] = _finite(found[k], op.Unsqueeze(some, op.const(others)) if others else some)
    return tuple(found)


def _any(t: Tensor, axis: int) -> Tensor:
    """Where not all of `t` along an axis is zero."""
    return t.op.Cast(t.op.ReduceL1(t, t.op.const([axis]), keepdims=1), to=ir.DataType.BOOL)


def _transposed(t: Tensor) -> Tensor:
    rank = len(t.shape or ())
    return t.op.Transpose(t, perm=[*range(rank - 2), rank - 1, rank - 2])
