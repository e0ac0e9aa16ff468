"""Quantization. Cotangents flow through floating-point tensors only, so they end at the integers.

The derivative of rounding is zero, and is declared so. Where a straight-through gradient is asked
for it is 1, and cotangents flow through the integers, but for those that saturation has clipped.
"""

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import elementwise, moving, rule, zero
from onnxgrad.emit import shapes
from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.rules.convolution import conv_b, conv_w, conv_x
from onnxgrad.rules.linalg import matmul_a, matmul_b

zero("QuantizeLinear", reason="rounds to integers or to 8 bits and fewer")
zero(["ConvInteger", "MatMulInteger"], reason="integers in, integers out")
zero(["QLinearConv", "QLinearMatMul"], reason="rounds to integers or to 8 bits")

zero("DequantizeLinear", "x", "x_zero_point", reason="integers or floats of 8 bits and fewer")


@rule("DequantizeLinear", "x_scale")
def dequantize_scale(op, g, x, x_scale, x_zero_point, axis, block_size):
    """y = (x - zero_point) * scale, which is one number, one per slice, or one per block.

    Half precision may have no room for x - zero_point, and loses digits in the sum.
    """
    ones = op.cast(shapes.full_like(x_scale, 1), ir.DataType.FLOAT)
    steps = op.DequantizeLinear(x, ones, x_zero_point, axis=axis, block_size=block_size or None)
    product = op.cast(g, ir.DataType.FLOAT) * op.cast(steps, ir.DataType.FLOAT)
    total = _sum_to_scale(op, product, x, x_scale, axis, block_size)
    return op.cast(total, x_scale.dtype)


def _sum_to_scale(op, product, x, x_scale, axis, block_size):
    """The sum over all elements of x that share a scale."""
    if x_scale.rank == 0 or x_scale.static == (1,) or axis >= x.rank:
        return shapes.reshape_like(shapes.reduce_sum(product, range(x.rank)), x_scale)
    axis = shapes.axis_of(axis, x)
    if block_size:
        return op.typed(_sum_blocks(op, product, x_scale, axis, block_size), x_scale)
    total = shapes.reduce_sum(product, [a for a in range(x.rank) if a != axis])
    return unbroadcast(total, total.shape, x_scale)


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
    return None if g_y_scale is None else _range_derivative(op, x) * (g_y_scale / 255)


def _range_derivative(op, x):
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


# Resize moves but for interpolating, of which it rounds what it finds.
moving([
    "CenterCropPad", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "MaxPool", "Pad", "Reshape", "Resize",
    "ReverseSequence", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where",
])  # fmt: skip


@rule("Cast", "input", straight_through=True)
def _(g):
    return g


@rule("DequantizeLinear", "x", straight_through=True)
def dequantize_x(op, g, x, x_scale, axis, block_size):
    return g * op.cast(_for_each(op, x_scale, x, axis, block_size), g.dtype)


@rule("QuantizeLinear", "x", straight_through=True)
def quantize_x(op, g, x, y_scale, y_zero_point, y, axis, block_size):
    """y = round(x / y_scale) + y_zero_point, where that is within the range of y's type."""
    scale, inside = _quantized(op, x, y_scale, y_zero_point, y, axis, block_size)
    return op.mask(g, inside) * op.bounded(1 / scale)


@rule("QuantizeLinear", "y_scale", straight_through=True)
def quantize_scale(op, g, x, y_scale, y_zero_point, y, axis, block_size):
    scale, inside = _quantized(op, x, y_scale, y_zero_point, y, axis, block_size)
    product = -op.mask(g, inside) * op.bounded(x / scale) * op.bounded(1 / scale)
    return _sum_to_scale(op, op.cast(product, y_scale.dtype), x, y_scale, axis, block_size)


