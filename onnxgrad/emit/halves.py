"""Which operators lack half precision, or lose digits in it: their nodes calculate in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxgrad.graph.facts import HALVES

# Sums at run-time places. In half precision they lose digits, and onnxruntime's CPU refuses them.
_SUMMING = {"ScatterElements", "ScatterND"}


def lacking(
    schema: onnx.defs.OpSchema, operands: Sequence[ir.Value | None], attributes: dict[str, Any]
) -> ir.DataType | None:
    """The half precision that a node is wanted in and that its operator lacks, or is bad at."""
    tensors = [
        (k, v.dtype)
        for k, v in enumerate(operands)
        if v is not None
        and v.dtype in HALVES
        and isinstance(v.type, ir.TensorType)
        and schema.inputs
    ]
    sums = schema.name in _SUMMING and attributes.get("reduction") == "add"
    for k, dtype in tensors:
        if sums or not _takes(schema.inputs[min(k, len(schema.inputs) - 1)], dtype):
            return dtype
    given = attributes.get("dtype")
    return given if given in HALVES and not _takes(schema.outputs[0], given) else None


def _takes(formal: onnx.defs.OpSchema.FormalParameter, dtype: ir.DataType) -> bool:
    return f"tensor({dtype.name.lower()})" in formal.types
