"""Models on onnx's reference evaluator: slow, but with every operator, and nothing to install."""

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
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import Copied
from onnxgrad.runtimes.registry import runtime


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


@runtime("reference")
class Reference:
    """onnx's reference evaluator.

    Args:
        operators: Implementations in place of the reference's own.
    """

    title = "onnx's reference"
    # A transposed convolution, which "portable" emits, takes it seconds.
    target = "cpu"

    def __init__(self, operators: Sequence[type[OpRun]] = ()) -> None:
        self._operators: list[type[OpRun]] = [Erf, Gelu, *operators]

    def load(self, model: ir.Model, *, lean: bool = False) -> ReferenceSession:
        """A model that runs.

        Raises:
            ModelError: The reference refuses the model.
        """
        try:
            evaluator = ReferenceEvaluator(io.to_proto(model), new_ops=self._operators)
        except Exception as error:  # whatever its operators raise
            raise ModelError(f"onnx's reference evaluator cannot load the net: {error}") from error
        return ReferenceSession(evaluator)


class ReferenceSession:
    """A model on onnx's reference evaluator."""

    def __init__(self, evaluator: ReferenceEvaluator) -> None:
        self._evaluator = evaluator
        self.outputs: Sequence[str] = list(evaluator.output_names)

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """The values of `outputs` (all when None), in order.

        Raises:
            FeedError: The reference cannot run the net on these values.
        """
        wanted = self.outputs if outputs is None else outputs
        try:
            found = self._evaluator.run(list(wanted), dict(feeds))
        except Exception as error:  # as above
            raise FeedError(f"onnx's reference evaluator cannot run the net: {error}") from error
        return [np.asarray(y) if isinstance(y, np.generic) else y for y in found]

    def bind(self, feeds: Mapping[str, Any]) -> Copied:
        """The model at fixed places, into which results are copied.

        Raises:
            FeedError: The reference cannot run the net on these values, or they cannot be bound.
        """
        return Copied(self, feeds)
