"""Losses of numbers."""

from __future__ import annotations

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.heads.head import Head, Input, Place, make
from onnxgrad.losses.reduction import Reduction, checked, reduce


def mse(of: Place = None, *, reduction: Reduction = "mean", labels: str = "labels") -> Head:
    """The squared error, ``(of - labels)**2``, as torch.nn.functional.mse_loss.

    Args:
        of: A floating-point tensor: a name or a position; None for the model's one output.
        reduction: "mean" or "sum" of all elements, or "none".
        labels: The name of the new input, of the tensor's shape and dtype.

    Returns:
        A head "loss": a scalar, or of the tensor's shape for "none".

    Raises:
        ArgumentError: There is no such reduction; where it is used also: the name is taken.
    """
    return make("loss", of, _mse, labels=Input(labels), reduction=checked(reduction))


def _mse(op: Builder, y: Tensor, labels: Input, reduction: Reduction) -> Tensor:
    error = y - op.input(labels.name, y.shape, y.dtype)
    return reduce(error * error, reduction)
