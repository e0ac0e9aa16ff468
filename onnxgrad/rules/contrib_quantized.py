"""Products of com.microsoft with quantized operands, in the standard's own operators.

Integers have no derivative, so gradients go to the operands in floating point: to the other factor,
scales and biases.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad import shapes
from onnxgrad.builder import Builder, Tensor
from onnxgrad.expand import expansion


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
    weights = _unpacked(op, B, bits, A.dtype)
    if zero_points is None:
        weights = weights - 2 ** (bits - 1)
    else:
        zeros = zero_points
        if zeros.dtype == ir.DataType.UINT8:
            zeros = shapes.part(_unpacked(op, zeros, bits, A.dtype), 0, blocks, 1)
        weights = weights - shapes.reshape(op.cast(zeros, A.dtype), [N, blocks, 1])
    weights = weights * shapes.reshape(scales, [N, blocks, 1])
    weights = shapes.reshape(weights, [N, blocks * block_size])
    if K % block_size:
        weights = shapes.part(weights, 0, K, 1)
    y = op.MatMul(A, op.Transpose(weights, perm=[1, 0]))
    return y if bias is None else y + bias


def _unpacked(op: Builder, packed: Tensor, bits: int, dtype: ir.DataType) -> Tensor:
    """The numbers that lie in the bytes of the last axis, those of the low bits first."""
    if bits == 8:
        return op.Cast(packed, to=dtype)
    number = 8 // bits
    shifts = np.arange(number, dtype=np.uint8) * bits
    each = op.BitShift(
        op.Unsqueeze(packed, op.const([-1])), op.const(shifts, dtype=np.uint8), direction="RIGHT"
    )
    each = op.BitwiseAnd(each, op.const(2**bits - 1, dtype=np.uint8))
    sizes = [*shapes.dims(packed)[:-1], shapes.dim(packed, -1) * number]
    return op.Cast(shapes.reshape(each, sizes), to=dtype)


@expansion("com.microsoft::MatMulIntegerToFloat")
def _(op, A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias):
    """A column of B has its own scale and zero point, or all have one; a row of A too."""
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
    """What the integers of `x` stand for."""
    if zero is not None:
        return (op.Cast(x, to=scale.dtype) - op.Cast(zero, to=scale.dtype)) * scale
    return op.Cast(x, to=scale.dtype) * scale
