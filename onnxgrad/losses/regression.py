"""Losses of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Head, Input, Place, make
from onnxgrad.losses.labels import labels_of, numbers_like
from onnxgrad.losses.reduction import Reduction, checked, reduce


def mse(
    of: Place | Sequence[Any] = None, *, reduction: Reduction = "mean", labels: str = "labels"
) -> Head:
    """The squared error, ``(of - labels)**2``, as torch.nn.functional.mse_loss.

    Args:
        of: A floating-point tensor: a name or a position; None for the model's one output.
        reduction: "mean" or "sum" of all elements, or "none".
        labels: The name of the new input, of the tensor's shape and dtype.

    Returns:
        A head "loss", a scalar, or of the tensor's shape for "none". Half precision is computed in
        float32. The mean of no elements is NaN.

    Raises:
        ArgumentError: There is no such reduction; where it is used also: the name is taken.

    Example:
        >>> loss = og.losses.mse("logits")
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    return make("loss", of, _mse, labels=labels_of(labels), reduction=checked(reduction))


def l1(
    of: Place | Sequence[Any] = None, *, reduction: Reduction = "mean", labels: str = "labels"
) -> Head:
    """The absolute error, ``|of - labels|``, as torch.nn.functional.l1_loss.

    Args:
        of, reduction, labels: As for `mse`.

    Returns:
        A head "loss", as that of `mse`. Its gradient is 0 where the error is.

    Raises:
        ArgumentError: As for `mse`.

    Example:
        >>> loss = og.losses.l1("logits", reduction="sum")
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    return make("loss", of, _l1, labels=labels_of(labels), reduction=checked(reduction))


def huber(
    of: Place | Sequence[Any] = None,
    *,
    reduction: Reduction = "mean",
    delta: float = 1.0,
    labels: str = "labels",
) -> Head:
    """Half the squared error, but linear beyond `delta`, as torch.nn.functional.huber_loss.

    With e = ``|of - labels|`` it is ``e**2 / 2`` where e < delta, else
    ``delta * (e - delta / 2)`` (Huber 1964).

    Args:
        of, reduction, labels: As for `mse`.
        delta: Greater than 0.

    Returns:
        A head "loss", as that of `mse`.

    Raises:
        ArgumentError: As for `mse`, or `delta` is not greater than 0.

    Example:
        >>> loss = og.losses.huber("logits", delta=0.5)
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    if not delta > 0:
        raise ArgumentError(f"delta is a number greater than 0, not {delta!r}")
    given, reduction_ = labels_of(labels), checked(reduction)
    return make("loss", of, _huber, labels=given, reduction=reduction_, delta=float(delta))


def smooth_l1(
    of: Place | Sequence[Any] = None,
    *,
    reduction: Reduction = "mean",
    beta: float = 1.0,
    labels: str = "labels",
) -> Head:
    """The absolute error, but quadratic below `beta`, as torch.nn.functional.smooth_l1_loss.

    With e = ``|of - labels|`` it is ``e**2 / (2 * beta)`` where e < beta, else ``e - beta / 2``:
    `huber` divided by beta. With a beta of 0 it is `l1`.

    Args:
        of, reduction, labels: As for `mse`.
        beta: At least 0.

    Returns:
        A head "loss", as that of `mse`.

    Raises:
        ArgumentError: As for `mse`, or `beta` is negative.

    Example:
        >>> loss = og.losses.smooth_l1("logits", beta=0.5)
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    if not beta >= 0:
        raise ArgumentError(f"beta is a number of at least 0, not {beta!r}")
    given, reduction_ = labels_of(labels), checked(reduction)
    return make("loss", of, _smooth_l1, labels=given, reduction=reduction_, beta=float(beta))


def _error(op: Builder, y: Tensor, labels: Input) -> Tensor:
    return op.promoted(y) - op.promoted(numbers_like(op, y, labels))


def _mse(op: Builder, y: Tensor, labels: Input, reduction: str) -> Tensor:
    error = _error(op, y, labels)
    return reduce(error * error, reduction, like=y)


def _l1(op: Builder, y: Tensor, labels: Input, reduction: str) -> Tensor:
    return reduce(op.Abs(_error(op, y, labels)), reduction, like=y)


def _huber(op: Builder, y: Tensor, labels: Input, reduction: str, delta: float) -> Tensor:
    error = op.Abs(_error(op, y, labels))
    return reduce(_quadratic(error, delta), reduction, like=y)


def _smooth_l1(op: Builder, y: Tensor, labels: Input, reduction: str, beta: float) -> Tensor:
    error = op.Abs(_error(op, y, labels))
    if beta:
        error = _quadratic(error, beta) / beta
    return reduce(error, reduction, like=y)


def _quadratic(error: Tensor, below: float) -> Tensor:
    """Half the square of an error below a number, and behind it a line of the same slope."""
    op = error.op
    least = op.Min(error, op.const(below, like=error))  # the square of infinity has no derivative
    return op.Where(error < below, least * least / 2, (error - below / 2) * below)
