"""Fourier transforms. As a map of real numbers, the DFT has its conjugate as its adjoint.

So the adjoint of the DFT is the inverse DFT times the length, and the adjoint of the inverse is the
DFT divided by the length. Axes and lengths can be operands known at run time only.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor


@rule("DFT", "input")
def _(op, g, input, dft_length, axis, inverse, onesided):
    axis = op.const([-2]) if axis is None else shapes.vector(input, [_number(axis)])
    size = _size(input, axis)
    length = _number(dft_length) if dft_length is not None else size
    if inverse and onesided:  # half of a spectrum in, real numbers out
        length = (size - 1) * 2 if dft_length is None else length
        back = _dft(op, g, axis, onesided=1)
        back = back * _mirrored(op, axis, length, back) / shapes.as_float(length, like=g)
    else:
        back = _adjoint(op, g, axis, length, inverse)
    back = _resized(op, back, axis, size)
    return op.typed(_resized(op, back, op.const([-1]), shapes.dim(input, -1)), input)


def _adjoint(op: Builder, g: Tensor, axis: Tensor, length: Size, inverse: int) -> Tensor:
    """The adjoint of a DFT that gives complex numbers; `g` is taken as 0 for those left out."""
    transformed = _dft(op, _resized(op, g, axis, length), axis, inverse=1 - inverse)
    n = shapes.as_float(length, like=g)
    return transformed / n if inverse else transformed * n


def _mirrored(op: Builder, axis: Tensor, length: Size, spectrum: Tensor) -> Tensor:
    """How often each number of a half spectrum occurs in the whole: twice, but once at its ends."""
    known = axis.const
    if known is None:
        ones = shapes.full_like(spectrum, 1)
        k, others = op.CumSum(ones, op.Squeeze(axis, op.const([0])), exclusive=1), []
    else:
        place = shapes.axis_of(int(known[0]), spectrum)
        k = op.Cast(shapes.arange(op, shapes.dim(spectrum, place)), to=spectrum.dtype)
        others = [a for a in range(spectrum.rank) if a != place]
    last = shapes.as_float(length, like=k)
    first, middle = (op.Cast(e, to=k.dtype) for e in (k.equals(0), (k * 2).equals(last)))
    return op.Unsqueeze(2 - first - middle, op.const(others))


@rule("STFT", "signal")
def _(op, g, signal, frame_step, window, frame_length, output):
    x = _with_width(signal)
    back, places = _frames(op, g, x, frame_step, window, frame_length, output)
    if window is not None:
        back = back * op.Unsqueeze(window, op.const([1]))
    batch, _, width = shapes.dims(x)
    updates = shapes.reshape(back, [batch, shapes.count(places), width])
    flat = op.Unsqueeze(shapes.reshape(places, [-1]), op.const([0, 2]))
    indices = shapes.expand_like(flat, updates)
    sums = op.ScatterElements(shapes.full_like(x, 0), indices, updates, axis=1, reduction="add")
    return sums if x is signal else op.Squeeze(sums, op.const([2]))


@rule("STFT", "window")
def _(op, g, signal, frame_step, window, frame_length, output):
    x = _with_width(signal)
    back, places = _frames(op, g, x, frame_step, window, frame_length, output)
    frames = op.Gather(x, places, axis=1)
    return op.typed(shapes.reduce_sum(back * frames, [0, 1, 3]), window)


def _with_width(signal: Tensor) -> Tensor:
    """The signal as [batch, place, width]; runtimes take real ones without the width of 1 too."""
    return signal if signal.rank == 3 else signal.op.Unsqueeze(signal, signal.op.const([2]))


def _frames(
    op: Builder,
    g: Tensor,
    signal: Tensor,
    step: Tensor,
    window: Tensor | None,
    frame_length: Tensor | None,
    output: Tensor,
) -> tuple[Tensor, Tensor]:
    """The cotangents of the windowed frames, [batch, frame, place, width], and their places."""
    if frame_length is not None:
        length = _number(frame_length)
    else:
        length = shapes.dim(signal, 1) if window is None else shapes.dim(window, 0)
    back = _adjoint(op, g, op.const([2]), length, 0)
    starts = shapes.arange(op, shapes.dim(output, 1)) * _number(step)
    places = op.Unsqueeze(starts, op.const([1])) + shapes.arange(op, length)
    return _resized(op, back, op.const([-1]), shapes.dim(signal, 2)), places


def _number(x: Tensor) -> Size:
    """An operand of one integer as a size."""
    if x.const is not None:
        return int(x.const.item())
    return shapes.reshape(x.op.Cast(x, to=ir.DataType.INT64), [1])


def _dft(op: Builder, x: Tensor, axis: Tensor, **attributes: int) -> Tensor:
    """The DFT in complex numbers."""
    known = axis.const
    place = op.Squeeze(axis, op.const([0])) if known is None else op.const(known[0])
    return _alike(op.DFT(x, None, place, **attributes), x)


def _size(x: Tensor, axis: Tensor) -> Size:
    if axis.const is not None:
        return shapes.dim(x, int(axis.const[0]))
    return x.op.Gather(x.op.Shape(x), axis)


def _resized(op: Builder, x: Tensor, axis: Tensor, size: Size) -> Tensor:
    """`x` cut or filled up with zeros to a size along an axis."""
    now = _size(x, axis)
    if isinstance(size, int) and isinstance(now, int):
        grows, shrinks = size > now, size < now
    else:
        grows = shrinks = True
    if grows:
        more = size - now if not shrinks else size
        x = _alike(op.Pad(x, shapes.vector(x, [0, more]), None, axis), x)
    if shrinks:
        x = _alike(op.Slice(x, op.const([0]), shapes.vector(x, [size]), axis), x)
    return x


def _alike(y: Tensor, x: Tensor) -> Tensor:
    """`y` with the rank of `x`, which inference loses where the axis is not constant."""
    if y.value.shape is None:
        y.value.shape = ir.Shape([None] * x.rank)
    return y
