"""Interpolation at points between the elements of a tensor.

The tensor is [B, C, ...]. The points along one axis are coordinates [B, P]. The neighbours that a
point is interpolated from are its taps, [B, T, P]; those along several axes combine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx_ir import DataType

from onnxgrad.emit import shapes
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor


@dataclass(frozen=True)
class Kernel:
    """The weights of the taps: polynomials in the distance of a point from the element before it.

    Attributes:
        first: The first tap, counted from that element.
        powers: The coefficients of each tap's polynomial, [degree + 1, T].
    """

    first: int
    powers: np.ndarray

    def weight(self, f: Tensor) -> Tensor:
        return _polynomial(f, self.powers)

    def slope(self, f: Tensor) -> Tensor:
        degrees = np.arange(1, len(self.powers))
        return _polynomial(f, self.powers[1:] * degrees[:, None])


def _polynomial(f: Tensor, powers: np.ndarray) -> Tensor:
    total: Tensor | None = None
    for row in powers[::-1]:
        constant = f.op.const(row[None, :, None], like=f)
        total = constant if total is None else total * f + constant
    assert total is not None
    return total


def cubic(a: float) -> Kernel:
    """Keys' cubic kernel: its taps lie at the distances f + 1, f, 1 - f and 2 - f."""
    near = np.polynomial.Polynomial([1, 0, -(a + 3), a + 2])
    far = np.polynomial.Polynomial([-4 * a, 8 * a, -5 * a, a])
    f = np.polynomial.Polynomial([0, 1])
    columns = [far(f + 1), near(f), near(1 - f), far(2 - f)]
    return Kernel(-1, np.stack([c.coef for c in columns], axis=1))


NEAREST = Kernel(0, np.array([[1.0]]))
LINEAR = Kernel(0, np.array([[1.0, 0.0], [-1.0, 1.0]]))
CUBIC = cubic(-0.75)


@dataclass(frozen=True)
class Taps:
    """The taps of points along one axis."""

    kernel: Kernel
    fraction: Tensor  # [B, 1, P]
    index: Tensor  # [B, T, P], int64, all within the tensor
    inside: Tensor | None  # [B, T, P], 0 for a tap that counts as zero; None if all count

    @property
    def weight(self) -> Tensor:
        return self._masked(self.kernel.weight(self.fraction))

    @property
    def slope(self) -> Tensor:
        """The derivative of the weight with respect to the coordinate."""
        return self._masked(self.kernel.slope(self.fraction))

    def _masked(self, w: Tensor) -> Tensor:
        return w if self.inside is None else w * self.inside


def taps(
    points: Tensor,
    size: float | Tensor,
    kernel: Kernel,
    zeros: bool = True,
    fold: Callable[[Tensor], Tensor] | None = None,
) -> Taps:
    """The taps of coordinates [B, P] along an axis.

    Args:
        points: Coordinates: 0 is the first element, `size` - 1 the last.
        size: The size of the axis, as a number in the dtype of `points`.
        kernel: The weights of the taps.
        zeros: Whether taps beyond the tensor count as zero; else they are its nearest element.
        fold: Maps the coordinates of all taps to those that are read, for taps beyond the tensor.
    """
    op = points.op
    points = op.Unsqueeze(points, op.const([1]))
    near = op.Round(points) if kernel is NEAREST else op.Floor(points)
    steps = kernel.first + np.arange(kernel.powers.shape[1])
    places = near + op.const(steps[:, None], like=points)
    inside = (places >= 0) & (places <= size - 1)
    index = clip(fold(places) if fold else places, size - 1)
    return Taps(
        kernel,
        points - near,
        op.cast(index, DataType.INT64),
        op.Cast(inside, to=points.dtype) if zeros else None,
    )


def clip(x: Tensor, last: float | Tensor) -> Tensor:
    """`x` between 0 and `last`."""
    op = x.op
    high = last if isinstance(last, Tensor) else op.const(last, like=x)
    return op.Clip(x, op.const(0, like=x), high)


def outer(factors: Sequence[Tensor]) -> Tensor:
    """The products of factors [B, T, P], one for each axis, over all combinations of taps."""

    def pair(a: Tensor, b: Tensor) -> Tensor:
        op = a.op
        product = op.Unsqueeze(a, op.const([2])) * op.Unsqueeze(b, op.const([1]))
        n, _, _, p = shapes.dims(product)
        return shapes.reshape(product, [n, -1, p])

    return functools.reduce(pair, factors)


def flat_index(axes: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
    """Indices [B, T, P] along each axis as indices into [B * S, C], for all combinations of taps.

    S is the product of the sizes.
    """
    op = axes[0].op
    index = axes[0]
    for a, size in zip(axes[1:], sizes[1:], strict=True):
        index = op.Unsqueeze(index * size, op.const([2])) + op.Unsqueeze(a, op.const([1]))
        n, _, _, p = shapes.dims(index)
        index = shapes.reshape(index, [n, -1, p])
    batch = shapes.arange(op, shapes.dim(index, 0)) * shapes.product(sizes)
    return index + op.Unsqueeze(batch, op.const([1, 2]))


def channels_last(x: Tensor) -> Tensor:
    """A tensor [B, C, ...] as [B, S, C], where S is the product of the sizes behind C."""
    b, c, *_ = shapes.dims(x)
    return x.op.Transpose(shapes.reshape(x, [b, c, -1]), perm=[0, 2, 1])


def gather(x: Tensor, index: Tensor) -> Tensor:
    """The channels of `x` [B, C, ...] at every tap: [B, T, P, C]."""
    c = shapes.dim(x, 1)
    return x.op.Gather(shapes.reshape(channels_last(x), [-1, c]), index, axis=0)


def scatter(updates: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """The transpose of `gather`: adds up `updates` [B, T, P, C] at their places in `x`."""
    op = updates.op
    b, c, *sizes = shapes.dims(x)
    s = shapes.product(sizes)
    zeros = shapes.full(updates, [b * s, c], 0)
    y = op.ScatterND(zeros, op.Unsqueeze(index, op.const([3])), updates, reduction="add")
    y = op.Transpose(shapes.reshape(y, [b, s, c]), perm=[0, 2, 1])
    return shapes.reshape_like(y, x)


def weighted(g: Tensor, weight: Tensor) -> Tensor:
    """The part [B, T, P, C] that each tap has in `g` [B, P, C], by weights [B, T, P]."""
    return g.op.Unsqueeze(g, g.op.const([1])) * g.op.Unsqueeze(weight, g.op.const([3]))
