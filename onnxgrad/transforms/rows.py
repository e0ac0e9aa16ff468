"""Rows: where the examples of a batch lie in each tensor, if no example influences another.

The axis of the batch is followed from the inputs through each node. A rule for each operator says
where it is in the results. An operator without a rule, one that mixes examples and one that treats
them unequally end it: nothing is known of what depends on them. What is found is proven.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxgrad.engine.flow import operands
from onnxgrad.graph.constants import dims_in
from onnxgrad.transforms.row_nodes import Mixed, RowNode, Rows
from onnxgrad.transforms.row_rules import RULES


def rows_of(graph: ir.Graph, axes: Mapping[ir.Value, int], batch: str) -> dict[ir.Value, Rows]:
    """Where the examples are in each tensor in which they are apart.

    Args:
        graph: A normalised graph.
        axes: The inputs with the batch, with the axis of it.
        batch: The name of the size of the batch; no other size has this name.
    """
    found = {v: Rows(axis) for v, axis in axes.items()}
    dependent = set(found)  # on examples or on their number
    for node in graph:
        if dependent.isdisjoint(v for v in operands(node) if v is not None):
            continue
        known = RULES.get(node.op_type) if not node.domain else None
        try:
            rows = known(RowNode(node, found, dependent, batch)) if known else []
        except Mixed:
            rows = []
        for k, v in enumerate(node.outputs):
            if k < len(rows) and (place := rows[k]) is not None:
                found[v] = place
            elif _is_free(v, batch):
                continue
            dependent.add(v)
    return found


def _is_free(value: ir.Value, batch: str) -> bool:
    """Whether a tensor holds sizes of which none is that of the batch."""
    sizes = dims_in(value)
    return sizes is not None and all(d is not None and batch not in str(d) for d in sizes)
