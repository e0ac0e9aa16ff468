"""Axes, dimensions and reductions: the one place that chooses between static and run-time shapes.

A size is an int where the graph tells it, else a tensor of one int64 that a Shape reads at run
time. Arithmetic works on both alike, so a rule is written once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.facts import Dim
from onnxgrad.graph.sizes import is_new_axis

Size = int | Tensor
# Axes that are known, or a vector of int64 at run time.
Axes = Sequence[int] | Tensor


def dim(x: Tensor, axis: int) -> Size:
    """The size of one axis: an int, or an int64 tensor of shape [1].

    A named size is read from the graph's input that declares it, if only one does: all tensors of
    that size share that Shape. Two inputs may differ in size, whatever they declare.
    """
    known, axis = x.shape, axis_of(axis, x)
    size = None if known is None else known[axis]
    if isinstance(size, int):
        return size
    if known is None and is_new_axis(x.value, axis):
        return 1
    source, at = x.op.declared.get(size or "", (x.value, axis))
    if source.graph is not x.value.graph:
        source, at = x.value, axis
    found = x.op.Shape(x.op.tensor(source), start=at, end=at + 1 if at != -1 else None)
    found.value.shape = ir.Shape([1])  # inference does not see it where the rank is not known
    return found


def dims(x: Tensor) -> list[Size]:
    """The sizes of all axes."""
    return [dim(x, a) for a in range(x.rank)]


def vector(like: Tensor, sizes: Sequence[Size]) -> Tensor:
    """Sizes as an int64 tensor of shape [len(sizes)], which the builder of `like` emits."""
    op = like.op
    if all(isinstance(s, int) for s in sizes):
        return op.const(np.array(sizes, np.int64))
    parts: list[Tensor] = []
    run: list[int] = []
    for s in [*sizes, None]:
        if isinstance(s, int):
            run.append(s)
            continue
        if run:
            parts.append(op.const(np.array(run, np.int64)))
            run = []
        if s is not None:
            parts.append(s)
    return joined(parts, 0)


def from_front(index: Size, size: Size) -> Size:
    """An index into an axis of `size`, counted from the front; it may be a negative one."""
    if isinstance(index, int):
        return index + size if index < 0 else index
    return index.op.Where(index < 0, index + size, index)


def clamp(op: Builder, size: Size, low: int, high: Size) -> Size:
    """A size, raised to `low` if it is less, then lowered to `high` if it is more."""
    if isinstance(size, int) and isinstance(high, int):
        return min(max(size, low), high)
    if isinstance(size, int):
        return op.Min(op.const([max(size, low)]), high) if size > low else low
    return op.Min(op.Max(size, op.const([low])), vector(size, [high]))


def shape(x: Tensor) -> Tensor:
    """The shape of `x` as an int64 tensor, a constant where it is known."""
    return x.op.Shape(x) if x.static is None else vector(x, x.static)


def count(x: Tensor, axes: Axes | None = None) -> Size:
    """The number of elements along `axes`, or of all."""
    if isinstance(axes, Tensor):
        return x.op.ReduceProd(x.op.Gather(shape(x), axes), keepdims=1)
    if axes is None and x.shape is None:
        return x.op.Unsqueeze(x.op.Size(x), x.op.const([0]))
    return product([dim(x, a) for a in (range(x.rank) if axes is None else axes)])


def around(x: Tensor, axis: int) -> list[Size]:
    """The product of the sizes before an axis, its own size, and the product of those behind it.

    Reshaped to these three sizes a tensor of any rank has that axis at 1.
    """
    ends = {"start": axis + 1} if axis != -1 else {"start": 0, "end": 0}
    before, behind = x.op.Shape(x, end=axis), x.op.Shape(x, **ends)
    sizes = [x.op.ReduceProd(s, keepdims=1) for s in (before, behind)]
    return [sizes[0], dim(x, axis), sizes[1]]


def product(sizes: Sequence[Size]) -> Size:
    """The product of sizes."""
    total: Size = math.prod(s for s in sizes if isinstance(s, int))
    for s in sizes:
        if isinstance(s, Tensor):
            total = s * total
    return total


def at_least(size: Size, bound: int) -> Size:
    """The larger of a size and a number."""
    if isinstance(size, int):
        return max(size, bound)
    return size.op.Max(size, size.op.const([bound]))


def as_float(size: Size, like: Tensor) -> float | Tensor:
    """A size as a number in the dtype of `like`: a float, or a tensor of shape []."""
    if isinstance(size, int):
        return float(size)
    return like.op.Cast(like.op.Squeeze(size, like.op.const([0])), to=like.dtype)


def inverse(size: Size, like: Tensor) -> float | Tensor:
    """1 / size as a number in the dtype of `like`: a float, or a tensor of shape []."""
    if isinstance(size, int):
        return 1 / size if size else 0.0
    op = like.op
    scalar = op.Squeeze(size, op.const([0])) if size.rank else size
    # float16 ends at 65504; sizes may be larger.
    promoted = like.dtype if like.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    return op.cast(op.bounded(1 / op.Cast(scalar, to=promoted)), like.dtype)


def divided(g: Tensor, size: Size) -> Tensor:
    """`g` / size; by way of float32 where half precision, which counts to 2048, may not do."""
    if isinstance(size, int):
        return g / size if size else g
    promoted = g.op.promoted(g)
    number = g.op.Cast(size, to=promoted.dtype) if g.shape else as_float(size, like=promoted)
    return g.op.cast(g.op.bounded(promoted / number), g.dtype)


def shared(g: Tensor, x: Tensor, best: Tensor, axes: Axes) -> Tensor:
    """The cotangent of `x` from `g`, that of the extremes `best` over `axes`; ties share it."""
    op, promoted, wins = g.op, g.op.promoted(g), x.equals(best)
    ties = reduce_sum(op.Cast(wins, to=promoted.dtype), axes, keepdims=1)
    return op.mask(op.cast(promoted * share_of(ties, [x]), g.dtype), wins)


def share_of(ties: Tensor, among: Sequence[Tensor]) -> Tensor:
    """1 / ties, a count of elements that equal the best of `among`; a NaN has none: it is 1."""
    op = ties.op
    if any(op.numbers.may_fail(x.value) for x in among):
        ties = op.Max(ties, op.const(1, like=ties))
    return op.bounded(1 / ties)


def reshape(x: Tensor, sizes: Sequence[Size]) -> Tensor:
    """`x` with new sizes; one of them may be -1."""
    sizes = _with_rest(x, sizes)
    dims_of_y = [s if isinstance(s, int) else _dim_of(s) for s in sizes]
    unknown = [k for k, s in enumerate(sizes) if isinstance(s, Tensor)]
    if len(unknown) == 1 and -1 not in sizes and 0 not in sizes:
        sizes = [-1 if k in unknown else s for k, s in enumerate(sizes)]  # found without nodes
    # A zero in a shape means "copy" unless allowzero is set, which excludes -1.
    plain = -1 in sizes or all(isinstance(s, int) and s for s in sizes)
    y = x.op.Reshape(x, vector(x, sizes), allowzero=None if plain else 1)
    found = y.shape if y.shape is not None and len(y.shape) == len(sizes) else [None] * len(sizes)
    known = [f if d in (None, -1) else d for d, f in zip(dims_of_y, found, strict=True)]
    y.value.shape = ir.Shape(known)
    return y


def _with_rest(x: Tensor, sizes: Sequence[Size]) -> Sequence[Size]:
    """The sizes with a number in the place of -1: no runtime finds it where another size is 0.

    The number is a quotient. Sizes that `x` has too are left out of both sides of it, so that no
    division by a size of 0 remains.
    """
    others = [s for s in sizes if s != -1]
    plain = all(isinstance(s, int) and s for s in others)
    if plain or len(others) == len(sizes) or x.shape is None:
        return sizes
    mine, divisor = dims(x), 1
    for s in others:
        k = next((k for k, m in enumerate(mine) if _same_size(m, s)), None)
        if k is not None:
            del mine[k]
        elif isinstance(s, int) and s:
            divisor *= s
        else:
            return sizes
    rest = product(mine) // divisor
    return [rest if s == -1 else s for s in sizes]


def _same_size(a: Size, b: Size) -> bool:
    """Whether two sizes are known to be equal."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.value is b.value
    return isinstance(a, int) and a == b


