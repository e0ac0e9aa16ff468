"""Sets types in a whole model that onnx_ir's pass of inference leaves open."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.declare.registry import lookup
from onnxgrad.graph.facts import all_nodes, is_sequence, subgraphs
from onnxgrad.graph.types import gives_sequence, type_of


def type_sequences(graph: ir.Graph) -> bool:
    """Set the types of sequences: the pass only sees the dtype of their elements."""
    found = False
    for node in graph:
        if node.op_type == "Loop" and not node.domain:  # its body may declare no types of states
            formal = next(iter(subgraphs(node))).inputs
            for v, given in zip(formal[2:], node.inputs[2:], strict=False):
                found |= given is not None and is_sequence(given) and _make_sequence(v)
        for inner in subgraphs(node):
            found |= type_sequences(inner)
            for v in inner.inputs:
                _forget_names(v)
        for k, v in enumerate(node.outputs):
            _forget_names(v)
            found |= gives_sequence(node, k) and _make_sequence(v)
    return found


def _make_sequence(value: ir.Value) -> bool:
    """Make a value whose dtype is known a sequence of that dtype; returns whether it was none."""
    if value.dtype is None or is_sequence(value):
        return False
    value.type = ir.SequenceType(ir.TensorType(value.dtype))
    return True


def _forget_names(value: ir.Value) -> None:
    """Forget names of sizes in a sequence, whose elements may differ in these sizes."""
    if is_sequence(value) and value.shape is not None:
        value.shape = ir.Shape([d if isinstance(d, int) else None for d in value.shape])


def type_own_operators(graph: ir.Graph) -> bool:
    """Set types of outputs of operators with a rule where neither inference nor the file has any.

    Without a schema, it is the type of the first operand; so is the shape if there is no other
    operand and the operator is element-wise.
    """
    found = False
    for node in all_nodes(graph):
        entry = lookup(node.domain, node.op_type)
        source = next((v for v in node.inputs if v is not None), None)
        if entry is None or source is None or source.type is None:
            continue
        for k, v in enumerate(node.outputs):
            if v.type is None:
                v.type = type_of(node, k)
                v.shape = source.shape if entry.broadcast and len(node.inputs) == 1 else None
                found |= v.type is not None
    return found
