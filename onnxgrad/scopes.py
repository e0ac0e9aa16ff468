"""Inner graphs, as If, Loop and Scan hold them: what they capture, and copies to recompute them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.builder import Builder, Names, Tensor, subgraphs


def captures(node: ir.Node) -> tuple[ir.Value, ...]:
    """The outer values that the graphs of a node use, in the order of their first use."""
    found: dict[ir.Value, None] = {}
    for graph in subgraphs(node):
        inner = {*graph.inputs, *graph.initializers.values()}
        for n in graph:
            inner.update(n.outputs)
        used = [v for n in graph for v in (*n.inputs, *captures(n))] + list(graph.outputs)
        found.update(dict.fromkeys(v for v in used if v is not None and v not in inner))
    return tuple(found)


def copy_into(
    op: Builder, graph: ir.Graph, inputs: Sequence[Tensor]
) -> tuple[list[ir.Node], list[Tensor]]:
    """Copy a graph's nodes into the one that `op` emits to, with other values as its inputs.

    Returns:
        The copies of the nodes, and of the graph's outputs.
    """
    copy = graph.clone(allow_outer_scope_values=True)
    rename(copy, op.names)
    outputs = list(copy.outputs)
    for formal, actual in zip(copy.inputs, inputs, strict=True):
        outputs = [actual.value if v is formal else v for v in outputs]
        formal.replace_all_uses_with(actual.value, replace_graph_outputs=True)
    copy.outputs.clear()
    nodes = list(copy)
    copy.remove(nodes)
    op.graph.extend(nodes)
    return nodes, [op.tensor(v) for v in outputs]


def rename(graph: ir.Graph, names: Names) -> None:
    """Give every node and value of a graph, nested ones too, a name that nothing else has."""
    for node in graph:
        node.name = names.fresh(node.name or node.op_type)
        for v in node.outputs:
            if v.name:
                v.name = names.fresh(v.name)
        for inner in subgraphs(node):
            for v in inner.inputs:
                v.name = names.fresh(v.name or "input")
            rename(inner, names)


def prune(graph: ir.Graph) -> None:
    """Remove the nodes that none of the graph's outputs needs."""
    needed = set(graph.outputs)
    for node in reversed(graph):
        if not any(v in needed or v.uses() for v in node.outputs):
            graph.remove(node, safe=True)