def _dim_of(size: Tensor) -> Dim:
    """The name of the dimension that a size has been read from, if any."""
    found = dims_in(size.value)
    return found[0] if found else None


def reshape_like(g: Tensor, x: Tensor) -> Tensor:
    """`g` in the shape of `x`."""
    if _same_shape(g, x):
        return g
    op, sizes = g.op, [d if isinstance(d, int) else -1 for d in x.shape or ()]
    if sizes.count(-1) == 1 and 0 not in sizes:
        return op.typed(op.Reshape(g, op.const(sizes)), x)
    # A zero in a shape means "copy" unless allowzero is set.
    empty = x.static is None or 0 in x.static
    return op.typed(op.Reshape(g, shape(x), allowzero=1 if empty else None), x)


def _same_shape(g: Tensor, x: Tensor) -> bool:
    """Whether two tensors are known to be of the same shape."""
    return g.shape is not None and None not in g.shape and g.shape == x.shape


def as_matrix(x: Tensor, axis: int = -1) -> Tensor:
    """`x` as a matrix: a row holds the elements along `axis` and all axes behind it."""
    return x if x.shape is not None and x.rank == 2 else x.op.Flatten(x, axis=axis)


def expand_like(g: Tensor, x: Tensor) -> Tensor:
    """`g`, broadcastable to `x`, in the shape of `x`."""
    if _same_shape(g, x):
        return g
    return g.op.typed(g.op.Expand(g, _expanded(g, x)), x)


