"""Which weights of a net are trainable. A file does not say; it shows in what uses them.

Learnt is what reaches, moved or converted at most, an operand that is a weight by the standard, or
a product or a sum of tensors. A lone number there is an exporter's arithmetic, such as the scale of
an attention or an epsilon, and so are numbers as large as only masks have in a sum.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import lookup
from onnxgrad.graph.facts import elements_of, is_float, subgraphs
from onnxgrad.graph.schemas import schema_of

# Operands that are weights, whatever their size.
_WEIGHTS = {
    "BatchNormalization": {"scale", "B"},
    "CausalConvWithState": {"weight", "bias"},
    "Conv": {"W", "B"},
    "ConvTranspose": {"W", "B"},
    "DeformConv": {"W", "B"},
    "GRU": {"W", "R", "B"},
    "Gemm": {"A", "B", "C"},
    "GroupNormalization": {"scale", "bias"},
    "InstanceNormalization": {"scale", "B"},
    "LSTM": {"W", "R", "B", "P"},
    "LayerNormalization": {"Scale", "B"},
    "MatMul": {"A", "B"},
    "PRelu": {"slope"},
    "RMSNormalization": {"scale"},
    "RNN": {"W", "R", "B"},
}
_PRODUCTS = {"Div", "Einsum", "Mul"}
_SUMS = {"Add", "Sub", "Sum"}

# Operators that give out elements of these operands.
_MOVING = {
    "Cast": {"input"},
    "CastLike": {"input"},
    "Concat": {"inputs"},
    "DequantizeLinear": {"x"},
    "Expand": {"input"},
    "Flatten": {"input"},
    "Gather": {"data"},
    "GatherElements": {"data"},
    "GatherND": {"data"},
    "Identity": {"input"},
    "Pad": {"data"},
    "QuantizeLinear": {"x"},
    "Reshape": {"data"},
    "Resize": {"X"},
    "Slice": {"data"},
    "Split": {"input"},
    "Squeeze": {"data"},
    "Tile": {"input"},
    "Transpose": {"data"},
    "Unsqueeze": {"data"},
    "Where": {"X", "Y"},
}

# Where the number of columns, or of channels, of a product by a weight stands in its shape.
_ONE_COLUMN = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1}

# In a sum, what stands for minus infinity: no weight is as large.
_MASKING = 1e9


def is_trainable(weight: ir.Value) -> bool:
    """Whether a weight is one that training changes, by what uses it."""
    if not is_float(weight):
        return False
    many = elements_of(weight) != 1
    if not weight.uses():
        return many  # nothing speaks against it
    seen, stack = {weight}, [weight]
    while stack:
        for node, index in stack.pop().uses():
            operand = _operand(node, index)
            if _takes(node, operand, weight, many):
                return True
            more = [v for v in _moved(node, index, operand) if v not in seen]
            seen.update(more)
            stack += more
    return False


def _takes(node: ir.Node, operand: str, weight: ir.Value, many: bool) -> bool:
    """Whether a node's operand is what a weight is for."""
    if node.domain:  # an operator of one's own
        entry = lookup(node.domain, node.op_type)
        return many and entry is not None and entry.operand_state(operand)[0] == "rule"
    kind = node.op_type
    if kind == "Gather":  # a table, of which indices pick rows
        return many and operand == "data" and len(weight.shape or ()) > 1
    if operand in _WEIGHTS.get(kind, ()):
        return not (kind == "InstanceNormalization" and _only_groups(node, weight, operand))
    if kind in _SUMS:
        return (many or _is_bias(node, weight)) and not _masks(weight)
    return many and kind in _PRODUCTS


def _only_groups(node: ir.Node, weight: ir.Value, operand: str) -> bool:
    """Whether an operand stands for no scale or no bias of a GroupNorm, as PyTorch exports it.

    That is an InstanceNormalization with ones and zeros, whose output is reshaped, then multiplied
    and added to by the weights.
    """
    value = node.outputs[0]
    for op_type in ("Reshape", "Mul", "Add"):
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].node.op_type != op_type or value.is_graph_output():
            return False
        follower, index = uses[0]
        if op_type != "Reshape" and not _is_constant(follower.inputs[1 - index]):
            return False
        value = follower.outputs[0]
    tensor = ir.convenience.get_const_tensor(weight)
    return tensor is not None and bool(np.all(tensor.numpy() == (operand == "scale")))


def _is_constant(value: ir.Value | None) -> bool:
    """Whether a tensor is a weight, moved at most."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in _MOVING or node.domain:
            break
        value = node.inputs[0]
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _is_bias(node: ir.Node, weight: ir.Value) -> bool:
    """Whether a vector of one number is added to a product that has one column, or one channel."""
    if len(weight.shape or ()) == 0:
        return False
    for product in (v.producer() for v in node.inputs if v is not None):
        axis = _ONE_COLUMN.get(product.op_type) if product is not None else None
        factor = None if product is None or axis is None else product.inputs[1]
        if factor is not None and factor.shape is not None and factor.shape[axis or 0] == 1:
            return True
    return False


def _masks(weight: ir.Value) -> bool:
    """Whether a tensor holds numbers of a mask: infinite, or the like."""
    tensor = ir.convenience.get_const_tensor(weight)
    if tensor is None:
        return False
    array = np.abs(tensor.numpy().astype(np.float32))
    largest = np.finfo(np.float16).max if weight.dtype == ir.DataType.FLOAT16 else _MASKING
    return not bool(np.all(array < largest))


def _moved(node: ir.Node, index: int, operand: str) -> list[ir.Value]:
    """The values that hold elements of a node's operand."""
    if node.domain:
        return []
    if operand in _MOVING.get(node.op_type, ()):
        return list(node.outputs)
    if node.op_type == "Scan":  # what the steps read of the weights of several layers
        (body,) = subgraphs(node)
        states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
        return [body.inputs[index]] if index >= states else []
    return []


def _operand(node: ir.Node, index: int) -> str:
    """The formal name of an operand."""
    schema = schema_of(node.domain, node.op_type)
    if schema is None and (entry := lookup(node.domain, node.op_type)) is not None:
        schema = entry.schema
    return schema.operand(index) if schema else str(index)
