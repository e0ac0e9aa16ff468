"""Operators for the reference evaluator where onnx's own are wrong, inexact or very slow.

onnx's Conv ignores dilations with auto_pad. Its ConvTranspose slices the filters of groups wrongly.
Its Pad does not take negative padding. Its Loop runs no step without a condition, and joins the
slices of its steps along an axis that they have, not along a new one. Its MaxPool counts indices
from 0 in each plane where the stride is 1. Its GatherElements does not take indices for only a part
of the data, and its Flatten no tensor without elements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.aionnx_preview_training.op_adagrad import Adagrad
from onnx.reference.ops.aionnx_preview_training.op_adam import Adam
from onnx.reference.ops.aionnx_preview_training.op_momentum import Momentum
from onnx.reference.ops.op_layer_normalization import _layer_normalization
from onnx.reference.ops.op_loop import Loop as Base

from onnxgrad.runtimes import reference_recurrent
from onnxgrad.runtimes.ports import Array


def begin_end(
    size: int, kernel: int, stride: int, dilation: int, auto_pad: str, pads: tuple[int, int]
) -> tuple[int, int]:
    """The padding along one axis."""
    if auto_pad == "VALID":
        return 0, 0
    if not auto_pad.startswith("SAME"):
        return pads
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    half = total // 2
    return (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)


def filled(
    n: int, strides: Any, dilations: Any, pads: Any
) -> tuple[Sequence[int], Sequence[int], list[tuple[int, int]]]:
    """The attributes of a window with their defaults; pads are pairs, one for each axis."""
    pads = pads or [0] * 2 * n
    return strides or [1] * n, dilations or [1] * n, list(zip(pads[:n], pads[n:], strict=True))


class Erf(OpRun):
    """onnx's own rounds to single precision; its Gelu uses it too."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x),)


class Gelu(OpRun):
    op_domain = ""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + _erf(x / math.sqrt(2))),)


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