def expand(g: Tensor, sizes: Sequence[Size]) -> Tensor:
    """`g`, broadcastable to `sizes`, in these sizes."""
    return g.op.Expand(g, vector(g, sizes))


def _expanded(g: Tensor, x: Tensor) -> Tensor:
    """The shape of `x` for an Expand of `g`: a constant if `g` has all sizes that are not known."""
    if x.shape is None or g.shape is None:
        return shape(x)
    mine = (1,) * (len(x.shape) - len(g.shape)) + g.shape
    sizes = [1 if same_dim(m, d) else d for m, d in zip(mine, x.shape, strict=True)]
    known = [d for d in sizes if isinstance(d, int)]
    return vector(x, known) if len(known) == len(sizes) else shape(x)


def full(like: Tensor, sizes: Sequence[Size], number: float) -> Tensor:
    """A tensor of the given sizes and the dtype of `like`, filled with a number."""
    y = full_of(like, vector(like, sizes), number)
    y.value.shape = ir.Shape([s if isinstance(s, int) else _dim_of(s) for s in sizes])
    return y


def full_of(like: Tensor, sizes: Tensor, number: float) -> Tensor:
    """A tensor of the sizes that a vector holds and the dtype of `like`, filled with a number."""
    text = like.dtype == ir.DataType.STRING  # of which ConstantOfShape makes none
    known = None if text else sizes.const
    if known is not None and known.prod() <= like.op.target.filled_constants:
        return like.op.const(np.full(known, number), like=like)
    value = ir.tensor(np.full([1], number, np.int64 if text else like.dtype.numpy()))
    return like.op.cast(like.op.ConstantOfShape(sizes, value=value), like.dtype)


def full_like(x: Tensor, number: float) -> Tensor:
    """A tensor of the shape and dtype of `x`, filled with a number."""
    return x.op.typed(full_of(x, shape(x), number), x)


def arange(op: Builder, size: Size) -> Tensor:
    """0, 1, ..., `size` - 1 as an int64 vector."""
    if isinstance(size, int):
        return op.const(np.arange(size))
    return op.Range(op.const(0), op.Squeeze(size, op.const([0])), op.const(1))


def part(x: Tensor, start: Size, end: Size, axis: int = 0) -> Tensor:
    """The part of `x` from `start` to before `end` along one axis."""
    return x.op.Slice(x, vector(x, [start]), vector(x, [end]), x.op.const([axis]))


def joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors side by side along one axis."""
    return parts[0] if len(parts) == 1 else parts[0].op.Concat(*parts, axis=axis)


def reversed_along(x: Tensor, *axes: int) -> Tensor:
    """`x` with the order of its elements along axes reversed."""
    op, n = x.op, len(axes := tuple(a for a in axes if x.dim(a) != 1))
    from_last = (op.const([-1] * n), op.const([-(2**31)] * n))
    return op.Slice(x, *from_last, op.const(list(axes)), op.const([-1] * n)) if axes else x


def pad(x: Tensor, around: dict[int, tuple[Size, Size]], number: float = 0) -> Tensor:
    """`x` with a number so many times before and after it, by axis; its rank may be unknown."""
    if x.shape is not None:  # fewer nodes than with axes, which the builder has to place
        around = {a: around.get(a, (0, 0)) for a in range(x.rank)}
    pads = vector(x, [b for b, _ in around.values()] + [a for _, a in around.values()])
    filled = x.op.const(number, like=x) if number else None
    return x.op.Pad(x, pads, filled, x.op.const(list(around)))


def permutation_inverse(perm: Sequence[int]) -> list[int]:
    """The permutation that undoes `perm`."""
    return [int(a) for a in np.argsort(perm)]


def axis_of(axis: int, x: Tensor) -> int:
    """An axis counted from the front; from the end only where the rank is not known."""
    return axis + x.rank if axis < 0 and x.shape is not None else axis


def axes_from(x: Tensor, first: int = 0) -> Axes:
    """The axes from `first` on, or all; found at run time where the rank is not known."""
    if x.shape is not None:
        return list(range(axis_of(first, x), x.rank))
    op = x.op
    if first < 0:
        return list(range(first, 0))
    return op.Range(op.const(first), op.Size(op.Shape(x)), op.const(1))


def axes_but(x: Tensor, axis: int) -> Axes:
    """All axes but one that is counted from the front."""
    behind = axes_from(x, axis + 1)
    if isinstance(behind, Tensor):
        return x.op.Concat(x.op.const(np.arange(axis)), behind, axis=0)
    return [*range(axis), *behind]


def reduced_axes(x: Tensor, axes: Tensor | None, noop_with_empty_axes: int) -> Axes:
    """The axes that a Reduce operator reduces, as a list where they are known."""
    if axes is None:
        return [] if noop_with_empty_axes else axes_from(x)
    known = axes.const
    if known is not None:
        if known.size == 0 and not noop_with_empty_axes:
            return axes_from(x)
        return sorted(axis_of(int(a), x) for a in known)
    if axes.static == (0,):
        return [] if noop_with_empty_axes else axes_from(x)
    if noop_with_empty_axes or (axes.static and axes.static[0] > 0):
        return axes
    # A vector that is empty at run time means all axes here, but none elsewhere: write all out.
    op = x.op
    every = axes_vector(x, axes_from(x))
    none_given = op.Equal(op.Size(axes), op.const(0))
    return op.Compress(
        op.Concat(axes, every, axis=0),
        op.Concat(
            op.Expand(op.Not(none_given), op.Shape(axes)),
            op.Expand(none_given, op.Shape(every)),
            axis=0,
        ),
    )


def axes_vector(like: Tensor, axes: Axes) -> Tensor:
    """Axes as an int64 tensor."""
    return axes if isinstance(axes, Tensor) else like.op.const(np.array(axes, np.int64))


def unreduce(g: Tensor, x: Tensor, axes: Axes, keepdims: int) -> Tensor:
    """A result `g` of a Reduce operator over `axes` of `x`, with the reduced axes as size 1."""
    if keepdims or axes == []:
        return g
    y = g.op.Unsqueeze(g, axes_vector(g, axes))
    if y.value.shape is None and x.shape is not None:
        y.value.shape = ir.Shape([None] * x.rank)
    return y


def reduce_sum(x: Tensor, axes: Axes, keepdims: int = 0) -> Tensor:
    """The sum over `axes`; over no axes, or only axes of size 1, no node is needed to add."""
    if not isinstance(axes, Tensor):
        known = x.shape
        if known is not None and all(known[a] == 1 for a in axes):
            return x if keepdims or not axes else x.op.Squeeze(x, axes_vector(x, axes))
        if x.dtype in x.op.target.product_sums and _are_rows(x, axes):
            return _sum_of_rows(x, len(axes), keepdims)
    return x.op.ReduceSum(x, axes_vector(x, axes), keepdims=keepdims, noop_with_empty_axes=1)


def _are_rows(x: Tensor, axes: Sequence[int]) -> bool:
    """Whether `axes` are known to be the first, and not all."""
    known = x.shape
    some = known is not None and 0 < len(axes) < len(known)
    return some and list(axes) == list(range(len(axes)))


def _sum_of_rows(x: Tensor, n: int, keepdims: int) -> Tensor:
    """The sum over the first `n` axes as a product with ones."""
    matrix = as_matrix(x, n)
    y = x.op.MatMul(full(x, [dim(matrix, 0)], 1), matrix)
    sizes = [*[1] * (n if keepdims else 0), *dims(x)[n:]]
    return y if len(sizes) == 1 else reshape(y, sizes)


def reduce_mean(x: Tensor, axes: Axes, keepdims: int = 0) -> Tensor:
    """The mean over `axes`; over none of them it is `x`."""
    if not isinstance(axes, Tensor) and not axes:
        return x
    return x.op.ReduceMean(x, axes_vector(x, axes), keepdims=keepdims, noop_with_empty_axes=1)


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are known to be equal."""
    return a is not None and a == b


def broadcast(sizes: Iterable[Dim]) -> Dim:
    """The size that axes broadcast to, as far as it is known."""
    large = {d for d in sizes if d != 1}
    numbers = [d for d in large if isinstance(d, int)]
    if numbers:
        return numbers[0]
    return large.pop() if len(large) == 1 else None if large else 1


def covers(a: Dim, b: Dim) -> bool:
    """Whether broadcasting with an axis of size `b` is known not to stretch one of size `a`."""
    return b == 1 or same_dim(a, b) or (isinstance(a, int) and a != 1)
