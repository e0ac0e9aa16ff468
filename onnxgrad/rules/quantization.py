"""Quantization. Cotangents flow through floating-point tensors only, so they end at the integers.

There is no straight-through gradient: the derivative of rounding is zero, and is declared so.
"""

from onnxgrad import shapes
from onnxgrad.registry import rule, zero

zero("QuantizeLinear", reason="rounds to integers or to 8 bits and fewer")
zero(["ConvInteger", "MatMulInteger"], reason="integers in, integers out")
zero(["QLinearConv", "QLinearMatMul"], reason="rounds to integers or to 8 bits")

zero("DequantizeLinear", "x", "x_zero_point", reason="integers or floats of 8 bits and fewer")


@rule("DequantizeLinear", "x_scale")
def _(op, g, x, x_scale, x_zero_point, axis, block_size):
    """y = (x - zero_point) * scale, which is one number, one per slice, or one per block."""
    ones = shapes.full_like(x_scale, 1)
    steps = op.DequantizeLinear(x, ones, x_zero_point, axis=axis, block_size=block_size or None)
    product = op.cast(g, x_scale.dtype) * op.cast(steps, x_scale.dtype)
    if x_scale.rank == 0 or x_scale.static == (1,) or axis >= x.rank:
        return shapes.reshape_like(shapes.reduce_sum(product, range(x.rank)), x_scale)
    axis = shapes.axis_of(axis, x)
    if block_size:
        return op.typed(_sum_blocks(op, product, x_scale, axis, block_size), x_scale)
    total = shapes.reduce_sum(product, [a for a in range(x.rank) if a != axis])
    return shapes.unbroadcast(total, total.shape, x_scale)


def _sum_blocks(op, product, scale, axis, block_size):
    """The sums over blocks along an axis, the last of which may be shorter."""
    sizes = shapes.dims(scale)
    padding = sizes[axis] * block_size - shapes.dim(product, axis)
    if not isinstance(padding, int) or padding:
        pads = shapes.vector(product, [0, padding])
        product = op.Pad(product, pads, op.const(0, like=product), op.const([axis]))
    blocks = shapes.reshape(product, [*sizes[: axis + 1], block_size, *sizes[axis + 1 :]])
    return shapes.reduce_sum(blocks, [axis + 1])


@rule("DynamicQuantizeLinear", "x")
def _(op, g_y_scale, x):
    """y_scale = (max(x, 0) - min(x, 0)) / 255; ties share evenly, as in torch.amax."""
    if g_y_scale is None:
        return None
    every = list(range(x.rank))
    highest, lowest = (f(x, shapes.axes_vector(x, every)) for f in (op.ReduceMax, op.ReduceMin))
    above = _shares(op, x.equals(highest) & (x > 0), x)
    below = _shares(op, x.equals(lowest) & (x < 0), x)
    return (above - below) * (g_y_scale / 255)


def _shares(op, chosen, x):
    """One divided by their number where `chosen`, else 0."""
    ones = op.Cast(chosen, to=x.dtype)
    number = shapes.reduce_sum(ones, list(range(x.rank)))
    return op.bounded(ones / op.Max(number, op.const(1, like=x)))
