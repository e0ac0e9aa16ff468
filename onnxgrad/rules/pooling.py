"""Pooling: over windows and over all spatial axes."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes, windows
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.chosen import Choice
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.emit.windows import Axis

# float32 counts to here.
_COUNTED = 2**24


# The first of the elements that tie takes all, as in PyTorch.
@rule("MaxPool", "X")
def _(op, g, X, Y, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode):
    axes = _windows(op, X, kernel_shape, strides, dilations, pads, auto_pad)
    rest = _rest(axes, g, ceil_mode)
    if rest is not None and _is_searched(X, kernel_shape):
        return _first_of_each(X, Y, kernel_shape, rest).cotangent(g)
    how = {"kernel_shape": kernel_shape, "strides": strides, "dilations": dilations}
    how |= {"pads": None if auto_pad != "NOTSET" else pads, "auto_pad": auto_pad}
    may_miss = any(map(_may_miss, axes))

    def spread(g: Tensor) -> Tensor:
        if windows.is_sliced(X, axes):
            return _into_first_maxima(g, X, axes, ceil_mode)
        if _is_searched_by_axes(X, axes):
            return _into_first_by_axes(_as_many_as_begin(g, axes), X, dict(enumerate(axes, 2)))
        # A node of its own: the one of the forward pass is not to be asked for Indices.
        _, indices = op.MaxPool(X, outputs=2, ceil_mode=ceil_mode, **how)
        return _scatter(op.mask(g, indices >= 0) if may_miss else g, indices, X)

    return spread(g) if may_miss else Choice(X, Y, spread).cotangent(g)


def _may_miss(a: Axis) -> bool:
    """Whether a window may have nothing but padding, as where the input lies between its steps."""
    most = max(windows.known([a.begin, a.end]) or [0])
    return most > 0 and (a.dilation > 1 or not isinstance(a.kernel, int) or most >= a.kernel)


def _windows(op, x, kernel, strides, dilations, pads, auto_pad):
    """The axes of a pool; an auto_pad on which the standard and onnxruntime disagree is refused.

    onnxruntime computes SAME without the dilation of the kernel, and its first window may begin
    behind the first element where strides leave gaps.
    """
    axes = windows.sliding(x, kernel, strides, dilations, pads, auto_pad)
    if auto_pad.startswith("SAME") and any(
        a.reach != a.kernel - 1 or a.stride > a.kernel + 1 for a in axes
    ):
        op.refuse(
            f"runtimes disagree on what auto_pad={auto_pad} pads windows of these dilations and "
            f"strides with: write it as pads"
        )
    return axes


def _is_searched(x: Tensor, kernel: list[int]) -> bool:
    """Whether to search the windows for their maximum, not to ask MaxPool for its Indices."""
    target = x.op.target
    return x.dtype in target.searched_dtypes and 1 < math.prod(kernel) <= target.searched_window


def _first_of_each(x: Tensor, y: Tensor, kernel: list[int], rest: list[Size]) -> Choice:
    """The first element of each window that equals its maximum `y`; no windows overlap."""
    op = x.op
    # A rest that is known belongs to the last window along its axis; zeros are put into others.
    known = [r if isinstance(r, int) else 0 for r in rest]
    behind = [0 if isinstance(r, int) else r for r in rest]
    whole = [n * k + r for n, k, r in zip(shapes.dims(y)[2:], kernel, known, strict=True)]
    reach = [k + r for k, r in zip(kernel, known, strict=True)]

    def spread(g: Tensor) -> Tensor:
        indices = _first_maxima(x, y, kernel, whole)
        found = op.MaxUnpool(op.promoted(g), indices, kernel_shape=reach, strides=kernel)
        return op.typed(_extended(op.cast(found, x.dtype), behind), x)

    def pick(t: Tensor) -> Tensor:
        indices = _first_maxima(x, y, kernel, shapes.dims(x)[2:])
        return shapes.reshape_like(op.GatherElements(_flat(t), _flat(indices)), y)

    return Choice(x, y, spread, pick)


def _first_maxima(x: Tensor, y: Tensor, kernel: list[int], sizes: list[Size]) -> Tensor:
    """The number, in a tensor of spatial `sizes`, of the first element that equals a window's `y`.

    float32 counts to the last element of a plane where that is known to be small, else to the last
    of a window.
    """
    op, (n, c, *counts) = x.op, shapes.dims(y)
    apart = [shapes.product(sizes[a + 1 :]) for a in range(len(sizes))]
    parts = []
    for missed, between in zip(_missed(x, y, kernel), apart, strict=False):
        steps = [op.Cast(m, to=ir.DataType.FLOAT) for m in missed]
        parts += [op.sum(steps) * shapes.as_float(between, like=steps[0])] if steps else []
    plane = shapes.product(sizes)
    begins = functools.reduce(
        operator.add,
        [
            shapes.reshape(shapes.arange(op, m) * (k * between), [-1] + [1] * (len(kernel) - 1 - a))
            for a, (m, k, between) in enumerate(zip(counts, kernel, apart, strict=True))
        ],
    )
    is_small = isinstance(plane, int) and plane < _COUNTED
    if is_small:
        parts.append(op.Cast(begins, to=ir.DataType.FLOAT))
    found = op.Cast(op.sum(parts), to=ir.DataType.INT64)
    planes = shapes.reshape(shapes.arange(op, n * c) * plane, [n, c, *[1] * len(kernel)])
    return (found if is_small else found + begins) + planes


def _missed(x: Tensor, y: Tensor, kernel: list[int]) -> list[list[Tensor]]:
    """For each axis, whether the first 1, 2, ... rows of each window do not hold its maximum `y`.

    Along the first axis these are rows of the whole window, along the next those of the first row
    that holds the maximum. For NaN none does: the last element is taken.
    """
    missed: list[list[Tensor]] = []
    # The numbers of rows to look at along the axes so far, and the conditions under which the last
    # of them are the first that hold the maximum.
    leads: list[tuple[list[int], list[Tensor]]] = [([], [])]
    for a, k in enumerate(kernel):
        held = []
        for rows in range(1, k):
            boxes = [([*lead, rows, *kernel[a + 1 :]], first) for lead, first in leads]
            found = [
                functools.reduce(operator.and_, [*first, _holds(x, y, box, kernel)])
                for box, first in boxes
            ]
            held.append(functools.reduce(operator.or_, found))
        missed.append([~h for h in held])
        if math.prod(kernel[a + 1 :]) == 1:
            break
        before, here = [[], *([m] for m in missed[a])], [*([h] for h in held), []]
        leads = [
            ([*lead, rows], [*first, *before[rows - 1], *here[rows - 1]])
            for lead, first in leads
            for rows in range(1, k + 1)
        ]
    return missed


def _holds(x: Tensor, y: Tensor, box: list[int], kernel: list[int]) -> Tensor:
    """Whether what each window of `x` begins with, a box, holds its maximum `y`."""
    op, part = x.op, x.op.MaxPool(x, kernel_shape=box, strides=kernel)
    # Along an axis where the boxes are shorter there may be one more in the rest.
    shorter = [a for a, (b, k) in enumerate(zip(box, kernel, strict=True), 2) if b < k]
    axes = [a for a in shorter if not shapes.same_dim(part.dim(a), y.dim(a))]
    if axes:
        ends = shapes.vector(x, [shapes.dim(y, a) for a in axes])
        part = op.Slice(part, op.const([0] * len(axes)), ends, op.const(axes))
    return y.equals(part)


def _is_searched_by_axes(x: Tensor, axes: list[Axis]) -> bool:
    """Whether to search for the maxima along one axis after the other.

    Pools with dilation do not reach as far beyond the end in onnxruntime.
    """
    plain = all(a.dilation == 1 and isinstance(a.kernel, int) for a in axes)
    return plain and x.dtype in x.op.target.searched_dtypes


def _as_many_as_begin(g: Tensor, axes: list[Axis]) -> Tensor:
    """`g` with zeros for the windows that begin within the input and end beyond all padding."""
    behind: dict[int, tuple[Size, Size]] = {}
    for k, a in enumerate(axes, 2):
        begun = (a.size + a.begin + (a.stride - 1)) // a.stride
        if begun != (counted := shapes.dim(g, k)):
            behind[k] = (0, begun - counted)
    return shapes.pad(g, behind) if behind else g


def _into_first_by_axes(g: Tensor, x: Tensor, axes: dict[int, Axis]) -> Tensor:
    """The cotangent of `x`, `g` being that of its maxima over all windows that begin within it.

    A window is reduced along its last axis, and what remains along the others. So the first of the
    elements that equal its maximum is the first along the last axis that equals the maximum of its
    row, in the first of the rows that have the maximum of all.
    """
    op, *rest, (axis, a) = x.op, *axes.items()
    padded = shapes.pad(x, {axis: (a.begin, 0)}, -math.inf) if a.begin != 0 else x
    assert isinstance(a.kernel, int)

    def maximum(elements: int) -> Tensor:
        """Over the first elements of each window; those at the end reach beyond it."""
        kernel, strides = [1] * (x.rank - 2), [1] * (x.rank - 2)
        kernel[axis - 2], strides[axis - 2] = elements, a.stride
        pads = [0] * len(kernel) + [n - 1 for n in kernel]
        return op.MaxPool(padded, kernel_shape=kernel, strides=strides, pads=pads)

    top = maximum(a.kernel)
    if rest:
        g = _into_first_by_axes(g, top, dict(rest))
    found, before = [], None
    for elements in range(1, a.kernel):
        held = maximum(elements).equals(top)
        if op.numbers.bounds.of(x.value)[0] == -math.inf:
            held = _but_for_padding(held, axis, a, elements)
        found.append(op.mask(g, held if before is None else held & ~before))
        before = held
    found.append(g if before is None else op.mask(g, ~before))
    return op.typed(_laid_out(found, axis, a), x)


def _but_for_padding(held: Tensor, axis: int, a: Axis, elements: int) -> Tensor:
    """`held`, but false where the first elements of a window are all padding."""
    empty = shapes.at_least(a.begin - elements + a.stride, 0) // a.stride
    return (
        held
        if empty == 0
        else shapes.pad(shapes.part(held, empty, 2**31, axis), {axis: (empty, 0)})
    )


def _laid_out(found: list[Tensor], axis: int, a: Axis) -> Tensor:
    """The sum of what each element of the windows along one axis has, in the size of the axis."""
    op, like = found[0].op, found[0]
    phases: list[list[Tensor]] = [[] for _ in range(a.stride)]
    for k, t in enumerate(found):
        if later := k // a.stride:
            t = shapes.pad(shapes.part(t, 0, -later, axis), {axis: (later, 0)})
        phases[k % a.stride].append(t)
    y = [op.sum(p) if p else shapes.full_like(like, 0) for p in phases]
    sizes = shapes.dims(like)
    sizes[axis] = sizes[axis] * a.stride
    whole = y[0]
    if a.stride > 1:
        beside = op.Concat(*(op.Unsqueeze(t, op.const([axis + 1])) for t in y), axis=axis + 1)
        whole = shapes.reshape(beside, sizes)
    if a.begin == 0 and a.size == sizes[axis]:
        return whole
    return shapes.part(whole, a.begin, a.begin + a.size, axis)


def _into_first_maxima(g: Tensor, x: Tensor, axes: list[Axis], ceil_mode: int) -> Tensor:
    """`g` of each window, at the first of its elements that equals their maximum.

    That is of the elements that are compared, not the output of the forward pass: onnxruntime 1.15
    computes half precision in float32 and rounds what it slices, so the two may differ. Some
    runtimes give the lowest number for a window of -inf alone, so that stands for -inf, which only
    padding then is.
    """
    op = x.op
    if ceil_mode:  # the last window may begin before the end of the padding and go on behind it
        sizes = zip(axes, shapes.dims(g)[2:], strict=True)
        ends = [a.stride * (n - 1) + a.reach + 1 - a.begin - a.size for a, n in sizes]
        axes = [replace(a, end=shapes.at_least(e, 0)) for a, e in zip(axes, ends, strict=True)]
    lowest = op.const(ml_dtypes.finfo(x.dtype.numpy()).min, like=x)
    seen = windows.taps(windows.padded_with(-math.inf, op.Max(x, lowest), axes), axes)
    y = op.Max(*seen)
    taken, found = None, []
    for t in seen:
        here = t.equals(y)
        first = here if taken is None else here & ~taken
        taken = here if taken is None else here | taken
        found.append(op.mask(g, first))
    return windows.untapped(found, x, axes)


def _scatter(g: Tensor, indices: Tensor, x: Tensor) -> Tensor:
    """A tensor in the shape of `x` with `g` added at `indices` into its flat elements."""
    zeros = shapes.full(x, [shapes.count(x)], 0)
    return shapes.reshape_like(
        g.op.ScatterElements(zeros, _flat(indices), _flat(g), axis=0, reduction="add"), x
    )


def _flat(x: Tensor) -> Tensor:
    return x.op.Reshape(x, x.op.const([-1]))


@rule("MaxUnpool", "X")
def _(op, g, X, I, output_shape, kernel_shape, pads, strides):  # noqa: E741
    if output_shape is None:
        return shapes.reshape_like(op.GatherElements(_flat(g), _flat(I)), X)
    # With an output_shape, runtimes differ on what the indices count. So the runtime is asked where
    # it puts each element: the numbers of the elements, from 1 on, are unpooled.
    planes, count = shapes.product(shapes.dims(X)[:2]), shapes.product(shapes.dims(X)[2:])
    numbers = op.Cast(shapes.arange(op, count) + 1, to=ir.DataType.FLOAT)
    numbers = shapes.expand_like(shapes.reshape(numbers, [1, 1, *shapes.dims(X)[2:]]), X)
    how = {"kernel_shape": kernel_shape, "pads": pads, "strides": strides}
    found = op.Cast(op.MaxUnpool(numbers, I, output_shape, **how), to=ir.DataType.INT64)
    found, g = (shapes.reshape(t, [planes, -1]) for t in (found, g))
    sums = shapes.full(g, [planes, count + 1], 0)  # the first sums the places without an element
    sums = op.ScatterElements(sums, found, g, axis=1, reduction="add")
    return shapes.reshape_like(shapes.part(sums, 1, count + 1, 1), X)


@rule("AveragePool", "X")
def _(op, g, X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, count_include_pad):
    axes = _windows(op, X, kernel_shape, strides, dilations, pads, auto_pad)
    share = shapes.inverse(shapes.product([_filled(op, a) for a in axes]), like=g)
    rest = _rest(axes, g, ceil_mode)
    if rest is not None:
        return op.typed(_extended(_repeated(g * share, kernel_shape), rest), X)
    if not ceil_mode and (count_include_pad or _is_bare(axes)):
        return _vjp_of_sums(g * share, X, axes)
    for k, a in enumerate(axes):
        g = g / _counts(g, k + 2, a, count_include_pad)
    return _vjp_of_sums(g, X, axes)


def _filled(op: Builder, a: Axis) -> Size:
    """How many elements a window holds: the kernel's, or fewer where the padded input is shorter.

    onnxruntime takes one window there if the stride is above 1.
    """
    if a.stride == 1:
        return a.kernel
    most = (a.size + a.begin + a.end - 1) // a.dilation + 1
    return shapes.clamp(op, a.kernel, 0, most)


def _rest(axes: list[Axis], g: Tensor, ceil_mode: int) -> list[Size] | None:
    """What remains of each axis behind windows that neither overlap nor leave a gap, else None.

    Also None where the target resizes no such number of axes.
    """
    if len(axes) > g.op.target.resized_axes or not _is_bare(axes):
        return None
    if any(a.stride != a.kernel or a.dilation != 1 for a in axes):
        return None
    rest = [
        0 if a.stride == 1 else a.size - a.stride * n
        for a, n in zip(axes, shapes.dims(g)[2:], strict=True)
    ]
    return None if ceil_mode and windows.known(rest) != [0] * len(rest) else rest


def _is_bare(axes: list[Axis]) -> bool:
    """Whether there is known to be no padding."""
    return not any(windows.known(e for a in axes for e in (a.begin, a.end)) or [1])


def _repeated(x: Tensor, times: list[int]) -> Tensor:
    """`x` with each element repeated `times` along the spatial axes."""
    scales = x.op.const([1, 1, *times], dtype=np.float32)
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return x.op.Resize(x, None, scales, **how)


def _extended(x: Tensor, by: list[Size]) -> Tensor:
    """`x` with `by` zeros behind each spatial axis."""
    if not any(windows.known(by) or [1]):
        return x
    return shapes.pad(x, {a + 2: (0, n) for a, n in enumerate(by)})


def _vjp_of_sums(g: Tensor, x: Tensor, axes: list[Axis]) -> Tensor:
    """The cotangent of `x` if `g` is that of the sums over windows."""
    n, c, *outputs = shapes.dims(g)
    ones = shapes.full(g, [1, 1, *(a.kernel for a in axes)], 1)
    y = windows.conv_transpose(shapes.reshape(g, [n * c, 1, *outputs]), ones, axes)
    return shapes.reshape_like(y, x)


def _counts(g: Tensor, axis: int, window: Axis, with_padding: int) -> Tensor:
    """How many elements each window holds along one axis: not those beyond the input's end."""
    op = g.op
    first = shapes.arange(op, shapes.dim(g, axis)) * window.stride
    steps = shapes.arange(op, window.kernel) * window.dilation
    places = op.Unsqueeze(first, op.const([1])) + steps
    begin, end = window.begin, window.begin + window.size
    if with_padding:
        begin, end = 0, end + window.end
    held = (places >= shapes.vector(g, [begin])) & (places < shapes.vector(g, [end]))
    counts = shapes.reduce_sum(op.Cast(held, to=g.dtype), [1])
    counts = op.Max(counts, op.const(1, like=g))  # onnxruntime takes 0 for the mean of nothing
    if counts.const is not None:
        counts = op.const(counts.const, like=g)
    return shapes.reshape(counts, [-1] + [1] * (g.rank - 1 - axis))


