"""Pooling over boxes, the regions of interest.

Each box has bins along either axis, and each bin has samples of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx_ir import DataType

from onnxgrad.declare.registry import rule, zero
from onnxgrad.emit import interpolation, shapes
from onnxgrad.emit.interpolation import LINEAR, Taps
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor


@rule("RoiAlign", "X")
def _(
    op, g, X, rois, batch_indices, mode, coordinate_transformation_mode, output_height,
    output_width, sampling_ratio, spatial_scale,
):  # fmt: skip
    half_pixel = coordinate_transformation_mode == "half_pixel"
    bins = (output_height, output_width)
    sides = _sides(X, rois, bins, sampling_ratio, spatial_scale, half_pixel)
    if mode == "max":
        return _Maximum(X, batch_indices, sides).vjp_x(g)
    return _average_vjp_x(g, X, batch_indices, sides)


@rule("RoiAlign", "rois")
def _(
    op, g, X, rois, batch_indices, mode, coordinate_transformation_mode, output_height,
    output_width, sampling_ratio, spatial_scale,
):  # fmt: skip
    half_pixel = coordinate_transformation_mode == "half_pixel"
    bins = (output_height, output_width)
    sides = _sides(X, rois, bins, sampling_ratio, spatial_scale, half_pixel)
    if mode == "max":
        points = _Maximum(X, batch_indices, sides).vjp_points(g)
    else:
        points = _average_vjp_points(g, X, batch_indices, sides)
    (top, bottom), (left, right) = (
        s.vjp_ends(p * spatial_scale) for s, p in zip(sides, points, strict=True)
    )
    return op.typed(op.Concat(left, top, right, bottom, axis=1), rois)


# -- where the samples are -----------------------------------------------------------------------


@dataclass
class Side:
    """The samples of all boxes along one axis of the image."""

    start: Tensor  # [R, 1, 1]
    extent: Tensor  # [R, 1, 1]
    moves: Tensor  # [R, 1, 1]: 1 where the extent follows the box, 0 where it is the least allowed
    count: Tensor  # [R, 1, 1]: samples per bin
    most: Size  # the largest count
    bins: int
    elements: Size  # of the image

    @property
    def size(self) -> float | Tensor:
        return shapes.as_float(self.elements, like=self.start)

    @property
    def fraction(self) -> Tensor:
        """How far into the box each sample is: [R, bins, most]."""
        op = self.start.op
        bin_ = op.const(np.arange(self.bins)[:, None], like=self.start)
        return (bin_ + (self._samples + 0.5) / self._divisor) / self.bins

    @property
    def points(self) -> Tensor:
        return self.start + self.fraction * self.extent

    @property
    def counts(self) -> Tensor:
        """1 for a sample that exists and is not beyond the image by a whole element."""
        points = self.points
        near = (points >= -1) & (points <= self.size)
        return self.exists * points.op.Cast(near, to=points.dtype)

    @property
    def exists(self) -> Tensor:
        """1 for a sample below the count of its box: [R, bins, most]."""
        op = self.start.op
        exists = op.Cast(self._samples < self.count, to=self.start.dtype)
        return op.Expand(exists, op.const([1, self.bins, 1]))

    @property
    def passes(self) -> Tensor:
        """1 where the sample is not moved to the border."""
        return self.start.op.Cast(
            (self.points > 0) & (self.points < self.size - 1), to=self.start.dtype
        )

    @property
    def clipped(self) -> Tensor:
        return interpolation.clip(self.points, self.size - 1)

    @property
    def _samples(self) -> Tensor:
        op = self.start.op
        return op.Cast(shapes.arange(op, self.most), to=self.start.dtype)

    @property
    def _divisor(self) -> Tensor:
        return self.start.op.Max(self.count, self.start.op.const(1, like=self.start))

    @property
    def share(self) -> Tensor:
        """What a sample counts for in the mean of its bin."""
        return self.counts * self.start.op.bounded(1 / self._divisor)

    def vjp_ends(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """The cotangents [R, 1] of a box's start and end, given that of its samples."""
        towards_end = self.fraction * self.moves
        end = shapes.reduce_sum(g * towards_end, [1])
        start = shapes.reduce_sum(g * (1 - towards_end), [1])
        return shapes.reduce_sum(start, [1], keepdims=1), shapes.reduce_sum(end, [1], keepdims=1)


