"""Classes: which axis they lie along, and which of them a head is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of
from onnxgrad.heads.head import Input, input_of

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
        if given := input_of(target, "target"):
            return given
    elif (array := np.asarray(target)).dtype.kind in "iu" and array.ndim < 2:
        return array.tolist()
    raise ArgumentError(
        f"target is 'argmax', 'input', a class or a class for each example, not {target!r}"
    )


def class_axis(y: Tensor, axis: int | None = None) -> int:
    """The axis of classes: the given one, or else the second, and of a vector [C] the only one.

    Raises:
        ArgumentError: There is none.
    """
    name, rank = y.value.name, y.rank
    if rank == 0:
        raise ArgumentError(
            f"{name!r} is a scalar, so it has no axis of classes: differentiate it as it is, for "
            "an explanation with target=None"
        )
    if axis is None:
        return min(1, rank - 1)
    if axis not in range(-rank, rank) or (rank > 1 and axis % rank == 0):
        raise ArgumentError(
            f"axis {axis!r}: {name!r} has {rank} axes, and where there are several the first is "
            "that of the examples"
        )
    return axis % rank


def in_rows(y: Tensor, axis: int | None) -> Tensor:
    """Scores with an axis of classes: a vector with a number for each example gets one, of size 1.

    Such a vector has the size of a batch, the first axis of an input with several, or one that is
    not known: there is a known number of classes.
    """
    if axis is not None or y.rank != 1:
        return y
    inputs = (dims_of(v) or () for v in y.op.graph.inputs if not v.is_initializer())
    batches = {dims[0] for dims in inputs if len(dims) > 1}
    by_example = not isinstance(y.dim(0), int) or y.dim(0) in batches
    return y.op.Unsqueeze(y, y.op.const([1])) if by_example else y


def by_class(y: Tensor, axis: int | None = None) -> Tensor:
    """A score for each class, [N, C]: of a map of classes the sum over its places.

    Raises:
        ArgumentError: There is no axis of classes.
    """
    axis = class_axis(y, axis)
    if y.rank == 1:
        return y.op.Unsqueeze(y, y.op.const([0]))
    places = [a for a in range(1, y.rank) if a != axis]
    return shapes.reduce_sum(y, places) if places else y


def index_of(op: Builder, scores: Tensor, target: Target | Input) -> Tensor:
    """The class of each example, int64 [N, 1], for scores [N, C].

    Where a graph input gives a class that there is not, it is an error when it is run.

    Raises:
        ArgumentError: There is no such class, or there are not as many as examples.
    """
    examples, classes = scores.shape or (None, None)
    if isinstance(target, str):
        return op.ArgMax(scores, axis=1, keepdims=1)
    if isinstance(target, Input):
        given = target.added(op, [examples], ir.DataType.INT64)
        return existing(op.Unsqueeze(given, op.const([1])), shapes.dim(scores, 1))
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


def existing(index: Tensor, count: Size) -> Tensor:
    """Classes; a number that none of so many has is an error when it is run.

    Gather refuses to read beyond the end. It counts a negative number from the end, so that
    becomes the largest one.
    """
    op = index.op
    index = op.Where(index < 0, op.const(np.iinfo(np.int64).max), index)
    end = op.Reshape(shapes.vector(index, [count]), op.const([], dtype=np.int64))
    numbers = op.Range(op.const(0), end, op.const(1))
    return op.typed(op.Gather(numbers, index), index)


def logits(y: Tensor, axis: int | None = None) -> Tensor:
    """Scores before a Softmax: the operand, where they are the result of one over the classes."""
    node = y.value.producer()
    if node is None or node.domain or node.op_type not in ("Softmax", "LogSoftmax"):
        return y
    over, before = node.attributes.get_int("axis", -1) % y.rank, node.inputs[0]
    return y.op.tensor(before) if over == class_axis(y, axis) and before is not None else y


def picked(scores: Tensor, index: Tensor) -> Tensor:
    """The score of one class for each example, [N], for scores [N, C]."""
    op = scores.op
    return op.Squeeze(op.GatherElements(scores, index, axis=1), op.const([1]))