class Conv(OpRun):
    op_domain = ""

    def _run(
        self, X, W, B=None, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None,
        pads=None, strides=None,
    ):  # fmt: skip
        n = X.ndim - 2
        strides, dilations, pairs = filled(n, strides, dilations, pads)
        kernel = W.shape[2:]
        padding = [
            begin_end(X.shape[a + 2], kernel[a], strides[a], dilations[a], auto_pad, pairs[a])
            for a in range(n)
        ]
        X = np.pad(X, [(0, 0), (0, 0), *padding])
        reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        size = [(X.shape[a + 2] - reach[a] - 1) // strides[a] + 1 for a in range(n)]
        x = X.reshape(X.shape[0], group, X.shape[1] // group, *X.shape[2:])
        w = W.reshape(group, W.shape[0] // group, *W.shape[1:])
        Y = np.zeros((X.shape[0], group, w.shape[1], *size), X.dtype)
        for tap in itertools.product(*map(range, kernel)):
            part = x[taken(tap, size, strides, dilations)]
            Y += np.einsum("ngc...,gmc->ngm...", part, w[(..., *tap)])
        Y = Y.reshape(X.shape[0], W.shape[0], *size)
        return (Y if B is None else Y + B.reshape(-1, *[1] * n),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(
        self, X, W, B=None, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None,
        output_padding=None, output_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        n = X.ndim - 2
        strides, dilations, pairs = filled(n, strides, dilations, pads)
        kernel, inner = W.shape[2:], X.shape[2:]
        extra = output_padding or [0] * n
        full = [strides[a] * (inner[a] - 1) + (kernel[a] - 1) * dilations[a] + 1 for a in range(n)]
        if auto_pad.startswith("SAME") and not output_shape:
            output_shape = [inner[a] * strides[a] for a in range(n)]
        if output_shape:
            output_shape = output_shape[-n:]
            totals = [max(full[a] + extra[a] - output_shape[a], 0) for a in range(n)]
            halves = [(t // 2, t - t // 2) for t in totals]
            pairs = halves if auto_pad == "SAME_UPPER" else [h[::-1] for h in halves]
        x = X.reshape(X.shape[0], group, X.shape[1] // group, *inner)
        w = W.reshape(group, W.shape[0] // group, *W.shape[1:])
        ample = [f + e for f, e in zip(full, extra, strict=True)]
        Y = np.zeros((X.shape[0], group, W.shape[1], *ample), X.dtype)
        for tap in itertools.product(*map(range, kernel)):
            Y[taken(tap, inner, strides, dilations)] += np.einsum(
                "ngc...,gcm->ngm...", x, w[(..., *tap)]
            )
        crop: Any = (..., *(slice(b, ample[a] - e) for a, (b, e) in enumerate(pairs)))
        Y = Y.reshape(X.shape[0], group * W.shape[1], *ample)[crop]
        return (Y if B is None else Y + B.reshape(-1, *[1] * n),)


def taken(
    tap: Sequence[int], size: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[Any, ...]:
    """The index of the elements that one tap of the window meets at all outputs."""
    return (
        ...,
        *(
            slice(k * d, k * d + s * (o - 1) + 1, s)
            for k, o, s, d in zip(tap, size, strides, dilations, strict=True)
        ),
    )


def windows(
    X: Array, kernel: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str, ceil_mode: int
) -> tuple[Array, Array]:
    """The elements of each window, taps in front, and a number for each that says where it lies.

    The number is 2 on the input, 1 on padding and 0 beyond both, where the last window of ceil_mode
    overhangs. A window that would start beyond the input is dropped, as in PyTorch and onnxruntime.
    """
    n = X.ndim - 2
    strides, dilations, pairs = filled(n, strides, dilations, pads)
    size, places = [], []
    for a in range(n):
        s, d, k, length = strides[a], dilations[a], kernel[a], X.shape[a + 2]
        begin, end = begin_end(length, k, s, d, auto_pad, pairs[a])
        room = length + begin + end - (k - 1) * d - 1
        o = -(-room // s) + 1 if ceil_mode else room // s + 1
        o -= ceil_mode and (o - 1) * s >= length + begin
        size.append(o)
        places.append((begin, end, max((o - 1) * s + (k - 1) * d + 1 - length - begin - end, 0)))
    kind = np.full(X.shape[2:], 2)
    kind = np.pad(kind, [p[:2] for p in places], constant_values=1)
    kind = np.pad(kind, [(0, p[2]) for p in places])
    X = np.pad(X, [(0, 0), (0, 0), *((p[0], p[1] + p[2]) for p in places)])
    taps = [taken(tap, size, strides, dilations) for tap in itertools.product(*map(range, kernel))]
    return np.stack([X[t] for t in taps]), np.stack([kind[t] for t in taps])


class AveragePool(OpRun):
    op_domain = ""

    def _run(
        self, X, auto_pad="NOTSET", ceil_mode=0, count_include_pad=0, dilations=None,
        kernel_shape=None, pads=None, strides=None,
    ):  # fmt: skip
        seen, kind = windows(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode or 0)
        count = (kind >= (1 if count_include_pad else 2)).sum(0)
        return ((seen.sum(0) / count).astype(X.dtype),)


class LpPool(OpRun):
    op_domain = ""

    def _run(
        self, X, auto_pad="NOTSET", ceil_mode=0, dilations=None, kernel_shape=None, p=2, pads=None,
        strides=None,
    ):  # fmt: skip
        seen, _ = windows(X, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode or 0)
        return ((abs(seen) ** p).sum(0) ** (1 / p),)


class GlobalLpPool(OpRun):
    op_domain = ""

    def _run(self, X, p=2):
        return ((abs(X) ** p).sum(tuple(range(2, X.ndim)), keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    """onnx's own takes images only."""

    op_domain = ""

    def _run(self, X):
        return (X.max(tuple(range(2, X.ndim)), keepdims=True),)


class LRN(OpRun):
    """onnx's own is right in the first channel alone."""

    op_domain = ""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        before, after = (size - 1) // 2, size // 2
        square = np.pad(x * x, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
        total = sum(square[:, k : k + x.shape[1]] for k in range(size))
        return (x / (bias + alpha / size * total) ** beta,)


class LinearAttention(OpRun):
    """onnx's own calculates in single precision. g: groups of queries that share a head's state."""

    op_domain = ""

    def _run(
        self, query, key, value, past_state=None, decay=None, beta=None, chunk_size=None,
        kv_num_heads=None, q_num_heads=None, scale=None, update_rule=None,
    ):  # fmt: skip
        (B, T, _), h, rule = query.shape, kv_num_heads, update_rule or "gated_delta"
        q = query.reshape(B, T, h, q_num_heads // h, -1)
        k, v = (x.reshape(B, T, h, -1) for x in (key, value))
        state = np.zeros((B, h, k.shape[3], v.shape[3])) if past_state is None else past_state
        outputs = []
        for t in range(T):
            if "gated" in rule:
                state = state * np.exp(decay[:, t]).reshape(B, h, -1, 1)
            write = v[:, t]
            if "delta" in rule:
                write = beta[:, t, :, None] * (write - np.einsum("bhkv,bhk->bhv", state, k[:, t]))
            state = state + np.einsum("bhk,bhv->bhkv", k[:, t], write)
            outputs.append(np.einsum("bhgk,bhkv->bhgv", q[:, t], state))
        Y = (scale or k.shape[3] ** -0.5) * np.stack(outputs, 1)
        return Y.reshape(B, T, -1).astype(query.dtype), state.astype(query.dtype)


class Pad(OpRun):
    op_domain = ""

    def _run(self, data, pads, value=None, axes=None, mode="constant"):
        axes = range(data.ndim) if axes is None else axes
        both = np.zeros((data.ndim, 2), np.int64)
        for a, begin, end in zip(axes, *np.reshape(pads, (2, -1)), strict=True):
            both[a] = begin, end
        filler = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        y = np.pad(data, np.maximum(both, 0), mode=mode, **filler)
        cut = [slice(max(-b, 0), n - max(-e, 0)) for n, (b, e) in zip(y.shape, both, strict=True)]
        return (y[tuple(cut)],)


class MaxPool(OpRun):
    op_domain = ""

    def _run(
        self, x, auto_pad="NOTSET", ceil_mode=0, dilations=None, kernel_shape=None, pads=None,
        storage_order=0, strides=None,
    ):  # fmt: skip
        more = kernel_shape, strides, dilations, pads, auto_pad, ceil_mode or 0
        seen, kind = windows(x, *more)
        kind = kind.reshape(len(kind), 1, 1, *kind.shape[1:])
        seen = np.where(kind == 2, seen, np.asarray(-np.inf, x.dtype))
        planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
        inner = np.arange(np.prod(x.shape[2:])).reshape(
            x.shape[2:], order="F" if storage_order else "C"
        )
        places, _ = windows(planes * inner.size + inner, *more)
        first = seen.argmax(0)[None]
        given = len(self.onnx_node.output)
        return tuple(np.take_along_axis(t, first, 0)[0] for t in (seen, places)[:given])


class Flatten(OpRun):
    op_domain = ""

    def _run(self, x, axis=1):
        axis += x.ndim if axis < 0 else 0
        return (x.reshape(np.prod(x.shape[:axis], dtype=int), np.prod(x.shape[axis:], dtype=int)),)


class GatherElements(OpRun):
    op_domain = ""

    def _run(self, data, indices, axis=0):
        part = [slice(n) for n in indices.shape]
        part[axis] = slice(None)
        return (np.take_along_axis(data[tuple(part)], indices, axis),)


class LayerNormalization(OpRun):
    """onnx's own gives the statistics of half precision in half precision."""

    op_domain = ""

    def _run(self, X, Scale, B=None, axis=-1, epsilon=1e-5, stash_type=1):
        x = X.astype(np.float32) if X.dtype.itemsize == 2 else X
        Y, *statistics = _layer_normalization(x, Scale, B, axis=axis, epsilon=epsilon)
        return (Y.astype(X.dtype), *statistics)


class Loop(Base):
    op_domain = ""
    body: Any  # the evaluator sets it
    _run_body: Any

    def _run(self, M, cond, *states, context=None, body=None, attributes=None, bindings=None):
        graph, n = self.body, len(states)
        given, slices, step = dict(context or {}), [], 0
        cond = np.array(True) if cond is None else cond
        while cond and (M is None or step < M):
            operands = (np.array(step), cond, *states)
            given |= dict(zip(graph.input_names, operands, strict=True))
            cond, *results = self._run_body(given, attributes=attributes, bindings=bindings)
            states = tuple(results[:n])
            slices.append(results[n:])
            step += 1
        if not slices and len(graph.output_names) > n + 1:
            raise NotImplementedError("no step says which shape it would have given")
        return (*states, *map(np.stack, zip(*slices, strict=True)))


def in_full(base: type[OpRun], kinds: int) -> type[OpRun]:
    """An optimizer in full precision; onnx's rounds to single. `kinds`: the operands per tensor."""

    class Full(base):  # type: ignore[misc, valid-type]
        op_domain = "ai.onnx.preview.training"

        def _run(self, *data, **attributes):
            n = (len(data) - 2) // kinds
            steps = [self._run1(*data[:2], *data[2 + k :: n], **attributes) for k in range(n)]
            return tuple(t for kind in zip(*steps, strict=True) for t in kind)

    Full.__name__ = base.__name__
    return Full


def rounded(base: type[OpRun]) -> type[OpRun]:
    """An operator that computes half precision in single precision and rounds the result."""

    class Rounded(base):  # type: ignore[misc, valid-type]
        op_domain = ""

        def _run(self, *data, **attributes):
            dtype = data[0].dtype
            if dtype.itemsize > 2:
                return super()._run(*data, **attributes)
            wide = [d if d is None or d.dtype != dtype else d.astype(np.float32) for d in data]
            return tuple(y.astype(dtype) for y in super()._run(*wide, **attributes))

    Rounded.__name__ = base.__name__
    return Rounded


OPS: list[type[OpRun]] = [
    Erf,
    Gelu,
    Flatten,
    GatherElements,
    GlobalMaxPool,
    LayerNormalization,
    Loop,
    MaxPool,
    Pad,
    *map(rounded, (AveragePool, Conv, ConvTranspose, GlobalLpPool, LRN, LinearAttention, LpPool)),
    *reference_recurrent.OPS,
    *(in_full(*o) for o in ((Adagrad, 3), (Adam, 4), (Momentum, 3))),
]