def _sides(
    X: Tensor,
    rois: Tensor,
    bins: Sequence[int],
    sampling_ratio: int,
    spatial_scale: float,
    half_pixel: bool,
) -> list[Side]:
    """Vertical and horizontal."""
    op = X.op
    sides = []
    for k, n in enumerate(bins):
        ends = op.Unsqueeze(rois * spatial_scale, op.const([2]))
        start = shapes.part(ends, 1 - k, 2 - k, 1)
        end = shapes.part(ends, 3 - k, 4 - k, 1)
        if half_pixel:
            start, end = start - 0.5, end - 0.5
        extent = end - start
        moves = shapes.full_like(extent, 1)
        if not half_pixel:
            moves = op.Cast(extent > 1, to=X.dtype)
            extent = op.Max(extent, op.const(1, like=X))
        most: Size = sampling_ratio
        if sampling_ratio:
            count = shapes.full_like(extent, sampling_ratio)
        else:
            count = op.Ceil(extent / n)
            every = op.Concat(op.Reshape(count, op.const([-1])), op.const([1], like=X), axis=0)
            most = op.Cast(op.ReduceMax(every), to=DataType.INT64)
        sides.append(Side(start, extent, moves, count, most, n, shapes.dim(X, k + 2)))
    return sides


# -- the mean: along each axis a matrix [R, bins, size] of what the elements count for -----------


def _distance(side: Side) -> Tensor:
    """From every element to every sample: [R, bins, samples, size]."""
    op = side.start.op
    elements = op.Cast(shapes.arange(op, side.elements), to=side.start.dtype)
    return op.Unsqueeze(side.clipped, op.const([3])) - elements


def _matrix(side: Side) -> Tensor:
    op = side.start.op
    weights = op.Relu(1 - op.Abs(_distance(side)))
    return shapes.reduce_sum(weights * op.Unsqueeze(side.share, op.const([3])), [2])


def _average_vjp_x(g: Tensor, X: Tensor, batch_indices: Tensor, sides: list[Side]) -> Tensor:
    """The cotangent of X: one product sums the boxes of each image, by factors of 0 and 1."""
    op = X.op
    vertical, horizontal = (_matrix(s) for s in sides)
    n, c, h, w = shapes.dims(X)
    across = op.MatMul(g, op.Unsqueeze(horizontal, op.const([1])))
    across = op.Transpose(across, perm=[0, 2, 1, 3])  # [R, bins, C, W]
    images = op.Unsqueeze(shapes.arange(op, n), op.const([1]))
    chosen = op.Cast(images.equals(op.cast(batch_indices, images.dtype)), to=X.dtype)  # [N, R]
    down = op.Unsqueeze(chosen, op.const([2, 3])) * vertical
    down = op.Transpose(shapes.reshape(down, [n, -1, h]), perm=[0, 2, 1])
    y = op.MatMul(down, shapes.reshape(across, [-1, c * w]))
    return op.typed(op.Transpose(shapes.reshape(y, [n, h, c, w]), perm=[0, 2, 1, 3]), X)


def _average_vjp_points(
    g: Tensor, X: Tensor, batch_indices: Tensor, sides: list[Side]
) -> list[Tensor]:
    op = X.op
    vertical, horizontal = (op.Unsqueeze(_matrix(s), op.const([1])) for s in sides)
    image = op.Gather(X, batch_indices, axis=0)  # [R, C, H, W]
    across = op.MatMul(horizontal, op.Transpose(image, perm=[0, 1, 3, 2]))  # [R, C, bins, H]
    down = op.MatMul(vertical, image)  # [R, C, bins, W]
    matrices = [
        op.MatMul(_joined(g, [0, 2, 1, 3]), _joined(across, [0, 1, 2, 3], lead=False)),
        op.MatMul(_joined(g, [0, 3, 1, 2]), _joined(down, [0, 1, 2, 3], lead=False)),
    ]
    points = []
    for side, g_matrix in zip(sides, matrices, strict=True):
        away = _distance(side)
        slope = op.mask(-op.Sign(away), op.Abs(away) < 1)
        each = shapes.reduce_sum(op.Unsqueeze(g_matrix, op.const([2])) * slope, [3])
        points.append(each * side.share * side.passes)
    return points


