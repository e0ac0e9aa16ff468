"""Losses of distances: pairs that belong together, with the label 1, or do not, with -1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Head, Input, Place, make
from onnxgrad.losses.labels import labels_of, numbers_like
from onnxgrad.losses.reduction import Reduction, checked, reduce


def cosine_embedding(
    input1: str | Sequence[Any],
    input2: str | Sequence[Any],
    *,
    margin: float = 0.0,
    reduction: Reduction = "mean",
    labels: str = "labels",
) -> Head:
    """The loss of the cosine of two tensors, as torch.nn.functional.cosine_embedding_loss.

    It is ``1 - cos`` for the label 1 and ``max(0, cos - margin)`` for -1.

    Args:
        input1, input2: Floating-point tensors of one dtype and shape, [N, D] or [D]: names or
            positions.
        margin: The cosine up to which a pair with the label -1 has no loss.
        reduction: "mean" or "sum" over the pairs, or "none".
        labels: The name of the new input, of shape [N] or [] and of the tensors' dtype: 1 or -1.
            The loss of another label is NaN.

    Returns:
        A head "loss", a scalar, or of shape [N] for "none". Half precision is computed in float32.

    Raises:
        ArgumentError: There is no such reduction; where it is used also: the name is taken, or a
            tensor has more than two axes.

    Example:
        >>> loss = og.losses.cosine_embedding("v_Tanh_1", "v_Relu_3")
        >>> model = og.gradient("models/mlp.onnx", og.ALL, of=loss)
    """
    places = tuple(p if isinstance(p, str) else tuple(p) for p in (input1, input2))
    return make(
        "loss",
        places,
        _cosine_embedding,
        labels=labels_of(labels),
        margin=float(margin),
        reduction=checked(reduction),
    )


def hinge(
    of: Place | Sequence[Any] = None,
    *,
    margin: float = 1.0,
    reduction: Reduction = "mean",
    labels: str = "labels",
) -> Head:
    """The loss of a distance, as torch.nn.functional.hinge_embedding_loss.

    It is ``of`` for the label 1 and ``max(0, margin - of)`` for -1.

    Args:
        of: Distances, floating-point. A name or a position; None for the model's one output.
        margin: The distance from which on a pair with the label -1 has no loss.
        reduction, labels: As for `mse`; a label is 1 or -1, and the loss of another is NaN.

    Returns:
        A head "loss", as that of `mse`.

    Raises:
        ArgumentError: As for `mse`.

    Example:
        >>> loss = og.losses.hinge("energy")
        >>> model = og.gradient("models/two_in_two_out.onnx", og.ALL, of=loss)
    """
    given = labels_of(labels)
    return make(
        "loss", of, _hinge, labels=given, margin=float(margin), reduction=checked(reduction)
    )


def _cosine_embedding(
    op: Builder, a: Tensor, b: Tensor, labels: Input, margin: float, reduction: str
) -> Tensor:
    if not 1 <= a.rank == b.rank <= 2:
        raise ArgumentError(
            f"cosine_embedding is of two tensors [N, D] or [D], not of {a.value.shape} and "
            f"{b.value.shape}"
        )
    like, a, b = a, op.promoted(a), op.promoted(b)
    squares = [shapes.reduce_sum(x * x, [a.rank - 1]) + 1e-12 for x in (a, b)]
    cosine = shapes.reduce_sum(a * b, [a.rank - 1]) / op.Sqrt(squares[0] * squares[1])
    t = op.promoted(numbers_like(op, op.cast(cosine, like.dtype), labels))
    apart = op.Clip(cosine - margin, op.const(0, like=cosine))
    return reduce(_of_pairs(t, 1 - cosine, apart), reduction, like=like)


def _hinge(op: Builder, y: Tensor, labels: Input, margin: float, reduction: str) -> Tensor:
    x, t = op.promoted(y), op.promoted(numbers_like(op, y, labels))
    apart = op.Clip(margin - x, op.const(0, like=x))
    return reduce(_of_pairs(t, x, apart), reduction, like=y)


def _of_pairs(t: Tensor, together: Tensor, apart: Tensor) -> Tensor:
    """The loss by the label: of 1, of -1, or NaN, with a gradient of NaN."""
    op, fits = t.op, t.equals(1) | t.equals(-1)
    known = op.Where(fits, op.const(1, like=t), op.const(np.nan, like=t))
    return op.Where(t.equals(1), together, apart) * known
