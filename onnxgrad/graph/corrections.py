"""Corrections, by operator, of what the standard's inference misses in a node or gets wrong.

A correction is a function of a node. It is declared for operators of the standard's default domain.
There is one table for each kind:

    @rank("LSTM")        the shapes of operands and outputs whose ranks inference leaves open
    @size("Conv")        the sizes of outputs that inference leaves open, or names of them
    @misjudged("Einsum") whether the sizes that inference gives may be wrong
    @kind("Identity")    the type of an output, by its place, where inference may leave it open
    @plain("MaxPool")    rewrites a node as inference understands it, and returns whether it did

The rank of an operand counts only where the operand lies in the same graph as the node: a branch
that does not run requires nothing of a value outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import onnx_ir as ir

from onnxgrad.graph.facts import dims_of

# Values, each with a dimension for every axis.
Found: TypeAlias = Iterable[tuple[ir.Value | None, Sequence[Any]]]

F = TypeVar("F", bound=Callable[..., Any])


class Corrections(Generic[F]):
    """The corrections of one kind. A call with names of operators gives the decorator."""

    def __init__(self) -> None:
        self._table: dict[str, F] = {}

    def __call__(self, *op_types: str) -> Callable[[F], F]:
        def declare(function: F) -> F:
            self._table.update(dict.fromkeys(op_types, function))
            return function

        return declare

    def of(self, node: ir.Node) -> F | None:
        """The correction for a node's operator, if there is one."""
        return None if node.domain else self._table.get(node.op_type)


rank: Corrections[Callable[[ir.Node], Found]] = Corrections()
size: Corrections[Callable[[ir.Node], Found]] = Corrections()
misjudged: Corrections[Callable[[ir.Node], bool]] = Corrections()
kind: Corrections[Callable[[ir.Node, int], ir.TypeProtocol | None]] = Corrections()
plain: Corrections[Callable[[ir.Node], bool]] = Corrections()


def complete_ranks(node: ir.Node) -> bool:
    """Set ranks of operands and outputs that inference has left open; returns whether it did."""
    correction = rank.of(node)
    missing = [
        (v, dims)
        for v, dims in (correction(node) if correction is not None else ())
        if v is not None and v.type is not None and v.shape is None and v.graph is node.graph
    ]
    for v, dims in missing:
        v.shape = ir.Shape(dims)
    return bool(missing)


def complete_sizes(node: ir.Node) -> None:
    """Set sizes that inference has left open, of outputs whose rank is known."""
    correction = size.of(node)
    for v, dims in correction(node) if correction is not None else ():
        known = None if v is None else dims_of(v)
        if v is not None and known is not None and len(known) == len(dims):
            v.shape = ir.Shape([b if a is None else a for a, b in zip(known, dims, strict=True)])


def is_misjudged(node: ir.Node) -> bool:
    """Whether the standard's inference may give wrong sizes of a node's outputs."""
    correction = misjudged.of(node)
    return correction is not None and correction(node)
