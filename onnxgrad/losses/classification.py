"""Losses of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Head, Input, Place, make
from onnxgrad.heads.targets import class_axis
from onnxgrad.losses.labels import classes, labels_of, numbers_like
from onnxgrad.losses.reduction import Reduction, checked, reduce


def cross_entropy(
    of: Place | Sequence[Any] = None,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    probabilities: bool = False,
    axis: int | None = None,
    labels: str = "labels",
) -> Head:
    """The cross-entropy of scores, as torch.nn.functional.cross_entropy.

    It is ``-weight[y] * LogSoftmax(of)[y]`` for the class y of each position.

    Args:
        of: The scores before a Softmax, floating-point: [N, C], [N, C, ...] with places, or [C]. A
            name or a position; None for the model's one output.
        weight: A number for each class, [C].
        ignore_index: The label of positions that do not count: their loss is 0, and the mean is
            taken over the others.
        reduction: "mean", which is divided by the sum of the weights of the labels, "sum", or
            "none" for the loss of each position.
        label_smoothing: From 0 to 1: how much of each label is shared among all classes.
        probabilities: Whether the labels are probabilities of the classes, of the shape and dtype
            of `of`, whose mean is divided by the number of positions. Else they are the numbers of
            the classes, int64, of the shape of `of` without its classes.
        axis: The axis of classes, -1 for the last, as language models have it; None for the second,
            and the only one of [C].
        labels: The name of the new input.

    Returns:
        A head "loss", a scalar, or for "none" of the shape of `of` without its classes. Half
        precision is computed in float32. Where no label counts, the mean is NaN and its gradient 0.

    Raises:
        ArgumentError: An argument is none of these; where the loss is used also: the name is taken,
            there is no axis of classes, or `weight` does not have a number for each class.
        FeedError: When it is run by `Net`: there is no class of that number, a negative one
            included, or there are too few or too many labels. Other runtimes raise their own.

    Example:
        >>> loss = og.losses.cross_entropy("logits", label_smoothing=0.1)
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"label_smoothing is a number from 0 to 1, not {label_smoothing!r}")
    if probabilities and ignore_index >= 0:
        raise ArgumentError("ignore_index is a class, and labels that are probabilities have none")
    return make(
        "loss",
        of,
        _of_probabilities if probabilities else _of_classes,
        labels=labels_of(labels),
        weight=weight,
        reduction=checked(reduction),
        label_smoothing=float(label_smoothing),
        axis=axis,
        **({} if probabilities else {"ignore_index": int(ignore_index)}),
    )


def nll(
    of: Place | Sequence[Any] = None,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    axis: int | None = None,
    labels: str = "labels",
) -> Head:
    """The negative log-likelihood, ``-weight[y] * of[y]``, as torch.nn.functional.nll_loss.

    Args:
        of: The logarithms of the probabilities, as a LogSoftmax gives them: else as for
            `cross_entropy`.
        weight, ignore_index, reduction, axis: As for `cross_entropy`.
        labels: The name of the new input: the numbers of the classes, int64, of the shape of `of`
            without its classes.

    Returns:
        A head "loss", as that of `cross_entropy`.

    Raises:
        ArgumentError, FeedError: As for `cross_entropy`.

    Example:
        >>> def log_softmax(op, y):
        ...     return {"log_p": op.LogSoftmax(y)}
        >>> net = og.attach("models/mlp.onnx", log_softmax, "logits")
        >>> model = og.gradient(net, og.ALL, of=og.losses.nll("log_p"))
    """
    return make(
        "loss",
        of,
        _nll,
        labels=labels_of(labels),
        weight=weight,
        reduction=checked(reduction),
        axis=axis,
        ignore_index=int(ignore_index),
    )


