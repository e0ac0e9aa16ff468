"""Operators of com.microsoft, which optimisers write, in the standard's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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


# -- attention ------------------------------------------------------------------------------------


@expansion("com.microsoft::Attention")
def _(
    op, X, weights, bias, mask_index, past, attention_bias, past_length, *, num_heads,
    unidirectional=0, qkv_hidden_sizes=None, scale=0.0, mask_filter_value=-10000.0, do_rotary=0,
    rotary_embedding_dim=0, past_present_share_buffer=0,
):  # fmt: skip
    if do_rotary or past_present_share_buffer:
        op.refuse("do_rotary and past_present_share_buffer have no rule yet")
    qkv = op.MatMul(X, weights)
    qkv = qkv if bias is None else qkv + bias
    sizes = qkv_hidden_sizes or [_known(op, shapes.dim(weights, 1)) // 3] * 3
    parts = op.Split(qkv, op.const(sizes), axis=-1, outputs=3)
    q, k, v = (_heads(op, t, num_heads) for t in parts)
    if past is not None:
        k = op.Concat(op.Gather(past, op.const(0)), k, axis=2)
        v = op.Concat(op.Gather(past, op.const(1)), v, axis=2)
    mask = _padding(op, mask_index, X, k, mask_filter_value)
    y = _attend(op, q, k, v, [mask, attention_bias], scale, unidirectional)
    first = op.const([0])
    return y, op.Concat(op.Unsqueeze(k, first), op.Unsqueeze(v, first), axis=0)


@expansion("com.microsoft::MultiHeadAttention")
def _(
    op, query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value, *,
    num_heads, mask_filter_value=-10000.0, scale=0.0, unidirectional=0,
):  # fmt: skip
    if any(t is None or t.rank != 3 for t in (query, key, value)):
        op.refuse("queries, keys and values that are packed or split by heads have no rule yet")
    parts = [query, key, value]
    if bias is not None:
        sizes = [_known(op, shapes.dim(t, 2)) for t in parts]
        biases = op.Split(bias, op.const(sizes), axis=0, outputs=3)
        parts = [t + b for t, b in zip(parts, biases, strict=True)]
    q, k, v = (_heads(op, t, num_heads) for t in parts)
    if past_key is not None:
        k, v = op.Concat(past_key, k, axis=2), op.Concat(past_value, v, axis=2)
    mask = _padding(op, key_padding_mask, query, k, mask_filter_value)
    return _attend(op, q, k, v, [mask, attention_bias], scale, unidirectional), k, v


def _known(op: Builder, size: shapes.Size) -> int:
    return size if isinstance(size, int) else op.refuse("it needs a width that is known")


def _heads(op: Builder, x: Tensor, number: int) -> Tensor:
    """[batch, place, heads * width] as [batch, head, place, width]."""
    split = shapes.reshape(x, [*shapes.dims(x)[:2], number, _known(op, shapes.dim(x, 2)) // number])
    return op.Transpose(split, perm=[0, 2, 1, 3])


def _merged(op: Builder, x: Tensor) -> Tensor:
    """[batch, head, place, width] as [batch, place, heads * width]."""
    turned = op.Transpose(x, perm=[0, 2, 1, 3])
    batch, place, heads, width = shapes.dims(turned)
    return shapes.reshape(turned, [batch, place, heads * width])


def _padding(
    op: Builder, mask: Tensor | None, x: Tensor, k: Tensor, filtered: float
) -> Tensor | None:
    """What is added to the scores: 0 for keys that count, `filtered` for padding."""
    if mask is None:
        return None
    if mask.rank == 1:
        if not (mask.shape and x.shape and shapes.same_dim(mask.shape[0], x.shape[0])):
            op.refuse("a mask of one axis that is not the batch has no rule yet")
        length = op.Squeeze(shapes.vector(k, [shapes.dim(k, 2)]), op.const([0]))
        places = op.Range(op.const(0), length, op.const(1))
        mask = places < op.Unsqueeze(op.cast(mask, places.dtype), op.const([1]))
    if mask.rank not in (2, 3):
        op.refuse(f"a mask of {mask.rank} axes has no rule yet")
    counts = op.Unsqueeze(op.cast(mask, k.dtype), op.const([1, 2] if mask.rank == 2 else [1]))
    return (1 - counts) * filtered


def _attend(
    op: Builder,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    biases: list[Tensor | None],
    scale: float,
    causal: int,
) -> Tensor:
    scale = scale or _known(op, shapes.dim(q, 3)) ** -0.5
    scores = op.MatMul(q * scale, op.Transpose(k, perm=[0, 1, 3, 2]))
    for bias in biases:
        scores = scores if bias is None else scores + bias
    if causal:  # each query sees the keys up to its own place, counted from the end
        later = shapes.dim(k, 2) - shapes.dim(q, 2) + 1
        ones = shapes.full_like(scores, 1)
        start = shapes.vector(k, [later])
        hidden = op.Trilu(ones, op.Squeeze(start, op.const([0])), upper=1)
        scores = op.Where(hidden > 0, op.const(-np.inf, like=scores), scores)
    return _merged(op, op.MatMul(op.Softmax(scores, axis=-1), v))


@expansion("com.microsoft::RotaryEmbedding")
def _(
    op, X, position_ids, cosines, sines, *, interleaved=0, num_heads=0, rotary_embedding_dim=0,
    scale=1.0, is_packed_batching=0,
):  # fmt: skip
    if rotary_embedding_dim or is_packed_batching or scale != 1:
        op.refuse("a part of the head, packed batches and a scale have no rule yet")
    width = 2 * _known(op, shapes.dim(cosines, 1))
    x = X if X.rank == 4 else _heads(op, X, _known(op, shapes.dim(X, 2)) // width)
    places = position_ids
    if places.rank == 1:  # one offset for all
        length = op.Squeeze(shapes.vector(x, [shapes.dim(x, 2)]), op.const([0]))
        places = op.Unsqueeze(op.Range(op.const(0), length, op.const(1)) + places, op.const([0]))
    cos, sin = (op.Unsqueeze(op.Gather(t, places), op.const([1])) for t in (cosines, sines))
    y = _rotated(op, x, cos, sin, interleaved)
    return y if X.rank == 4 else _merged(op, y)


def _rotated(op: Builder, x: Tensor, cos: Tensor, sin: Tensor, interleaved: int) -> Tensor:
    """Pairs of elements turned by angles: neighbours, or those half the width apart."""
    if interleaved:
        pairs = shapes.reshape(x, [*shapes.dims(x)[:3], _known(x.op, shapes.dim(x, 3)) // 2, 2])
        a, b = (op.Gather(pairs, op.const(k), axis=-1) for k in (0, 1))
        turned = [op.Unsqueeze(t, op.const([-1])) for t in (a * cos - b * sin, b * cos + a * sin)]
        return shapes.reshape_like(op.Concat(*turned, axis=-1), x)
    a, b = op.Split(x, axis=-1, num_outputs=2, outputs=2)
    return op.Concat(a * cos - b * sin, b * cos + a * sin, axis=-1)
