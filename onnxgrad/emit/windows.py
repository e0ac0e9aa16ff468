"""Sliding windows, as convolution, pooling and Col2Im have them: one `Axis` per spatial axis.

Element k of window o lies at s*o + d*k - begin on the input, with stride s and dilation d.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxgrad.emit import shapes
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor


@dataclass(frozen=True)
class Axis:
    """How a window slides along one spatial axis; sizes are ints where the graph tells them."""

    size: Size  # of the input
    kernel: Size
    stride: int
    dilation: int
    begin: Size  # padding in front
    end: Size

    @property
    def reach(self) -> Size:
        """The distance from the first to the last element of a window."""
        return (self.kernel - 1) * self.dilation


def sliding(
    x: Tensor,
    kernel: Sequence[Size],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str = "NOTSET",
) -> list[Axis]:
    """The axes of an operator that slides a window over `x`, from its attributes."""
    n = x.rank - 2
    strides, dilations = strides or [1] * n, dilations or [1] * n
    pads = pads if pads and auto_pad == "NOTSET" else [0] * (2 * n)
    axes = []
    for a in range(n):
        axis = Axis(shapes.dim(x, a + 2), kernel[a], strides[a], dilations[a], pads[a], pads[a + n])
        if auto_pad.startswith("SAME"):
            total = _same(axis)
            half = total // 2
            rest = total - half
            begin, end = (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)
            axis = replace(axis, begin=begin, end=end)
        axes.append(axis)
    return axes


def _same(axis: Axis) -> Size:
    """The padding that makes the output as large as the input divided by the stride, rounded up."""
    if axis.stride == 1:
        return axis.reach
    last = (axis.size + (axis.stride - 1)) // axis.stride - 1
    return shapes.at_least(last * axis.stride + axis.reach + 1 - axis.size, 0)


def known(sizes: Iterable[Size | None]) -> list[int] | None:
    """The sizes, if all are known when the graph is built."""
    numbers = list(sizes)
    return numbers if all(isinstance(s, int) for s in numbers) else None  # type: ignore[return-value]


def adjoint(g: Tensor, axes: list[Axis]) -> list[Axis] | None:
    """The axes of the convolution of `g` with flipped filters that is the transposed convolution.

    None where there may be none: it needs stride 1, and padding that is known and not negative.
    """
    pads = known(e for a in axes for e in (a.reach - a.begin, a.reach - a.end))
    if pads is None or min(pads) < 0 or any(a.stride != 1 for a in axes):
        return None
    return [
        replace(a, size=shapes.dim(g, k + 2), begin=a.reach - a.begin, end=a.reach - a.end)
        for k, a in enumerate(axes)
    ]


def spread(g: Tensor, axes: list[Axis], channels: int) -> tuple[Tensor, list[Axis]]:
    """`g` with zeros between its elements, and axes of stride 1 along which windows see them.

    Where sizes are not known, these end where the largest input that has as many windows does.
    """
    found = []
    for k, a in enumerate(axes, 2):
        end = shapes.dim(g, k) * a.stride + a.reach - a.begin - a.size
        found.append(replace(a, stride=1, end=end if isinstance(end, int) else a.end))
    steps, ones = [a.stride for a in axes], shapes.full(g, [channels] + [1] * (g.rank - 1), 1)
    behind = [s - 1 for s in steps]
    y = g.op.ConvTranspose(g, ones, strides=steps, output_padding=behind, group=channels)
    return y, found


def one_hot(like: Tensor, kernel: Sequence[Size], flip: bool = False) -> Tensor:
    """The filters [K, 1, *kernel] that pick each of the K elements of a window."""
    op, elements, sizes = like.op, shapes.product(kernel), known(kernel)
    if sizes is not None and isinstance(elements, int):
        eye = np.eye(elements)[:: -1 if flip else 1]
        return op.const(eye.reshape(elements, 1, *sizes), like=like)
    eye = op.EyeLike(shapes.full(like, [elements, elements], 0), dtype=like.dtype)
    return shapes.reshape(eye, [elements, 1, *kernel])


def columns(x: Tensor, axes: list[Axis], flip: bool = False) -> Tensor:
    """The K elements of `x` [N, C, ...] in each window: [N, C * K, ...] or [N * C, K, ...].

    A convolution picks them, with a filter for each, or Slices do where the target says so. With
    `flip`, for a kernel of known size, they come in reversed order.
    """
    if is_sliced(x, axes):
        found = taps(padded_with(0, x, axes), axes)[:: -1 if flip else 1]
        n, c, *places = shapes.dims(found[0])
        if len(found) == 1:
            return found[0]
        found = [x.op.Unsqueeze(t, x.op.const([2])) for t in found]
        return shapes.reshape(x.op.Concat(*found, axis=2), [n, c * len(found), *places])
    x, axes = padded(x, axes)
    if all(a.kernel == 1 and a.begin == a.end == 0 for a in axes):
        return strided(x, axes)
    n, c, *size = shapes.dims(x)
    pick = one_hot(x, [a.kernel for a in axes], flip)
    if isinstance(c, int) and c:  # in no groups a runtime would divide by 0
        pick = x.op.Tile(pick, x.op.const([c] + [1] * (x.rank - 1)))
        return x.op.Conv(x, pick, group=c, **attributes(axes))
    return x.op.Conv(shapes.reshape(x, [n * c, 1, *size]), pick, **attributes(axes))


def is_sliced(x: Tensor, axes: list[Axis]) -> bool:
    """Whether Slices are to take the windows apart."""
    elements = shapes.product([a.kernel for a in axes])
    return isinstance(elements, int) and 0 < elements <= x.op.target.sliced_taps


def padded_with(number: float, x: Tensor, axes: list[Axis]) -> Tensor:
    """`x` with the padding of its axes written out, which holds a number."""
    around = {k + 2: (a.begin, a.end) for k, a in enumerate(axes) if (a.begin, a.end) != (0, 0)}
    return shapes.pad(x, around, number) if around else x


def taps(x: Tensor, axes: list[Axis]) -> list[Tensor]:
    """For each element of a window, in order, what all windows of padded `x` have there."""
    op = x.op
    last, spatial = [a.reach for a in axes], op.const(list(range(2, x.rank)))
    steps = op.const([a.stride for a in axes])
    found = []
    for tap in np.ndindex(*(known(a.kernel for a in axes) or ())):
        first = [t * a.dilation for t, a in zip(tap, axes, strict=True)]
        ends = [f - m or 2**31 for f, m in zip(first, known(last) or (), strict=True)]
        found.append(op.Slice(x, op.const(first), op.const(ends), spatial, steps))
    return found


def untapped(found: list[Tensor], x: Tensor, axes: list[Axis]) -> Tensor:
    """The adjoint of `taps` and the padding: each tensor added where `taps` takes it from `x`.

    An element at s*q + r of an axis is the q-th of the phase r. The tensors are added up by phase,
    and the phases are then laid side by side.
    """
    op, strides = x.op, [a.stride for a in axes]
    counts = [_phase_size(a) for a in axes]
    sums: dict[tuple[int, ...], list[Tensor]] = {}
    for tap, t in zip(np.ndindex(*(known(a.kernel for a in axes) or ())), found, strict=True):
        first = [k * a.dilation for k, a in zip(tap, axes, strict=True)]
        before = [f // s for f, s in zip(first, strides, strict=True)]
        sizes = zip(before, counts, shapes.dims(t)[2:], strict=True)
        t = shapes.pad(t, {k + 2: (b, n - o - b) for k, (b, n, o) in enumerate(sizes)})
        phase = tuple(f % s for f, s in zip(first, strides, strict=True))
        sums.setdefault(phase, []).append(t)
    n, c = shapes.dims(x)[:2]
    zeros = None
    level: dict[tuple[int, ...], Tensor] = {}
    for phase in np.ndindex(*strides):
        if phase in sums:
            level[phase] = op.sum(sums[phase])
        else:
            zeros = zeros or shapes.full(x, [n, c, *counts], 0)
            level[phase] = zeros
    for a in reversed(range(len(axes))):
        rows: dict[tuple[int, ...], list[Tensor]] = {}
        for phase, t in level.items():
            rows.setdefault(phase[:-1], []).append(op.Unsqueeze(t, op.const([a + 3])))
        level = {p: op.Concat(*ts, axis=a + 3) for p, ts in rows.items()}
    whole = shapes.reshape(
        level[()], [n, c, *(q * s for q, s in zip(counts, strides, strict=True))]
    )
    begin = shapes.vector(x, [a.begin for a in axes])
    end = shapes.vector(x, [a.begin + a.size for a in axes])
    return op.typed(op.Slice(whole, begin, end, op.const(list(range(2, x.rank)))), x)


def _phase_size(a: Axis) -> Size:
    """How many elements of the padded axis a phase holds; some may lie beyond its end."""
    return (a.size + (a.begin + a.end + a.stride - 1)) // a.stride


def dilated(x: Tensor, axis: int, step: Size) -> Tensor:
    """`x` with `step` - 1 zeros after every element along one axis."""
    if step == 1:
        return x
    sizes = shapes.dims(x)
    lead, size, rest = sizes[:axis], sizes[axis], sizes[axis + 1 :]
    zeros = shapes.full(x, [*lead, size, step - 1, *rest], 0)
    parted = x.op.Concat(shapes.reshape(x, [*lead, size, 1, *rest]), zeros, axis=axis + 1)
    return shapes.reshape(parted, [*lead, size * step, *rest])


def strided(x: Tensor, axes: list[Axis]) -> Tensor:
    """The elements of `x` in windows of a single element."""
    op = x.op
    steps = {k + 2: a.stride for k, a in enumerate(axes) if a.stride > 1}
    if not steps:
        return x
    n = len(steps)
    starts, ends = op.const([0] * n), op.const([2**31] * n)
    return op.Slice(x, starts, ends, op.const(list(steps)), op.const(list(steps.values())))


def attributes(axes: list[Axis]) -> dict[str, Any]:
    """The attributes of an operator that slides along these axes, whose padding is constant."""
    return {
        "strides": [a.stride for a in axes],
        "dilations": [a.dilation for a in axes],
        "pads": [a.begin for a in axes] + [a.end for a in axes],
    }


def padded(x: Tensor, axes: list[Axis]) -> tuple[Tensor, list[Axis]]:
    """`x` and its axes with padding that attributes can hold; else `x` is padded by a node."""
    # No window sees what lies beyond the last one, so less than a stride need not be cut off.
    axes = [
        replace(a, end=0) if isinstance(a.end, int) and -a.stride < a.end < 0 else a for a in axes
    ]
    pads = [0, 0, *(a.begin for a in axes), 0, 0, *(a.end for a in axes)]
    if min(known(pads) or [-1]) >= 0:
        return x, axes
    x = x.op.Pad(x, shapes.vector(x, pads))
    return x, [replace(a, size=shapes.dim(x, k + 2), begin=0, end=0) for k, a in enumerate(axes)]


def conv_transpose(g: Tensor, filters: Tensor, axes: list[Axis], group: int = 1) -> Tensor:
    """The transposed convolution of `g`, in the size of what the windows slide over.

    Where the sizes are known, attributes say how much to cut off or to fill up with zeros at the
    end: by how much the last window overhangs the input, or falls short of it. Where they are not,
    it may overhang by less than the padding and fall short by less than a stride: the result is as
    large as that asks for, and cut by a Slice.
    """
    sizes = {k: v for k, v in attributes(axes).items() if k != "pads"}
    over = known(_overhang(a, o) for a, o in zip(axes, shapes.dims(g)[2:], strict=True))
    begins = known(a.begin for a in axes)
    ends = known(a.end for a in axes)
    least = over or (ends and [e - a.stride + 1 for e, a in zip(ends, axes, strict=True)])
    if begins is None or least is None:
        short = [a.stride - 1 for a in axes]
        y = g.op.ConvTranspose(g, filters, output_padding=short, group=group, **sizes)
        return _cut(y, [a.begin for a in axes], axes)
    pads = begins + [max(o, 0) for o in least]
    short = [max(-o, 0) for o in least]
    y = g.op.ConvTranspose(g, filters, pads=pads, output_padding=short, group=group, **sizes)
    return y if over is not None else _cut(y, [0] * len(axes), axes)


def _cut(y: Tensor, begins: list[Size], axes: list[Axis]) -> Tensor:
    """The part of a tensor that is of the size of what windows slide over."""
    begin = shapes.vector(y, begins)
    end = shapes.vector(y, [b + a.size for b, a in zip(begins, axes, strict=True)])
    return y.op.Slice(y, begin, end, y.op.const(list(range(2, y.rank))))


def _overhang(axis: Axis, outputs: Size) -> Size | None:
    """How far the last window reaches beyond the input; None where it is not known."""
    if axis.stride == 1 and known([axis.kernel, axis.end]):
        return axis.end
    if not known([axis.size, axis.kernel, axis.begin, outputs]):
        return None
    return axis.stride * (outputs - 1) + axis.reach + 1 - axis.begin - axis.size
