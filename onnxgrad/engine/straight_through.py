"""Straight-through gradients: rounding is differentiated as if it changed nothing.

The nodes to be differentiated in this way are marked. A rounded integer that such a node computes
then carries cotangents, of the dtype of the number that was rounded, to those nodes that use it and
have a straight-through rule too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import onnx_ir as ir

from onnxgrad.declare import registry
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import all_nodes, carries, cotangent_dtype, is_float
from onnxgrad.graph.marks import ROUNDED, STRAIGHT
from onnxgrad.graph.schemas import split_name

# Names of operators; True stands for every one that has a straight-through rule.
StraightThrough = registry.Asked


def is_straight_through(node: ir.Node) -> bool:
    """Whether a straight-through gradient of the node was asked for."""
    return STRAIGHT.on(node)


def entry_of(node: ir.Node) -> registry.Entry | None:
    """The table's entry for a node, the straight-through one where it is marked."""
    return registry.lookup(node.domain, node.op_type, is_straight_through(node))


def rounding_left_out(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """The nodes on a path whose numbers are rounded, though a gradient flows past the rounding.

    DynamicQuantizeLinear is one: no cotangent reaches what it rounds, only the scale.
    """
    return [
        node
        for node in nodes
        if not is_straight_through(node)
        and any(v.uses() and not carries(v) for v in node.outputs)
        and registry.two_ways(node.domain, node.op_type)
    ]


def mark(graph: ir.Graph, straight_through: StraightThrough) -> None:
    """Mark the nodes of the named operators, and no others.

    Args:
        graph: Of typed values, the nodes in topological order.
        straight_through: Names of operators.

    Raises:
        ArgumentError: One has no straight-through rule.
    """
    known = registry.straight_through()
    chosen = _names(straight_through, known)
    for name in chosen:
        if name not in known:
            raise ArgumentError(
                f"straight_through: no straight-through rule for {name!r}. There is one for "
                f"{', '.join(known)}.{nearest(name, known)}"
            )
    _clear(graph)
    if chosen:
        _mark_chosen(graph, {split_name(name) for name in chosen})
        propagate_marks(graph)


def propagate_marks(graph: ir.Graph) -> None:
    """Mark the nodes through which rounded integers flow, those of a backward pass included."""
    passes = {split_name(name) for name in registry.straight_through()}
    for node in all_nodes(graph):
        moved = registry.is_moving(node.domain, node.op_type)
        source = _moved(node) if moved else _source(node)
        passed = moved or (node.domain, node.op_type) in passes
        if source is not None and ROUNDED.on(source) and passed:
            _mark(node, source)


def _names(straight_through: StraightThrough, known: list[str]) -> list[str]:
    if isinstance(straight_through, bool):
        return known if straight_through else []
    names = [straight_through] if isinstance(straight_through, str) else straight_through
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"straight_through is True or names of operators, not {straight_through!r}"
        )
    return list(names)


def _clear(graph: ir.Graph) -> None:
    for node in all_nodes(graph):
        STRAIGHT.drop(node)
        for v in node.outputs:
            ROUNDED.drop(v)


def _mark_chosen(graph: ir.Graph, chosen: Collection[tuple[str, str]]) -> None:
    for node in all_nodes(graph):
        source = _source(node)
        if source is not None and (node.domain, node.op_type) in chosen:
            _mark(node, source)


def _source(node: ir.Node) -> ir.Value | None:
    """The first operand that cotangents can flow to."""
    return next((v for v in node.inputs if v is not None and carries(v)), None)


def _moved(node: ir.Node) -> ir.Value | None:
    """The first rounded integers among the operands whose elements a node moves."""
    entry = registry.lookup(node.domain, node.op_type)
    assert entry is not None
    rounded = ((k, v) for k, v in enumerate(node.inputs) if v is not None and ROUNDED.on(v))
    states = ((v, entry.operand_state(entry.schema.operand(k))[0]) for k, v in rounded)
    return next((v for v, state in states if state == "rule"), None)


def _mark(node: ir.Node, source: ir.Value) -> None:
    STRAIGHT.set(node, True)
    moves = registry.is_moving(node.domain, node.op_type)
    for v in node.outputs if moves else node.outputs[:1]:
        integer = not is_float(v) and v.dtype != ir.DataType.BOOL
        if integer and (v.dtype == source.dtype or not moves):  # MaxPool's Indices are not moved
            ROUNDED.set(v, cotangent_dtype(source))
