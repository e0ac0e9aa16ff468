"""Reductions over axes, cumulative sums and selection along an axis.

`axes` is absent, constant or given at run time; shapes.reduced_axes tells which.
"""

from onnxgrad import shapes
from onnxgrad.registry import rule


@rule("ReduceSum", "data")
def _(g, data, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    return shapes.expand_like(shapes.unreduce(g, data, axes, keepdims), data)


@rule("ReduceMean", "data")
def _(g, data, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    g = g / shapes.as_float(shapes.count(data, axes), like=g)
    return shapes.expand_like(shapes.unreduce(g, data, axes, keepdims), data)
