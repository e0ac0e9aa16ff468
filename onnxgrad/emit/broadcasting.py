"""The adjoint of broadcasting: sums over the axes that it has added or stretched."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.factors import factors_of
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import Dim, dims_of
from onnxgrad.graph.sizes import is_multiple

# The elements of a matrix from which a product with it is faster than its elements, summed.
_LEAST = 64


def unbroadcast(
    g: Tensor,
    out: Sequence[Dim] | None,
    x: Tensor,
    others: Sequence[Sequence[Dim] | None] | None = None,
) -> Tensor:
    """The cotangent of `x`, which was broadcast to the dimensions `out` of `g`.

    It is the sum over the axes that broadcasting added or stretched. Where symbolic sizes leave
    open whether an axis was stretched, the axes are found at run time; or axes are split, where the
    target says so and the ranks are known.

    Args:
        g: The cotangent of what was broadcast.
        out: Its dimensions; None where even the rank is unknown.
        x: What was broadcast.
        others: The dimensions of all that it was broadcast with, None for unknown ones: an axis
            that is 1 in all of them was not stretched.
    """
    op, shape_of_x, lead = g.op, x.shape, -1
    if others is not None and all(dims == () for dims in others):
        return op.typed(g, x)
    if out is not None and shape_of_x is not None:
        lead = len(out) - len(shape_of_x)
        if lead < 0:
            op.refuse(f"{x.value.name!r} has {len(shape_of_x)} axes, more than the output has")
        pairs = [
            (1, 1) if _is_alone(a, others) else (o, d)
            for a, (o, d) in enumerate(zip(out[lead:], shape_of_x, strict=True), -len(shape_of_x))
        ]
        if all(shapes.same_dim(o, d) or isinstance(d, int) or is_multiple(d) for o, d in pairs):
            stretched = [
                a + lead for a, (o, d) in enumerate(pairs) if d == 1 and not shapes.same_dim(o, d)
            ]
            axes = [*range(lead), *stretched]
            if (y := _contracted(g, axes)) is not None:
                return shapes.reshape_like(y, x) if lead else op.typed(y, x)
            if not lead:
                return op.typed(shapes.reduce_sum(g, stretched, keepdims=1), x)
            y = shapes.reduce_sum(g, axes)
            return shapes.reshape_like(y, x) if stretched else op.typed(y, x)
        if not op.target.axes_at_run_time:
            return _unbroadcast_open(g, out, x)
    # The axes along which x, padded with ones in front, differs from g. A runtime that sums over an
    # axis of size 1 takes several times as long as for a copy.
    size, whole = op.Shape(x), op.Shape(g)
    if lead > 0:  # onnxruntime 1.30 takes the Size of a Shape for that of the tensor
        size = op.Concat(op.const([1] * lead), size, axis=0)
    elif lead:
        missing, one = op.Size(whole) - op.Size(size), ir.tensor(np.ones(1, np.int64))
        ones = op.ConstantOfShape(op.Unsqueeze(missing, op.const([0])), value=one)
        size = op.Concat(ones, size, axis=0)
    axes = op.Squeeze(op.NonZero(~size.equals(whole)), op.const([0]))
    y = shapes.reduce_sum(g, axes, keepdims=1)
    return shapes.reshape_like(y, x) if lead else op.typed(y, x)


def _contracted(g: Tensor, axes: Sequence[int]) -> Tensor | None:
    """The sum of a product over `axes`, which remain as 1, as a product of matrices.

    So it is if one factor is the same along other axes, and these and the summed ones come last.
    None where it is not, or where the matrices are too small to be worth it.
    """
    op, out = g.op, g.shape
    if out is None or None in out or g.dtype not in op.target.product_sums:
        return None
    for p, q in factors_of(op, g.value):
        kinds = _kinds(out, dims_of(q), axes) if dims_of(p) == out else {}
        inner = [out[a] for a, kind in kinds.items() if kind != "b"]
        known = [d for d in inner if isinstance(d, int)]
        small = 0 in known or (len(known) == len(inner) and math.prod(known) < _LEAST)
        fits = re.fullmatch("b*(f+k+|k+f+)", "".join(kinds.values()))
        if fits and not small and not any(map(op.numbers.may_fail, (p, q))):
            return _product(op.tensor(p), op.tensor(q), kinds)
    return None


def _kinds(out: Sequence[Dim], other: Sequence[Dim] | None, axes: Sequence[int]) -> dict[int, str]:
    """What each axis of a product is that is longer than 1, `other` being one factor's dimensions.

    "k" is summed, "b" is an axis of both factors, and "f" one along which this factor is the same.
    """
    if other is None:
        return {}
    its = (*[1] * (len(out) - len(other)), *other)
    kinds = {(True, True): "k", (True, False): "b", (False, False): "f"}
    return {
        a: kinds.get((its[a] == d, a in axes), "?") if its[a] in (1, d) else "?"
        for a, d in enumerate(out)
        if d != 1
    }


def _product(p: Tensor, q: Tensor, kinds: dict[int, str]) -> Tensor:
    """The sum over the axes of kind "k" of p q, where q is the same along those of kind "f"."""
    op, sizes = p.op, shapes.dims(p)
    batch, f, k = (
        [sizes[a] for a, kind in kinds.items() if kind == wanted] for wanted in ("b", "f", "k")
    )
    rows, columns = shapes.product(f), shapes.product(k)
    if list(kinds.values())[-1] == "k":
        matrix, vector = [*batch, rows, columns], [*batch, columns, 1]
        y = op.MatMul(shapes.reshape(p, matrix), shapes.reshape(q, vector))
    else:
        matrix, vector = [*batch, columns, rows], [*batch, 1, columns]
        y = op.MatMul(shapes.reshape(q, vector), shapes.reshape(p, matrix))
    return shapes.reshape(y, [1 if kinds.get(a) == "k" else s for a, s in enumerate(sizes)])


def _is_alone(axis: int, others: Sequence[Sequence[Dim] | None] | None) -> bool:
    """Whether all others have 1, or no such axis, at an axis that is counted from the end."""
    if others is None:
        return False
    return all(d is not None and (len(d) < -axis or d[axis] == 1) for d in others)


def _unbroadcast_open(g: Tensor, out: Sequence[Dim], x: Tensor) -> Tensor:
    """The cotangent of `x` where only a run tells which axes were stretched; ranks are known.

    An axis of size d in `x` that is of size n in `g` becomes two, of the sizes n / d and d: over
    the first of them is summed, be it n or 1.
    """
    sizes: list[Size] = []
    summed = []
    for axis, (n, o) in enumerate(
        zip(shapes.dims(g), out, strict=True), len(x.shape or ()) - len(out)
    ):
        d = x.dim(axis) if axis >= 0 else 1
        if d == 1 or shapes.same_dim(o, d) or isinstance(d, int):
            if axis < 0 or (d == 1 and o != 1):
                summed.append(len(sizes))
            sizes.append(n)
            continue
        mine = shapes.dim(x, axis)
        summed.append(len(sizes))
        sizes += [n // shapes.at_least(mine, 1), mine]
    return shapes.reshape_like(shapes.reduce_sum(shapes.reshape(g, sizes), summed), x)
