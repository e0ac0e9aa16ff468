"""Inference of the outputs of one node: the standard's, with `corrections`.

`passes.inference` infers a whole model, where constants and inner graphs are seen too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import onnx
import onnx_ir as ir

from onnxgrad.graph import ranks, sizes, types, window_sizes  # noqa: F401 - they declare corrections
from onnxgrad.graph.constants import SMALL
from onnxgrad.graph.corrections import complete_ranks, complete_sizes, is_misjudged
from onnxgrad.graph.errors import RuleError
from onnxgrad.graph.facts import dims_of, is_sequence, shape_text, type_proto
from onnxgrad.graph.schemas import onnx_schema

# The type and the shape of each output, None where inference does not tell them.
Told: TypeAlias = list[tuple[ir.TypeProtocol | None, ir.Shape | None]]


class Inference:
    """Infers outputs node by node, and remembers the answers, since nets repeat their nodes."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        # By operator, attributes and operands' types.
        self._told: dict[Any, Told] = {}

    def infer(self, node: ir.Node) -> None:
        """Set types and shapes of a node's outputs that have none.

        Raises:
            RuleError: The operands' dtypes or shapes do not fit the operator.
        """
        schema = onnx_schema(node.domain, node.op_type, self.opset)
        if schema is None:
            return
        key = _key(schema, node)
        told = self._told.get(key)
        if told is None:
            told = self._told[key] = self._ask(schema, node)
        for v, (kind, shape) in zip(node.outputs, told, strict=True):
            if v.type is None and kind is not None:
                v.type, v.shape = kind, shape
            elif v.shape is None:
                v.shape = shape
            else:
                continue
            if shape is not None and is_misjudged(node):
                v.shape = ir.Shape([None] * len(shape))
        complete_ranks(node)
        complete_sizes(node)

    def infer_again(self, node: ir.Node, outputs: Iterable[ir.Value]) -> None:
        """Forget the shapes of some of a node's outputs and infer them; they may remain unknown.

        Operands that do not fit the operator raise no error here.
        """
        for v in outputs:
            v.shape = None
        with contextlib.suppress(RuleError):
            self.infer(node)

    def infer_open(self, node: ir.Node) -> None:
        """Infer the outputs whose type or shape is open.

        A declared type stays where inference finds none. Operands that do not fit the operator
        raise no error here.
        """
        declared = {v: v.type for v in node.outputs if v.type is None or v.shape is None}
        for v in declared:
            v.type = None
        if declared:
            with contextlib.suppress(RuleError):
                self.infer(node)
        for v, kind in declared.items():
            v.type = v.type or kind

    def misfit(self, node: ir.Node) -> str:
        """Why the operands of a node do not fit its operator; "" where they do, or none can say."""
        schema = onnx_schema(node.domain, node.op_type, self.opset)
        try:
            if schema is not None and all(v is None or v.type for v in node.inputs):
                self._ask(schema, node)
        except RuleError as error:
            return str(error)
        return ""

    def _ask(self, schema: onnx.defs.OpSchema, node: ir.Node) -> Told:
        """The answer of the standard's inference for a node's outputs."""
        operands: dict[Any, onnx.TypeProto] = {}
        contents: dict[Any, onnx.TensorProto] = {}
        for v in node.inputs:
            if v is not None:
                if any(isinstance(d, int) and d < 0 for d in dims_of(v) or ()):
                    # onnx would crash
                    raise RuleError(f"{node.op_type}: {_operand(v)} has a negative size")
                operands[v.name] = type_proto(v)
                if (tensor := _sizes_in(v)) is not None:
                    contents[v.name] = ir.serde.serialize_tensor(tensor)
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema,
                ir.serde.serialize_node(node),
                operands,
                contents,
                opset_imports=[onnx.helper.make_opsetid("", self.opset)],
            )
        except Exception as e:  # onnx's errors share no base class
            given = ", ".join(map(_operand, node.inputs))
            raise RuleError(f"{node.op_type}({given}) does not fit: {e}") from e
        found = (inferred.get(v.name or "") for v in node.outputs)
        return [
            (None, None)
            if proto is None
            else (
                ir.serde.deserialize_type_proto_for_type(proto),
                ir.serde.deserialize_type_proto_for_shape(proto),
            )
            for proto in found
        ]


def attributes_key(attributes: Mapping[str, Any]) -> tuple[Any, ...]:
    """A node's attributes as a key of a dict. Graphs are equal only if they are the same one."""
    if not attributes:
        return ()
    return tuple((name, _value_key(value)) for name, value in sorted(attributes.items()))


def _value_key(value: Any) -> Any:
    if isinstance(value, int | float | str):  # most are; the test for a protocol is slow
        return value
    if isinstance(value, list | tuple):
        return tuple(map(_value_key, value))
    if hasattr(value, "tobytes"):  # a tensor; isinstance of the protocol fails at one of strings
        strings = value.dtype == ir.DataType.STRING
        content = tuple(value.numpy().flat) if strings else value.tobytes()
        return (value.dtype, tuple(value.shape), content)
    return id(value) if isinstance(value, ir.Graph) else value


def _key(schema: onnx.defs.OpSchema, node: ir.Node) -> tuple[Any, ...]:
    """All that the standard's inference depends on."""
    key: list[Any] = [schema.name, len(node.outputs)]
    key.append(attributes_key({name: a.value for name, a in node.attributes.data.items()}))
    for v in node.inputs:
        if v is None:
            key.append(None)
            continue
        if (kind := v.type) is None:
            raise RuleError(f"the dtype of {v.name!r} is unknown")
        tensor = _sizes_in(v) if kind.dtype == ir.DataType.INT64 else None
        content = None if tensor is None else tensor.tobytes()
        key.append((kind.__class__, kind.dtype, dims_of(v), content))
    return tuple(key)


def _operand(value: ir.Value | None) -> str:
    """An operand as a message shows it: its name, dtype, dimensions, and the few sizes in it."""
    if value is None:
        return "none"
    dtype, held = value.dtype.name if value.dtype else "?", _sizes_in(value)
    kind = f"sequence of {dtype}" if is_sequence(value) else dtype
    content = f" = {held.numpy().tolist()}" if held is not None and held.size <= 8 else ""
    return f"{value.name!r} {kind} {shape_text(value)}".rstrip() + content


def _sizes_in(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of a value that is a small constant of int64: axes, sizes, starts. Else None."""
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.INT64 or tensor.size > SMALL:
        return None
    return tensor
