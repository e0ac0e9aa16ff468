"""Checks and repairs of the graphs that nodes hold, so that later passes find what they expect."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import onnx_ir as ir

from onnxgrad.graph.errors import ModelError, nearest
from onnxgrad.graph.facts import all_nodes, inner_graphs, subgraphs
from onnxgrad.graph.fresh import Names


def check_counts(graph: ir.Graph) -> None:
    """Check that graphs have the numbers of inputs and outputs that their nodes require.

    Raises:
        ModelError: A graph has another number.
    """
    for node in all_nodes(graph):
        expected = _counts(node)
        for inner in subgraphs(node):
            found = (len(inner.inputs), len(inner.outputs))
            if expected is not None and found != expected:
                raise ModelError(
                    f"operator {node.op_type}, node {node.name!r}: its graph {inner.name!r} has "
                    f"{found[0]} inputs and {found[1]} outputs, and has to have {expected[0]} and "
                    f"{expected[1]} for the {len(node.inputs)} inputs and {len(node.outputs)} "
                    "outputs of the node: export the model anew, onnx.checker refuses it too"
                )


def check_sources(graph: ir.Graph) -> None:
    """That something gives every tensor which a node or the graph itself takes.

    Raises:
        ModelError: Nothing does.
    """
    uses = [
        (v, f"operator {n.op_type}, node {n.name!r}") for n in all_nodes(graph) for v in n.inputs
    ]
    uses += [(v, "the graph, as an output") for v in graph.outputs]
    for v, user in uses:
        if v is not None and not (v.producer() or v.is_graph_input() or v.is_initializer()):
            known = (w.name or "" for n in graph for w in n.outputs)
            raise ModelError(
                f"{user}: it takes the tensor {v.name!r}, which is no input and no initializer, "
                f"and no node gives it.{nearest(v.name or '', known)}"
            )


def put_in_order(graph: ir.Graph) -> None:
    """Sort the nodes of a graph, unless each comes after those whose outputs it takes.

    Raises:
        ModelError: A node takes what follows from itself.
    """
    if _is_in_order(graph, set()):
        return
    with contextlib.suppress(ValueError):
        graph.sort()
    if not _is_in_order(graph, set()):
        raise ModelError(
            f"the graph {graph.name!r} has a cycle: a node takes what follows from itself. "
            "The file is not valid; export it anew"
        )


def _is_in_order(graph: ir.Graph, seen: set[ir.Node]) -> bool:
    """Whether nodes take outputs of nodes before them only; those join `seen`."""
    for node in graph:
        if not all(_comes_from(v, seen) for v in node.inputs):
            return False
        if not all(_is_in_order(inner, seen) for inner in subgraphs(node)):
            return False
        seen.add(node)
    return all(_comes_from(v, seen) for v in graph.outputs)


def _comes_from(value: ir.Value | None, nodes: set[ir.Node]) -> bool:
    return value is None or (node := value.producer()) is None or node in nodes


def _counts(node: ir.Node) -> tuple[int, int] | None:
    """The number of inputs and outputs of the graphs that a node holds."""
    given, taken = len(node.inputs), len(node.outputs)
    if node.op_type == "Loop" and not node.domain:
        return max(given, 2), 1 + taken  # the condition and the number of steps may be left out
    counts = {"If": (0, taken), "Scan": (given, taken), "SequenceMap": (given, taken)}
    return None if node.domain else counts.get(node.op_type)


def own_outputs(model: ir.Model) -> None:
    """Let a node of its own give every output of an inner graph.

    An output that is an input of the graph, an outer value or another output becomes the result of
    an Identity. Without it some releases of onnxruntime give wrong numbers.

    Raises:
        ModelError: An output is the name of no value.
    """
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        if inner_graphs(graph):
            _own_outputs(graph, Names(graph), {})


def _own_outputs(graph: ir.Graph, names: Names, outer: Mapping[str | None, ir.Value]) -> None:
    here = [*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)]
    seen = {**outer, **{v.name: v for v in here}}
    for node in graph:
        for inner in subgraphs(node):
            _own_outputs(inner, names, seen)
            for k, v in enumerate(inner.outputs):
                if v.producer() is None or v.graph is not inner or v in inner.outputs[:k]:
                    inner.outputs[k] = passed(inner, v, _source(node, v, seen), names)


def _source(node: ir.Node, value: ir.Value, seen: Mapping[str | None, ir.Value]) -> ir.Value:
    """The value itself; or the outer value of that name, where onnx_ir has made another of it."""
    if value.producer() or value.is_graph_input() or value.is_initializer():
        return value
    if value.name not in seen:
        raise ModelError(
            f"operator {node.op_type}, node {node.name!r}: nothing gives the output {value.name!r} "
            f"of its graph.{nearest(value.name or '', (name for name in seen if name))}"
        )
    return seen[value.name]


def passed(graph: ir.Graph, value: ir.Value, source: ir.Value, names: Names) -> ir.Value:
    """A copy of `source`, to be the output of a graph in the place of `value`."""
    node = ir.node("Identity", [source], name=names.fresh(f"{value.name}/Identity"))
    out = node.outputs[0]
    out.name, out.type, out.shape = names.fresh(f"{value.name}_out"), value.type, value.shape
    graph.append(node)
    return out
