"""Attention of com.microsoft, in the standard's own operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor


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
    if any(t is None or t.rank not in (3, 4) for t in (query, key, value)):
        op.refuse("queries, keys and values in one tensor have no rule yet")
    parts = [query, key, value]
    if bias is not None:  # keys and values that are split by heads come without
        biases = op.Split(bias, op.const([_width(op, t) for t in parts]), axis=0, outputs=3)
        parts = [t + b if t.rank == 3 else t for t, b in zip(parts, biases, strict=True)]
    q, k, v = (_heads(op, t, num_heads) for t in parts)
    if past_key is not None:
        k, v = op.Concat(past_key, k, axis=2), op.Concat(past_value, v, axis=2)
    mask = _padding(op, key_padding_mask, query, k, mask_filter_value)
    return _attend(op, q, k, v, [mask, attention_bias], scale, unidirectional), k, v


def _known(op: Builder, size: shapes.Size) -> int:
    return size if isinstance(size, int) else op.refuse("it needs a width that is known")


def _width(op: Builder, x: Tensor) -> int:
    """The width of all heads together."""
    by_heads = [shapes.dim(x, 1), shapes.dim(x, 3)] if x.rank == 4 else [shapes.dim(x, 2)]
    return _known(op, shapes.product(by_heads))


def _heads(op: Builder, x: Tensor, number: int) -> Tensor:
    """[batch, place, heads * width] as [batch, head, place, width], unless it is already."""
    if x.rank == 4:
        return x
    if not number:
        op.refuse("its number of heads is not given")
    split = shapes.reshape(x, [*shapes.dims(x)[:2], number, _known(op, shapes.dim(x, 2)) // number])
    return op.Transpose(split, perm=[0, 2, 1, 3])


def _merged(op: Builder, x: Tensor) -> Tensor:
    """[batch, head, place, width] as [batch, place, heads * width]."""
    places_first = op.Transpose(x, perm=[0, 2, 1, 3])
    batch, place, heads, width = shapes.dims(places_first)
    return shapes.reshape(places_first, [batch, place, heads * width])


def _padding(
    op: Builder, mask: Tensor | None, x: Tensor, k: Tensor, filtered: float
) -> Tensor | None:
    """What is added to the scores: 0 for keys that count, `filtered` for padding."""
    if mask is None:
        return None
    if mask.rank == 1:
        if not shapes.same_dim(mask.dim(0), x.dim(0)):
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
    if is_packed_batching or scale != 1:
        op.refuse("packed batches and a scale have no rule yet")
    width = 2 * _known(op, shapes.dim(cosines, 1))
    number = num_heads if rotary_embedding_dim else 0
    x = _heads(op, X, number or _width(op, X) // width)
    places = position_ids
    if places.rank == 1:  # one offset for all
        length = op.Squeeze(shapes.vector(x, [shapes.dim(x, 2)]), op.const([0]))
        places = op.Unsqueeze(op.Range(op.const(0), length, op.const(1)) + places, op.const([0]))
    y = _rotated(op, x, *_rotation(op, places, cosines, sines), interleaved)
    return y if X.rank == 4 else _merged(op, y)


@expansion("com.microsoft::MRotaryEmbedding")
def _(
    op, X, position_ids, cosines, sines, *, mrope_section, interleaved=0, num_heads=0,
    rotary_embedding_dim=0, mrope_layout=0, scale=1.0, is_packed_batching=0,
):  # fmt: skip
    """A token has three places, in time, height and width, and some of the angles each."""
    if is_packed_batching or scale != 1:
        op.refuse("packed batches and a scale have no rule yet")
    half = _known(op, shapes.dim(cosines, 1))
    if mrope_layout:  # every third angle, as far as a section goes, else that of time
        owner = np.zeros(half, int)
        for k in (1, 2):
            owner[k : 3 * mrope_section[k] : 3] = k
    else:
        owner = np.repeat([0, 1, 2], mrope_section)
    chosen = op.const((owner == np.arange(3)[:, None])[:, None, None], like=cosines)

    def at_places(table: Tensor) -> Tensor:
        each = op.ReduceSum(op.Gather(table, position_ids) * chosen, op.const([0]), keepdims=0)
        return op.Unsqueeze(each, op.const([1]))

    x = _heads(op, X, num_heads)
    y = _rotated(op, x, at_places(cosines), at_places(sines), interleaved)
    return y if X.rank == 4 else _merged(op, y)


def _rotation(op: Builder, places: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines and sines of the angles at places [batch, place]: [batch, 1, place, angle]."""
    cos, sin = (op.Unsqueeze(op.Gather(t, places), op.const([1])) for t in (cosines, sines))
    return cos, sin


