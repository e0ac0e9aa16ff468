"""Operators that only move elements: their transposes move them back."""

import numpy as np
from onnx_ir import DataType

from onnxgrad.registry import elementwise, rule
from onnxgrad.shapes import (
    axis_of,
    clamp,
    count,
    dim,
    dims,
    full_like,
    permutation_inverse,
    reshape,
    reshape_like,
    vector,
)

_END = np.iinfo(np.int64)

elementwise("Expand", lambda: 1)


@rule("Reshape", "data")
@rule("Squeeze", "data")
@rule("Unsqueeze", "data")
def _(g, data):
    return reshape_like(g, data)


@rule("Flatten", "input")
def _(g, input):
    return reshape_like(g, input)


@rule("Transpose", "data")
def _(op, g, perm):
    return op.Transpose(g, perm=permutation_inverse(perm) if perm else None)


@rule("Concat", "inputs")
def _(op, g, inputs, axis, i):
    if len(inputs) == 1:
        return g
    sizes = vector(g, [dim(x, axis) for x in inputs])
    return op.Split(g, sizes, axis=axis, outputs=len(inputs))[i]


@rule("Split", "input")
def _(op, g_outputs, outputs, axis):
    parts = [full_like(y, 0) if g is None else g for g, y in zip(g_outputs, outputs, strict=True)]
    return op.Concat(*parts, axis=axis)


@rule("Slice", "data")
def _(op, g, data, starts, axes, steps, node):
    n = starts.static and starts.static[0]
    known_axes = range(n or 0) if axes is None else axes.const
    known_steps = [1] * (n or 0) if steps is None else steps.const
    if n is None or known_axes is None or known_steps is None:
        return _unslice_flat(op, g, data, node)
    before, after = [0] * data.rank, [0] * data.rank
    for k in range(n):
        axis, step = axis_of(int(known_axes[k]), data), int(known_steps[k])
        length, size = dim(g, axis), dim(data, axis)
        start = _start(op, starts, k, size, step)
        if step < 0:
            g, start = flip(op, g, axis), clamp(op, start + (length - 1) * step, 0, size)
        g = _spread(op, g, axis, abs(step))
        before[axis], after[axis] = start, size - start - length * abs(step)
    return op.typed(op.Pad(g, vector(g, before + after)), data)


def _start(op, starts, k, size, step):
    """Where Slice starts along one axis once the standard has counted from the end and clamped."""
    if starts.const is not None:
        start = int(starts.const[k])
        start = start + size if start < 0 else start
    else:
        start = op.cast(op.Slice(starts, op.const([k]), op.const([k + 1])), DataType.INT64)
        start = op.Where(start < 0, start + size, start)
    return clamp(op, start, 0, size if step > 0 else size - 1)


def flip(op, x, axis):
    """`x` backwards along one axis."""
    return op.Slice(x, op.const([-1]), op.const([_END.min]), op.const([axis]), op.const([-1]))


def _spread(op, x, axis, step):
    """`x` with `step` - 1 zeros after every element along one axis."""
    if step == 1:
        return x
    sizes = dims(x)
    x = reshape(x, [*sizes[: axis + 1], 1, *sizes[axis + 1 :]])
    pads = np.zeros((2, x.rank), np.int64)
    pads[1, axis + 1] = step - 1
    sizes[axis] = sizes[axis] * step
    return reshape(op.Pad(x, op.const(pads.ravel())), sizes)


def _unslice_flat(op, g, data, node):
    """The transpose of a Slice of which axes or steps are known at run time only."""
    size = count(data)
    places = op.Range(op.const(0), op.Squeeze(vector(g, [size])), op.const(1))
    operands = [None if v is None else op.tensor(v) for v in node.inputs[1:]]
    taken = op.Slice(reshape(places, dims(data)), *operands)
    flat = op.ScatterElements(
        op.Expand(op.const(0, like=g), vector(g, [size])),
        op.Reshape(taken, op.const([-1])),
        op.Reshape(g, op.const([-1])),
    )
    return reshape_like(flat, data)


@rule("Pad", "data")
def _(op, g, data, pads, axes, mode):
    if mode == "constant":
        return op.typed(_crop(op, g, pads, axes), data)
    return op.refuse("mode")


def _crop(op, g, pads, axes):
    """The transpose of Pad: with negated pads, which for known ones that only add is a Slice."""
    known = np.arange(g.rank) if axes is None else axes.const
    if pads.const is None or known is None or (pads.const < 0).any():
        return op.Pad(g, -pads, None, axes)
    before, after = np.split(pads.const, 2)
    cut = [k for k in range(len(before)) if before[k] or after[k]]
    if not cut:
        return g
    ends = [-after[k] if after[k] else _END.max for k in cut]
    return op.Slice(g, op.const(before[cut]), op.const(ends), op.const(known[cut]))
