"""Reductions over axes, cumulative sums and products, and selection along an axis.

`axes` is absent, constant or given at run time; shapes.reduced_axes tells which.
"""

from __future__ import annotations

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor


@rule("ReduceSum", "data")
def _(g, data, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    return shapes.expand_like(shapes.unreduce(g, data, axes, keepdims), data)


@rule("ReduceMean", "data")
def _(g, data, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    g = shapes.unreduce(g, data, axes, keepdims)
    return shapes.expand_like(shapes.divided(g, shapes.count(data, axes)), data)


@rule("ReduceSumSquare", "data")
def _(g, data, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    return shapes.unreduce(g * 2, data, axes, keepdims) * data


@rule("ReduceL1", "data")
def _(op, g, data, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    return shapes.unreduce(g, data, axes, keepdims) * op.Sign(data)  # 0 at 0


@rule("ReduceL2", "data")
def _(op, g, data, reduced, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    # 0 at the zero vector, where the formula has 0 / 0.
    zero = reduced.equals(0)
    g = op.mask(g, ~zero)
    length = op.Where(zero, op.const(1, like=reduced), reduced)
    return shapes.unreduce(g, data, axes, keepdims) * op.bounded(
        data / shapes.unreduce(length, data, axes, keepdims)
    )


@rule("ReduceLogSum", "data")
def _(op, g, data, reduced, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    g = g / op.Exp(reduced)
    return shapes.expand_like(shapes.unreduce(g, data, axes, keepdims), data)


@rule("ReduceLogSumExp", "data")
def _(op, g, data, reduced, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    softmax = op.bounded(op.Exp(data - shapes.unreduce(reduced, data, axes, keepdims)))
    return shapes.unreduce(g, data, axes, keepdims) * softmax


# Elements that tie share evenly, as in torch.amax.
@rule("ReduceMax", "data")
@rule("ReduceMin", "data")
def _(op, g, data, reduced, axes, keepdims, noop_with_empty_axes):
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    g, best = (shapes.unreduce(t, data, axes, keepdims) for t in (g, reduced))
    return shapes.shared(g, data, best, axes)


@rule("ReduceProd", "data")
def _(op, g, data, axes, keepdims, noop_with_empty_axes):
    """The product of the others: of those that are not 0, by division, times that of the zeros.

    The latter is a function of the zeros too, for the second derivative. With two other zeros or
    more it is 0, as is its derivative; only a third derivative would be missed.
    """
    axes = shapes.reduced_axes(data, axes, noop_with_empty_axes)
    _, zero, nonzero = _split_zeros(op, data)
    others = shapes.reduce_sum(zero, axes, keepdims=1) - zero
    its_zeros = zero * data
    other_zero = shapes.reduce_sum(its_zeros, axes, keepdims=1) - its_zeros
    of_zeros = op.Cast(others.equals(0), to=g.dtype) + op.mask(other_zero, others.equals(1))
    product = op.ReduceProd(nonzero, shapes.axes_vector(data, axes), noop_with_empty_axes=1)
    return shapes.unreduce(g, data, axes, keepdims) * (op.bounded(product / nonzero) * of_zeros)


def _split_zeros(op: Builder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where `x` is 0, as booleans and as numbers, and `x` with ones there."""
    is_zero = x.equals(0)
    return is_zero, op.Cast(is_zero, to=x.dtype), op.Where(is_zero, op.const(1, like=x), x)


@rule("CumSum", "x")
def _(op, g, axis, exclusive, reverse):
    return op.CumSum(g, axis, exclusive=exclusive, reverse=1 - reverse)


@rule("CumProd", "x")
def _(op, g, x, axis, exclusive, reverse):
    """The sum, over the products that have the element, of the product of the others.

    By division where the element is not 0; that is 0 unless no zero is among the others. The
    product of the zeros is kept as a function of them, for the second derivative.
    """

    def upto(t):
        return op.CumSum(t, axis, exclusive=exclusive, reverse=reverse)

    def beyond(t):
        return op.CumSum(t, axis, exclusive=exclusive, reverse=1 - reverse)

    is_zero, zero, nonzero = _split_zeros(op, x)
    zeros = upto(zero)
    g = g * op.CumProd(nonzero, axis, exclusive=exclusive, reverse=reverse)
    none, one, two = (op.mask(g, zeros.equals(k)) for k in (0, 1, 2))
    the_zero = upto(zero * x)
    at_zero = beyond(one) + beyond(two * the_zero) - beyond(two) * x
    elsewhere = beyond(none + one * the_zero)
    return op.Where(is_zero, at_zero, op.bounded(elsewhere / nonzero))


@rule("TopK", "X")
def _(op, g, X, Indices, axis):
    return op.ScatterElements(shapes.full_like(X, 0), Indices, g, axis=axis)
