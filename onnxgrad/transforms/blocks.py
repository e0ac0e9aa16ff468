"""Jacobians: a vjp for every unit seed, or a jvp for every unit tangent.

Both are a Scan; nodes that do not depend on the seed are computed once, outside of it. With a batch
one step serves all examples at once: the seed is 1 at the same place of each example. As no example
influences another, the cotangent of an example is its own row.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import merged, scan, unless_empty
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import Dim, dims_of, shown
from onnxgrad.transforms.job import Job

# The size in bytes that results may have by default.
MAX_BYTES = 2**31

Mode = Literal["auto", "reverse", "forward"]
# dy/dx by y and x.
Blocks: TypeAlias = dict[tuple[ir.Value, ir.Value], Tensor]


class Linear:
    """The backward pass as a linear map of its seed, ready to be pulled back once more.

    The seeds are stand-ins of ones. The pass is linear in them, so no result of pulling back
    depends on their values; it can only read their shapes, and the zeros that a mask makes of them.
    On leaving the context, shapes of tensors of the pass are read from values of the net with the
    same shape. So nothing of the pass is needed any more.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        graph = job.op.graph
        values = [*graph.inputs, *(v for node in graph for v in node.outputs)]
        self.by_shape: dict[Any, ir.Value] = {}
        for v in values:
            if None not in (dims := dims_of(v) or (None,)):
                self.by_shape.setdefault(dims, v)
        op = job.op
        self.stand_ins = {
            y: op.tensor(op.copied(shapes.full_like(op.tensor(y), 1), f"{y.name}_seed"))
            for y in job.of
        }
        self.cotangents = job.pull(dict(self.stand_ins))

    def jvp(
        self, op: Builder, tangents: dict[ir.Value, Tensor], nodes: list[ir.Node]
    ) -> list[Tensor]:
        """The Jacobian-vector product: tangents of `wrt` to those of `of`.

        Args:
            op: The builder that emits it.
            tangents: The tangents of `wrt`.
            nodes: The nodes of the net and of its backward pass.
        """
        seeds = merged(op, [(self.cotangents[x], t) for x, t in tangents.items()])
        found = pull(op, seeds, [t.value for t in self.stand_ins.values()], nodes)
        return [
            found.get(t.value) or shapes.full_like(op.tensor(y), 0)
            for y, t in self.stand_ins.items()
        ]

    def __enter__(self) -> Linear:
        return self

    def __exit__(self, *error: object) -> None:
        graph, op = self.job.op.graph, self.job.op
        stands_for = {t.value: y for y, t in self.stand_ins.items()}
        for node in graph:
            if node.op_type in ("Shape", "Size") and (v := node.inputs[0]) is not None:
                same = self.by_shape.get(dims_of(v), v) if v in op.emitted else v
                node.replace_input_with(0, stands_for.get(v, same))


def choose_mode(
    of: Sequence[ir.Value],
    wrt: Sequence[ir.Value],
    mode: Mode,
    max_bytes: int,
    kind: str,
    batch: Collection[ir.Value] = (),
) -> Literal["reverse", "forward"]:
    """The mode that takes fewer steps.

    Args:
        of, wrt: There is a Jacobian of each value of `of` with respect to each of `wrt`.
        mode: The mode that was asked for.
        max_bytes: The size that they may have together.
        kind: "jacobian" or "hessian", for the message.
        batch: The values with a batch, if blocks are to be by example.

    Raises:
        ArgumentError: The mode does not exist, or the Jacobians would be too large.
    """
    if mode not in ("auto", "reverse", "forward"):
        raise ArgumentError(f"mode is 'auto', 'reverse' or 'forward', not {mode!r}")
    sizes = {}
    for y in of:
        for x in wrt:
            what = f"the {kind} of {shown(y)} with respect to {shown(x)}"
            sizes[what] = size_in_bytes(x, elements(y), lead=int(x in batch))
    require_fit(sizes, max_bytes, "Take a jvp, vjp or hvp for each direction that is needed")
    if mode != "auto":
        return mode
    rows = [elements(y, lead=int(y in batch)) for y in of]
    columns = [elements(x, lead=int(x in batch)) for x in wrt]
    known = [n for n in rows if n is not None], [n for n in columns if n is not None]
    all_known = (len(rows), len(columns)) == tuple(map(len, known))
    return "forward" if all_known and sum(known[1]) < sum(known[0]) else "reverse"


def require_fit(sizes: Mapping[str, int | None], max_bytes: int, remedy: str) -> None:
    """Check that results are not too large together.

    Args:
        sizes: Their sizes in bytes, None where unknown, by a description of each.
        max_bytes: The size that they may have together.
        remedy: What the user can do instead, for the message.

    Raises:
        ArgumentError: They are too large, or `max_bytes` is no number.
    """
    if not isinstance(max_bytes, numbers.Real) or max_bytes < 0:
        raise ArgumentError(f"max_bytes is a number of bytes, not {max_bytes!r}")
    known = {what: size for what, size in sizes.items() if size is not None}
    total = sum(known.values())
    if total > max_bytes:
        what = max(known, key=lambda w: known[w])
        together = f" (all {len(known)} together: {total:,})" if len(known) > 1 else ""
        raise ArgumentError(
            f"{what} takes {known[what]:,} bytes{together}, more than max_bytes={max_bytes:,}. "
            f"{remedy}, or raise max_bytes."
        )