def _joined(x: Tensor, perm: list[int], lead: bool = True) -> Tensor:
    """`x` transposed, with its last two axes as one, or with `lead` off the two before the last."""
    x = x.op.Transpose(x, perm=perm) if perm != [0, 1, 2, 3] else x
    r, a, b, c = shapes.dims(x)
    return shapes.reshape(x, [r, a, b * c] if lead else [r, a * b, c])


# -- the maximum: of every element that counts, times its weight, the first of the largest -------


class _Maximum:
    """The candidates for the maximum of each bin: [R, T, bins, C], T of them to a bin.

    As in onnxruntime and the standard's reference, the candidates are the elements around the
    samples, each times its weight, and not what is interpolated from them.
    """

    def __init__(self, X: Tensor, batch_indices: Tensor, sides: list[Side]) -> None:
        self.op, self.X, self.sides = X.op, X, sides
        self.taps = [self._taps(s) for s in sides]
        self.weights = [
            self._candidates(t.weight * self._flat(s.counts), s)
            for t, s in zip(self.taps, sides, strict=True)
        ]
        rows, columns = (
            self._candidates(t.index, s) for t, s in zip(self.taps, sides, strict=True)
        )
        _, c, h, w = shapes.dims(X)
        images = self.op.cast(batch_indices, rows.dtype) * shapes.product([h, w])
        images = self.op.Unsqueeze(images, self.op.const([1, 2]))
        self.index = self._cross("Add", rows * w, columns) + images
        self.weight = self._cross("Mul", *self.weights)
        table = shapes.reshape(interpolation.channels_last(X), [-1, c])
        self.values = self.op.Gather(table, self.index, axis=0)

    def vjp_x(self, g: Tensor) -> Tensor:
        weight = self.op.Unsqueeze(self.weight, self.op.const([3]))
        return interpolation.scatter(self._won(g) * weight, self.index, self.X)

    def vjp_points(self, g: Tensor) -> list[Tensor]:
        op = self.op
        g_weight = shapes.reduce_sum(self._won(g) * self.values, [3])
        (_, k, m), (_, j, n) = (shapes.dims(w) for w in self.weights)
        g_weight = shapes.reshape(g_weight, [-1, k, j, m, n])
        others = [[1, 3], [2, 4]]  # the axes of each side
        points = []
        for s, side in enumerate(self.sides):
            other = op.Unsqueeze(self.weights[1 - s], op.const(others[s]))
            of_side = shapes.reduce_sum(g_weight * other, others[1 - s])
            slope = self.taps[s].slope * self._flat(side.counts * side.passes)
            each = of_side * self._candidates(slope, side)
            each = shapes.reshape(each, [-1, 2, side.most, side.bins])
            points.append(op.Transpose(shapes.reduce_sum(each, [1]), perm=[0, 2, 1]))
        return points

    def _won(self, g: Tensor) -> Tensor:
        """`g` for the candidate that is the maximum, 0 for the others."""
        op = self.op
        lives = self._cross("Mul", *(self._twice(s.exists) for s in self.sides))
        lives = op.Unsqueeze(lives, op.const([3])) > 0
        candidates = self.values * op.Unsqueeze(self.weight, op.const([3]))
        lowest = op.const(-np.inf, like=candidates)
        best = op.ArgMax(op.Where(lives, candidates, lowest), axis=1, keepdims=1)
        numbers = shapes.arange(op, shapes.dim(self.index, 1))
        wins = best.equals(op.Unsqueeze(numbers, op.const([1, 2])))
        return op.mask(op.Unsqueeze(interpolation.channels_last(g), op.const([1])), wins)

    def _taps(self, side: Side) -> Taps:
        points = shapes.reshape(side.clipped, [shapes.dim(side.start, 0), -1])
        return interpolation.taps(points, side.size, LINEAR, zeros=False)

    def _flat(self, t: Tensor) -> Tensor:
        """Samples [R, bins, samples] as [R, 1, bins * samples]."""
        return shapes.reshape(t, [shapes.dim(t, 0), 1, -1])

    def _candidates(self, t: Tensor, side: Side) -> Tensor:
        """Taps [R, 2, bins * samples] as [R, 2 * samples, bins]."""
        t = self.op.Transpose(shapes.reshape(t, [-1, 2, side.bins, side.most]), perm=[0, 1, 3, 2])
        return shapes.reshape(t, [shapes.dim(t, 0), 2 * side.most, side.bins])

    def _twice(self, t: Tensor) -> Tensor:
        """Samples [R, bins, samples], repeated for both taps, as [R, 2 * samples, bins]."""
        t = self.op.Transpose(t, perm=[0, 2, 1])
        return self.op.Concat(t, t, axis=1)

    def _cross(self, combine: str, vertical: Tensor, horizontal: Tensor) -> Tensor:
        """[R, K, M] and [R, J, N] combined to [R, K * J, M * N]."""
        op = self.op
        (r, k, m), (_, j, n) = shapes.dims(vertical), shapes.dims(horizontal)
        left = op.Unsqueeze(vertical, op.const([2, 4]))
        right = op.Unsqueeze(horizontal, op.const([1, 3]))
        return shapes.reshape(op.node(combine, [left, right])[0], [r, k * j, m * n])


