"""Writes sizes, axes and pads that follow from constants into the graph, where inference sees them.

Exporters compute them by nodes, as the pads of a Pad by ConstantOfShape, Concat and Transpose. The
standard's inference reads constants alone: all sizes behind such a Pad would be left to a run.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import all_nodes, elements_of, subgraphs
from onnxgrad.graph.fresh import Names


def write_sizes(graph: ir.Graph) -> bool:
    """Make constants of int64 operands that are computed from constants, where a size is open.

    Returns:
        Whether there were any.
    """
    written: dict[ir.Value, ir.Value] = {}
    names: Names | None = None
    for node in all_nodes(graph):
        if any(subgraphs(node)) or all(elements_of(v) is not None for v in node.outputs):
            continue
        for k, v in enumerate(node.inputs):
            if v is None or v.dtype != ir.DataType.INT64 or v.producer() is None:
                continue
            if v not in written:
                array = constant_of(v)
                if array is None:
                    continue
                names = names or Names(graph)
                written[v] = ir.Value(
                    name=names.fresh(f"{v.name}_known"),
                    shape=ir.Shape(array.shape),
                    type=ir.TensorType(ir.DataType.INT64),
                    const_value=ir.tensor(array),
                )
                graph.register_initializer(written[v])
            node.replace_input_with(k, written[v])
    return bool(written)
