"""Cotangents that are zero but at chosen elements, as that of a MaxPool's operand is.

What an element-wise operator in front of the MaxPool multiplies such a cotangent with, it
multiplies the chosen elements with: behind windows of 2 x 2 a quarter of the tensor. So they stay
by themselves until a rule asks for the whole cotangent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import Dim

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder

# Operators of one tensor whose results are computed anew from its chosen elements.
_CHEAP = {"Erf", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}


class Later(Tensor):
    """A tensor that is emitted when its value is asked for.

    Args:
        op: Emits it.
        make: Does so.
        dtype, shape: Of what it returns.
    """

    __slots__ = ("_dtype", "_made", "_make", "_shape")

    def __init__(
        self,
        op: Builder,
        make: Callable[[], Tensor],
        dtype: ir.DataType,
        shape: tuple[Dim, ...] | None,
    ) -> None:
        self.op = op
        self._make, self._dtype, self._shape = make, dtype, shape
        self._made: ir.Value | None = None

    @property
    def value(self) -> ir.Value:  # type: ignore[override]
        if self._made is None:
            self._made = self._make().value
        return self._made

    @property
    def dtype(self) -> ir.DataType:
        return self._dtype

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        return self._shape


class Choice:
    """The elements of a tensor that windows have chosen.

    Args:
        x: The tensor.
        chosen: Its chosen elements.
        spread: Adds numbers, of the shape of `chosen`, at their elements to zeros of that of `x`.
        pick: The chosen elements of another tensor of the shape of `x`; None where these would be
            found no faster than all of it is read.
    """

    def __init__(
        self,
        x: Tensor,
        chosen: Tensor,
        spread: Callable[[Tensor], Tensor],
        pick: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.x, self.chosen, self._spread, self._pick = x, chosen, spread, pick

    def cotangent(self, g: Tensor) -> Spread:
        """The cotangent of the shape of `x` that is `g` at the chosen elements, else zero."""
        return Spread(self, g, lambda: self._spread(g))

    def of(self, t: Tensor) -> Tensor | None:
        """The chosen elements of what broadcasts to the shape of `x`; None if they are not known.

        A tensor with the same elements for all places of an image is such elements itself.
        """
        mine, its = self.x.shape, t.shape
        if mine is None or its is None:
            return None
        if len(its) <= len(mine) and all(d == 1 for d in its[2 - len(mine) :]):
            return t
        if its != mine or None in its:
            return None
        pick = self._picking(t.value)
        return pick and Later(t.op, pick, t.dtype, self.chosen.shape)

    def _picking(self, value: ir.Value) -> Callable[[], Tensor] | None:
        """What gives the chosen elements of a value of the shape of `x`."""
        if value is self.x.value:
            return lambda: self.chosen
        node = value.producer()
        if node is not None and not node.domain and node.op_type in _CHEAP:
            (operand,) = node.inputs
            inner = None if operand is None else self._picking(operand)
            if inner is None:
                return None
            attributes = {name: a.value for name, a in node.attributes.items()}
            return lambda: self.x.op.node(node.op_type, [inner()], 1, attributes)[0]
        pick = self._pick
        return None if pick is None else lambda: pick(self.x.op.tensor(value))


class Spread(Later):
    """A cotangent that is `g` at the elements of a choice, else zero."""

    __slots__ = ("choice", "g")

    def __init__(self, choice: Choice, g: Tensor, make: Callable[[], Tensor]) -> None:
        super().__init__(g.op, make, g.dtype, choice.x.shape)
        self.choice, self.g = choice, g


def narrowed(
    given: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Callable[[Tensor], Tensor]]:
    """The arguments of an element-wise rule at the elements where its cotangent may not be zero.

    Args:
        given: The arguments by name, the cotangent `g` among them.

    Returns:
        The same, or the chosen elements of each tensor; and what makes a cotangent of the result.
    """
    g = given["g"]
    if not isinstance(g, Spread):
        return given, lambda y: y
    found = {**given, "g": g.g}
    for name, t in given.items():
        if isinstance(t, Tensor) and t is not g:
            found[name] = g.choice.of(t)
        if isinstance(t, list) or (t is not None and found[name] is None):
            return given, lambda y: y
    return found, g.choice.cotangent


def added(gs: Sequence[Tensor], add: Callable[[Sequence[Tensor]], Tensor]) -> Tensor | None:
    """The sum of cotangents of the same chosen elements; None if they are not all such."""
    spread = [g for g in gs if isinstance(g, Spread)]
    if len(spread) < len(gs) or any(g.choice is not spread[0].choice for g in spread):
        return None
    return spread[0].choice.cotangent(add([g.g for g in spread]))
