"""The runtime "reference", onnx's evaluator: slow, but with every operator, and always there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxgrad.graph import io
from onnxgrad.graph.data import embedded
from onnxgrad.graph.errors import FeedError, ModelError
from onnxgrad.runtimes.protocol import Copied
from onnxgrad.runtimes.reference_ops import OPS
from onnxgrad.runtimes.registry import runtime


@runtime("reference")
class Reference:
    """onnx's reference evaluator, with some of its operators replaced by better ones."""

    title = "onnx's reference"
    # Not "cpu", whose results keep onnxruntime's own fused operators: the evaluator has none.
    target = "portable"

    def load(self, model: ir.Model, *, lean: bool = False) -> ReferenceSession:
        """A model that runs.

        Raises:
            ModelError: The evaluator cannot load the model.
        """
        io.replace_tensors(model, embedded)  # the evaluator knows no folder
        try:
            evaluator = ReferenceEvaluator(io.to_proto(model), new_ops=list(OPS))
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
