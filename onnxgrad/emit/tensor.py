"""Values of the graph under construction, with arithmetic that emits nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.errors import NoRuleError, RuleError
from onnxgrad.graph.facts import FLOATS, HALVES, Dim, dims_of

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder

# Half precision holds all whole numbers up to 2048. Reciprocals of larger ones lose digits too.
_EXACT = 2048


class Tensor:
    """A value of the graph under construction, with arithmetic that emits nodes."""

    __slots__ = ("op", "value")
    __array_priority__ = 1000  # numpy scalars defer to us

    def __init__(self, op: Builder, value: ir.Value) -> None:
        self.op = op
        self.value = value

    @property
    def dtype(self) -> ir.DataType:
        dtype = self.value.dtype
        if dtype is None:
            raise RuleError(f"the dtype of {self.value.name!r} is unknown")
        return dtype

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """Dimensions (an int, a name, or None for unknown); None where the rank is unknown."""
        return dims_of(self.value)

    @property
    def rank(self) -> int:
        """The number of axes.

        Raises:
            RankUnknown: It is not known when the graph is built.
        """
        if (shape := self.value.shape) is None:
            raise RankUnknown(
                f"the rank of {self.value.name!r} is not known when the graph is built. "
                "Give an example: feeds in example=, with which the net runs once"
            )
        return len(shape)

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape where every dimension is known, else None."""
        shape = self.shape
        for d in shape or ():
            if not isinstance(d, int):
                return None
        return shape  # type: ignore[return-value]

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether an array of a shape broadcasts to that of the tensor, as far as it is known."""
        if self.shape is None:
            return True
        mine = self.shape[max(len(self.shape) - len(shape), 0) :]
        sizes = zip(shape, mine, strict=False)
        return len(shape) <= len(self.shape) and all(
            n == 1 or n == d or not isinstance(d, int) for n, d in sizes
        )

    def dim(self, axis: int) -> Dim:
        """One dimension; None where it is unknown."""
        shape = self.shape
        return None if shape is None else shape[axis]

    @property
    def const(self) -> np.ndarray | None:
        """The array where it is known when the graph is built, else None."""
        return constant_of(self.value)

    def __repr__(self) -> str:
        return f"Tensor({self.value})"

    def _binary(self, op_type: str, other: Any, swap: bool = False) -> Tensor:
        if not isinstance(other, Tensor):
            other = self.op.const(other, like=self)
        a, b = (other, self) if swap else (self, other)
        return getattr(self.op, op_type)(a, b)

    def __add__(self, other: Any) -> Tensor:
        return self if _is(other, 0) else self._binary("Add", other)

    def __radd__(self, other: Any) -> Tensor:
        return self + other

    def __sub__(self, other: Any) -> Tensor:
        return self if _is(other, 0) else self._binary("Sub", other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._binary("Sub", other, swap=True)

    def __mul__(self, other: Any) -> Tensor:
        if _is(other, 1):
            return self
        return -self if _is(other, -1) else self._binary("Mul", other)

    def __rmul__(self, other: Any) -> Tensor:
        return self * other

    def __truediv__(self, other: Any) -> Tensor:
        if isinstance(other, int | float) and self.dtype in FLOATS and other:
            if self.dtype in HALVES and abs(other) > _EXACT:
                return self.op.cast(self.op.promoted(self) / other, self.dtype)
            return self * (1 / other)
        return self._binary("Div", other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self.op.Reciprocal(self) if _is(other, 1) else self._binary("Div", other, swap=True)

    def __floordiv__(self, other: Any) -> Tensor:
        """Division of integers, which ONNX truncates: for operands that are not negative."""
        return self if _is(other, 1) else self._binary("Div", other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return self._binary("Div", other, swap=True)

    def __mod__(self, other: Any) -> Tensor:
        return self._binary("Mod", other)

    def __neg__(self) -> Tensor:
        return self.op.Neg(self)

    def __gt__(self, other: Any) -> Tensor:
        return self._binary("Greater", other)

    def __ge__(self, other: Any) -> Tensor:
        return self._binary("GreaterOrEqual", other)

    def __lt__(self, other: Any) -> Tensor:
        return self._binary("Less", other)

    def __le__(self, other: Any) -> Tensor:
        return self._binary("LessOrEqual", other)

    def equals(self, other: Any) -> Tensor:
        """Element-wise equality, as booleans."""
        return self._binary("Equal", other)

    def __and__(self, other: Tensor) -> Tensor:
        return self.op.And(self, other)

    def __or__(self, other: Tensor) -> Tensor:
        return self.op.Or(self, other)

    def __invert__(self) -> Tensor:
        return self.op.Not(self)


def innermost(op: Builder, op_type: str, operands: Sequence[Tensor | None]) -> Builder:
    """The builder of a node: `op`, or that of an inner graph which `op` emits around.

    An operand may be of such a graph, as a size that is read there and multiplied by one from here.

    Raises:
        RuleError: An operand is no tensor.
    """
    for t in operands:
        if t is None or (isinstance(t, Tensor) and t.op is op):
            continue
        if not isinstance(t, Tensor):
            kind = type(t).__name__
            raise RuleError(f"{op_type} takes tensors, as op.const makes them, no {kind}")
        inner: Builder | None = t.op
        while inner is not None and inner is not op and t.value.graph is not inner.graph:
            inner = inner.parent
        if inner is not None and inner is not op and _is_inside(inner, op):
            return inner
    return op


def _is_inside(inner: Builder, op: Builder) -> bool:
    parent = inner.parent
    return parent is not None and (parent is op or _is_inside(parent, op))


def _is(x: Any, number: int) -> bool:
    return isinstance(x, int | float) and x == number


class Refusal(NoRuleError):
    """The error of `Builder.refuse`. The engine turns it into one that names the node."""


class RankUnknown(Refusal):
    """A rule asks for the number of axes of a tensor, which only an example tells."""
