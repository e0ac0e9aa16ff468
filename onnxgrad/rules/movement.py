"""Operators that only move elements: their transposes move them back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import elementwise, rule
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import (
    Size,
    arange,
    at_least,
    axes_from,
    axis_of,
    clamp,
    count,
    dim,
    dims,
    expand_like,
    from_front,
    full,
    full_like,
    joined,
    pad,
    part,
    permutation_inverse,
    reduce_sum,
    reshape,
    reshape_like,
    same_dim,
    vector,
)
from onnxgrad.emit.tensor import Tensor
from onnxgrad.emit.windows import dilated

_MIN, _MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max

elementwise("Expand", lambda: 1)


@rule("Reshape", "data")
def _(g, data):
    return reshape_like(g, data)


@rule("Squeeze", "data")
def _(op, g, data, axes):
    if axes is None or axes.const is None:
        return reshape_like(g, data)
    return op.typed(op.Unsqueeze(g, axes), data)


@rule("Unsqueeze", "data")
def _(op, g, data, axes):
    axes = axes if axes.rank == 1 else op.Reshape(axes, op.const([-1]))  # a runtime takes a number
    return op.typed(op.Squeeze(g, axes), data)


@rule("Flatten", "input")
def _(g, input):
    return reshape_like(g, input)


@rule("Transpose", "data")
def _(op, g, perm):
    return op.Transpose(g, perm=permutation_inverse(perm) if perm else None)


@rule("Concat")
def _(op, g, inputs, axis):
    if len(inputs) == 1:
        return {"inputs": g}
    known = {x.value: dim(x, axis) for x in inputs}  # thousands may be one tensor
    sizes = vector(g, [known[x.value] for x in inputs])
    parts = op.Split(g, sizes, axis=axis, outputs=len(inputs))
    return {("inputs", i): part for i, part in enumerate(parts)}


@rule("Split", "input")
def _(op, g_outputs, outputs, axis):
    parts = [full_like(y, 0) if g is None else g for g, y in zip(g_outputs, outputs, strict=True)]
    return op.Concat(*parts, axis=axis)


@rule("Tile", "input")
def _(g, input, repeats):
    copies = _entries(repeats, input.rank)
    over = [a for a, r in enumerate(copies) if r != 1]
    sizes: list[Size] = []
    for a, size in enumerate(dims(input)):
        sizes += [copies[a], size] if a in over else [size]
    return reduce_sum(reshape(g, sizes), [a + k for k, a in enumerate(over)])


@rule("DepthToSpace", "input")
def _(op, g, input, blocksize, mode):
    if mode == "DCR":  # all that SpaceToDepth has below opset 28
        return op.SpaceToDepth(g, blocksize=blocksize)
    n, depth, height, width = dims(input)
    blocks = reshape(g, [n, dim(g, 1), height, blocksize, width, blocksize])
    return reshape(op.Transpose(blocks, perm=[0, 1, 3, 5, 2, 4]), [n, depth, height, width])


@rule("SpaceToDepth", "input")
def _(op, g, blocksize, mode):
    return op.DepthToSpace(g, blocksize=blocksize, mode=mode)


@rule("Trilu", "input")
def _(op, g, k, upper):
    return op.Trilu(g, k, upper=upper)


@rule("CenterCropPad", "input_data")
def _(op, g, input_data, axes):
    sizes = dims(input_data)
    return op.CenterCropPad(g, vector(g, [sizes[a] for a in axes or range(g.rank)]), axes=axes)


@rule("ReverseSequence", "input")
def _(op, g, sequence_lens, batch_axis, time_axis):
    return op.ReverseSequence(g, sequence_lens, batch_axis=batch_axis, time_axis=time_axis)


# -- Slice ---------------------------------------------------------------------------------------


@rule("Slice", "data")
def _(op, g, data, starts, ends, axes, steps, node):
    n = starts.static and starts.static[0]
    known_axes = range(n or 0) if axes is None else axes.const
    known_steps = [1] * (n or 0) if steps is None else steps.const
    moves = known_steps is not None and all(abs(step) == 1 for step in known_steps)
    if n is None or known_axes is None or known_steps is None or not (moves or data.shape):
        return _unslice_flat(op, g, data, node)
    around: dict[int, tuple[Size, Size]] = {}
    for k, start in enumerate(_entries(starts, n)):
        axis, step = axis_of(int(known_axes[k]), data), int(known_steps[k])
        if start == 0 and step == 1 and data.shape and same_dim(g.dim(axis), data.dim(axis)):
            continue
        length, size = dim(g, axis), dim(data, axis)
        if step == 1 and ends.const is not None and ends.const[k] >= 2**31 - 1:
            around[axis] = size - length, 0
            continue
        # A longer step, such as INT_MAX, leads beyond the end as one of `size` does.
        stride = clamp(op, min(abs(step), _MAX), 1, at_least(size, 1))
        start = clamp(op, from_front(start, size), 0, size if step > 0 else size - 1)
        if step < 0:
            _check_end(op, ends, k, length)
            g, start = flip(g, axis), clamp(op, start - (length - 1) * stride, 0, size)
        g = dilated(g, axis, stride)
        around[axis] = start, size - start - length * stride
    return pad(g, around) if around else op.typed(g, data)


def _check_end(op: Builder, ends: Tensor, k: int, length: Size) -> None:
    """Refuse a negative step to INT_MAX, the last element by the standard.

    onnxruntime goes on to the first.
    """
    if ends.const is not None and isinstance(length, int) and ends.const[k] in (2**31 - 1, _MAX):
        op.refuse("runtimes differ on a negative step to the end INT_MAX; write INT_MIN")


def flip(x: Tensor, axis: int) -> Tensor:
    """`x` flipped along one axis."""
    op = x.op
    return op.Slice(x, op.const([-1]), op.const([_MIN]), op.const([axis]), op.const([-1]))


def _unslice_flat(op: Builder, g: Tensor, data: Tensor, node: ir.Node) -> Tensor:
    """The transpose of a Slice whose axes or steps are known at run time only."""
    size, flat = count(data), op.const([-1])
    operands = [None if v is None else op.tensor(v) for v in node.inputs[1:]]
    places = op.Slice(reshape_like(arange(op, size), data), *operands)
    zeros = full(g, [size], 0)
    scattered = op.ScatterElements(zeros, op.Reshape(places, flat), op.Reshape(g, flat))
    return reshape_like(scattered, data)


def _entries(x: Tensor, n: int) -> list[Size]:
    """The `n` elements of a vector of sizes."""
    if x.const is not None:
        return [int(k) for k in x.const]
    return [x.op.cast(part(x, k, k + 1), ir.DataType.INT64) for k in range(n)]


# -- Pad -----------------------------------------------------------------------------------------


@rule("Pad", "data")
def _(op, g, data, pads, axes, mode):
    if mode == "constant":
        return _crop(op, g, pads, axes)
    for axis, (before, after) in _pads_by_axis(op, data, pads, axes).items():
        g = _fold(op, g, dim(data, axis), axis, before, after, mode)
    return g


@rule("Pad", "constant_value")
def _(op, g, data, pads, constant_value, axes, mode):
    if mode != "constant":
        return None
    added = op.typed(op.Pad(full_like(data, 0), pads, op.const(1, like=g), axes), g)
    return reshape_like(reduce_sum(g * added, axes_from(g)), constant_value)


def _crop(op: Builder, g: Tensor, pads: Tensor, axes: Tensor | None) -> Tensor:
    """The transpose of Pad: a Pad with negated pads, or a Slice where known pads only add."""
    known = axes.const if axes is not None else None if g.shape is None else np.arange(g.rank)
    if pads.const is None or known is None or (pads.const < 0).any():
        return op.Pad(g, -pads, None, axes)
    before, after = np.split(pads.const, 2)
    cut = [k for k in range(len(before)) if before[k] or after[k]]
    if not cut:
        return g
    ends = [-after[k] if after[k] else _MAX for k in cut]
    return op.Slice(g, op.const(before[cut]), op.const(ends), op.const(known[cut]))


def _pads_by_axis(
    op: Builder, data: Tensor, pads: Tensor, axes: Tensor | None
) -> dict[int, tuple[Size, Size]]:
    """How much Pad adds before and after, by axis."""
    rank = data.rank
    known = np.arange(rank) if axes is None else axes.const
    if known is None:
        assert axes is not None
        places = from_front(op.cast(axes, ir.DataType.INT64), rank)
        places = op.Concat(places, places + rank, axis=0)
        pads = op.ScatterElements(op.const([0] * 2 * rank), places, pads)
        known = np.arange(rank)
    n = len(known)
    sizes = _entries(pads, 2 * n)
    return {axis_of(int(a), data): (sizes[k], sizes[k + n]) for k, a in enumerate(known)}


def _fold(
    op: Builder, g: Tensor, size: Size, axis: int, before: Size, after: Size, mode: str
) -> Tensor:
    """The transpose of a Pad that copies, along one axis: its borders are added to their origins.

    Pad itself, applied to positions, tells the origins.
    """
    length = dim(g, axis)
    adds = isinstance(before, int) and isinstance(after, int) and min(before, after) >= 0
    head, tail = (before, after) if adds else (clamp(op, n, 0, length) for n in (before, after))
    ends: list[tuple[Size, Size]] = [(0, head)] if head != 0 else []
    if tail != 0:  # without the length, where that would have to be read
        from_end = adds and not isinstance(length, int)
        ends.append((-tail, _MAX) if from_end else (length - tail, length))
    inner = _crop(op, g, vector(g, [before, after]), op.const([axis]))
    if not ends:
        return inner
    border = joined([part(g, *end, axis) for end in ends], axis)
    origins = op.Pad(arange(op, size), vector(g, [before, after]), mode=mode)
    origins = joined([part(origins, *end) for end in ends], 0)
    origins = origins if origins.const is None else op.const(origins.const)
    rest = list(range(1, g.rank - axis))
    origins = expand_like(op.Unsqueeze(origins, op.const(rest)) if rest else origins, border)
    return op.ScatterElements(inner, origins, border, axis=axis, reduction="add")
