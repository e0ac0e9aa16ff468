"""Labels: the new inputs that a loss compares a tensor with."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Input
from onnxgrad.heads.targets import class_axis

_BEYOND = np.iinfo(np.int64).max


def numbers_like(op: Builder, y: Tensor, labels: Input) -> Tensor:
    """Labels of the shape and dtype of `y`; another number of them is an error when it is run."""
    given = op.input(labels.name, y.shape, y.dtype)
    return op.typed(op.Reshape(given, shapes.shape(y), allowzero=1), y)


def axis_of_classes(y: Tensor) -> int:
    """The axis of classes of [N, C], [N, C, ...] or [C].

    Raises:
        ArgumentError: The tensor is a scalar.
    """
    if y.rank == 0:
        raise ArgumentError(f"{y.value.name!r} is a scalar, so it has no axis of classes")
    return class_axis(y)


def classes(op: Builder, y: Tensor, labels: Input, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The class of each position, with an axis of size 1 in the place of the classes of `y`.

    A number that no class has is an error when it is run: Gather refuses to read beyond the end.
    It counts a negative number from the end, so that becomes the largest one.

    Returns:
        The classes, int64, with 0 where the label is `ignore_index`; and where it is not.
    """
    axis, sizes = axis_of_classes(y), list(y.shape or ())
    given = op.input(labels.name, [*sizes[:axis], *sizes[axis + 1 :]], ir.DataType.INT64)
    along = [1 if a == axis else shapes.dim(y, a) for a in range(y.rank)]
    index = op.Reshape(given, shapes.vector(y, along), allowzero=1)
    index.value.shape = ir.Shape([1 if a == axis else d for a, d in enumerate(sizes)])
    counts = ~index.equals(ignore_index)
    index = op.Where(counts, index, op.const(0))
    index = op.Where(index < 0, op.const(_BEYOND), index)
    count = op.Reshape(shapes.vector(y, [shapes.dim(y, axis)]), op.const([], dtype=np.int64))
    numbers = op.Range(op.const(0), count, op.const(1))
    return op.typed(op.Gather(numbers, index), index), counts
