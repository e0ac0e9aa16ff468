"""Models on onnx's reference evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError, ModelError
from onnxgrad.runtimes.ports import Array, Run


# The reference's own Erf, which its Gelu uses too, rounds to single precision.
class Erf(OpRun):
    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x),)


class Gelu(OpRun):
    op_domain = ""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + _erf(x / math.sqrt(2))),)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def on_reference(model: ir.Model, operators: Sequence[type[OpRun]] = ()) -> Run:
    """The model on onnx's reference evaluator, with some operators in place of its own."""
    try:
        own: list[type[OpRun]] = [Erf, Gelu, *operators]
        evaluator = ReferenceEvaluator(io.to_proto(model), new_ops=own)
    except Exception as error:  # whatever its operators raise
        raise ModelError(f"onnx's reference evaluator cannot load the net: {error}") from error

    def run(feeds: Mapping[str, Any], outputs: Sequence[str]) -> list[Array]:
        try:
            return list(evaluator.run(list(outputs), dict(feeds)))
        except Exception as error:  # as above
            raise FeedError(f"onnx's reference evaluator cannot run the net: {error}") from error

    return run
