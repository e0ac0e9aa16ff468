"""Operators that read or write elements by index: what was read at a place is added back there."""

from onnx_ir import DataType

from onnxgrad.registry import rule
from onnxgrad.shapes import axis_of, count, dims, full_like, reshape, shape


def add_along(op, x, axis, positions, g):
    """The cotangent of `x`, of which `positions` (a vector) along `axis` were read."""
    zeros = full_like(x, 0)
    if axis == 0:
        rows = op.Unsqueeze(op.cast(positions, DataType.INT64), op.const([1]))
        return op.ScatterND(zeros, rows, g, reduction="add")
    rest = list(range(1, x.rank - axis))
    everywhere = op.Expand(op.Unsqueeze(positions, op.const(rest)) if rest else positions, shape(g))
    return op.ScatterElements(zeros, everywhere, g, axis=axis, reduction="add")


@rule("Gather", "data")
def _(op, g, data, indices, axis):
    axis = axis_of(axis, data)
    if indices.rank != 1:
        sizes = dims(data)
        sizes[axis] = count(indices)
        g, indices = reshape(g, sizes), op.Reshape(indices, op.const([-1]))
    return add_along(op, data, axis, indices, g)


@rule("GatherElements", "data")
def _(op, g, data, indices, axis):
    return op.ScatterElements(full_like(data, 0), indices, g, axis=axis, reduction="add")


@rule("GatherND", "data")
def _(op, g, data, indices, batch_dims):
    if batch_dims:
        op.refuse("batch_dims")
    return op.ScatterND(full_like(data, 0), indices, g, reduction="add")


@rule("ScatterElements", "data")
def _(op, g, indices, updates, axis, reduction):
    if reduction == "none":
        return op.ScatterElements(g, indices, full_like(updates, 0), axis=axis)
    return g


@rule("ScatterElements", "updates")
def _(op, g, indices, axis):
    return op.GatherElements(g, indices, axis=axis)


@rule("ScatterND", "data")
def _(op, g, indices, updates, reduction):
    return op.ScatterND(g, indices, full_like(updates, 0)) if reduction == "none" else g


@rule("ScatterND", "updates")
def _(op, g, indices):
    return op.GatherND(g, indices)
