"""Types of outputs that the standard's inference leaves open, or of which it sees elements only."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from onnxgrad.graph.corrections import kind
from onnxgrad.graph.facts import subgraphs
from onnxgrad.graph.schemas import onnx_schema


def type_of(node: ir.Node, k: int) -> ir.TypeProtocol | None:
    """The type of an output by the correction for the operator, else by the operator's schema.

    The schema tells it where there is one possible type, or where it is the type of an operand.
    """
    correction = kind.of(node)
    if correction is not None:
        return correction(node, k)
    schema = onnx_schema(node.domain, node.op_type)
    if schema is None:
        return next((v.type for v in node.inputs if v is not None), None)
    formal = _formal(schema, k).type_str
    if formal.startswith("tensor("):
        return ir.TensorType(ir.DataType[formal[len("tensor(") : -1].upper()])
    same = (v for p, v in zip(schema.inputs, node.inputs, strict=False) if p.type_str == formal)
    return next((v.type for v in same if v is not None), None)


def gives_sequence(node: ir.Node, k: int) -> bool:
    """Whether an output is a sequence; onnx_ir's pass only sees the dtype of its elements."""
    correction = kind.of(node)
    if correction is not None:
        return isinstance(correction(node, k), ir.SequenceType)
    return not node.domain and _always_gives_sequence(node.op_type)


@functools.cache
def _always_gives_sequence(op_type: str) -> bool:
    schema = onnx_schema("", op_type)
    kinds = schema.outputs[0].types if schema and schema.outputs else set()
    return bool(kinds) and all(name.startswith("seq(") for name in kinds)


def _formal(schema: onnx.defs.OpSchema, k: int) -> onnx.defs.OpSchema.FormalParameter:
    return schema.outputs[min(k, len(schema.outputs) - 1)]


@kind("If")
def _if(node: ir.Node, k: int) -> ir.TypeProtocol | None:
    return next(iter(subgraphs(node))).outputs[k].type


@kind("Loop")
def _loop(node: ir.Node, k: int) -> ir.TypeProtocol | None:
    """The first output of the body is the condition."""
    return next(iter(subgraphs(node))).outputs[k + 1].type


@kind("Identity")
def _identity(node: ir.Node, k: int) -> ir.TypeProtocol | None:
    return None if node.inputs[0] is None else node.inputs[0].type


@kind("ConcatFromSequence")
def _concat_from_sequence(node: ir.Node, k: int) -> ir.TypeProtocol | None:
    source = node.inputs[0]
    return None if source is None or source.dtype is None else ir.TensorType(source.dtype)
