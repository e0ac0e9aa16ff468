"""Tensors that a runtime computes only after others, though they do not depend on these."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import is_sequence


def delayed(x: Tensor, after: Tensor) -> Tensor:
    """A tensor equal to `x`, which a runtime can compute only once it has computed `after`.

    What is computed of it is neither computed at once, nor folded into a constant, nor found equal
    to what is computed of `x`. Of `after` no element is taken: an empty slice of it is appended to
    the target of a Reshape of `x` to its own shape.
    """
    op = x.op
    if is_sequence(after.value):
        after = op.SequenceLength(after)
    none = op.Slice(op.Reshape(after, op.const([-1])), op.const([0]), op.const([0]))
    size = op.Concat(shapes.shape(x), op.Cast(none, to=ir.DataType.INT64), axis=0)
    return op.typed(op.Reshape(x, size), x)
