"""Resampling on a regular grid and at given points."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrad.declare.registry import not_implemented, rule
from onnxgrad.emit import interpolation, shapes
from onnxgrad.emit.interpolation import Taps
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.facts import Dim

# -- Resize --------------------------------------------------------------------------------------
#
# Resize is linear, and goes along one axis after the other. Along each it is a product with a
# matrix, which is what Resize makes of the identity. So no formula of a mode is written here, and a
# runtime folds the matrix where the sizes are known.

not_implemented("Resize", "scales", reason="how large the result is follows from them")


@rule("Resize")
def _(
    op, g, X, roi, scales, sizes, axes, keep_aspect_ratio_policy, coordinate_transformation_mode,
    antialias, cubic_coeff_a, exclude_outside, mode, nearest_mode, wanted,
):  # fmt: skip
    axes = [shapes.axis_of(a, X) for a in axes] if axes else list(range(X.rank))
    crop = roi if coordinate_transformation_mode == "tf_crop_and_resize" else None
    scales = _given(scales)
    joint = scales is None and keep_aspect_ratio_policy != "stretch"
    how = {
        "keep_aspect_ratio_policy": keep_aspect_ratio_policy if joint else None,
        "coordinate_transformation_mode": coordinate_transformation_mode,
        "antialias": antialias,
        "cubic_coeff_a": cubic_coeff_a,
        "exclude_outside": exclude_outside,
        "mode": mode,
        "nearest_mode": nearest_mode,
    }
    resize = _Resize(X, axes, _given(crop), scales, sizes, joint, how)
    result = {}
    if "X" in wanted:
        repeats = mode == "nearest" and (coordinate_transformation_mode, nearest_mode) in _REPEATS
        blocks = _blocks(g, X, axes, scales) if repeats and not joint else None
        if blocks:
            result["X"] = op.typed(_summed(g, blocks), X)  # every element fills a block
        else:
            result["X"] = op.typed(resize.back(g), X)
    if "roi" in wanted and resize.crop is not None and mode != "nearest":
        result["roi"] = op.typed(resize.to_crop(g, roi), roi)
    return result


@dataclass(frozen=True)
class _Resize:
    """A Resize along some axes of a tensor, one after the other."""

    X: Tensor
    axes: list[int]
    crop: Tensor | None
    scales: Tensor | None
    sizes: Tensor | None
    joint: bool  # the sizes of all axes decide on the scale of each
    how: dict[str, Any]

    def back(self, g: Tensor, but: int | None = None) -> Tensor:
        """The transpose of the Resize along every axis, or along all axes but one."""
        op, X, n = g.op, self.X, len(self.axes)
        named = None if self.sizes is None else dims_in(self.sizes.value)
        for k, a in enumerate(self.axes):
            crop = None if self.crop is None else op.Gather(self.crop, op.const([k, k + n]))
            scale = None if self.scales is None else shapes.part(self.scales, k, k + 1)
            stays = not self.joint and _stays(g, X, a, scale, named[k] if named else None)
            if k == but or (stays and (crop is None or _is(crop, [0, 1]))):
                continue
            if self.joint:
                others = [shapes.dim(X, b) for b in self.axes]
                matrix = _resized_eye(X, others, k, crop, None, self.sizes, self.how)
            else:
                target = None if scale is not None else shapes.vector(g, [shapes.dim(g, a), 1])
                one = op.const([1], dtype=np.float32)
                scale = None if scale is None else op.Concat(scale, one, axis=0)
                size = [shapes.dim(X, a), 1]
                matrix = _resized_eye(X, size, 0, crop, scale, target, self.how)
            g = _contract(matrix, g, a)
        return g

    def to_crop(self, g: Tensor, roi: Tensor) -> Tensor:
        """The cotangent of the crop: the slope at each point, times how far the point moves."""
        op, n = g.op, len(self.axes)
        if self.how["antialias"] or self.how["exclude_outside"]:
            op.refuse("the crop has no gradient with antialias or exclude_outside")
        moves = []
        for k, a in enumerate(self.axes):
            t = _places(roi, shapes.dim(g, a))
            low, high = op.Gather(roi, op.const(k)), op.Gather(roi, op.const(k + n))
            last = shapes.as_float(shapes.dim(self.X, a) - 1, like=roi)
            points = (low + (high - low) * t) * last
            within = op.Cast((points >= 0) & (points <= last), to=roi.dtype)
            steep = self.back(g, but=k) * self._slope(points, last + 1, a)
            others = [b for b in range(g.rank) if b != a]
            move = op.cast(shapes.reduce_sum(steep, others), roi.dtype) * within * last
            moves.append([move * (1 - t), move * t])
        ends = [m for of_one_end in zip(*moves, strict=True) for m in of_one_end]
        return op.Concat(*(shapes.reduce_sum(m, [0], keepdims=1) for m in ends), axis=0)

    def _slope(self, points: Tensor, size: float | Tensor, axis: int) -> Tensor:
        """The derivative of the interpolation along an axis, at points of it."""
        op, X = self.X.op, self.X
        cubic = interpolation.cubic(self.how["cubic_coeff_a"])
        kernel = cubic if self.how["mode"] == "cubic" else interpolation.LINEAR
        first = op.const([0])
        taps = interpolation.taps(op.Unsqueeze(points, first), size, kernel, zeros=False)
        around = op.Gather(X, op.Squeeze(taps.index, first), axis=axis)
        slope = op.cast(op.Squeeze(taps.slope, first), X.dtype)
        trailing = list(range(2, X.rank + 1 - axis))
        slope = op.Unsqueeze(slope, op.const(trailing)) if trailing else slope
        return shapes.reduce_sum(around * slope, [axis])


def _places(like: Tensor, count: Size) -> Tensor:
    """Numbers from 0 to 1 in equal steps; a single one in the middle."""
    op = like.op
    if isinstance(count, int):
        return op.const(np.linspace(0, 1, count) if count > 1 else [0.5], like=like)
    steps = shapes.as_float(shapes.at_least(count - 1, 1), like=like)
    t = op.bounded(op.Cast(shapes.arange(op, count), to=like.dtype) / steps)
    return op.Where(count.equals(1), op.const(0.5, like=like), t)


# With these, enlarging by whole numbers repeats each element that many times.
_REPEATS = {
    ("asymmetric", "floor"),
    *itertools.product(
        ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"),
        ("round_prefer_floor", "round_prefer_ceil"),
    ),
}


def _blocks(g: Tensor, X: Tensor, axes: list[int], scales: Tensor | None) -> list[int] | None:
    """How often each spatial element of an image is repeated, None unless by whole numbers."""
    if scales is not None:
        known = scales.const
    elif g.static is not None and X.static is not None and 0 not in X.static:
        known = np.array([g.static[a] / X.static[a] for a in axes])
    else:
        known = None
    if known is None or not 3 <= X.rank <= 5 or any(s < 1 or s % 1 for s in known):
        return None
    factors = dict(zip(axes, map(int, known), strict=True))
    if factors.get(0, 1) != 1 or factors.get(1, 1) != 1:
        return None
    return [factors.get(a, 1) for a in range(2, X.rank)]


def _summed(g: Tensor, blocks: list[int]) -> Tensor:
    """The sums over blocks of an image."""
    op, channels, how = g.op, g.dim(1), {"kernel_shape": blocks, "strides": blocks}
    if isinstance(channels, int) and g.dtype in op.target.product_sums:
        return op.Conv(g, shapes.full(g, [channels, 1, *blocks], 1), group=channels, **how)
    return op.AveragePool(g, **how) * math.prod(blocks)


def _given(x: Tensor | None) -> Tensor | None:
    """The operand, or None where it is empty: so older models write an absent one."""
    return None if x is None or x.static == (0,) else x


def _is(x: Tensor, values: Sequence[float]) -> bool:
    return x.const is not None and np.array_equal(x.const, values)


def _stays(g: Tensor, X: Tensor, axis: int, scale: Tensor | None, asked: Dim) -> bool:
    """Whether an axis is known to keep its size: by the scale, or by the size that is asked for."""
    if scale is not None:
        return _is(scale, [1])
    its = X.dim(axis)
    return shapes.same_dim(asked, its) or shapes.same_dim(g.dim(axis), its)


def _resized_eye(
    like: Tensor,
    sizes: Sequence[Size],
    k: int,
    crop: Tensor | None,
    scales: Tensor | None,
    target: Tensor | None,
    how: dict[str, object],
) -> Tensor:
    """The matrix [sizes[k], resized] of resizing along axis k of a tensor with `sizes`.

    Each row of the identity is a channel of an image that is constant along the other axes.
    """
    op, n = like.op, len(sizes)
    square = shapes.full(like, [sizes[k]] * 2, 0)
    eye = op.EyeLike(square, dtype=like.dtype)
    column = [sizes[k] if j == k else 1 for j in range(n)]
    image = shapes.reshape(eye, [1, sizes[k], *column])
    if any(s != 1 for j, s in enumerate(sizes) if j != k):
        image = op.Expand(image, shapes.vector(like, [1, sizes[k], *sizes]))
    if crop is not None:
        low, high = shapes.part(crop, 0, 1), shapes.part(crop, 1, 2)
        before, after = [0] * k, [0] * (n - 1 - k)
        zeros = [op.const(z, like=crop) for z in (before, after)]
        ones = [z + op.const(1, like=crop) for z in zeros]
        crop = op.Concat(zeros[0], low, zeros[1], ones[0], high, ones[1], axis=0)
    image = op.Resize(image, crop, scales, target, axes=list(range(2, n + 2)), **how)
    first = op.const([0])
    for j in range(n):
        if j != k:
            image = op.Slice(image, first, op.const([1]), op.const([j + 2]))
    return shapes.reshape(image, [sizes[k], shapes.dim(image, k + 2)])


def _contract(matrix: Tensor, g: Tensor, axis: int) -> Tensor:
    """`g` multiplied by `matrix` along `axis`: each vector v along it becomes `matrix` v."""
    op = g.op
    sizes = shapes.dims(g)
    if axis == len(sizes) - 1:
        return op.MatMul(g, op.Transpose(matrix, perm=[1, 0]))
    if axis == len(sizes) - 2:
        return op.MatMul(matrix, g)
    rows = shapes.reshape(g, [*sizes[: axis + 1], shapes.product(sizes[axis + 1 :])])
    y = op.MatMul(matrix, rows)
    return shapes.reshape(y, [*sizes[:axis], shapes.dim(matrix, 0), *sizes[axis + 1 :]])


# -- GridSample ----------------------------------------------------------------------------------

_KERNELS = {
    "nearest": interpolation.NEAREST,
    "linear": interpolation.LINEAR,
    "cubic": interpolation.CUBIC,
}


@rule("GridSample", "X")
def _(g, X, grid, mode, padding_mode, align_corners):
    taps, _ = _grid_taps(X, grid, mode, padding_mode, align_corners)
    index = interpolation.flat_index([t.index for t in taps], shapes.dims(X)[2:])
    weight = X.op.cast(interpolation.outer([t.weight for t in taps]), X.dtype)
    return interpolation.scatter(
        interpolation.weighted(interpolation.channels_last(g), weight), index, X
    )


@rule("GridSample", "grid")
def _(op, g, X, grid, mode, padding_mode, align_corners):
    if mode == "nearest":
        return None  # zero wherever it exists
    taps, slopes = _grid_taps(X, grid, mode, padding_mode, align_corners)
    index = interpolation.flat_index([t.index for t in taps], shapes.dims(X)[2:])
    rows = op.Unsqueeze(interpolation.channels_last(g), op.const([1]))
    values = op.cast(shapes.reduce_sum(interpolation.gather(X, index) * rows, [3]), grid.dtype)
    parts = []
    for a, slope in enumerate(slopes):
        along = interpolation.outer([t.slope if b == a else t.weight for b, t in enumerate(taps)])
        parts.append(op.Unsqueeze(shapes.reduce_sum(values * along, [1]) * slope, op.const([2])))
    return shapes.reshape_like(op.Concat(*reversed(parts), axis=2), grid)


def _grid_taps(
    X: Tensor, grid: Tensor, mode: str, padding_mode: str, align_corners: int
) -> tuple[list[Taps], list[float | Tensor]]:
    """The taps along each axis, and the derivatives of their points by the grid's coordinates."""
    op, n, kernel = X.op, X.rank - 2, _KERNELS[mode]
    every, slopes = [], []
    for a in range(n):
        size = shapes.as_float(shapes.dim(X, a + 2), like=grid)
        part = op.Gather(grid, op.const(n - 1 - a), axis=-1)
        part = shapes.reshape(part, [shapes.dim(X, 0), shapes.count(part, range(1, n + 1))])
        slope = (size - 1) / 2 if align_corners else size / 2
        points = (part + 1) * slope - (0 if align_corners else 0.5)
        fold = None
        if padding_mode == "reflection" and kernel is interpolation.CUBIC:
            # The taps are folded back, and the point between them is not.
            fold = functools.partial(_folded, size=size, align_corners=align_corners)
        elif padding_mode != "zeros" and kernel is not interpolation.CUBIC:
            if padding_mode == "reflection":
                slope = _fold_slope(points, size, align_corners) * slope
                points = _folded(points, size, align_corners)
            # No derivative at the border itself, as in PyTorch.
            within = (points > 0) & (points < size - 1)
            slope = op.Cast(within, to=grid.dtype) * slope
            points = interpolation.clip(points, size - 1)
        every.append(interpolation.taps(points, size, kernel, padding_mode == "zeros", fold))
        slopes.append(slope)
    return every, slopes