# -- MaxRoiPool ----------------------------------------------------------------------------------

zero("MaxRoiPool", "rois", reason="boxes are rounded to whole elements")


# The first of the elements that tie takes all, as in MaxPool.
@rule("MaxRoiPool", "X")
def _(op, g, X, rois, pooled_shape, spatial_scale):
    _, c, h, w = shapes.dims(X)
    batch = op.Cast(shapes.part(rois, 0, 1, 1), to=DataType.INT64)
    image = op.Gather(X, op.Squeeze(batch, op.const([1])), axis=0)  # [R, C, H, W]
    across = [_first(image, m) for m in _held(rois, 0, pooled_shape[1], w, spatial_scale)]
    column = op.Concat(*(place for place, _ in across), axis=3)  # [R, C, H, bins]
    highest = op.Transpose(op.Concat(*(top for _, top in across), axis=3), perm=[0, 1, 3, 2])
    column = op.Transpose(column, perm=[0, 1, 3, 2])
    down = [_first(highest, m) for m in _held(rois, 1, pooled_shape[0], h, spatial_scale)]
    row = op.Concat(*(place for place, _ in down), axis=3)  # [R, C, bins across, bins down]
    found = op.Concat(*(top for _, top in down), axis=3)
    column = op.GatherElements(column, row, axis=3)
    plane = op.Unsqueeze(batch, op.const([2, 3])) * c + op.Unsqueeze(
        shapes.arange(op, c), op.const([1, 2])
    )
    index = (plane * h + row) * w + column
    g = op.mask(op.Transpose(g, perm=[0, 1, 3, 2]), found > -np.inf)
    zeros = shapes.full(X, [shapes.count(X)], 0)
    flat = op.const([-1])
    y = op.ScatterElements(zeros, op.Reshape(index, flat), op.Reshape(g, flat), reduction="add")
    return shapes.reshape_like(y, X)


def _held(rois: Tensor, axis: int, bins: int, size: Size, scale: float) -> list[Tensor]:
    """Which elements along one axis each bin holds: booleans [R, 1, 1, size]."""
    op = rois.op
    ends = [shapes.part(rois, k, k + 1, 1) * scale for k in (1 + axis, 3 + axis)]
    start, end = (op.Sign(e) * op.Floor(op.Abs(e) + 0.5) for e in ends)
    width = op.Max(end - start + 1, op.const(1, like=rois)) / bins
    places = op.Cast(shapes.arange(op, size), to=rois.dtype)
    held = []
    for b in range(bins):
        first, beyond = op.Floor(width * b) + start, op.Ceil(width * (b + 1)) + start
        held.append(op.Unsqueeze((places >= first) & (places < beyond), op.const([1, 2])))
    return held


def _first(x: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """The first of the largest elements held along the last axis: its position and its value."""
    op = x.op
    seen = op.Where(held, x, op.const(-np.inf, like=x))
    return op.ArgMax(seen, axis=3, keepdims=1), op.ReduceMax(seen, op.const([3]), keepdims=1)
