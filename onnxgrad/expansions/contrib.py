"""Operators of com.microsoft, which optimisers write, in the standard's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor

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


@expansion("com.microsoft::BiasAdd", on_cpu=False)
def _(op, X, bias, skip):
    return X + bias + skip


@expansion("com.microsoft::BiasSplitGelu", on_cpu=False)
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


@expansion("com.microsoft::ScaledSiLU")
def _(op, X, scale, *, alpha=1.0):
    x = X * alpha if scale is None else X * shapes.reshape(op.cast(scale, X.dtype), [])
    return x * op.Sigmoid(x)


@expansion("com.microsoft::GatedAdd")
def _(op, X, Y, gate):
    return X + Y * gate


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


@expansion("com.microsoft::GatherND")
def _(op, data, indices):
    return op.GatherND(data, op.cast(indices, ir.DataType.INT64))


@expansion("com.microsoft::Range")
def _(op, start, limit, delta):
    delta = op.const(1, like=start) if delta is None else delta
    return op.Range(*(shapes.reshape(t, []) for t in (start, limit, delta)))


@expansion("com.microsoft::Pad")
def _(op, data, pads, value, *, mode="constant"):
    value = None if value is None else shapes.reshape(value, [])
    return op.Pad(data, shapes.reshape(pads, [-1]), value, mode=mode)


@expansion("com.microsoft::Unique")
def _(op, x):
    y, _, places, counts = op.Unique(x, sorted=0, outputs=4)
    return y, places, counts


@expansion("com.microsoft::UnfoldTensor")
def _(op, X, *, size, dim=-1, step=1):
    axis = shapes.axis_of(dim, X)
    number = (shapes.dim(X, axis) - size) // step + 1
    starts = op.Unsqueeze(shapes.arange(op, number) * step, op.const([1]))
    windows = op.Gather(X, starts + np.arange(size), axis=axis)
    order = [k for k in range(X.rank + 1) if k != axis + 1]
    return op.Transpose(windows, perm=[*order, axis + 1])


@expansion("com.microsoft::CDist")
def _(op, A, B, *, metric="euclidean"):
    apart = op.Unsqueeze(A, op.const([1])) - op.Unsqueeze(B, op.const([0]))
    norms = {"euclidean": op.ReduceL2, "sqeuclidean": op.ReduceSumSquare}
    if metric not in norms:
        op.refuse(f"its metric {metric} has no rule yet")
    return norms[metric](apart, op.const([2]), keepdims=0)


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
    a, b = _transposed(op, A, transA, transBatchA), _transposed(op, B, transB, transBatchB)
    return op.MatMul(a, b) * alpha


def _transposed(op: Builder, x: Tensor, transposes: int, transposes_batch: int) -> Tensor:
    """`x` with its first axis behind those of the batch, then its last two axes swapped."""
    order = list(range(x.rank))
    if transposes_batch and x.rank > 2:
        order.insert(-1, order.pop(0))
    if transposes and x.rank > 1:  # a vector has one axis
        order[-2:] = reversed(order[-2:])
    return x if order == sorted(order) else op.Transpose(x, perm=order)


@expansion("com.microsoft::FusedConv")
def _(op, X, W, B, Z, *, activation="", activation_params=(), **attributes):
    y = op.Conv(X, W, B, **attributes)
    return _activated(op, y if Z is None else y + Z, activation, activation_params)


@expansion("com.microsoft::NhwcConv", on_cpu=False)
def _(op, X, W, B, **attributes):
    """Image and filters have their channels last."""
    return to_last(op, op.Conv(to_second(op, X), to_second(op, W), B, **attributes))


@expansion("com.microsoft::NhwcFusedConv", on_cpu=False)
def _(op, X, W, B, Z, *, activation="", activation_params=(), **attributes):
    """The filters lie as those of Conv do, all else has its channels last."""
    y = to_last(op, op.Conv(to_second(op, X), W, B, **attributes))
    return _activated(op, y if Z is None else y + Z, activation, activation_params)


def to_second(op: Builder, x: Tensor) -> Tensor:
    """`x` with its channels moved from the last axis to the second."""
    return op.Transpose(x, perm=[0, x.rank - 1, *range(1, x.rank - 1)])


def to_last(op: Builder, x: Tensor) -> Tensor:
    """`x` with its channels moved from the second axis to the last."""
    return op.Transpose(x, perm=[0, *range(2, x.rank), 1])


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
    promoted = op.cast(x, kind)
    axes = op.const(list(range(shapes.axis_of(axis, x), x.rank)))
    scale = 1 / op.Sqrt(op.ReduceMean(promoted * promoted, axes) + epsilon)
    return op.cast(promoted * scale, x.dtype) * gamma, scale


@expansion("com.microsoft::GatedRMSNorm")
def _(op, X, scale, gate, *, activation="silu", epsilon=1e-5):
    promoted = op.cast(gate, ir.DataType.FLOAT)
    if activation not in ("silu", "swish", "sigmoid"):
        op.refuse(f"its activation {activation} has no rule yet")
    opened = op.Sigmoid(promoted) if activation == "sigmoid" else promoted * op.Sigmoid(promoted)
    groups = shapes.reshape(op.cast(X, ir.DataType.FLOAT), [-1, shapes.dim(scale, 0)])
    y, _ = _rms(op, groups, op.cast(scale, ir.DataType.FLOAT), -1, epsilon)
    return op.cast(shapes.reshape_like(y, X) * opened, X.dtype)


@expansion("com.microsoft::BranchwiseRMSNorm")
def _(op, X, scale, *, num_branches=0, epsilon=1e-5):
    """The scale has the shape of all branches, flat or not, or that of one."""
    branches, width = shapes.dims(X)[-2:]
    if num_branches:
        branches, width = num_branches, width // num_branches
    rows = shapes.reshape(op.cast(X, ir.DataType.FLOAT), [-1, branches, width])
    factor = op.const(1, like=rows) if scale is None else op.cast(scale, rows.dtype)
    if factor.static not in ((), (width,)) and factor.rank == 1:
        factor = shapes.reshape(factor, [branches, width])
    y, _ = _rms(op, rows, factor, -1, epsilon)
    return op.cast(shapes.reshape_like(y, X), X.dtype)


@expansion("com.microsoft::LinearAttentionGate")
def _(op, a, dt_bias, decay_scale, b):
    decay = op.Softplus(op.cast(a, ir.DataType.FLOAT) + dt_bias) * decay_scale
    return op.cast(decay, a.dtype), None if b is None else op.Sigmoid(b)


def _group_norm(
    op: Builder,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    groups: int,
    epsilon: float,
    activation: int,
    channels_last: int,
) -> Tensor:
    """Normalized over groups of channels and all places, which lie between batch and channels."""
    x = to_second(op, x) if channels_last else x
    shape = op.const([0, groups, -1])
    ones, zeros = (op.const([n] * groups, like=x) for n in (1, 0))
    y = op.InstanceNormalization(op.Reshape(x, shape), ones, zeros, epsilon=epsilon)
    y = shapes.reshape_like(y, x)
    along = op.const(list(range(1, x.rank - 1)))
    gamma, beta = (op.Unsqueeze(op.cast(t, x.dtype), along) for t in (gamma, beta))
    y = y * gamma + beta
    y = y * op.Sigmoid(y) if activation else y
    return to_last(op, y) if channels_last else y


@expansion("com.microsoft::GroupNorm", on_cpu=False)
def _(op, X, gamma, beta, *, activation, groups, channels_last=1, epsilon=1e-5):
    return _group_norm(op, X, gamma, beta, groups, epsilon, activation, channels_last)


@expansion("com.microsoft::SkipGroupNorm", on_cpu=False)
def _(op, X, gamma, beta, skip, bias, *, activation, groups, channels_last=1, epsilon=1e-5):
    if not channels_last:
        op.refuse("only channels that come last have a rule")
    if skip.rank == 2:
        skip = op.Unsqueeze(skip, op.const([1, 2]))
    x = X + skip if bias is None else X + skip + bias
    return _group_norm(op, x, gamma, beta, groups, epsilon, activation, 1), x


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
