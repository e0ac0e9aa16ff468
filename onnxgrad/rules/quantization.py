"""Quantization. Cotangents flow through floating-point tensors only, so they end at the integers.

The derivative of rounding is zero, and is declared so. Where a straight-through gradient is asked
for it is 1, and cotangents flow through the integers, but for those that saturation has clipped.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxgrad import shapes
from onnxgrad.registry import elementwise, rule, zero
from onnxgrad.rules.convolution import conv_w, conv_x
from onnxgrad.rules.linalg import matmul_a, matmul_b

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
    return _sum_to_scale(op, product, x, x_scale, axis, block_size)


def _sum_to_scale(op, product, x, x_scale, axis, block_size):
    """The sum over all elements of x that share a scale."""
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
    return None if g_y_scale is None else _spread_derivative(op, x) * (g_y_scale / 255)


def _spread_derivative(op, x):
    """The derivative of max(x, 0) - min(x, 0)."""
    every = list(range(x.rank))
    highest, lowest = (f(x, shapes.axes_vector(x, every)) for f in (op.ReduceMax, op.ReduceMin))
    above = _shares(op, x.equals(highest) & (x > 0), x)
    below = _shares(op, x.equals(lowest) & (x < 0), x)
    return above - below


def _shares(op, chosen, x):
    """One divided by their number where `chosen`, else 0."""
    ones = op.Cast(chosen, to=x.dtype)
    number = shapes.reduce_sum(ones, list(range(x.rank)))
    return op.bounded(ones / op.Max(number, op.const(1, like=x)))


# -- straight through ------------------------------------------------------------------------------

for _rounding in ("Ceil", "Floor", "Round", "Sign"):
    elementwise(_rounding, lambda: 1, straight_through=True)


@rule("Cast", "input", straight_through=True)
def _(g):
    return g


@rule("DequantizeLinear", "x", straight_through=True)
def _(op, g, x, x_scale, axis, block_size):
    return g * op.cast(_for_each(op, x_scale, x, axis, block_size), g.dtype)


@rule("QuantizeLinear", "x", straight_through=True)
def _(op, g, x, y_scale, y_zero_point, y, axis, block_size):
    """y = round(x / y_scale) + y_zero_point, where that is within the range of y's type."""
    scale, inside = _quantized(op, x, y_scale, y_zero_point, y, axis, block_size)
    return op.mask(g, inside) * op.bounded(1 / scale)


@rule("QuantizeLinear", "y_scale", straight_through=True)
def _(op, g, x, y_scale, y_zero_point, y, axis, block_size):
    scale, inside = _quantized(op, x, y_scale, y_zero_point, y, axis, block_size)
    product = -op.mask(g, inside) * op.bounded(x / scale) * op.bounded(1 / scale)
    return _sum_to_scale(op, op.cast(product, y_scale.dtype), x, y_scale, axis, block_size)


@rule("DynamicQuantizeLinear", "x", straight_through=True)
def _(op, g_y, g_y_scale, x, y_scale):
    """y = round(x / y_scale) + y_zero_point; nothing is clipped."""
    if g_y is None:
        return _spread_derivative(op, x) * (g_y_scale / 255)
    g = g_y * op.bounded(1 / y_scale)
    g_scale = -shapes.reduce_sum(g * x, list(range(x.rank))) * op.bounded(1 / y_scale)
    g_scale = g_scale if g_y_scale is None else g_scale + g_y_scale
    return g + _spread_derivative(op, x) * (g_scale / 255)


@rule("MatMulInteger", "A", straight_through=True)
def _(op, g, A, B, b_zero_point):
    return matmul_a(op, g, A, _less(g, B, b_zero_point))


@rule("MatMulInteger", "B", straight_through=True)
def _(op, g, A, B, a_zero_point):
    if a_zero_point is not None and a_zero_point.rank == 1:  # one for each row
        a_zero_point = op.Unsqueeze(a_zero_point, op.const([-1]))
    return matmul_b(op, g, _less(g, A, a_zero_point), B)


@rule("ConvInteger", "x", straight_through=True)
def _(op, g, x, w, w_zero_point, kernel_shape, strides, dilations, pads, auto_pad, group):
    if w_zero_point is not None and w_zero_point.rank == 1:  # one for each channel
        w_zero_point = op.Unsqueeze(w_zero_point, op.const(list(range(1, w.rank))))
    w = _less(g, w, w_zero_point)
    return conv_x(g, x, w, kernel_shape, strides, dilations, pads, auto_pad, group)


@rule("ConvInteger", "w", straight_through=True)
def _(g, x, w, x_zero_point, kernel_shape, strides, dilations, pads, auto_pad, group):
    x = _less(g, x, x_zero_point)
    return conv_w(g, x, w, kernel_shape, strides, dilations, pads, auto_pad, group)


def _less(g, x, zero_point):
    """The numbers that integers stand for, but for their scale."""
    op = g.op
    x = op.cast(x, g.dtype)
    return x if zero_point is None else x - op.cast(zero_point, g.dtype)


def _quantized(op, x, y_scale, y_zero_point, y, axis, block_size):
    """The scale of each element of x, and whether y is within the range of its type."""
    scale = op.cast(_for_each(op, y_scale, x, axis, block_size), x.dtype)
    steps = op.Round(op.bounded(x / scale))
    if y_zero_point is not None:
        zero_point = op.cast(y_zero_point, y_scale.dtype)
        steps = steps + op.cast(_for_each(op, zero_point, x, axis, block_size), x.dtype)
    low, high = _range(y.dtype)
    return scale, (steps >= low) & (steps <= high)


def _for_each(op, scale, x, axis, block_size):
    """What DequantizeLinear multiplies each element of `x` with, in a shape that broadcasts."""
    if scale.rank == 0 or scale.static == (1,):
        return shapes.reshape(scale, [])
    one = ir.tensor(np.ones(1, np.int8))
    ones = op.ConstantOfShape(shapes.shape(x), value=one)
    return op.DequantizeLinear(ones, scale, axis=axis, block_size=block_size or None)


def _range(dtype):
    """The least and the largest number of a type."""
    if dtype.is_floating_point():
        high = float(ml_dtypes.finfo(dtype.numpy()).max)
        return -high, high
    bits = dtype.bitwidth - dtype.is_signed()
    return -(2**bits) * dtype.is_signed(), 2**bits - 1
