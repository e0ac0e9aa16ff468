"""How the losses of elements become one."""

from __future__ import annotations

from typing import Literal, get_args

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError

Reduction = Literal["mean", "sum", "none"]


def checked(reduction: str) -> str:
    """A reduction, as a loss keeps it.

    Raises:
        ArgumentError: There is none of that name.
    """
    if reduction not in get_args(Reduction):
        raise ArgumentError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    return reduction


def reduce(losses: Tensor, reduction: str) -> Tensor:
    """The mean or the sum of all elements, a scalar, or the elements themselves.

    The mean of no elements is NaN, as in PyTorch; onnxruntime's ReduceMean gives 0.
    """
    if reduction == "none":
        return losses
    total = shapes.reduce_sum(losses, range(losses.rank))
    return total / shapes.as_float(shapes.count(losses), total) if reduction == "mean" else total
