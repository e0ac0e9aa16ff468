"""Attention, Y = softmax(softcap(scale · Q Kᵀ) + bias) V, and rotary embeddings.

The forward operator stays as it is; the backward pass computes the probabilities P anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.emit.tensor import Tensor


@rule("Attention")
def _(
    op, g_Y, g_present_key, g_present_value, g_qk_matmul_output, Q, K, V, attn_mask, past_key,
    past_value, nonpad_kv_seqlen, is_causal, kv_num_heads, left_window_size, q_num_heads,
    qk_matmul_output_mode, right_window_size, scale, softcap, softmax_precision,
):  # fmt: skip
    q, k, v = _split(Q, q_num_heads), _split(K, kv_num_heads), _split(V, kv_num_heads)
    if past_key is not None:
        k, v = op.Concat(past_key, k, axis=2), op.Concat(past_value, v, axis=2)
    mask = None if attn_mask is None else _padded(op, attn_mask, k)
    windows = _windows(is_causal, left_window_size, right_window_size)
    rules = _rules(op, q, k, mask, past_key, nonpad_kv_seqlen, windows)
    f = _forward(op, q, k, scale, softcap, mask, rules, softmax_precision)

    taken = dict.fromkeys(range(4)) | {qk_matmul_output_mode: g_qk_matmul_output}
    dp, dv = taken[3], g_present_value
    if g_Y is not None:
        g = _share(_split(g_Y, q_num_heads), k)
        dv = _plus(dv, op.MatMul(_transpose(_share(f.p, k)), g))
        dp = _plus(dp, _unshare(op.MatMul(g, _transpose(v)), q))
    dbias = _plus(taken[2], None if dp is None else _unsoftmax(op, dp, f.p))
    dcapped = _plus(taken[1], dbias)
    if f.capped is not None and dcapped is not None:
        dcapped = dcapped * (1 - f.capped * f.capped)
    ds = _plus(taken[0], dcapped)
    dk, result = g_present_key, {}
    if ds is not None:
        ds = _share(ds, k)
        result["Q"] = _merge(_unshare(op.MatMul(ds, k), q) * f.scale, Q)
        dk = _plus(dk, op.MatMul(_transpose(ds), f.rows))
    result |= _present(dk, K, past_key, "K", "past_key")
    result |= _present(dv, V, past_value, "V", "past_value")
    if dbias is not None and mask is not None and mask.dtype != ir.DataType.BOOL:
        dmask = op.cast(unbroadcast(dbias, dbias.shape, mask), mask.dtype)
        if mask is not attn_mask:
            dmask = shapes.part(dmask, 0, shapes.dim(attn_mask, -1), mask.rank - 1)
        result["attn_mask"] = dmask
    return result


@dataclass
class _Forward:
    """What the backward pass needs of the forward pass."""

    scale: float | Tensor
    rows: Tensor  # the scaled queries, for each head of K
    capped: Tensor | None  # tanh(score / softcap)
    p: Tensor


def _forward(op, q, k, scale, softcap, mask, rules, precision):
    scale = _scale(op, q) if scale is None else scale
    rows = _share(q, k) * scale
    s = _unshare(op.MatMul(rows, _transpose(k)), q)
    capped = op.Tanh(s / softcap) if softcap else None
    if capped is not None:
        s = capped * softcap
    return _Forward(scale, rows, capped, _probabilities(op, s, mask, rules, precision))


def _present(g, X, past, new_name, past_name):
    """The cotangents of K and past_key, or of V and past_value, given that of both together."""
    if g is None:
        return {}
    if past is None:
        return {new_name: _merge(g, X)}
    length = shapes.dim(past, 2)
    new = shapes.part(g, length, shapes.dim(g, 2), 2)
    return {past_name: shapes.part(g, 0, length, 2), new_name: _merge(new, X)}


def _plus(a, b):
    return b if a is None else a if b is None else a + b


def _unsoftmax(op, dp, p):
    m = dp * p
    return m - p * op.ReduceSum(m, op.const([-1]), keepdims=1)


# -- Heads -----------------------------------------------------------------------------------------


def _split(X, heads):
    """[B, S, heads · D] as [B, heads, S, D]."""
    if X.rank == 4:
        return X
    B, S, width = shapes.dims(X)
    return X.op.Transpose(shapes.reshape(X, [B, S, heads, width // heads]), perm=[0, 2, 1, 3])


def _merge(g, X):
    """The inverse of `_split`."""
    return g if X.rank == 4 else shapes.reshape_like(g.op.Transpose(g, perm=[0, 2, 1, 3]), X)


def _share(t, k):
    """[B, heads, S, D] as [B, kv heads, S', D]: heads that share one of `k` are more rows of it."""
    if shapes.same_dim(t.dim(1), k.dim(1)):
        return t
    (B, heads, S, D), kv = shapes.dims(t), shapes.dim(k, 1)
    rows = heads * S
    rows = rows // kv if isinstance(kv, int) else shapes.vector(t, [rows]) // shapes.at_least(kv, 1)
    return shapes.reshape(t, [B, kv, rows, D])


def _unshare(t, q):
    """The inverse of `_share`, with the heads and rows of `q`."""
    if shapes.same_dim(t.dim(1), q.dim(1)):
        return t
    return shapes.reshape(t, [*shapes.dims(q)[:3], shapes.dim(t, 3)])


def _transpose(t):
    return t.op.Transpose(t, perm=[0, 1, 3, 2])


def _scale(op, q):
    size = shapes.dim(q, 3)
    if isinstance(size, int):
        return size**-0.5
    return op.bounded(1 / op.Sqrt(shapes.as_float(size, q)))


# -- Masks and probabilities -----------------------------------------------------------------------


def _padded(op, mask, k):
    """The mask for all keys: those beyond its end are not attended."""
    if shapes.same_dim(mask.dim(-1), k.dim(2)):
        return mask
    missing = shapes.dim(k, 2) - shapes.dim(mask, -1)
    pads = shapes.vector(mask, [0] * (2 * mask.rank - 1) + [missing])
    beyond = False if mask.dtype == ir.DataType.BOOL else -np.inf
    return op.Pad(mask, pads, op.const(beyond, like=mask))


def _windows(is_causal, left, right):
    """How many keys before and after its own position a query attends; None for all."""
    left = None if left is None or left < 0 else left
    right = None if right is None or right < 0 else right
    return left, 0 if is_causal else right


def _rules(op, q, k, mask, past_key, valid, windows):
    """By name the rules that apply: where a query attends a key, broadcastable to the scores."""
    left, right = windows
    rules = {}
    if mask is not None:
        rules["mask"] = mask if mask.dtype == ir.DataType.BOOL else ~mask.equals(-np.inf)
    j = shapes.arange(op, shapes.dim(k, 2))
    valid = None if valid is None else op.Unsqueeze(valid, op.const([1, 2, 3]))
    if valid is not None:
        rules["valid"] = j < valid
    if left is not None or right is not None:
        i = op.Unsqueeze(shapes.arange(op, shapes.dim(q, 2)), op.const([1]))
        if past_key is not None:
            i = i + shapes.dim(past_key, 2)
        elif valid is not None:
            i = i + (valid - shapes.dim(q, 2))
        if right is not None:
            rules["right"] = j - i <= right
        if left is not None:
            rules["left"] = i - j <= left
    return rules


def _probabilities(op, s, mask, rules, precision):
    """P; 0 in a row that attends nothing, as in PyTorch, where the softmax of -∞ would be NaN."""
    precision = s.dtype if precision is None else ir.DataType(precision)
    if not rules:
        return op.cast(op.Softmax(op.cast(s, precision), axis=-1), s.dtype)
    attends = reduce(op.And, rules.values())
    # So low that the probability is 0, and still finite where a score is added to it.
    never = op.const(-3e4 if s.dtype == ir.DataType.FLOAT16 else -1e30, like=s)
    floating = mask is not None and mask.dtype != ir.DataType.BOOL
    bias = op.Where(attends, op.cast(mask, s.dtype) if floating else op.const(0, like=s), never)
    p = op.cast(op.Softmax(op.cast(s + bias, precision), axis=-1), s.dtype)
    return p if rules.keys() == {"right"} else op.mask(p, attends)  # every row attends key 0


# -- RotaryEmbedding -------------------------------------------------------------------------------


@rule("RotaryEmbedding", "X")
def _(op, g, cos_cache, sin_cache, position_ids, interleaved, num_heads, rotary_embedding_dim):
    """The inverse rotation."""
    return op.RotaryEmbedding(
        g, cos_cache, -sin_cache, position_ids,
        interleaved=interleaved, num_heads=num_heads, rotary_embedding_dim=rotary_embedding_dim,
    )  # fmt: skip


@rule("RotaryEmbedding", "cos_cache")
def _(op, g, X, cos_cache, position_ids, interleaved, num_heads, rotary_embedding_dim):
    (x, y), (gx, gy) = _pairs(X, g, num_heads, rotary_embedding_dim, interleaved)
    return _to_cache(op, x * gx + y * gy, cos_cache, position_ids)


@rule("RotaryEmbedding", "sin_cache")
def _(op, g, X, sin_cache, position_ids, interleaved, num_heads, rotary_embedding_dim):
    (x, y), (gx, gy) = _pairs(X, g, num_heads, rotary_embedding_dim, interleaved)
    return _to_cache(op, x * gy - y * gx, sin_cache, position_ids)


def _pairs(X, g, heads, rotary, interleaved):
    """What is rotated of X and of its cotangent: the two coordinates of each plane."""
    return [_plane(_split(t, heads), rotary, interleaved) for t in (X, g)]


def _plane(t, rotary, interleaved):
    size = rotary or shapes.dim(t, 3)
    if interleaved:
        t = shapes.part(t, 0, size, 3)
        t = shapes.reshape(t, [*shapes.dims(t)[:3], size // 2, 2])
        return [t.op.Gather(t, t.op.const(k), axis=4) for k in (0, 1)]
    return [shapes.part(t, 0, size // 2, 3), shapes.part(t, size // 2, size, 3)]


def _to_cache(op, g, cache, position_ids):
    g = shapes.reduce_sum(g, [1])  # the heads
    if position_ids is None:
        return unbroadcast(g, g.shape, cache)
    index = op.Unsqueeze(position_ids, op.const([2]))
    return op.ScatterND(shapes.full_like(cache, 0), index, g, reduction="add")
