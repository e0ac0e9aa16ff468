"""The heads of classifiers, and those of any tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import shown
from onnxgrad.heads.head import Head, Input, Place, input_of, make
from onnxgrad.heads.targets import (
    Target,
    by_class,
    class_axis,
    in_rows,
    index_of,
    logits,
    picked,
    target_of,
)


def class_score(
    of: Place | Sequence[Any] = None, target: Target = "argmax", *, axis: int | None = None
) -> Head:
    """The score of a class, for each example: its entry in `of`, as it is.

    Args:
        of: The scores by class, floating-point: [N, C], or [N, C, ...] with places, such as the
            pixels of a segmentation, over which is summed, or [C] without a batch. [N], as of a
            regression, is a score for each example, that of class 0: a vector of the size of the
            first axis of an input [N, ...], or of a size that is not known. A name or a position;
            None for the model's one output.
        target: "argmax" for the class of the highest score of each example, found in the graph;
            "input" for a new int64 input "target" of shape [N], or "input:NAME" for one of that
            name, where a class that there is not is an error of the run; a class; or a class for
            each example.
        axis: The axis of classes, -1 for the last; None for the second, and the only one of [C].

    Returns:
        A head of shape [N] and of the dtype of `of`, which every `of` takes.

    Raises:
        ArgumentError: `target` is none of these; where the head is used also: there is no such
            class, or the tensor has no classes.

    Example:
        >>> model = og.gradient("models/mlp.onnx", of=og.heads.class_score("logits", target=1))
    """
    return make("class_score", of, _class_score, target=target_of(target), axis=axis)


def top_class(of: Place | Sequence[Any] = None, *, axis: int | None = None) -> Head:
    """The highest score of each example: `class_score` for "argmax".

    Args:
        of, axis: As for `class_score`.

    Returns:
        A head of shape [N] and the dtype of `of`.

    Raises:
        ArgumentError: As for `class_score`.

    Example:
        >>> model = og.gradient("models/digits.onnx", of=og.heads.top_class("logits"))
    """
    return make("top_class", of, _class_score, target="argmax", axis=axis)


def log_probability(
    of: Place | Sequence[Any] = None, target: Target = "argmax", *, axis: int | None = None
) -> Head:
    """The logarithm of the probability of a class, for each example: the LogSoftmax of `of`.

    As torch.nn.functional.log_softmax defines it.

    Args:
        of, target, axis: As for `class_score`; `of` are the scores before a Softmax; where it is
            the result of one over the classes, its operand is taken. With places, the logarithms
            are summed over them, and "argmax" is the class of the highest sum of scores.

    Returns:
        A head of shape [N] and of the dtype of `of`.

    Raises:
        ArgumentError: As for `class_score`.

    Example:
        >>> head = og.heads.log_probability("logits", target="input")
        >>> [x.name for x in og.gradient("models/mlp.onnx", of=head).graph.input]
        ['input', 'target']
    """
    return make("log_probability", of, _log_probability, target=target_of(target), axis=axis)


def probability(
    of: Place | Sequence[Any] = None, target: Target = "argmax", *, axis: int | None = None
) -> Head:
    """The probability of a class, for each example: the Softmax of `of`.

    As torch.nn.functional.softmax defines it.

    Args:
        of, target, axis: As for `log_probability`.

    Returns:
        A head of shape [N] and of the dtype of `of`.

    Raises:
        ArgumentError: As for `class_score`.

    Example:
        >>> model = og.gradient("models/mlp.onnx", of=og.heads.probability("logits", target=2))
    """
    return make("probability", of, _probability, target=target_of(target), axis=axis)


def margin(
    of: Place | Sequence[Any] = None, target: Target = "argmax", *, axis: int | None = None
) -> Head:
    """The score of a class less the highest score of all others, for each example.

    It is positive where the class is the net's choice (Carlini and Wagner 2017, with the sign
    changed).

    Args:
        of, target, axis: As for `class_score`.

    Returns:
        A head of shape [N] and of the dtype of `of`.

    Raises:
        ArgumentError: As for `class_score`.

    Example:
        >>> model = og.gradient("models/mlp.onnx", of=og.heads.margin("logits", target=0))
    """
    return make("margin", of, _margin, target=target_of(target), axis=axis)


def norm(of: Place | Sequence[Any] = None) -> Head:
    """The Euclidean norm of a tensor, for each example: over all axes but the first.

    As torch.linalg.vector_norm defines it.

    Args:
        of: A floating-point tensor [N, ...].

    Returns:
        A head of shape [N] and of the dtype of `of`. Where the norm is 0 its gradient is 0.

    Raises:
        ArgumentError: Where the head is used: the net has several outputs, and `of` names none.

    Example:
        >>> model = og.gradient("models/mlp.onnx", of=og.heads.norm("v_Relu_3"))
    """
    return make("norm", of, _norm)


def weighted_sum(of: Place | Sequence[Any], weights: Any) -> Head:
    """The sum of a tensor's elements times weights, for each example: over all axes but the first.

    Args:
        of: A floating-point tensor [N, ...].
        weights: Numbers that broadcast to it, so of shape [...] where all examples share them;
            "input" for a new input "weights" of the tensor's shape and dtype, or "input:NAME" for
            one of that name.

    Returns:
        A head of shape [N] and of the dtype of `of`.

    Raises:
        ArgumentError: `weights` are no numbers; where the head is used also: they do not broadcast
            to the tensor.

    Example:
        >>> head = og.heads.weighted_sum("logits", [1, 0, -1])
        >>> model = og.gradient("models/mlp.onnx", of=head)
    """
    given = input_of(weights, "weights")
    if given is None and not _numbers(weights):
        raise ArgumentError(f"weights are numbers or 'input', not {weights!r}")
    return make("weighted_sum", of, _weighted_sum, weights=given or weights)


def _numbers(weights: Any) -> bool:
    try:
        return np.asarray(weights).dtype.kind in "biuf"
    except ValueError:  # rows of different lengths
        return False


def class_of(op: Builder, head: Head, y: Tensor) -> Tensor | None:
    """The classes that a head is of, int64 [N]; None where it is of one or has none.

    Args:
        op: Has the graph input, where that gives the classes.
        head: One of this module, or a loss.
        y: The tensor that the head reads.
    """
    options = dict(head.options)
    target, axis = options.get("target"), options.get("axis")
    if target is None or isinstance(target, int):
        return None
    if isinstance(target, Input):
        return op.tensor(next(v for v in op.graph.inputs if v.name == target.name))
    y = in_rows(y, axis)
    if head.formula in (_log_probability, _probability):
        y = logits(y, axis)
    return op.Squeeze(index_of(op, by_class(y, axis), target), op.const([1]))


def listed_classes(head: Head) -> tuple[int, ...] | None:
    """A class for each example, where a head is given so many."""
    target = dict(head.options).get("target")
    return target if isinstance(target, tuple) else None


def with_classes(head: Head, name: str) -> Head:
    """The head with its classes given by a graph input of that name, int64 [N]."""
    options = tuple((k, Input(name, k) if k == "target" else v) for k, v in head.options)
    return dataclasses.replace(head, options=options, inputs=(*head.inputs, name))


def _class_score(op: Builder, y: Tensor, target: Target | Input, axis: int | None) -> Tensor:
    scores = by_class(in_rows(y, axis), axis)
    return picked(scores, index_of(op, scores, target))


def _log_probability(op: Builder, y: Tensor, target: Target | Input, axis: int | None) -> Tensor:
    y = logits(in_rows(y, axis), axis)
    index = index_of(op, by_class(y, axis), target)
    return picked(by_class(op.LogSoftmax(y, axis=class_axis(y, axis)), axis), index)


def _probability(op: Builder, y: Tensor, target: Target | Input, axis: int | None) -> Tensor:
    y = logits(in_rows(y, axis), axis)
    index = index_of(op, by_class(y, axis), target)
    return picked(by_class(op.Softmax(y, axis=class_axis(y, axis)), axis), index)


def _margin(op: Builder, y: Tensor, target: Target | Input, axis: int | None) -> Tensor:
    scores = by_class(in_rows(y, axis), axis)
    if scores.dim(1) == 1:
        raise ArgumentError(f"margin: {y.value.name!r} has one class, so no other one to compare")
    index = index_of(op, scores, target)
    least = shapes.full(scores, [shapes.dim(scores, 0), 1], -np.inf)
    others = op.ScatterElements(scores, index, least, axis=1)
    return picked(scores, index) - op.ReduceMax(others, op.const([1]), keepdims=0)


def _norm(op: Builder, y: Tensor) -> Tensor:
    return op.ReduceL2(y, op.const(range(1, y.rank)), keepdims=0) if y.rank > 1 else op.Abs(y)


def _weighted_sum(op: Builder, y: Tensor, weights: Any) -> Tensor:
    if isinstance(weights, Input):
        products = y * weights.added(op, y.shape, y.dtype)
    else:
        array = np.asarray(weights)
        if not y.takes(array.shape):
            raise ArgumentError(
                f"weighted_sum does not fit {shown(y.value)}: weights of shape "
                f"{[*array.shape]} do not broadcast to it"
            )
        products = y * op.const(array, like=y)
        if products.shape != y.shape:  # only a run can tell that it has as many examples
            products = op.typed(op.Reshape(products, shapes.shape(y), allowzero=1), y)
    return shapes.reduce_sum(products, range(1, products.rank))
