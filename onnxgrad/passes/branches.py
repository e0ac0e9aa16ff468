"""Removes branches that can never run."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.emit.subgraphs import discard, rename
from onnxgrad.graph.constants import constant_of, forget_constant
from onnxgrad.graph.facts import subgraphs
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.marks import copy_notes


def choose_branches(graph: ir.Graph, names: Names | None = None) -> bool:
    """Replace each If whose condition is known by its branch; returns whether there was one.

    Exporters write Squeeze as an If on the size of the axis, so that even a rank depends on it.
    """
    found = False
    for node in graph:
        for v in node.outputs:
            forget_constant(v)  # more sizes may be known now
    for node in list(graph):
        decides = node.inputs[0] if node.op_type == "If" else None
        condition = None if decides is None else constant_of(decides)
        if condition is None:
            for inner in subgraphs(node):
                names = names or Names(graph)
                found |= choose_branches(inner, names)
            continue
        names = names or Names(graph)
        branch = node.attributes["then_branch" if condition.all() else "else_branch"].as_graph()
        rename(branch, names)
        nodes, results, constants = list(branch), list(branch.outputs), branch.initializers
        for name in list(constants):
            graph.register_initializer(constants.pop(name))
        branch.outputs.clear()
        branch.remove(nodes)
        graph.insert_before(node, nodes)
        for result, v in zip(results, node.outputs, strict=True):
            copy = ir.node("Identity", [result], name=names.fresh(node.name or "If"))
            copy.outputs[0].name = v.name
            copy_notes(v, copy.outputs[0])
            graph.insert_before(node, copy)
            ir.convenience.replace_all_uses_with(v, copy.outputs[0], replace_graph_outputs=True)
        discard(graph, [node])
        found = True
    return found
