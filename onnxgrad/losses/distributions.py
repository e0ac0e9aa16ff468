"""Losses of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.heads.head import Head, Input, Place, make
from onnxgrad.losses.labels import labels_of, numbers_like
from onnxgrad.losses.reduction import BatchReduction, Reduction, checked, reduce


def bce(
    of: Place | Sequence[Any] = None,
    *,
    weight: Any = None,
    reduction: Reduction = "mean",
    labels: str = "labels",
) -> Head:
    """The cross-entropy of two classes, as torch.nn.functional.binary_cross_entropy.

    It is ``-labels * log(of) - (1 - labels) * log(1 - of)``, where the logarithms are at least
    -100. Its derivative is ``(of - labels) / max(of * (1 - of), 1e-12)``, at 0 and at 1 too.

    Args:
        of: Probabilities, floating-point, from 0 to 1: elsewhere the loss is NaN. A name or a
            position; None for the model's one output.
        weight: Numbers that broadcast to `of`, by which the losses are multiplied.
        reduction, labels: As for `mse`.

    Returns:
        A head "loss", as that of `mse`.

    Raises:
        ArgumentError: As for `mse`, or `weight` does not broadcast to `of`.

    Example:
        >>> def sigmoid(op, y):
        ...     return {"p": op.Sigmoid(y)}
        >>> net = og.attach("models/mlp.onnx", sigmoid, "logits")
        >>> model = og.gradient(net, og.ALL, of=og.losses.bce("p"))
    """
    given = labels_of(labels)
    return make("loss", of, _bce, labels=given, weight=weight, reduction=checked(reduction))


def bce_with_logits(
    of: Place | Sequence[Any] = None,
    *,
    weight: Any = None,
    reduction: Reduction = "mean",
    pos_weight: Any = None,
    labels: str = "labels",
) -> Head:
    """`bce` of the Sigmoid of scores, as torch.nn.functional.binary_cross_entropy_with_logits.

    Args:
        of: Scores before a Sigmoid, floating-point. A name or a position; None for the model's one
            output.
        weight: Numbers that broadcast to `of`, by which the losses are multiplied.
        pos_weight: Numbers that broadcast to `of`, by which labels of 1 count more.
        reduction, labels: As for `mse`.

    Returns:
        A head "loss", as that of `mse`.

    Raises:
        ArgumentError: As for `mse`, or a weight does not broadcast to `of`.

    Example:
        >>> loss = og.losses.bce_with_logits("logits")
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    return make(
        "loss",
        of,
        _bce_with_logits,
        labels=labels_of(labels),
        weight=weight,
        pos_weight=pos_weight,
        reduction=checked(reduction),
    )


def kl_div(
    of: Place | Sequence[Any] = None,
    *,
    reduction: BatchReduction = "mean",
    log_target: bool = False,
    labels: str = "labels",
) -> Head:
    """The Kullback-Leibler divergence of labels from a tensor, as torch.nn.functional.kl_div.

    It is ``labels * (log(labels) - of)`` for each element; 0 for a label of 0.

    Args:
        of: Logarithms of probabilities, floating-point. A name or a position; None for the model's
            one output.
        reduction: "mean" or "sum" of all elements, "batchmean" for the sum divided by the size of
            the first axis, which is the divergence, or "none".
        log_target: Whether the labels are logarithms too.
        labels: As for `mse`.

    Returns:
        A head "loss", as that of `mse`.

    Raises:
        ArgumentError: As for `mse`.

    Example:
        >>> def log_softmax(op, y):
        ...     return {"log_p": op.LogSoftmax(y)}
        >>> net = og.attach("models/mlp.onnx", log_softmax, "logits")
        >>> loss = og.losses.kl_div("log_p", reduction="batchmean")
        >>> model = og.gradient(net, og.ALL, of=loss)
    """
    return make(
        "loss",
        of,
        _kl_div,
        labels=labels_of(labels),
        reduction=checked(reduction, BatchReduction),
        log_target=bool(log_target),
    )


# Where p (1 - p) is less, the derivative of `bce` is linear.
_LEAST = 1e-12
# A number times 2**20 that is rounded keeps six digits behind the point, and has no derivative.
_STEPS = 2.0**20


def _bce(op: Builder, y: Tensor, labels: Input, weight: Any, reduction: str) -> Tensor:
    p, t = op.promoted(y), op.promoted(numbers_like(op, y, labels))
    least = op.const(-100, like=p)
    losses = -(t * op.Max(op.Log(p), least) + (1 - t) * op.Max(op.Log(1 - p), least))
    # At 0 and 1, PyTorch's derivative is (p - t) / 1e-12. A parabola about the end has it.
    end = op.Round(p)
    beyond = p - end
    parabola = (beyond * beyond / 2 + (end - t) * beyond) * (1 / _LEAST)
    level = op.Round((losses - parabola) * _STEPS) / _STEPS
    losses = op.Where(p * (1 - p) < _LEAST, level + parabola, losses)
    return reduce(_weighted(losses, weight), reduction, like=y)


def _bce_with_logits(
    op: Builder, y: Tensor, labels: Input, weight: Any, pos_weight: Any, reduction: str
) -> Tensor:
    x, t = op.promoted(y), op.promoted(numbers_like(op, y, labels))
    # Softplus(-x) of numbers below 1, which onnxruntime lacks in float64: at 0 it is one branch
    # alone, so that every derivative is right.
    negative, zero = x < 0, op.const(0, like=x)
    positive = op.Log(op.Exp(op.Where(negative, x, -x)) + 1) + op.Where(negative, -x, zero)
    if pos_weight is not None:
        positive = positive * (_weighted(t, np.asarray(pos_weight) - 1) + 1)
    return reduce(_weighted((1 - t) * x + positive, weight), reduction, like=y)


def _kl_div(op: Builder, y: Tensor, labels: Input, reduction: str, log_target: bool) -> Tensor:
    x, t = op.promoted(y), op.promoted(numbers_like(op, y, labels))
    if log_target:
        losses = op.Exp(t) * (t - x)
    else:
        losses = op.Where(t.equals(0), op.const(0, like=t), t * op.Log(t)) - t * x
    return reduce(losses, reduction, like=y)


def _weighted(losses: Tensor, weight: Any) -> Tensor:
    """Losses times numbers that broadcast to them."""
    if weight is None:
        return losses
    return losses.op.typed(losses * losses.op.const(weight, like=losses), losses)
