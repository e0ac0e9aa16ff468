"""Resampling: on a regular grid, at given points, in boxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from onnxgrad import shapes
from onnxgrad.builder import Tensor
from onnxgrad.registry import not_implemented, rule
from onnxgrad.shapes import Size

# -- Resize --------------------------------------------------------------------------------------
#
# It is linear, and one axis after the other: along each a matrix, which is what Resize makes of the
# identity. So every mode is the runtime's own, and where the sizes are known it folds the matrix.

not_implemented("Resize", "roi", "scales", reason="only the resized tensor has a gradient")


@rule("Resize", "X")
def _(
    op, g, X, roi, scales, sizes, axes, keep_aspect_ratio_policy, coordinate_transformation_mode,
    antialias, cubic_coeff_a, exclude_outside, mode, nearest_mode,
):  # fmt: skip
    axes = [shapes.axis_of(a, X) for a in axes] if axes else list(range(X.rank))
    n = len(axes)
    roi = _given(roi) if coordinate_transformation_mode == "tf_crop_and_resize" else None
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
    if mode == "nearest" and (coordinate_transformation_mode, nearest_mode) in _REPEATS:
        blocks = _blocks(g, X, axes, scales)
        if blocks:
            # Every element fills a block: the sum over it.
            mean = op.AveragePool(g, kernel_shape=blocks, strides=blocks)
            return op.typed(mean * math.prod(blocks), X)
    for k, a in enumerate(axes):
        crop = None if roi is None else op.Gather(roi, op.const([k, k + n]))
        scale = None if scales is None else shapes.part(scales, k, k + 1)
        if _unchanged(g, X, a, scale) and (crop is None or _is(crop, [0, 1])):
            continue
        if joint:
            # The sizes of all axes decide on the scale of each.
            others = [shapes.dim(X, b) for b in axes]
            matrix = _resized_eye(X, others, k, crop, None, sizes, how)
        else:
            target = None if scale is not None else shapes.vector(g, [shapes.dim(g, a), 1])
            scale = None if scale is None else op.Concat(scale, op.const([1], like=scale), axis=0)
            matrix = _resized_eye(X, [shapes.dim(X, a), 1], 0, crop, scale, target, how)
        g = _contract(matrix, g, a)
    return op.typed(g, X)


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


def _given(x: Tensor | None) -> Tensor | None:
    """An operand that older models leave empty instead of out."""
    return None if x is None or x.static == (0,) else x


def _is(x: Tensor, values: Sequence[float]) -> bool:
    return x.const is not None and np.array_equal(x.const, values)


def _unchanged(g: Tensor, X: Tensor, axis: int, scale: Tensor | None) -> bool:
    """Whether the size of an axis is known to stay."""
    if scale is not None:
        return _is(scale, [1])
    return g.shape is not None and X.shape is not None and shapes.same_dim(
        g.shape[axis], X.shape[axis]
    )


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

    The identity's rows are channels of an image, constant along the other axes.
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
    return shapes.reshape(image, [sizes[k], -1])


def _contract(matrix: Tensor, g: Tensor, axis: int) -> Tensor:
    """The sum over `axis` of `g` and the last of `matrix`, whose other takes its place."""
    op = g.op
    sizes = shapes.dims(g)
    if axis == len(sizes) - 1:
        return op.MatMul(g, op.Transpose(matrix, perm=[1, 0]))
    if axis == len(sizes) - 2:
        return op.MatMul(matrix, g)
    rows = shapes.reshape(g, [*sizes[: axis + 1], shapes.product(sizes[axis + 1 :])])
    y = op.MatMul(matrix, rows)
    return shapes.reshape(y, [*sizes[:axis], shapes.dim(matrix, 0), *sizes[axis + 1 :]])
