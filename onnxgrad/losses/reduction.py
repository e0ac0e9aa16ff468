"""How the losses of elements become one."""

from __future__ import annotations

from typing import Literal, get_args

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError

Reduction = Literal["mean", "sum", "none"]
# Of a divergence: the mean over the examples of a batch too.
BatchReduction = Literal["mean", "sum", "none", "batchmean"]


def checked(reduction: str, among: object = Reduction) -> str:
    """A reduction, as a loss keeps it.

    Raises:
        ArgumentError: There is none of that name.
    """
    if reduction not in get_args(among):
        known = ", ".join(map(repr, get_args(among)))
        raise ArgumentError(f"reduction is one of {known}, not {reduction!r}")
    return reduction


def reduce(losses: Tensor, reduction: str, like: Tensor) -> Tensor:
    """The mean or the sum of all elements, a scalar, or the elements themselves.

    The mean of no elements is NaN, as in PyTorch; onnxruntime's ReduceMean gives 0.

    Args:
        like: Gives the dtype of the result.
    """
    if reduction != "none":
        every, losses = losses, shapes.reduce_sum(losses, shapes.axes_from(losses))
        if reduction != "sum":
            size = shapes.count(every) if reduction == "mean" else shapes.dim(every, 0)
            losses = losses / shapes.as_float(size, like=losses)
    return losses.op.cast(losses, like.dtype)
