"""Schemas of the installed onnx, and names of operators."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import onnx


@dataclass(frozen=True)
class Schema:
    """The names that a rule can use: formal operands, outputs, and attributes with defaults."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    variadic_input: bool = False
    variadic_output: bool = False

    def operand(self, index: int) -> str:
        """The formal name of the operand at `index`; all that are variadic have the last name.

        An operand that is not declared has its index as its name.
        """
        if index < len(self.inputs):
            return self.inputs[index]
        return self.inputs[-1] if self.variadic_input else str(index)


@functools.cache
def schema_of(domain: str, op_type: str, version: int | None = None) -> Schema | None:
    """The standard's schema of an operator, the newest or that of an opset; None without one."""
    s = onnx_schema(domain, op_type, version)
    if s is None:
        return None
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    defaults = {
        name: onnx.helper.get_attribute_value(a.default_value) if a.default_value.type else None
        for name, a in s.attributes.items()
    }
    defaults = {k: _decoded(v) for k, v in defaults.items()}
    return Schema(
        tuple(p.name for p in s.inputs),
        tuple(p.name for p in s.outputs),
        defaults,
        bool(s.inputs) and s.inputs[-1].option == variadic,
        bool(s.outputs) and s.outputs[-1].option == variadic,
    )


def _decoded(default: Any) -> Any:
    if isinstance(default, list):
        return [_decoded(v) for v in default]
    return default.decode() if isinstance(default, bytes) else default


@functools.cache
def onnx_schema(domain: str, op_type: str, version: int | None = None) -> onnx.defs.OpSchema | None:
    """The schema object of the installed onnx; None for an operator that it does not know."""
    try:
        if version is None:
            return onnx.defs.get_schema(op_type, domain)
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


@dataclass(frozen=True)
class Signature:
    """What nodes of an operator are checked against. Of the schema object it takes long to ask."""

    attributes: tuple[str, ...]
    outputs: tuple[str, ...]
    least: int
    most: int


@functools.cache
def signature_of(op_type: str, version: int) -> Signature | None:
    """The signature of an operator of the standard; None if the opset has none of this name."""
    s = onnx_schema("", op_type, version)
    if s is None:
        return None
    outputs = tuple(p.name for p in s.outputs)
    return Signature(tuple(s.attributes), outputs, s.min_input, s.max_input)


def split_name(name: str) -> tuple[str, str]:
    """``"com.acme::Ramp"`` as ``("com.acme", "Ramp")``; the standard's domain is empty."""
    domain, _, op_type = name.rpartition("::")
    return ("" if domain == "ai.onnx" else domain), op_type


def joined_name(domain: str, op_type: str) -> str:
    """The name that `split_name` takes apart."""
    return f"{domain}::{op_type}" if domain else op_type
