"""A node as the rules of `row_rules` see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import Dim, dims_of
from onnxgrad.transforms.row_sizes import Product, Rows, Sizes


class Mixed(Exception):
    """Examples are not apart, or nobody knows."""


class RowNode:
    """One node as a rule sees it, which raises `Mixed` where there is nothing to say.

    Args:
        node: Some operand depends on the batch.
        found: Where the examples are, by value.
        dependent: The values that depend on the batch.
        known: What the names of sizes stand for.
    """

    def __init__(
        self,
        node: ir.Node,
        found: Mapping[ir.Value, Rows],
        dependent: set[ir.Value],
        known: Sizes,
    ) -> None:
        self.node, self._found, self._dependent, self.known = node, found, dependent, known
        self.batch, self.count = known.batch, len(node.outputs)

    def operand(self, k: int) -> ir.Value | None:
        """The operand at a place; None where it is left out."""
        return self.node.inputs[k] if k < len(self.node.inputs) else None

    def rows(self, k: int) -> Rows | None:
        """Where the examples of an operand are; None for one that does not depend on them.

        Raises:
            Mixed: It depends on the batch in another way.
        """
        v = self.operand(k)
        if v is not None and v in self._dependent and v not in self._found:
            raise Mixed
        return None if v is None else self._found.get(v)

    def places(self) -> list[Rows | None]:
        """`rows` of all operands."""
        return [self.rows(k) for k in range(len(self.node.inputs))]

    def required(self, k: int) -> Rows:
        """`rows` of an operand, which has to have the examples."""
        if (place := self.rows(k)) is None:
            raise Mixed
        return place

    def only(self, k: int) -> Rows:
        """`required`, where no other operand depends on the batch."""
        if any(p is not None for j, p in enumerate(self.places()) if j != k):
            raise Mixed
        return self.required(k)

    def dims(self, k: int) -> tuple[Dim, ...]:
        """The dimensions of an operand."""
        v = self.operand(k)
        if v is None or (dims := dims_of(v)) is None:
            raise Mixed
        return dims

    def rank(self, k: int) -> int:
        """The rank of an operand."""
        return len(self.dims(k))

    def sizes(self, k: int) -> list[Product | None]:
        """The sizes of an operand, as products; None for those that are not known."""
        found = self.known.sizes(self.node.inputs[k], self.dims(k))  # type: ignore[arg-type]
        if place := self.rows(k):
            found[place.axis] = self.known.of(place)
        return found

    def contents(self, k: int) -> np.ndarray:
        """The numbers in an operand.

        Raises:
            Mixed: They are not known.
        """
        v = self.operand(k)
        array = None if v is None else constant_of(v)
        if array is None:
            raise Mixed
        return array.ravel()

    def ints(self, k: int) -> list[int] | None:
        """The contents of an operand; None where it is left out.

        Raises:
            Mixed: They are not known.
        """
        return None if self.operand(k) is None else [int(n) for n in self.contents(k)]

    def held(self, k: int) -> list[Product | None]:
        """The sizes that an operand holds, None for each that is not known."""
        sizes = self.known.held(self.operand(k))
        if sizes is None:
            raise Mixed
        return sizes

    def number(self, name: str, default: int) -> int:
        """An attribute."""
        return self.node.attributes.get_int(name, default)

    def numbers(self, name: str) -> list[int] | None:
        """An attribute; None where it is left out."""
        a = self.node.attributes.get(name)
        return None if a is None else list(a.as_ints())

    def aligned(self) -> Rows:
        """Where the examples are in a result to whose shape all operands are broadcast.

        Raises:
            Mixed: An operand without them has more than one row there.
        """
        given = [k for k, v in enumerate(self.node.inputs) if v is not None]
        rank = max(self.rank(k) for k in given)
        moved = [
            replace(place, axis=place.axis + rank - self.rank(k))
            for k in given
            if (place := self.rows(k)) is not None
        ]
        if len(set(moved)) != 1:
            raise Mixed
        for k in given:
            if self.rows(k) is None:
                self.require_one(k, moved[0].axis - (rank - self.rank(k)))
        return moved[0]

    def require_one(self, k: int, axis: int) -> None:
        """Raise `Mixed` unless an operand is the same for all examples along an axis."""
        v = self.operand(k)
        while axis >= 0 and v is not None and not _is_one(v, axis):
            v = _before_slice(v, axis)
        if v is None:
            raise Mixed

    def all_at(self, axis: int, among: Sequence[int]) -> Rows:
        """The one place of the examples in the operands `among`; no other has any.

        Raises:
            Mixed: One of them is elsewhere.
        """
        places = self.places()
        given = [k for k in range(len(places)) if k in among and self.operand(k) is not None]
        inside = {places[k] for k in given}
        outside = [p for k, p in enumerate(places) if k not in among]
        if len(inside) != 1 or any(outside) or (place := inside.pop()) is None:
            raise Mixed
        if place.axis != axis:
            raise Mixed
        return place


def _is_one(value: ir.Value, axis: int) -> bool:
    dims = dims_of(value)
    return dims is not None and dims[axis] == 1


def _before_slice(value: ir.Value, axis: int) -> ir.Value | None:
    """What a Slice takes a value from, if it takes all along an axis: inference forgets its size.

    Positional embeddings are such a value, of as many tokens as there are.
    """
    node = value.producer()
    if node is None or node.op_type != "Slice" or len(node.inputs) < 4 or node.inputs[3] is None:
        return None
    axes, rank = constant_of(node.inputs[3]), len(dims_of(value) or ())
    whole = axes is not None and axis not in (axes % rank)
    return node.inputs[0] if whole else None


# Where the examples are in the outputs of a node, in their order.
Found = Sequence[Rows | None]
Rule = Callable[[RowNode], Found]


def table() -> tuple[dict[str, Rule], Callable[..., Callable[[Rule], Rule]]]:
    """A table of rules by operators of the standard's default domain, and its decorator."""
    rules: dict[str, Rule] = {}

    def rule(*op_types: str) -> Callable[[Rule], Rule]:
        def declare(function: Rule) -> Rule:
            rules.update(dict.fromkeys(op_types, function))
            return function

        return declare

    return rules, rule
