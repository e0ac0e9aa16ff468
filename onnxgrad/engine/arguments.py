"""The arguments that a rule receives for the names of its parameters.

They are cotangents of the node's outputs, residuals (operands and outputs of the forward pass),
attributes, the builder, and what the engine does for nodes that hold graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.declare.registry import Entry, is_moving
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import captures
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import CAPTURES
from onnxgrad.graph.errors import RuleError
from onnxgrad.graph.marks import ROUNDED
from onnxgrad.graph.schemas import Schema, schema_of


class Arguments:
    """The arguments of the rules of one node.

    Args:
        op: Emits what the rules compute.
        node: The node, or a copy of it that is rematerialised.
        entry: The rules.
        gs: The cotangents of the node's outputs.
        functions: Functions of the engine by name, for rules of nodes that hold graphs.
    """

    def __init__(
        self,
        op: Builder,
        node: ir.Node,
        entry: Entry,
        gs: Sequence[Tensor | None],
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.op, self.node, self.entry, self.gs = op, node, entry, gs
        self.functions = functions

    def call(self, function: Callable[..., Any], names: Iterable[str], **given: Any) -> Any:
        """Call a rule with the arguments that it asks for."""
        names = tuple(names)
        schema = self.entry.schema
        for k, g in enumerate(self.gs):
            formal = schema.outputs[min(k, len(schema.outputs) - 1)]
            if g is not None and not (k == 0 and "g" in names) and f"g_{formal}" not in names:
                self.op.refuse(f"there is no rule for its output {formal!r}, which is used")
        if "g" in names and self.gs[0] is None:
            given["g"] = shapes.full_like(self.op.tensor(self.node.outputs[0]), 0)
        values = [given[n] if n in given else self._get(n, schema) for n in names]
        try:
            return function(*values)
        except (AttributeError, TypeError) as error:  # of an argument that is None, perhaps
            absent = [n for n, v in zip(names, values, strict=True) if v is None]
            unknown = [n for n in absent if not n.startswith("g") and self._is_no_name(n)]
            if not unknown:
                raise
            raise RuleError(
                f"the rule of {self.entry.name}: its parameter {unknown[0]!r} is neither an "
                f"operand ({', '.join(schema.inputs)}) nor an output "
                f"({', '.join(schema.outputs)}), and node {self.node.name!r} has no attribute of "
                f"that name. Name operands in inputs=[...] where the rule is declared. ({error})"
            ) from error

    def _is_no_name(self, name: str) -> bool:
        """Whether an operator without a schema is not known to have an operand so named."""
        known = (*self.entry.schema.inputs, *self.entry.schema.outputs)
        return schema_of(self.node.domain, self.node.op_type) is None and name not in known

    def _get(self, name: str, schema: Schema) -> Any:
        node, op = self.node, self.op
        if name == "op":
            return op
        if name == "node":
            return node
        if name == CAPTURES:
            return [op.tensor(v) for v in captures(node)]
        if name in self.functions:
            return self.functions[name]
        if name == "g":
            return self.gs[0]
        if name in schema.inputs:
            return self._operand(list(node.inputs), schema.inputs, schema.variadic_input, name)
        if name in schema.outputs:
            k = schema.outputs.index(name)
            if k >= len(node.outputs) or not node.outputs[k].name:
                self._ask_for_output(k, name)
            return self._operand(list(node.outputs), schema.outputs, schema.variadic_output, name)
        if name.startswith("g_") and name[2:] in schema.outputs:
            k = schema.outputs.index(name[2:])
            if schema.variadic_output and k == len(schema.outputs) - 1:
                return list(self.gs[k:])
            return self.gs[k] if k < len(self.gs) else None
        return self._attribute(name)

    def _operand(
        self, values: list[ir.Value | None], formal: Sequence[str], variadic: bool, name: str
    ) -> Any:
        k = formal.index(name)
        tensors = [None if v is None else self._number(v) for v in values]
        if variadic and k == len(formal) - 1:
            return tensors[k:]
        return tensors[k] if k < len(tensors) else None

    def _number(self, value: ir.Value) -> Tensor:
        """A residual; a rounded integer becomes the number it stands for where it is only moved."""
        tensor, dtype = self.op.tensor(value), ROUNDED.of(value)
        if dtype is not None and is_moving(self.node.domain, self.node.op_type):
            return self.op.cast(tensor, dtype)
        return tensor

    def _attribute(self, name: str) -> Any:
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return attribute.value
        schema = schema_of(
            self.node.domain, self.node.op_type, self.op.graph.opset_imports.get(self.node.domain)
        )
        return schema.attributes.get(name) if schema else None

    def _ask_for_output(self, k: int, name: str) -> None:
        """Add an optional output that the rule needs to the node of the forward pass."""
        node = self.node
        present = len(node.outputs)
        if k >= present:
            node.resize_outputs(k + 1)
        for i in range(present, k):
            node.outputs[i].name = ""
        node.outputs[k].name = self.op.names.fresh(f"{node.outputs[0].name}_{name}")
        self.op.infer_outputs(node)