@rule("DynamicQuantizeLinear", "x", straight_through=True)
def _(op, g_y, g_y_scale, x, y_scale):
    """y = round(x / y_scale) + y_zero_point; nothing is clipped."""
    if g_y is None:
        return _range_derivative(op, x) * (g_y_scale / 255)
    g = g_y * op.bounded(1 / y_scale)
    g_scale = -shapes.reduce_sum(g * x, list(range(x.rank))) * op.bounded(1 / y_scale)
    g_scale = g_scale if g_y_scale is None else g_scale + g_y_scale
    return g + _range_derivative(op, x) * (g_scale / 255)


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


@rule("QLinearMatMul", straight_through=True)
def _(op, g, a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point, y):
    """A product of the numbers that the integers stand for, rounded to integers again."""
    rows, columns = max(a.rank - 2, 0), b.rank - 1
    left = _real(op, a, a_scale, a_zero_point, rows)
    right = _real(op, b, b_scale, b_zero_point, columns)
    product = op.MatMul(left, right)
    end = product, y_scale, y_zero_point, y, max(y.rank - 2, 0), 0
    g = op.cast(g, product.dtype)
    g_product = quantize_x(op, g, *end)
    g_left, g_right = (f(op, g_product, left, right) for f in (matmul_a, matmul_b))
    return {
        "a": dequantize_x(op, g_left, a, a_scale, rows, 0),
        "a_scale": dequantize_scale(op, g_left, a, a_scale, a_zero_point, rows, 0),
        "b": dequantize_x(op, g_right, b, b_scale, columns, 0),
        "b_scale": dequantize_scale(op, g_right, b, b_scale, b_zero_point, columns, 0),
        "y_scale": quantize_scale(op, g, *end),
    }


@rule("QLinearConv", straight_through=True)
def _(
    op, g, x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B, y,
    kernel_shape, strides, dilations, pads, auto_pad, group,
):  # fmt: skip
    """A convolution likewise. A filter may have a scale; the bias is in units of both scales."""
    windows = {
        "kernel_shape": kernel_shape, "strides": strides, "dilations": dilations, "pads": pads,
        "auto_pad": auto_pad, "group": group,
    }  # fmt: skip
    data, filters = _real(op, x, x_scale, x_zero_point, 1), _real(op, w, w_scale, w_zero_point, 0)
    unit = x_scale * w_scale
    bias = None if B is None else _real(op, B, unit, None, 0)
    end = op.Conv(data, filters, bias, **windows), y_scale, y_zero_point, y, 1, 0
    g = op.cast(g, data.dtype)
    g_sum = quantize_x(op, g, *end)
    g_data, g_filters = (f(g_sum, data, filters, **windows) for f in (conv_x, conv_w))
    found = {
        "x": dequantize_x(op, g_data, x, x_scale, 1, 0),
        "x_scale": dequantize_scale(op, g_data, x, x_scale, x_zero_point, 1, 0),
        "w": dequantize_x(op, g_filters, w, w_scale, 0, 0),
        "w_scale": dequantize_scale(op, g_filters, w, w_scale, w_zero_point, 0, 0),
        "y_scale": quantize_scale(op, g, *end),
    }
    return found if B is None else _with_bias(op, found, conv_b(g_sum), B, unit, x_scale, w_scale)


def _with_bias(op, found, g, B, unit, x_scale, w_scale):
    """What the bias adds: its own cotangent, and those of the scales that are its unit."""
    g_unit = dequantize_scale(op, g, B, unit, None, 0, 0)
    return found | {
        "B": dequantize_x(op, g, B, unit, 0, 0),
        "x_scale": found["x_scale"] + unbroadcast(g_unit * w_scale, unit.shape, x_scale),
        "w_scale": found["w_scale"] + unbroadcast(g_unit * x_scale, unit.shape, w_scale),
    }


def _real(op, x, scale, zero_point, axis):
    """The numbers that integers stand for."""
    if scale.rank > 1:
        op.refuse("it has a rule only for one scale, or one for each row, column or filter")
    return op.DequantizeLinear(x, scale, zero_point, axis=axis)


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
