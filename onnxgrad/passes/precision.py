"""Promotes a model to a wider precision, for finite differences that can tell an error of 0.1 %."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_ir as ir

from onnxgrad.graph.schemas import onnx_schema

_BITS = {
    ir.DataType.FLOAT16: 16,
    ir.DataType.BFLOAT16: 16,
    ir.DataType.FLOAT: 32,
    ir.DataType.DOUBLE: 64,
}
# Attributes that choose an output's dtype.
_DTYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "output_datatype", "softmax_precision"}


def promote(model: ir.Model, to: ir.DataType, strict: bool = True) -> bool:
    """Promote every narrower floating-point tensor of a model to the dtype `to`, in place.

    An operand or output for which the standard does not define `to` is cast before or after the
    node: to FLOAT where that is defined, else to its own dtype. The values in `to` keep the names.

    Args:
        model: A model whose functions are inlined and whose dtypes are inferred.
        to: FLOAT or DOUBLE.
        strict: Whether to cast. Without casts all of the model is in `to`, but it may be invalid.

    Returns:
        Whether every operator calculates in `to`, by the standard.
    """
    pass_ = _Promotion(model, to)
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    for graph in model.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            pass_.value(value)
    for node in nodes:
        for value in node.outputs:
            pass_.value(value)
    for node in nodes:
        pass_.attributes(node)
        if strict:
            pass_.cast_around(node)
    return pass_.complete


class _Promotion:
    def __init__(self, model: ir.Model, to: ir.DataType) -> None:
        self.opsets, self.to = model.graph.opset_imports, to
        self.narrow: dict[ir.Value, ir.DataType] = {}  # what was promoted, and from what
        self.complete = True

    def is_narrow(self, dtype: ir.DataType | None) -> bool:
        return dtype in _BITS and _BITS[dtype] < _BITS[self.to]

    def value(self, value: ir.Value) -> None:
        if value.dtype is not None and self.is_narrow(value.dtype) and value not in self.narrow:
            self.narrow[value] = value.dtype
            value.dtype = self.to
        if value.const_value is not None:
            value.const_value = self.tensor(value.const_value)

    def tensor(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not self.is_narrow(tensor.dtype):
            return tensor
        return ir.Tensor(tensor.numpy().astype(self.to.numpy()), name=tensor.name)

    def attributes(self, node: ir.Node) -> None:
        if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
            zero = ir.tensor([0.0], self.to)  # the default is a float32
            node.attributes["value"] = ir.AttrTensor("value", zero)
        if node.op_type == "GroupNormalization" and self.opsets.get("", 0) >= 21:
            # It calculates in float32 whatever its operands are, unless told otherwise.
            node.attributes["stash_type"] = ir.AttrInt64("stash_type", self.to)
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, self.tensor(attribute.as_tensor()))
            elif name in _DTYPE_ATTRIBUTES and self.is_narrow(ir.DataType(attribute.as_int())):
                node.attributes[name] = ir.AttrInt64(name, self.to)

    def cast_around(self, node: ir.Node) -> None:
        schema = onnx_schema(node.domain, node.op_type, self.opsets.get(node.domain))
        inputs, outputs = (schema.inputs, schema.outputs) if schema else ([], [])
        for index, value in enumerate(node.inputs):
            if value in self.narrow and (kept := self._kept(inputs, index, value)):
                cast = _cast(value, kept)
                node.prepend(cast)
                node.replace_input_with(index, cast.outputs[0])
        for index, value in enumerate(node.outputs):
            if value in self.narrow and (kept := self._kept(outputs, index, value)):
                self.complete = False
                cast = _cast(value, self.to)
                promoted = cast.outputs[0]
                ir.convenience.replace_all_uses_with(value, promoted, replace_graph_outputs=True)
                cast.replace_input_with(0, value)
                node.append(cast)
                value.dtype = kept
                promoted.name, value.name = value.name, f"{value.name}/narrow"
        if schema and "stash_type" in schema.attributes and node.op_type != "GroupNormalization":
            self.complete &= self.to == ir.DataType.FLOAT

    def _kept(
        self,
        parameters: Sequence[onnx.defs.OpSchema.FormalParameter],
        index: int,
        value: ir.Value,
    ) -> ir.DataType | None:
        """The dtype that an operand or output keeps; None where it can have the new one."""
        if not parameters:
            return self.narrow[value]  # not an operator of the standard
        types = parameters[min(index, len(parameters) - 1)].types
        if ("tensor(double)" if self.to == ir.DataType.DOUBLE else "tensor(float)") in types:
            return None
        return ir.DataType.FLOAT if "tensor(float)" in types else self.narrow[value]


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    cast = ir.node("Cast", [value], attributes={"to": to})
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(to), value.shape
    return cast