def _mirrors(size: float | Tensor, align_corners: int) -> tuple[float, float | Tensor]:
    """The coordinate of the first mirror, and the distance from one to the next."""
    if not align_corners:
        return -0.5, size
    span = size - 1
    return 0, span.op.Max(span, span.op.const(1, like=span)) if isinstance(span, Tensor) else (
        max(span, 1)
    )


def _folds(i: Tensor, size: float | Tensor, align_corners: int) -> tuple[Tensor, Tensor]:
    """The distance from the first mirror, and how many others are passed on the way."""
    low, span = _mirrors(size, align_corners)
    distance = i.op.Abs(i - low)
    return distance, i.op.Floor(distance / span)


def _odd(count: Tensor) -> Tensor:
    return count - count.op.Floor(count / 2) * 2


def _folded(i: Tensor, size: float | Tensor, align_corners: int) -> Tensor:
    """Coordinates beyond the mirrors brought back between them."""
    low, span = _mirrors(size, align_corners)
    distance, count = _folds(i, size, align_corners)
    rest = distance - count * span
    return rest + _odd(count) * (span - rest * 2) + low


def _fold_slope(i: Tensor, size: float | Tensor, align_corners: int) -> Tensor:
    low, _ = _mirrors(size, align_corners)
    _, count = _folds(i, size, align_corners)
    return i.op.Sign(i - low) * (1 - _odd(count) * 2)


# -- AffineGrid ----------------------------------------------------------------------------------


@rule("AffineGrid", "theta")
def _(op, g, theta, size, align_corners):
    """The grid is linear in theta: a product with points, which are the grid of the identity."""
    rows = theta.dim(1)
    n = rows if isinstance(rows, int) else g.rank - 2
    one = op.Concat(op.const([1]), shapes.part(size, 1, n + 2), axis=0)
    eye = op.const(np.eye(n, n + 1)[None], like=theta)
    points = shapes.reshape(op.AffineGrid(eye, one, align_corners=align_corners), [-1, n])
    rows = shapes.reshape(g, [shapes.dim(g, 0), -1, n])
    linear = op.MatMul(op.Transpose(rows, perm=[0, 2, 1]), points)
    offset = shapes.reduce_sum(rows, [1])
    return op.typed(op.Concat(linear, op.Unsqueeze(offset, op.const([2])), axis=2), theta)
