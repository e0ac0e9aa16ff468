"""Rows: where the examples of a batch lie in each tensor, if no example influences another.

The axis of the batch is followed from the inputs through each node. A rule for each operator says
where it is in the results. An operator without a rule, one that mixes examples and one that treats
them unequally end it: nothing is known of what depends on them. What is found is proven.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxgrad.engine.flow import operands
from onnxgrad.transforms import row_layers, row_rules
from onnxgrad.transforms.row_nodes import Mixed, RowNode
from onnxgrad.transforms.row_sizes import Rows, Sizes

RULES = row_rules.RULES | row_layers.RULES


def rows_of(graph: ir.Graph, axes: Mapping[ir.Value, int], batch: str) -> dict[ir.Value, Rows]:
    """Where the examples are in each tensor in which they are apart.

    Args:
        graph: A normalised graph.
        axes: The inputs with the batch, with the axis of it.
        batch: The name of the size of the batch; no other size has this name.
    """
    found = {v: Rows(axis) for v, axis in axes.items()}
    dependent = set(found)  # on examples or on their number
    sizes = Sizes(batch)
    for v in graph.inputs:
        sizes.learn(v, found.get(v))
    for node in graph:
        rows: list[Rows | None] = [None] * len(node.outputs)
        depends = not dependent.isdisjoint(v for v in operands(node) if v is not None)
        if depends and not node.domain and node.op_type in RULES:
            try:
                given = RULES[node.op_type](RowNode(node, found, dependent, sizes))
                rows = [*given, *rows][: len(rows)]
            except Mixed:
                pass
        for v, place in zip(node.outputs, rows, strict=True):
            if place is not None:
                found[v] = place
            if place is not None or (depends and not sizes.is_free(v)):
                dependent.add(v)
            if place is not None or not depends:
                sizes.learn(v, place)
    return found
