"""Convolution and its transpose, which are each other's adjoint.

Conv       Y[m, o] = sum over c, k of X[c, i] W[m, c, k]    where i = s*o + d*k - begin
Transpose  Y[m, i] = sum over c, k of X[c, o] W[c, m, k]    for the same i
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes, windows
from onnxgrad.emit.factors import scaled
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.emit.views import padding_of
from onnxgrad.emit.windows import Axis
from onnxgrad.graph.facts import HALVES

# The channels that onnxruntime convolves at a time.
_BLOCK = 16


def _kernel(W: Tensor, kernel_shape: Sequence[int] | None) -> list[Size]:
    return list(kernel_shape) if kernel_shape else shapes.dims(W)[2:]


@rule("Conv", "B")
@rule("ConvTranspose", "B")
def conv_b(g):
    return shapes.reduce_sum(g, [a for a in range(g.rank) if a != 1])


@rule("Conv", "X")
def conv_x(g, X, W, kernel_shape, strides, dilations, pads, auto_pad, group):
    axes = windows.sliding(X, _kernel(W, kernel_shape), strides, dilations, pads, auto_pad)
    g, W = scaled(g, W)
    ways = (_correlate, _by_rows, _by_phases, windows.conv_transpose)
    y = next(y for way in ways if (y := way(g, W, axes, group)) is not None)
    return g.op.typed(y, X)


@rule("Conv", "W")
def conv_w(g, X, W, kernel_shape, strides, dilations, pads, auto_pad, group):
    axes = windows.sliding(X, _kernel(W, kernel_shape), strides, dilations, pads, auto_pad)
    return _filter(g, X, W, axes, group)


@rule("ConvTranspose", "X")
def _(op, g, X, W, strides, dilations, pads, auto_pad, output_padding, output_shape, group):
    axes = _transposed(g, X, W, strides, dilations, pads, auto_pad, output_padding, output_shape)
    g, axes = windows.padded(g, axes)
    return op.typed(op.Conv(g, W, group=group, **windows.attributes(axes)), X)


@rule("ConvTranspose", "W")
def _(g, X, W, strides, dilations, pads, auto_pad, output_padding, output_shape, group):
    axes = _transposed(g, X, W, strides, dilations, pads, auto_pad, output_padding, output_shape)
    return _filter(X, g, W, axes, group)


def _transposed(
    g: Tensor,
    X: Tensor,
    W: Tensor,
    strides: list[int] | None,
    dilations: list[int] | None,
    pads: list[int] | None,
    auto_pad: str,
    output_padding: list[int] | None,
    output_shape: list[int] | None,
) -> list[Axis]:
    """The windows on the output, one for each element of X; the end may be cut off: padding < 0."""
    if g.rank != X.rank:
        g.op.refuse(
            "inference cannot tell the size of an output_shape below the input's size: fix all of "
            "the input's sizes, or write it as pads"
        )
    pads = pads if auto_pad == "NOTSET" else None
    axes = windows.sliding(g, shapes.dims(W)[2:], strides, dilations, pads)
    for k, a in enumerate(axes):
        extra = output_padding[k] if output_padding else 0
        total, begin = a.begin + a.end, a.begin
        if output_shape or auto_pad.startswith("SAME"):
            if output_shape:
                covered = a.stride * (shapes.dim(X, k + 2) - 1) + extra + a.reach + 1
                total = covered - output_shape[k - len(axes)]
            else:
                total = shapes.at_least(extra + a.reach + 1 - a.stride, 0)
            least = shapes.at_least(total, 0)
            begin = least // 2 if auto_pad == "SAME_UPPER" else least - least // 2
        axes[k] = replace(a, begin=begin, end=total - begin - extra)
    return axes


def _correlate(g: Tensor, W: Tensor, axes: list[Axis], group: int) -> Tensor | None:
    """The adjoint at stride 1: a convolution with flipped filters.

    The runtime folds the flip where W is a constant. Steps of a depthwise Conv are spread first,
    where the target says so. None where it does not apply.
    """
    least, channels = g.op.target.flipped_filters, windows.known(shapes.dims(W)[1::-1])
    few = group == 1 and channels and channels[0] < least and 2 * channels[0] <= channels[1]
    sizes = [a.size for a in axes]
    if steps := _is_spread(g, W, axes, group):
        g, axes = windows.spread(g, axes, group)
    back = None if few or least == math.inf else windows.adjoint(g, axes)
    if back is None:
        return None
    flipped = [k + 2 for k, a in enumerate(axes) if a.kernel != 1]
    W = shapes.reversed_along(_swapped(W, group), *flipped)
    y = g.op.Conv(g, W, group=group, **windows.attributes(back))
    if not steps or sizes == shapes.dims(y)[2:]:
        return y
    ends, spatial = shapes.vector(g, sizes), list(range(2, g.rank))
    return g.op.Slice(y, g.op.const([0] * len(sizes)), ends, g.op.const(spatial))


def _by_rows(g: Tensor, W: Tensor, axes: list[Axis], group: int) -> Tensor | None:
    """The adjoint of a Conv of one channel with long steps: what each window adds is one row.

    The rows come from a product of matrices. They are cut into steps, and the pieces of rows that
    are a step apart are added up. None where it does not apply.
    """
    op, (a, *others) = g.op, axes
    known = windows.known([*shapes.dims(W), a.begin, a.end])
    if others or known is None or known[1] != 1 or group != 1 or a.dilation != 1:
        return None
    _, _, kernel, begin, end = known
    if a.stride < op.target.long_steps or kernel % a.stride:
        return None
    filters = op.Squeeze(W, op.const([1]))
    op.numbers.note_mask(filters.value, 0)  # its zeros are no mask's, as those of a Conv are not
    g, before, behind = _without_ends(g)
    rows, n = op.MatMul(op.Transpose(g, perm=[0, 2, 1]), filters), kernel // a.stride
    pieces = op.Split(rows, axis=2, num_outputs=n, outputs=n) if n > 1 else [rows]
    steps = before + shapes.dim(g, 2) + behind + (n - 1)
    more = (begin + a.size + (a.stride - 1)) // a.stride - steps
    behind += max(more, 0) if isinstance(more, int) else end < a.stride - 1
    added = [shapes.pad(t, {1: (before + k, behind + n - 1 - k)}) for k, t in enumerate(pieces)]
    y = op.Flatten(op.sum(added), axis=1)
    if begin or y.dim(1) != a.size:
        y = shapes.part(y, begin, begin + a.size, axis=1)
    return op.Unsqueeze(y, op.const([1]))


def _without_ends(g: Tensor) -> tuple[Tensor, int, int]:
    """A tensor without zeros that a Pad has put around its last axis, and how many these are."""
    value, pads = padding_of(g.op, g.value) or (g.value, np.zeros((2, g.rank), np.int64))
    if pads[:, :-1].any():
        return g, 0, 0
    return g.op.tensor(value), int(pads[0, -1]), int(pads[1, -1])


def _is_spread(g: Tensor, W: Tensor, axes: list[Axis], group: int) -> bool:
    """Whether a depthwise Conv has steps that the target takes by zeros in the cotangent."""
    target, steps = g.op.target, math.prod(a.stride for a in axes)
    is_depthwise = windows.known(shapes.dims(W)[:2]) == [group, 1]
    is_blocked = g.dtype in target.steep_masks and group >= _BLOCK
    return is_depthwise and is_blocked and 1 < steps <= target.spread_steps


def _stepped(g: Tensor, W: Tensor, axes: list[Axis], group: int) -> int | None:
    """The one axis, of the spatial ones, along which filters of few channels have a size and steps.

    None where it is not so, or where the convolution by phases would compute too many channels, as
    a runtime computes blocks of them.
    """
    channels, found = windows.known(shapes.dims(W)[:2]), [a.kernel != 1 for a in axes]
    if g.dtype not in g.op.target.steep_masks or group > 1 or not channels or found.count(True) > 1:
        return None
    at = found.index(True) if True in found else 0
    a, others = axes[at], [*axes[:at], *axes[at + 1 :]]
    if any((b.stride, b.begin, b.end) != (1, 0, 0) for b in others) or a.dilation > 1:
        return None
    m, phases = channels[0], channels[1] * a.stride
    few = 0 < m * -(-phases // _BLOCK) <= phases
    return at if few and a.stride > 1 and isinstance(a.kernel, int) else None


def _by_phases(g: Tensor, W: Tensor, axes: list[Axis], group: int) -> Tensor | None:
    """The adjoint with steps along one axis, as a Conv whose channels are the phases of a step.

    The place s q + r has from window q - t what the filter has at its element s t + r. So the
    elements of each phase r are filters, which are flipped, and the phases are laid side by side.
    None where it does not apply.
    """
    if (at := _stepped(g, W, axes, group)) is None:
        return None
    op, a, k = g.op, axes[at], at + 2
    (m, c), s, taps = shapes.dims(W)[:2], a.stride, -(-a.kernel // a.stride)
    W = shapes.reshape(shapes.pad(W, {k: (0, taps * s - a.kernel)}), [m, c, taps, s])
    W = op.Transpose(W, perm=[1, 3, 0, 2])
    W = shapes.reshape(W, [c * s, m, *(taps if b is a else 1 for b in axes)])
    before, behind = ([n if b is a else 0 for b in axes] for n in (taps - 1, taps))
    y = op.Conv(g, shapes.reversed_along(W, k), pads=[*before, *behind])  # to beyond the last place
    n, _, *places = shapes.dims(y)
    order = [*range(3, 3 + len(places))]
    order.insert(at + 1, 2)
    y = op.Transpose(shapes.reshape(y, [n, c, s, *places]), perm=[0, 1, *order])
    places[at] = places[at] * s
    return shapes.part(shapes.reshape(y, [n, c, *places]), a.begin, a.begin + a.size, k)


def _swapped(W: Tensor, group: int) -> Tensor:
    """Filters [M, C/group, ...] as [C, M/group, ...]."""
    spatial = list(range(2, W.rank))
    if group == 1:
        return W.op.Transpose(W, perm=[1, 0, *spatial])
    m, c, *kernel = shapes.dims(W)
    y = shapes.reshape(W, [group, m // group, c, *kernel])
    y = W.op.Transpose(y, perm=[0, 2, 1, *(a + 1 for a in spatial)])
    return shapes.reshape(y, [c * group, m // group, *kernel])


def _filter(g: Tensor, x: Tensor, W: Tensor, axes: list[Axis], group: int) -> Tensor:
    """The cotangent of the filters: for each of their elements, g times what it has seen of x.

    That is a product of matrices: of g and what each window sees of x, or of what the windows of
    the adjoint see of g, and x. Depthwise it can be a sum for each element as well.
    """
    if _has_summed_taps(x, W, axes, group):
        return _filter_by_taps(g, x, W, axes)
    target, taps = g.op.target, shapes.product([a.kernel for a in axes])
    by_columns = taps if windows.is_sliced(x, axes) else target.one_hot_taps
    if isinstance(taps, int) and taps > by_columns:
        return _filter_by_convolution(g, x, W, axes, group)
    n, kernel = shapes.dim(g, 0), [a.kernel for a in axes]
    m, c = shapes.dim(W, 0) // group, shapes.dim(W, 1)
    swap = (
        target.windows_of_fewer and windows.known([taps]) and taps != 1 and _is_less_of_g(g, m, c)
    )
    back = windows.adjoint(g, axes) if swap else None
    if back is None:
        y = _sum_of_products(g, windows.columns(x, axes), n, m, taps * c, group)
        return shapes.reshape_like(y, W)
    y = _sum_of_products(windows.columns(g, back, flip=True), x, n, taps * m, c, group)
    y = shapes.reshape(y, [group * m, *kernel, c])
    last = len(kernel) + 1
    return g.op.typed(g.op.Transpose(y, perm=[0, last, *range(1, last)]), W)


def _has_summed_taps(x: Tensor, W: Tensor, axes: list[Axis], group: int) -> bool:
    """Whether the cotangent of the filters is best summed tap by tap, as the target says."""
    sizes = windows.known([*shapes.dims(x), *shapes.dims(W), *(a.stride for a in axes)])
    limits, target = x.op.target.summed_taps, x.op.target
    if sizes is None or limits is None or x.dtype in HALVES:
        return False
    if x.op.numbers.may_fail(x.value):  # each of the products would be guarded
        return False
    elements, taps = math.prod(sizes[: x.rank]), math.prod(sizes[x.rank + 2 : x.rank + W.rank])
    is_depthwise = group == sizes[1] == sizes[x.rank] and sizes[x.rank + 1] == 1
    is_small = taps <= target.one_hot_taps and elements <= limits[1]
    at_one = all(stride == 1 for stride in sizes[x.rank + W.rank :])
    return is_depthwise and is_small and at_one and elements * taps >= limits[0]


def _filter_by_taps(g: Tensor, x: Tensor, W: Tensor, axes: list[Axis]) -> Tensor:
    """The cotangent of depthwise filters: for each element a sum of g times x, moved by as much."""
    op, others = g.op, [a for a in range(g.rank) if a != 1]
    found = windows.taps(windows.padded_with(0, x, axes), axes)
    sums = [op.Unsqueeze(shapes.reduce_sum(g * t, others), op.const([1])) for t in found]
    return shapes.reshape_like(op.Concat(*sums, axis=1), W)


def _sum_of_products(
    left: Tensor, right: Tensor, n: Size, high: Size, wide: Size, group: int
) -> Tensor:
    """left rightᵀ for each group, of `high` and `wide` rows of places, summed over a batch of n.

    Its elements are in this order, and the caller gives it its shape: of two nodes in a row that
    change it onnxruntime makes one, which it runs last, and with it those of all filters.
    """
    op = left.op
    places = shapes.count(left, range(2, left.rank))
    if group == 1 and op.target.transposed_batch and _is_less_inside(n, high, wide, places):
        left, right = (
            shapes.reshape(
                op.Transpose(shapes.reshape(t, [n, size, places]), perm=[1, 0, 2]), [size, -1]
            )
            for t, size in ((left, high), (right, wide))
        )
        return op.Gemm(left, right, transB=1)
    lead = [n, group] if group > 1 else [n]
    left = shapes.reshape(left, [*lead, high, places])
    right = shapes.reshape(right, [*lead, wide, places])
    last = len(lead)
    right = op.Transpose(right, perm=[*range(last), last + 1, last])
    y = op.MatMul(left, right)
    return y if n == 1 else shapes.reduce_sum(op.Flatten(y, axis=1), [0])


def _is_less_of_g(g: Tensor, m: Size, c: Size) -> bool:
    """Whether the windows of g, of m channels, move fewer elements than those of x, of c channels.

    Those of x are written and then transposed; those of g are written, and the product transposed.
    """
    sizes = windows.known([m, c])
    if sizes is None or not 1 < sizes[0] <= sizes[1]:
        return False
    m, c = sizes
    places = windows.known([shapes.dim(g, 0), shapes.count(g, range(2, g.rank))])
    return places is None or m * c <= (2 * c - m) * places[0] * places[1]


def _is_less_inside(n: Size, high: Size, wide: Size, places: Size) -> bool:
    """Whether the factors of a batch have fewer elements than the products of its examples."""
    sizes = windows.known([high, wide, places])
    if n == 1 or sizes is None:
        return False
    high, wide, places = sizes
    return high * wide > (high + wide) * places


def _filter_by_convolution(g: Tensor, x: Tensor, W: Tensor, axes: list[Axis], group: int) -> Tensor:
    """The same by sliding g over x, the batch taking the place of the channels.

    A step of the kernel is one of the dilation, a step of g one of the stride.
    """
    op = g.op
    x, axes = windows.padded(x, axes)
    spatial = list(range(2, g.rank))
    n, c, *size = shapes.dims(x)
    if group > 1:
        x = shapes.reshape(x, [n, group, c // group, *size])
        x = op.Transpose(x, perm=[2, 1, 0, *(a + 1 for a in spatial)])
        x = shapes.reshape(x, [c // group, n * group, *size])
    else:
        x = op.Transpose(x, perm=[1, 0, *spatial])
    how = windows.attributes(axes)
    how["strides"], how["dilations"] = how["dilations"], how["strides"]
    y = op.Conv(x, op.Transpose(g, perm=[1, 0, *spatial]), group=group, **how)
    y = op.Transpose(y, perm=[1, 0, *spatial])
    if any(a.stride > 1 for a in axes):
        # Beyond the last window x may go on.
        kernel = shapes.vector(W, [a.kernel for a in axes])
        y = op.Slice(y, op.const([0] * len(axes)), kernel, op.const(spatial))
    return op.typed(y, W)


@rule("Col2Im", "input")
def _(op, g, input, block_shape, strides, dilations, pads):
    """Col2Im adds blocks up into an image; here they are read from one."""
    known = block_shape.const
    blocks: list[Size] = [
        shapes.part(block_shape, k, k + 1) if known is None else int(known[k])
        for k in range(g.rank - 2)
    ]
    axes = windows.sliding(g, blocks, strides, dilations, pads)
    return shapes.reshape_like(windows.columns(g, axes), input)