# The derivative of the p-th root of the sum of |x|**p over a window; 0 where the window is all 0.
@rule("LpPool", "X")
def _(op, g, X, Y, p, kernel_shape, strides, dilations, pads, auto_pad):
    axes = _windows(op, X, kernel_shape, strides, dilations, pads, auto_pad)
    g, Y, x = (op.promoted(t) for t in (g, Y, X))
    return op.cast(_vjp_of_sums(_per_power(g, Y, p), x, axes) * _power_slope(x, p), X.dtype)


@rule("GlobalLpPool", "X")
def _(op, g, X, Y, p):
    g, Y, x = (op.promoted(t) for t in (g, Y, X))
    return op.cast(_per_power(g, Y, p) * _power_slope(x, p), X.dtype)


def _per_power(g: Tensor, y: Tensor, p: int) -> Tensor:
    """The cotangent of the sum of |x|**p, of which y is the p-th root, divided by p."""
    if p == 1:
        return g
    zero = y.equals(0)
    safe = g.op.Where(zero, g.op.const(1, like=y), y)
    return g.op.mask(g, ~zero) * g.op.bounded(g.op.Pow(safe, g.op.const(1 - p, like=y)))


def _power_slope(x: Tensor, p: int) -> Tensor:
    """The derivative of |x|**p, divided by p."""
    op = x.op
    if p == 1:
        return op.Sign(x)  # 0 at 0
    if p == 2:
        return x
    power = op.Pow(x if p % 2 else op.Abs(x), op.const(p - 1, like=x))
    return power * op.Sign(x)


@rule("GlobalAveragePool", "X")
def _(g, X):
    return shapes.expand_like(shapes.divided(g, shapes.count(X, shapes.axes_from(X, 2))), X)


# Elements that tie share evenly, as in torch.amax.
@rule("GlobalMaxPool", "X")
def _(g, X, Y):
    return shapes.shared(g, X, Y, shapes.axes_from(X, 2))
