"""Operators of com.microsoft, which optimisers write, in the standard's own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad import shapes
from onnxgrad.builder import Builder, Tensor
from onnxgrad.expand import expansion

# -- activations ----------------------------------------------------------------------------------


@expansion("com.microsoft::Gelu")
def _(op, X):
    return op.Gelu(X)


@expansion("com.microsoft::BiasGelu")
def _(op, A, B):
    return op.Gelu(A + B)


@expansion("com.microsoft::FastGelu")
def _(op, X, bias):
    return op.Gelu(X if bias is None else X + bias, approximate="tanh")


@expansion("com.microsoft::QuickGelu")
def _(op, X, *, alpha=1.702):
    return X * op.Sigmoid(X * alpha)


@expansion("com.microsoft::BiasAdd")
def _(op, X, bias, skip):
    return X + bias + skip


@expansion("com.microsoft::BiasSplitGelu")
def _(op, X, bias):
    left, right = op.Split(X + bias, axis=-1, num_outputs=2, outputs=2)
    return left * op.Gelu(right)


def _activated(op: Builder, x: Tensor, activation: str, numbers: Sequence[float]) -> Tensor:
    """An activation that is fused into another operator, with its attributes in order."""
    if activation in ("", "Identity"):
        return x
    if activation in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish"):
        return getattr(op, activation)(x)
    if activation in ("LeakyRelu", "Elu", "ThresholdedRelu") and len(numbers) == 1:
        return getattr(op, activation)(x, alpha=numbers[0])
    if activation == "HardSigmoid" and len(numbers) == 2:
        return op.HardSigmoid(x, alpha=numbers[0], beta=numbers[1])
    if activation == "Clip" and len(numbers) == 2:
        return op.Clip(x, op.const(numbers[0], like=x), op.const(numbers[1], like=x))
    return op.refuse(f"its activation {activation} has no rule yet")


# -- what the standard has got since --------------------------------------------------------------


@expansion("com.microsoft::ExpandDims")
def _(op, X, axis):
    return op.Unsqueeze(X, op.cast(axis, ir.DataType.INT64))


@expansion("com.microsoft::Trilu")
def _(op, X, k, *, upper=1):
    return op.Trilu(X, k, upper=upper)


@expansion("com.microsoft::GridSample")
def _(op, X, grid, *, align_corners=0, mode="bilinear", padding_mode="zeros"):
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return op.GridSample(X, grid, align_corners=align_corners, mode=mode, padding_mode=padding_mode)


@expansion("com.microsoft::QuantizeLinear")
def _(op, x, y_scale, y_zero_point, *, axis=1):
    return op.QuantizeLinear(x, y_scale, y_zero_point, axis=axis)


@expansion("com.microsoft::DequantizeLinear")
def _(op, x, x_scale, x_zero_point, *, axis=1):
    return op.DequantizeLinear(x, x_scale, x_zero_point, axis=axis)


# -- products -------------------------------------------------------------------------------------


@expansion("com.microsoft::FusedGemm")
def _(
    op, A, B, C, *, alpha=1.0, beta=1.0, transA=0, transB=0, activation="", activation_alpha=None,
    activation_beta=None, activation_gamma=None,
):  # fmt: skip
    y = op.Gemm(A, B, C, alpha=alpha, beta=beta, transA=transA, transB=transB)
    numbers = [n for n in (activation_alpha, activation_beta, activation_gamma) if n is not None]
    return _activated(op, y, activation, numbers)


@expansion("com.microsoft::FusedMatMul", "com.microsoft::TransposeMatMul")
def _(op, A, B, *, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
    if transBatchA or transBatchB:
        op.refuse("transBatchA and transBatchB have no rule yet")
    return op.MatMul(_turned(op, A, transA), _turned(op, B, transB)) * alpha


def _turned(op: Builder, x: Tensor, turn: int) -> Tensor:
    """`x` with its last two axes swapped, of which a vector has one."""
    if not turn or x.rank < 2:
        return x
    return op.Transpose(x, perm=[*range(x.rank - 2), x.rank - 1, x.rank - 2])


@expansion("com.microsoft::FusedConv")
def _(
    op, X, W, B, Z, *, activation="", activation_params=(), auto_pad="NOTSET", dilations=None,
    group=1, kernel_shape=None, pads=None, strides=None,
):  # fmt: skip
    y = op.Conv(
        X, W, B, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
        pads=pads, strides=strides,
    )  # fmt: skip
    return _activated(op, y if Z is None else y + Z, activation, activation_params)


# -- normalizations -------------------------------------------------------------------------------


@expansion("SimplifiedLayerNormalization")  # onnxruntime has it in the standard's own domain
def _(op, X, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    return _rms(op, X, scale, axis, epsilon)


@expansion("com.microsoft::SkipLayerNormalization")
def _(op, X, skip, gamma, beta, bias, *, epsilon=1e-12):
    x = X + skip if bias is None else X + skip + bias
    y, mean, scale = op.LayerNormalization(x, gamma, beta, axis=-1, epsilon=epsilon, outputs=3)
    return y, mean, scale, x


@expansion("com.microsoft::SkipSimplifiedLayerNormalization")
def _(op, X, skip, gamma, bias, *, epsilon=1e-12):
    x = X + skip if bias is None else X + skip + bias
    y, scale = _rms(op, x, gamma, -1, epsilon)
    return y, None, scale, x


def _rms(op: Builder, x: Tensor, gamma: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """`x` over its root mean square from `axis` on, in float32 at least, and one over that."""
    kind = x.dtype if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    wide = op.cast(x, kind)
    axes = op.const(list(range(shapes.axis_of(axis, x), x.rank)))
    scale = 1 / op.Sqrt(op.ReduceMean(wide * wide, axes) + epsilon)
    return op.cast(wide * scale, x.dtype) * gamma, scale


@expansion("com.microsoft::EmbedLayerNormalization")
def _(
    op, input_ids, segment_ids, words, positions, segments, gamma, beta, mask, position_ids, *,
    epsilon=1e-12, mask_index_type=0,
):  # fmt: skip
    if position_ids is None:
        length = shapes.dim(input_ids, 1)
        places = op.Slice(positions, op.const([0]), shapes.vector(positions, [length]))
    else:
        places = op.Gather(positions, position_ids)
    total = op.Gather(words, input_ids) + places
    if segment_ids is not None:
        total = total + op.Gather(segments, segment_ids)
    y = op.LayerNormalization(total, gamma, beta, axis=-1, epsilon=epsilon)
    return y, None, total
