"""Operators that read or write elements by index: what was read at a place is added back there."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_ir import DataType

from onnxgrad.declare.registry import rule, zero
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import (
    Size,
    arange,
    around,
    axis_of,
    count,
    dim,
    dims,
    expand,
    expand_like,
    from_front,
    full,
    full_like,
    pad,
    permutation_inverse,
    reduce_sum,
    reshape,
    reshape_like,
    share_of,
    vector,
)
from onnxgrad.emit.tensor import Tensor

# -- along one axis ------------------------------------------------------------------------------


def add_along(op: Builder, sizes: Sequence[Size], axis: int, places: Tensor, g: Tensor) -> Tensor:
    """The cotangent of a tensor with `sizes`, if `places` (a vector) along `axis` were read."""
    # With the axis in front whole rows are added, not single elements.
    front = [axis, *(a for a in range(len(sizes)) if a != axis)]
    zeros = full(g, [sizes[a] for a in front], 0)
    rows = op.Unsqueeze(op.cast(places, DataType.INT64), op.const([1]))
    if axis == 0:
        return op.ScatterND(zeros, rows, g, reduction="add")
    added = op.ScatterND(zeros, rows, op.Transpose(g, perm=front), reduction="add")
    return op.Transpose(added, perm=permutation_inverse(front))


@rule("Gather", "data")
def _(op, g, data, indices, axis):
    if data.shape is None or indices.shape is None:
        return _put_back(op, g, data, axis, op.Reshape(indices, op.const([-1])))
    axis, sizes, length = axis_of(axis, data), dims(data), count(indices)
    if indices.rank != 1:
        g = reshape(g, [*sizes[:axis], length, *sizes[axis + 1 :]])
    if length == 1:
        return _place(op, g, sizes, axis, indices)
    places = indices if indices.rank == 1 else op.Reshape(indices, op.const([-1]))
    return add_along(op, sizes, axis, places, g)


def _put_back(op: Builder, g: Tensor, data: Tensor, axis: int | None, places: Tensor) -> Tensor:
    """The cotangent of `data`, whose rank may be unknown, if `places` along `axis` were read.

    Where `axis` is None, they are places in the flat `data`.
    """
    if axis is None:
        return reshape_like(add_along(op, [count(data)], 0, places, g), data)
    before, size, behind = around(data, axis)
    g = reshape(g, [before, count(places), behind])
    return reshape_like(add_along(op, [before, size, behind], 1, places, g), data)


def _place(op: Builder, g: Tensor, sizes: list[Size], axis: int, index: Tensor) -> Tensor:
    """Zeros with `sizes`, but `g` at one index of `axis`: the transpose of reading x[:, 0]."""
    known = index.const
    k = int(known.item()) if known is not None else op.cast(reshape(index, [1]), DataType.INT64)
    k = from_front(k, sizes[axis])
    return pad(g, {axis: (k, sizes[axis] - 1 - k)})


@rule("Compress", "input")
def _(op, g, input, condition, axis):
    size = count(input) if axis is None else dim(input, axis)
    places = op.Compress(arange(op, size), condition, axis=0)
    return _put_back(op, g, input, axis, places)


# The cotangent of a value goes to where the value first occurs. PyTorch has no rule.
@rule("Unique", "X")
def _(op, g, X, indices, axis):
    return _put_back(op, g, X, axis, indices)


# -- element by element, and slice by slice ------------------------------------------------------


@rule("GatherElements", "data")
def _(op, g, data, indices, axis):
    return op.ScatterElements(full_like(data, 0), indices, g, axis=axis, reduction="add")


@rule("GatherND", "data")
def _(op, g, data, indices, batch_dims):
    """With batch_dims the position in the batch becomes a part of the index."""
    lead = dims(indices)[:-1]
    batch = []
    for b in range(batch_dims):
        position = reshape(arange(op, lead[b]), [1] * b + [lead[b]] + [1] * (len(lead) - b))
        batch.append(expand(position, [*lead, 1]))
    if batch:
        indices = op.Concat(*batch, indices, axis=-1)
    return op.ScatterND(full_like(data, 0), indices, g, reduction="add")


class _Elements:
    """The places that GatherElements reads and ScatterElements writes."""

    def __init__(self, op: Builder, indices: Tensor, axis: int) -> None:
        self.op, self.indices, self.axis = op, indices, axis

    def read(self, x: Tensor) -> Tensor:
        return self.op.GatherElements(x, self.indices, axis=self.axis)

    def write(self, x: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
        return self.op.ScatterElements(
            x, self.indices, updates, axis=self.axis, reduction=reduction
        )


class _Slices:
    """The places that GatherND reads and ScatterND writes."""

    def __init__(self, op: Builder, indices: Tensor) -> None:
        self.op, self.indices = op, indices

    def read(self, x: Tensor) -> Tensor:
        return self.op.GatherND(x, self.indices)

    def write(self, x: Tensor, updates: Tensor, reduction: str = "none") -> Tensor:
        return self.op.ScatterND(x, self.indices, updates, reduction=reduction)


@rule("ScatterElements", "data")
def _(op, g, data, indices, updates, output, axis, reduction):
    return _kept(op, g, _Elements(op, indices, axis), data, updates, output, reduction)


@rule("ScatterElements", "updates")
def _(op, g, data, indices, updates, output, axis, reduction):
    return _written(op, g, _Elements(op, indices, axis), data, updates, output, reduction)


@rule("ScatterND", "data")
def _(op, g, data, indices, updates, output, reduction):
    return _kept(op, g, _Slices(op, indices), data, updates, output, reduction)


@rule("ScatterND", "updates")
def _(op, g, data, indices, updates, output, reduction):
    return _written(op, g, _Slices(op, indices), data, updates, output, reduction)


def _kept(
    op: Builder,
    g: Tensor,
    at: _Elements | _Slices,
    data: Tensor,
    updates: Tensor,
    output: Tensor,
    reduction: str,
) -> Tensor:
    """The cotangent of the tensor that is written into."""
    if reduction == "none":
        return at.write(g, full_like(updates, 0))
    if reduction == "add":
        return g
    if reduction == "mul":
        return g * at.write(full_like(data, 1), updates, "mul")
    share = _share(op, at, data, updates, output)
    return op.cast(op.mask(op.promoted(g) * share, data.equals(output)), g.dtype)


def _written(
    op: Builder,
    g: Tensor,
    at: _Elements | _Slices,
    data: Tensor,
    updates: Tensor,
    output: Tensor,
    reduction: str,
) -> Tensor:
    """The cotangent of what is written.

    Where "none" writes a place twice, it is undefined which update stays. Each gets the whole
    cotangent, as in PyTorch.
    """
    if reduction in ("none", "add"):
        return at.read(g)
    if reduction == "mul":
        return at.read(g) * _other_factors(op, at, data, updates)
    share = at.read(_share(op, at, data, updates, output))
    won = op.mask(at.read(op.promoted(g)) * share, updates.equals(at.read(output)))
    return op.cast(won, g.dtype)


def _other_factors(op: Builder, at: _Elements | _Slices, data: Tensor, updates: Tensor) -> Tensor:
    """For each update the product of all that it is multiplied with.

    The product of the factors that are not 0 is divided by the update. A single other factor that
    is 0 is multiplied in, so that second derivatives are right too; several make the result 0.
    """
    is_zero, nothing = updates.equals(0), full_like(data, 0)
    zeros = op.Where(is_zero, updates, op.const(0, like=updates))
    factors = op.Where(is_zero, op.const(1, like=updates), updates)
    number = op.Cast(is_zero, to=updates.dtype)
    others = at.read(at.write(nothing, number, "add")) - number
    single = at.read(at.write(nothing, zeros, "add")) - zeros
    single = op.Where(others.equals(1), single, op.Cast(others.equals(0), to=updates.dtype))
    return at.read(at.write(data, factors, "mul")) / factors * single


def _share(
    op: Builder, at: _Elements | _Slices, data: Tensor, updates: Tensor, output: Tensor
) -> Tensor:
    """The share of each element or update that is the maximum: an even one, as in PyTorch."""
    dtype = op.promoted(data).dtype
    kept = op.Cast(data.equals(output), to=dtype)
    winners = at.write(kept, op.Cast(updates.equals(at.read(output)), to=dtype), "add")
    return share_of(winners, [data, updates])


@rule("TensorScatter", "past_cache")
def _(op, g, update, write_indices, mode, axis):
    return op.TensorScatter(g, full_like(update, 0), write_indices, mode=mode, axis=axis)


@rule("TensorScatter", "update")
def _(op, g, update, write_indices, mode, axis):
    axis = axis_of(axis, update)
    ones = [1] * update.rank
    place = reshape(arange(op, dim(update, axis)), [*ones[:axis], -1, *ones[axis + 1 :]])
    if write_indices is not None:
        place = place + reshape(op.cast(write_indices, DataType.INT64), [-1, *ones[1:]])
    if mode == "circular":
        place = op.Mod(place, vector(g, [dim(g, axis)]))
    return op.GatherElements(g, expand_like(place, update), axis=axis)


# -- values by position --------------------------------------------------------------------------


@rule("OneHot", "values")
def _(op, g, indices, depth, values, axis):
    """[off, on]: each gets the sum over the places that show it."""
    pick = [op.OneHot(indices, depth, op.const(on, like=g), axis=axis) for on in ([1, 0], [0, 1])]
    sums = [reduce_sum(g * p, list(range(g.rank))) for p in pick]
    return op.Concat(*(reshape(s, [1]) for s in sums), axis=0)


@rule("Range", "start")
def _(g, start):
    return reshape_like(reduce_sum(g, [0]), start)


@rule("Range", "delta")
def _(op, g, delta):
    return reshape_like(reduce_sum(g * op.Cast(arange(op, dim(g, 0)), to=g.dtype), [0]), delta)


zero("OneHot", "indices", "depth", reason="they say where and how many, not how much")
zero("Range", "limit", reason="it says how many elements there are")