def _nll(
    op: Builder,
    y: Tensor,
    labels: Input,
    weight: Any,
    reduction: Reduction,
    axis: int | None,
    ignore_index: int,
) -> Tensor:
    axis, z = class_axis(y, axis), op.promoted(y)
    index, counts = classes(op, y, labels, axis, ignore_index)
    losses, weights = _weighted(op, z, index, counts, axis, _by_class(z, axis, weight))
    return op.cast(_reduced(losses, weights, axis, reduction), y.dtype)


def _of_classes(
    op: Builder,
    y: Tensor,
    labels: Input,
    weight: Any,
    reduction: Reduction,
    label_smoothing: float,
    axis: int | None,
    ignore_index: int,
) -> Tensor:
    axis = class_axis(y, axis)
    z = op.LogSoftmax(op.promoted(y), axis=axis)
    index, counts = classes(op, y, labels, axis, ignore_index)
    w = _by_class(z, axis, weight)
    losses, weights = _weighted(op, z, index, counts, axis, w)
    loss = _reduced(losses, weights, axis, reduction)
    if label_smoothing:
        every = z if w is None else z * shapes.reshape(w, _along(axis, z.rank))
        share = op.Where(counts, -shapes.reduce_sum(every, [axis], keepdims=1), op.const(0, like=z))
        share = shapes.divided(share * label_smoothing, shapes.dim(z, axis))
        loss = loss * (1 - label_smoothing) + _reduced(share, weights, axis, reduction)
    return op.cast(loss, y.dtype)


def _of_probabilities(
    op: Builder,
    y: Tensor,
    labels: Input,
    weight: Any,
    reduction: Reduction,
    label_smoothing: float,
    axis: int | None,
) -> Tensor:
    axis = class_axis(y, axis)
    z, p = (
        op.LogSoftmax(op.promoted(y), axis=axis),
        op.promoted(numbers_like(op, y, labels)),
    )
    if label_smoothing:
        share = shapes.inverse(shapes.dim(z, axis), like=z) * label_smoothing
        p = p * (1 - label_smoothing) + share
    products = z * p
    if (w := _by_class(z, axis, weight)) is not None:
        products = products * shapes.reshape(w, _along(axis, z.rank))
    return reduce(-shapes.reduce_sum(products, [axis]), reduction, like=y)


def _by_class(z: Tensor, axis: int, weight: Any) -> Tensor | None:
    """The weights of the classes, [C].

    Raises:
        ArgumentError: There are not as many as classes.
    """
    if weight is None:
        return None
    numbers, count = np.asarray(weight), z.dim(axis)
    if numbers.ndim != 1 or (isinstance(count, int) and numbers.size != count):
        raise ArgumentError(
            f"weight has a number for each class, so the shape [{count}], not {[*numbers.shape]}"
        )
    return z.op.const(numbers, like=z)


def _along(axis: int, rank: int) -> list[int]:
    """The sizes of a tensor of one axis that broadcasts along another."""
    return [-1 if a == axis else 1 for a in range(rank)]


def _weighted(
    op: Builder, z: Tensor, index: Tensor, counts: Tensor, axis: int, w: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The loss of each position, and its weight; both are 0 where it does not count."""
    zero = op.const(0, like=z)
    losses = -op.GatherElements(z, index, axis=axis)
    if w is None:
        return op.Where(counts, losses, zero), op.Cast(counts, to=z.dtype)
    weights = op.Gather(w, index)
    return op.Where(counts, losses * weights, zero), op.Where(counts, weights, zero)


def _reduced(losses: Tensor, weights: Tensor, axis: int, reduction: Reduction) -> Tensor:
    """The reduction, where the mean is weighted."""
    if reduction == "none":
        return losses.op.Squeeze(losses, losses.op.const([axis]))
    total = reduce(losses, "sum", like=losses)
    if reduction == "sum":
        return total
    # Divided by NaN, not by 0: the gradient is then known to be finite wherever a label counts, and
    # nothing has to guard the masks of the whole backward pass against an infinite one.
    size, op = reduce(weights, "sum", like=weights), losses.op
    return total / op.Where(size.equals(0), op.const(np.nan, like=size), size)
