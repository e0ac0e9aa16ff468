"""Products of com.microsoft with quantized operands, in the standard's own operators.

Integers have no derivative, so gradients go to the operands in floating point: to the other factor,
scales and biases.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.expansions.contrib import to_last, to_second


@expansion("com.microsoft::MatMulNBits")
def _(
    op, A, B, scales, zero_points, g_idx, bias, *, K, N, block_size, bits=4, accuracy_level=0,
    weight_prepacked=0,
):  # fmt: skip
    """In the precision of A, which `accuracy_level` lets a runtime lower."""
    if bits not in (2, 4, 8) or g_idx is not None or weight_prepacked:
        op.refuse("only weights of 2, 4 or 8 bits in blocks that lie in order have a rule")
    blocks = -(-K // block_size)
    if B.static not in (None, (N, blocks, block_size * bits // 8)):
        op.refuse(f"its weights have the shape {B.value.shape}, which is not that of K and N")
    middle = 2 ** (bits - 1) if zero_points is None else 0
    weights = _unpacked(op, B, np.arange(2**bits) - middle, A.dtype)
    if zero_points is not None:
        zeros = zero_points
        if zeros.dtype == ir.DataType.UINT8:
            zeros = shapes.part(_unpacked(op, zeros, np.arange(2**bits), A.dtype), 0, blocks, 1)
        weights = weights - shapes.reshape(op.cast(zeros, A.dtype), [N, blocks, 1])
    weights = weights * shapes.reshape(scales, [N, blocks, 1])
    weights = shapes.reshape(weights, [N, blocks * block_size])
    if K % block_size:
        weights = shapes.part(weights, 0, K, 1)
    y = op.MatMul(A, op.Transpose(weights, perm=[1, 0]))
    return y if bias is None else y + bias


def _unpacked(op: Builder, packed: Tensor, codes: np.ndarray, dtype: ir.DataType) -> Tensor:
    """What the numbers stand for that lie in the bytes of the last axis, the low bits first.

    All numbers of a byte come from a table at once, which is faster than to part them.

    Args:
        codes: What each number stands for.
    """
    number = {4: 4, 16: 2, 256: 1}[len(codes)]
    parts = np.arange(256)[:, None] // len(codes) ** np.arange(number) % len(codes)
    table = op.const(codes[parts], dtype=dtype.numpy())
    each = op.Gather(table, op.Cast(packed, to=ir.DataType.INT32))
    return shapes.reshape(each, [*shapes.dims(packed)[:-1], shapes.dim(packed, -1) * number])


# The numbers that four bits stand for, as bitsandbytes has them: FP4, then NF4, which are quantiles
# of the normal distribution.
_SIZES = [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4]
_CODES = (
    [*_SIZES, *(-size for size in _SIZES)],
    [
        -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
        0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
    ],
)  # fmt: skip


@expansion("com.microsoft::MatMulBnb4")
def _(op, A, B, absmax, *, K, N, block_size, quant_type, transB=1, training_mode=0):
    """Two weights a byte, the first in the high bits, in blocks along the flat tensor [N, K]."""
    bytes_, codes = np.arange(256), np.array(_CODES[quant_type])
    table = op.const(codes[np.stack([bytes_ >> 4, bytes_ & 15], axis=1)], like=A)
    weights = op.Gather(table, op.Cast(shapes.reshape(B, [-1]), to=ir.DataType.INT32))
    weights = shapes.part(shapes.reshape(weights, [-1]), 0, N * K)
    ranges = op.Expand(
        op.Unsqueeze(absmax, op.const([1])), op.const([-(-N * K // block_size), block_size])
    )
    weights = weights * shapes.part(shapes.reshape(ranges, [-1]), 0, N * K)
    weights = shapes.reshape(weights, [N, K])
    return op.MatMul(A, op.Transpose(weights, perm=[1, 0]) if transB else weights)


@expansion("com.microsoft::MatMulIntegerToFloat")
def _(op, A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias):
    """A column of B has its own scale and zero point, or all have one."""
    a = _real(op, A, a_scale, a_zero_point)
    y = op.MatMul(a, _real(op, B, b_scale, b_zero_point))
    return y if bias is None else y + bias


@expansion("com.microsoft::DynamicQuantizeMatMul")
def _(op, A, B, b_scale, b_zero_point, bias):
    """A is rounded to 256 steps of its range, so its derivative is that of the range alone."""
    rounded, scale, zero = op.DynamicQuantizeLinear(A, outputs=3)
    a = op.DequantizeLinear(rounded, scale, zero)
    y = op.MatMul(a, _real(op, B, b_scale, b_zero_point))
    return y if bias is None else y + bias


def _real(op: Builder, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """What the integers of `x` stand for; scale and zero point broadcast to it."""
    if not scale.rank and (zero is None or not zero.rank):
        return op.DequantizeLinear(x, scale, zero)
    if zero is not None:
        return (op.Cast(x, to=scale.dtype) - op.Cast(zero, to=scale.dtype)) * scale
    return op.Cast(x, to=scale.dtype) * scale


@expansion("com.microsoft::QGemm")
def _(
    op, A, a_scale, a_zero, B, b_scale, b_zero, C, scale, zero, *, alpha=1.0, transA=0, transB=0
):  # fmt: skip
    """The bias is in units of the product of the scales and alpha."""
    columns = [
        op.Unsqueeze(t, op.const([1])) if transB and t and t.rank else t for t in (b_scale, b_zero)
    ]
    a, b = _real(op, A, a_scale, a_zero), _real(op, B, *columns)
    y = op.Gemm(a, b, transA=transA, transB=transB) * alpha
    if C is not None:
        y = y + op.Cast(C, to=a_scale.dtype) * (a_scale * b_scale * alpha)
    return y if scale is None else _rounded(op, y, scale, zero, A)


# -- operators on integers alone: what they stand for, and rounded again ---------------------------


def _rounded(op: Builder, y: Tensor, scale: Tensor, zero: Tensor | None, like: Tensor) -> Tensor:
    """`y` as integers, by default around 0 and of the type of `like`."""
    return op.QuantizeLinear(y, scale, op.const(0, like=like) if zero is None else zero)


@expansion("com.microsoft::QLinearAdd")
def _(op, A, a_scale, a_zero, B, b_scale, b_zero, scale, zero):
    y = _real(op, A, a_scale, a_zero) + _real(op, B, b_scale, b_zero)
    return _rounded(op, y, scale, zero, A)


@expansion("com.microsoft::QLinearMul")
def _(op, A, a_scale, a_zero, B, b_scale, b_zero, scale, zero):
    y = _real(op, A, a_scale, a_zero) * _real(op, B, b_scale, b_zero)
    return _rounded(op, y, scale, zero, A)


@expansion("com.microsoft::QLinearWhere")
def _(op, condition, X, x_scale, x_zero, Y, y_scale, y_zero, scale, zero):
    y = op.Where(condition, _real(op, X, x_scale, x_zero), _real(op, Y, y_scale, y_zero))
    return _rounded(op, y, scale, zero, X)


@expansion("com.microsoft::QLinearConcat")
def _(op, scale, zero, *inputs, axis):
    parts = [_real(op, *inputs[k : k + 3]) for k in range(0, len(inputs), 3)]
    return _rounded(op, op.Concat(*parts, axis=axis), scale, zero, inputs[0])


@expansion("com.microsoft::QLinearSigmoid")
def _(op, X, x_scale, x_zero, scale, zero):
    return _rounded(op, op.Sigmoid(_real(op, X, x_scale, x_zero)), scale, zero, X)


@expansion("com.microsoft::QLinearLeakyRelu")
def _(op, X, x_scale, x_zero, scale, zero, *, alpha=0.01):
    return _rounded(op, op.LeakyRelu(_real(op, X, x_scale, x_zero), alpha=alpha), scale, zero, X)


@expansion("com.microsoft::QLinearSoftmax")
def _(op, X, x_scale, x_zero, scale, zero, *, opset, axis=-1):
    x = _real(op, X, x_scale, x_zero)
    if opset >= 13 or shapes.axis_of(axis, X) == X.rank - 1:
        return _rounded(op, op.Softmax(x, axis=axis), scale, zero, X)
    rows = op.Softmax(op.Flatten(x, axis=axis), axis=1)
    return _rounded(op, shapes.reshape_like(rows, x), scale, zero, X)


@expansion("com.microsoft::QLinearGlobalAveragePool")
def _(op, X, x_scale, x_zero, scale, zero, *, channels_last=0):
    places = range(1, X.rank - 1) if channels_last else range(2, X.rank)
    y = op.ReduceMean(_real(op, X, x_scale, x_zero), op.const(list(places)))
    return _rounded(op, y, scale, zero, X)


@expansion("com.microsoft::QLinearAveragePool")
def _(op, X, x_scale, x_zero, scale, zero, *, channels_last=0, **attributes):
    x = _real(op, X, x_scale, x_zero)
    y = op.AveragePool(to_second(op, x) if channels_last else x, **attributes)
    return _rounded(op, to_last(op, y) if channels_last else y, scale, zero, X)


@expansion("com.microsoft::QLinearConv")
def _(
    op, x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, B, *, channels_last=0, **attributes
):  # fmt: skip
    """A filter has its own scale, or all have one; the bias is in units of both scales."""
    data = _real(op, x, x_scale, x_zero)
    along = op.const(list(range(1, w.rank)))
    ws, wz = (op.Unsqueeze(t, along) if t and t.rank else t for t in (w_scale, w_zero))
    bias = None if B is None else op.Cast(B, to=x_scale.dtype) * (x_scale * w_scale)
    data = to_second(op, data) if channels_last else data
    y = op.Conv(data, _real(op, w, ws, wz), bias, **attributes)
    return _rounded(op, to_last(op, y) if channels_last else y, scale, zero, x)
