"""Labels: the new inputs that a loss compares a tensor with."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.heads.head import Input
from onnxgrad.heads.targets import existing


def labels_of(name: str) -> Input:
    """The new input that the argument `labels` of a loss names."""
    return Input(name, "labels='NAME'")


def numbers_like(op: Builder, y: Tensor, labels: Input) -> Tensor:
    """Labels of the shape and dtype of `y`; another number of them is an error when it is run."""
    given = labels.added(op, y.shape, y.dtype)
    return op.typed(op.Reshape(given, shapes.shape(y), allowzero=1), y)


def classes(
    op: Builder, y: Tensor, labels: Input, axis: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """The class of each position, with an axis of size 1 in the place of the classes of `y`.

    A number that no class has is an error when it is run.

    Returns:
        The classes, int64, with 0 where the label is `ignore_index`; and where it is not.
    """
    sizes = list(y.shape or ())
    given = labels.added(op, [*sizes[:axis], *sizes[axis + 1 :]], ir.DataType.INT64)
    along = [1 if a == axis else shapes.dim(y, a) for a in range(y.rank)]
    index = op.Reshape(given, shapes.vector(y, along), allowzero=1)
    index.value.shape = ir.Shape([1 if a == axis else d for a, d in enumerate(sizes)])
    counts = ~index.equals(ignore_index)
    index = op.Where(counts, index, op.const(0))
    return existing(index, shapes.dim(y, axis)), counts
