"""A net in double precision, for solvers and optimizers that count on all of its digits."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxgrad.engine.flow import describe
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import all_nodes
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.passes.precision import promote
from onnxgrad.transforms.options import transform


@transform
def to_double(net: ir.Model, *, example: Any = None) -> None:
    """A model that calculates in float64: inputs, weights, outputs and all between.

    Where the standard does not define an operator for float64, its operands are cast to float32,
    and its results to float64. onnxruntime lacks some kernels for float64 on the CPU, such as those
    of Conv and Erf, which `Net` then says; `Net(model, runtime="reference")` has them.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        example: As for `gradient`.

    Returns:
        A model of the same kind (for a path a `ModelProto`) with the same inputs and outputs, whose
        float16, bfloat16 and float32 tensors are float64, in opset 18 or newer. As before any
        transform, functions are inlined, and operators of other domains that have an expansion are
        replaced.

    Raises:
        ModelError: The model cannot be read or is not valid, or an operator is unknown.
        FeedError: The net cannot be run on the example.

    Example:
        >>> model = og.to_double("models/mlp.onnx")
        >>> og.Net(model).ports["input"].dtype
        dtype('float64')
    """
    normalise(net, list(net.graph.initializers), example=example)
    for node in all_nodes(net.graph):
        if any(value.name and value.type is None for value in node.outputs):
            raise ModelError(
                f"{describe(node)} has a result of unknown dtype, so it cannot be told what to cast"
            )
    promote(net, ir.DataType.DOUBLE)
    optimise(net)
