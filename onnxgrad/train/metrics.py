"""Metrics: heads that an evaluation gives besides the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.heads.head import Head, Input, make
from onnxgrad.losses.labels import axis_of_classes, classes

# A head; or a function of the outputs and of the batch, both arrays by name, that gives a number.
Metric: TypeAlias = Head | Callable[[Mapping[str, Any], Mapping[str, Any]], float]


def accuracy(of: Any = None, labels: str = "labels", *, ignore_index: int = -100) -> Head:
    """The part of the positions whose largest score is that of their label.

    Args:
        of: The scores [N, C] or [N, C, ...]; None for the net's one output.
        labels: The name of the input with the classes, int64, [N] or [N, ...]: that of the loss.
        ignore_index: Positions of this label do not count.

    Returns:
        A head, of a float32 scalar.

    Raises:
        ArgumentError: When it is emitted: the tensor has no axis of classes.

    Example:
        >>> net = og.attach("models/mlp.onnx", og.train.accuracy("logits"))
        >>> [x.name for x in net.graph.input]
        ['input', 'labels']
    """
    return make("accuracy", of, _accuracy, labels=Input(labels), ignore_index=ignore_index)


def _accuracy(op: Any, y: Tensor, labels: Input, ignore_index: int) -> Tensor:
    index, counts = classes(op, y, labels, ignore_index)
    best = op.ArgMax(y, axis=axis_of_classes(y), keepdims=1)
    right, number = (
        shapes.reduce_sum(op.Cast(mask, to=ir.DataType.FLOAT), range(y.rank or 0))
        for mask in (op.And(op.Equal(best, index), counts), counts)
    )
    return right / op.Max(number, op.const(1, dtype=np.float32))
