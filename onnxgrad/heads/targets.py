"""Classes: which axis they lie along, and which of them a head is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Input

# "argmax", "input", "input:NAME", a class, or a class for each example.
Target: TypeAlias = str | int | Sequence[int]


def target_of(target: Target) -> Target | Input:
    """A target as a head keeps it.

    Raises:
        ArgumentError: It is none.
    """
    if isinstance(target, str):
        if target == "argmax":
            return target
        if target.partition(":")[0] == "input":
            return Input(target.partition(":")[2] or "target")
    elif (array := np.asarray(target)).dtype.kind in "iu" and array.ndim < 2:
        return array.tolist()
    raise ArgumentError(
        f"target is 'argmax', 'input', a class or a class for each example, not {target!r}"
    )


def class_axis(y: Tensor) -> int:
    """The axis of classes: the second, but the last of a matrix or a vector."""
    return 1 if y.rank > 2 else y.rank - 1


def by_class(y: Tensor) -> Tensor:
    """A score for each class, [N, C]: of a map of classes the sum over its places.

    Raises:
        ArgumentError: The tensor is a scalar.
    """
    if y.rank == 0:
        raise ArgumentError(f"{y.value.name!r} is a scalar, so it has no axis of classes")
    if y.rank == 1:
        return y.op.Unsqueeze(y, y.op.const([0]))
    return shapes.reduce_sum(y, range(2, y.rank)) if y.rank > 2 else y


def index_of(op: Builder, scores: Tensor, target: Target | Input) -> Tensor:
    """The class of each example, int64 [N, 1], for scores [N, C].

    Raises:
        ArgumentError: There is no such class, or there are not as many as examples.
    """
    examples, classes = scores.shape or (None, None)
    if isinstance(target, str):
        return op.ArgMax(scores, axis=1, keepdims=1)
    if isinstance(target, Input):
        given = op.input(target.name, [examples], ir.DataType.INT64)
        return op.Unsqueeze(given, op.const([1]))
    numbers = np.asarray(target, dtype=np.int64)
    beyond = isinstance(classes, int) and (numbers >= classes).any()
    if beyond or (numbers < 0).any():
        raise ArgumentError(f"target {target!r}: there are {classes} classes, counted from 0")
    if numbers.ndim and isinstance(examples, int) and numbers.size != examples:
        raise ArgumentError(f"target has {numbers.size} classes for {examples} examples")
    column, sizes = op.const(numbers.reshape(-1, 1)), [shapes.dim(scores, 0), 1]
    if not numbers.ndim:
        return shapes.expand(column, sizes)
    # GatherElements would leave examples out in silence; this fails if there are not as many.
    return op.Reshape(column, shapes.vector(column, sizes), allowzero=1)


def logits(y: Tensor) -> Tensor:
    """Scores before a Softmax: the operand, where they are the result of one over the classes."""
    node = y.value.producer()
    if node is None or node.domain or node.op_type not in ("Softmax", "LogSoftmax"):
        return y
    axis = node.attributes.get_int("axis", -1) % y.rank
    before = node.inputs[0]
    return y.op.tensor(before) if axis == class_axis(y) and before is not None else y


def picked(scores: Tensor, index: Tensor) -> Tensor:
    """The score of one class for each example, [N], for scores [N, C]."""
    op = scores.op
    return op.Squeeze(op.GatherElements(scores, index, axis=1), op.const([1]))