def by_rows(
    op: Builder,
    of: Sequence[ir.Value],
    wrt: Sequence[ir.Value],
    nodes: Sequence[ir.Node],
    lead: int = 0,
) -> Blocks:
    """The blocks [*y.shape, *x.shape], one backward step for each element of y.

    With `lead` all tensors have the batch, and the blocks are [N, *y.shape[1:], *x.shape[1:]].
    """
    blocks = {}
    for y in of:

        def row(inner: Builder, seed: Tensor, y: ir.Value = y) -> list[Tensor]:
            found = pull(inner, {y: seed}, wrt, nodes)
            return [found.get(x) or shapes.full_like(inner.tensor(x), 0) for x in wrt]

        stacks = _scan_units(op, op.tensor(y), wrt, row, lead)
        for x, stack in zip(wrt, stacks, strict=True):
            stack = _move_first_axis(stack, 1, op.tensor(x).rank) if lead else stack
            blocks[y, x] = _unflatten(stack, y, x, lead)
    return blocks


def by_columns(job: Job, of: Sequence[ir.Value], batch: Collection[ir.Value] = ()) -> Blocks:
    """The same blocks, one jvp for each element of x; by example where x has the batch."""
    op, blocks = job.op, {}
    job.zeros = True
    with Linear(job) as linear:
        nodes = list(op.graph)
        for x in job.wrt:

            def column(inner: Builder, tangent: Tensor, x: ir.Value = x) -> list[Tensor]:
                return linear.jvp(inner, {x: tangent}, nodes)

            lead = 1 if x in batch else 0
            for y, stack in zip(of, _scan_units(op, op.tensor(x), of, column, lead), strict=True):
                rank = op.tensor(y).rank
                blocks[y, x] = _unflatten(_move_first_axis(stack, rank, rank), y, x, lead)
    return blocks


def _scan_units(
    op: Builder,
    along: Tensor,
    like: Sequence[ir.Value],
    step: Callable[[Builder, Tensor], list[Tensor]],
    lead: int,
) -> list[Tensor]:
    """The results of `step` for every unit vector in the shape of `along`, stacked.

    With `lead` the unit vectors have the shape of one example, and are the same for all examples.
    """
    known = elements(along.value, lead=lead)
    size = _size(along, lead) if known is None else op.const(known)
    every = op.Range(op.const(np.int64(0)), size, op.const(np.int64(1)))

    read = every
    as_rows = known is not None and known**2 <= op.target.unit_rows
    if as_rows:
        read = op.Cast(op.Unsqueeze(every, op.const([1])).equals(every), to=along.dtype)

    def seeded(inner: Builder, k: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        unit = k if as_rows else inner.Cast(inner.tensor(every.value).equals(k), to=along.dtype)
        outer = inner.tensor(along.value)
        if not lead:
            return [], step(inner, shapes.reshape_like(unit, outer))
        one = shapes.reshape(unit, [1, *shapes.dims(outer)[1:]])
        return [], step(inner, shapes.expand_like(one, outer))

    stacks = scan(op, seeded, [], [read], hoists=True)[1]
    steps = op.Unsqueeze(size, op.const([0])) if known is None else known
    return unless_empty(op, steps, stacks, alike(like))


def _size(along: Tensor, lead: int) -> Tensor:
    """The number of elements, or with `lead` that of one example, as a run tells it."""
    op = along.op
    return op.ReduceProd(op.Shape(along, start=1), keepdims=0) if lead else op.Size(along)


def alike(values: Sequence[ir.Value]) -> Callable[[Builder], list[Tensor]]:
    """The shapes of values, as `unless_empty` asks for them."""
    return lambda op: [shapes.shape(op.tensor(v)) for v in values]


def _move_first_axis(stack: Tensor, to: int, last: int) -> Tensor:
    """Transpose a tensor, so that its first axis becomes axis `to`; `last` is its last axis."""
    return stack.op.Transpose(stack, perm=[*range(1, to + 1), 0, *range(to + 1, last + 1)])


def _unflatten(stack: Tensor, y: ir.Value, x: ir.Value, lead: int) -> Tensor:
    """The block of y and x from a stack in which the axes of one of them are a single axis."""
    op = stack.op
    return shapes.reshape(stack, [*shapes.dims(op.tensor(y)), *shapes.dims(op.tensor(x))[lead:]])


def elements(value: ir.Value, by: Dim = 1, lead: int = 0) -> int | None:
    """The number of elements of a value, times another size, where both are known.

    With `lead` it is that of one example.
    """
    shape = dims_of(value)
    sizes = [d for d in (by, *(shape or ())[lead:]) if isinstance(d, int)]
    return math.prod(sizes) if shape is not None and len(sizes) == len(shape) + 1 - lead else None


def size_in_bytes(value: ir.Value, by: Dim, lead: int = 0) -> int | None:
    """The size of `by` tensors like `value` in bytes, where it is known."""
    count = elements(value, by, lead)
    return None if count is None or value.dtype is None else count * value.dtype.bitwidth // 8