def _rotated(op: Builder, x: Tensor, cos: Tensor, sin: Tensor, interleaved: int) -> Tensor:
    """Pairs of elements rotated by angles: neighbours, or those half the width apart.

    Elements that there are no angles for stay as they are.
    """
    width, rest = 2 * _known(op, shapes.dim(cos, 3)), None
    if (whole := _known(op, shapes.dim(x, 3))) > width:
        x, rest = op.Split(x, op.const([width, whole - width]), axis=-1, outputs=2)
    if interleaved:
        pairs = shapes.reshape(x, [*shapes.dims(x)[:3], width // 2, 2])
        a, b = (op.Gather(pairs, op.const(k), axis=-1) for k in (0, 1))
        rotated = [op.Unsqueeze(t, op.const([-1])) for t in (a * cos - b * sin, b * cos + a * sin)]
        y = shapes.reshape_like(op.Concat(*rotated, axis=-1), x)
    else:
        a, b = op.Split(x, axis=-1, num_outputs=2, outputs=2)
        y = op.Concat(a * cos - b * sin, b * cos + a * sin, axis=-1)
    return y if rest is None else op.Concat(y, rest, axis=-1)


# -- grouped queries, with a cache of keys and values ----------------------------------------------


@expansion("com.microsoft::GroupQueryAttention")
def _(
    op, query, key, value, past_key, past_value, seqlens_k, total_sequence_length, cosines, sines,
    position_ids, attention_bias, head_sink, *, num_heads, kv_num_heads, scale=0.0, softcap=0.0,
    causal=1, local_window_size=-1, do_rotary=0, rotary_interleaved=0, smooth_softmax=0,
    qk_output=0, k_quant_type="NONE", v_quant_type="NONE",
):  # fmt: skip
    """The places of the cache after the last key of a sequence are zero."""
    if qk_output or (k_quant_type, v_quant_type) != ("NONE", "NONE"):
        op.refuse("the output of scores and a quantized cache have no rule yet")
    if key is None:
        width = _width(op, query) // (num_heads + 2 * kv_num_heads)
        sizes = op.const([width * n for n in (num_heads, kv_num_heads, kv_num_heads)])
        query, key, value = op.Split(query, sizes, axis=2, outputs=3)
    q, k, v = (
        _heads(op, t, n)
        for t, n in ((query, num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    cache = _Cache(op, past_key, shapes.dim(q, 2), seqlens_k, total_sequence_length)
    if do_rotary:
        rotation = _rotation(
            op, cache.places if position_ids is None else position_ids, cosines, sines
        )
        q, k = (_rotated(op, t, *rotation, rotary_interleaved) for t in (q, k))
    k, v = cache.extended(past_key, k), cache.extended(past_value, v)
    rows = shapes.reshape(q, [shapes.dim(q, 0), kv_num_heads, -1, shapes.dim(q, 3)])
    scale = scale or _known(op, shapes.dim(q, 3)) ** -0.5
    scores = op.MatMul(rows * scale, op.Transpose(cache.read(k), perm=[0, 1, 3, 2]))
    scores = shapes.reshape(scores, [*shapes.dims(q)[:3], shapes.dim(scores, 3)])
    if softcap:
        scores = op.Tanh(scores / softcap) * softcap
    scores = scores if attention_bias is None else scores + attention_bias
    hidden = cache.hidden(scores, causal, local_window_size)
    scores = op.Where(hidden, op.const(-np.inf, like=scores), scores)
    p = _softmax(op, scores, head_sink, smooth_softmax)
    p = shapes.reshape(p, [*shapes.dims(rows)[:3], shapes.dim(p, 3)])
    return _merged(op, shapes.reshape_like(op.MatMul(p, cache.read(v)), q)), k, v


class _Cache:
    """The keys, or values, of earlier places, and where the new ones come.

    Attributes:
        places: The place of each new key in its sequence: [batch, new].
        end: How many keys each sequence has: [batch, 1].
        total: How many keys there are to attend to, [1]: the number of the longest sequence.
    """

    def __init__(
        self,
        op: Builder,
        past: Tensor | None,
        new: shapes.Size,
        last: Tensor,
        total: Tensor,
    ) -> None:
        self.op, self.past = op, past
        self.total = shapes.reshape(op.cast(total, ir.DataType.INT64), [1])
        self.end = op.Unsqueeze(op.cast(last, ir.DataType.INT64), op.const([1])) + 1
        begin = self.end - shapes.vector(last, [new])
        self.begin = op.Max(begin, op.const([0]))  # a first prompt may be shorter than its row
        self.places = self.begin + shapes.arange(op, new)

    def extended(self, past: Tensor | None, new: Tensor) -> Tensor:
        """The cache with the new keys: [batch, heads, length, width]."""
        op = self.op
        if past is None:
            return new
        length = shapes.dim(past, 2)
        both = op.Concat(past, new, axis=2)
        places = shapes.arange(op, op.Max(shapes.vector(past, [length]), self.total))
        moved = places - self.begin + shapes.vector(past, [length])
        index = op.Where(places < self.begin, places, moved)
        index = op.Min(index, shapes.vector(past, [shapes.dim(both, 2)]) - 1)
        over = op.const([1, 3])
        batch, heads, _, width = shapes.dims(past)
        shape = shapes.vector(past, [batch, heads, shapes.dim(index, 1), width])
        found = op.GatherElements(both, op.Expand(op.Unsqueeze(index, over), shape), axis=2)
        filled = op.Unsqueeze(places < self.end, over)
        return op.Where(filled, found, op.const(0, like=found))

    def read(self, cache: Tensor) -> Tensor:
        """The keys or values that can be attended to."""
        return cache if self.past is None else shapes.part(cache, 0, self.total, 2)

    def hidden(self, scores: Tensor, causal: int, window: int) -> Tensor:
        """Whether a query is not to see a key: [batch, 1, query, key]."""
        op = self.op
        keys = shapes.arange(op, shapes.dim(scores, 3))
        queries = op.Unsqueeze(self.places, op.const([2]))
        last = op.Unsqueeze(self.end, op.const([2])) - 1
        hidden = keys > (op.Min(queries, last) if causal else last)
        if window > 0:
            hidden = hidden | (keys <= queries - window)
        return op.Unsqueeze(hidden, op.const([1]))


def _softmax(op: Builder, scores: Tensor, sink: Tensor | None, smooth: int) -> Tensor:
    """Probabilities; a sink, 0 if it is only smooth, is one key more that has no value."""
    if sink is None and not smooth:
        return op.Softmax(scores, axis=-1)
    size = shapes.vector(scores, [*shapes.dims(scores)[:3], 1])
    sink = op.const(0, like=scores) if sink is None else op.Unsqueeze(sink, op.const([1, 2]))
    p = op.Softmax(op.Concat(scores, op.Expand(sink, size), axis=-1), axis=-1)
    return shapes.part(p, 0, -1, 3)
