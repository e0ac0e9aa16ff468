"""Jacobians and Hessians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.engine.straight_through import propagate_marks
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.transforms.blocks import MAX_BYTES, Blocks, Mode, by_columns, by_rows, choose_mode
from onnxgrad.transforms.examples import (
    batch_inputs,
    batch_of,
    by_example,
    hold_to_batch,
    require_batch,
)
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.metadata import JACOBIANS, OGRADS, describe, names_of
from onnxgrad.transforms.options import Common, Imposed, Inputs, Options, Wrt, transform


@transform
def jacobian(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    mode: Mode = "auto",
    batched: bool | Inputs = False,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Common],
) -> None:
    """A model that computes the Jacobian of each tensor of `of` with respect to each of `wrt`.

    The forward values are computed once.

    Args:
        model, wrt, of, ...: As for `gradient`.
        mode: "reverse" takes one backward step for each element of `y`, "forward" one for each
            element of `wrt`; "auto" the one with fewer steps where the sizes are known, else
            "reverse".
        batched: For blocks by example, [N, *y.shape[1:], *x.shape[1:]], in as many steps as one
            example takes: True where every graph input that is no parameter has the batch for its
            first axis, or the names of those that have. Then `of` have it too, and of `wrt` what
            depends on such inputs; of another tensor `w` the block is [N, *y.shape[1:], *w.shape].
            No example may influence another.
        max_bytes: The size in bytes above which results are refused, where it is known.

    Returns:
        A model of the same kind. For each pair it has an output `<y>_<x>_jacobian` of shape
        [*y.shape, *x.shape] and the dtype of `x`. The metadata property "onnxgrad.jacobians" maps,
        in JSON, y to x to the name of that output.

    Raises:
        ArgumentError: The Jacobians would be larger than `max_bytes`. Else as for `gradient`.

    Example:
        >>> model = og.jacobian("models/mlp.onnx", batched=True)  # [N, 3, 4]
        >>> [y.name for y in model.graph.output]
        ['logits', 'logits_input_jacobian']
    """
    single = net if batched is False else net.clone()  # as it is before it is normalised
    job = Job(net, wrt, Options(**options))
    job.trace(job.of, job.wrt)
    job.require_dependent()
    inputs, batch = batch_for(job, job.of, batched)
    if choose_mode(job.of, job.wrt, mode, max_bytes, "jacobian", batch) == "forward":
        blocks = by_columns(job, job.of, batch)
    else:
        own = [x for x in job.wrt if x in batch]
        shared = [x for x in job.wrt if x not in batch]
        nodes = list(job.op.graph)
        blocks = by_rows(job.op, job.of, own, nodes, lead=1) if own else {}
        if inputs and shared:
            blocks |= _blocks_by_example(job, single, inputs, job.of, shared, batch)
        elif shared:
            blocks = by_rows(job.op, job.of, shared, nodes)
    ordered = {(y, x): blocks[y, x] for y in job.of for x in job.wrt}
    ordered = hold_to_batch(ordered, inputs, batch)
    describe(net, {JACOBIANS: _finish_blocks(job, ordered, "jacobian")})


@transform
def hessian(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    batched: bool | Inputs = False,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Imposed],
) -> None:
    """A model that computes the Hessian of the scalar that `gradient` differentiates.

    To pick one element of a larger output, impose an ograd of one 1 among zeros.

    Args:
        model, wrt, of, ograd, ...: As for `gradient`.
        batched: As for `jacobian`, for blocks [N, *a.shape[1:], *b.shape[1:]]: the Hessians of what
            each example adds to the scalar. Of tensors without the batch they have all axes.
        max_bytes: The size in bytes above which results are refused, where it is known.

    Returns:
        A model of the same kind. For each pair of tensors `a`, `b` of `wrt` it has an output
        `<a>_<b>_hessian` of shape [*a.shape, *b.shape]. The metadata property "onnxgrad.jacobians"
        maps, in JSON, a to b to the name of that output.

    Raises:
        ArgumentError: The Hessians would be larger than `max_bytes`. Else as for `gradient`.

    Example:
        >>> model = og.hessian("models/mlp.onnx", batched=True)  # [N, 4, 4]
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_input_hessian']
    """
    single = net if batched is False else net.clone()  # as it is before it is normalised
    job = Job(net, wrt, Options(**options))
    inputs, batch = batch_for(job, [], batched)
    choose_mode(job.wrt, job.wrt, "reverse", max_bytes, "hessian", batch)
    seeds, ograds = job.seeds()
    first = job.pull(seeds)
    job.zeros = True
    if inputs and not batch.issuperset(job.wrt):
        require_batch(inputs, batch, job.of)
        blocks = _blocks_by_example(job, single, inputs, None, job.wrt, batch, ograds)
    else:
        gradients = {job.op.copied(first[x], "gradient"): x for x in job.wrt}
        nodes = list(job.op.graph)
        found = by_rows(job.op, list(gradients), job.wrt, nodes, lead=int(bool(inputs)))
        blocks = {(gradients[g], x): block for (g, x), block in found.items()}
    blocks = hold_to_batch(blocks, inputs, batch)
    describe(net, {JACOBIANS: _finish_blocks(job, blocks, "hessian"), OGRADS: names_of(ograds)})


def batch_for(
    job: Job, of: Sequence[ir.Value], batched: bool | Inputs
) -> tuple[list[ir.Value], set[ir.Value]]:
    """The inputs with the batch, and all values with it: none where none was asked for."""
    if batched is False:
        return [], set()
    inputs = batch_inputs(job.op.graph, None if batched is True else batched)
    batch = batch_of(job.op.graph, inputs)
    require_batch(inputs, batch, [*of, *(x for x in job.wrt if x in batch)])
    return inputs, batch


def _blocks_by_example(
    job: Job,
    single: ir.Model,
    inputs: list[ir.Value],
    of: list[ir.Value] | None,
    wrt: list[ir.Value],
    batch: set[ir.Value],
    ograds: Mapping[ir.Value, Tensor] | None = None,
) -> Blocks:
    """The blocks of each example, where sums over the batch would mix them.

    Of the gradients where `of` is None, which are Hessians.
    """
    pairs = [(y, x) for y in (wrt if of is None else of) for x in wrt]

    def emit(inner: Builder, nodes: list[ir.Node], values: dict[str, ir.Value]) -> list[Tensor]:
        xs = [values[x.name or ""] for x in wrt]
        ys = [values[y.name or ""] for y in job.of]
        if of is None:
            given = {y: values[t.value.name or ""] for y, t in (ograds or {}).items()}
            ys = _gradients_of_one(inner, job, nodes, values, given, xs)
            nodes = [*job.op.graph, *inner.graph]  # what is the same for all examples lies outside
        found = by_rows(inner, ys, xs, nodes).values()
        return [without_batch(block, *pair) for pair, block in zip(pairs, found, strict=True)]

    def without_batch(block: Tensor, y: ir.Value, x: ir.Value) -> Tensor:
        places = {0: y, block.op.tensor(y).rank: x}
        axes = [axis for axis, v in places.items() if v in batch]
        for axis in axes:
            if isinstance(n := (block.shape or {axis: None})[axis], int) and n != 1:
                raise ArgumentError(
                    f"batched: the first axis of {places[axis].name!r} is not the batch, as one "
                    f"example has {n} rows of it"
                )
        return block.op.Squeeze(block, block.op.const(axes)) if axes else block

    def sizes(op: Builder, pair: tuple[ir.Value, ir.Value]) -> list[Size]:
        return [d for v in pair for d in shapes.dims(op.tensor(v))[int(v in batch) :]]

    stacks = by_example(
        job,
        single,
        inputs,
        emit,
        lambda op: [shapes.vector(op.tensor(pair[0]), sizes(op, pair)) for pair in pairs],
        [t.value for t in (ograds or {}).values()],
    )
    return dict(zip(pairs, stacks, strict=True))


def _gradients_of_one(
    inner: Builder,
    job: Job,
    nodes: list[ir.Node],
    values: dict[str, ir.Value],
    ograds: Mapping[ir.Value, ir.Value],
    sources: Sequence[ir.Value],
) -> list[ir.Value]:
    """The gradients of one example, each a value of its own."""
    of = [(y, inner.tensor(values[y.name or ""])) for y in job.of]
    seeds = {
        t.value: inner.tensor(ograds[y]) if y in ograds else shapes.full_like(t, 1) for y, t in of
    }
    found = pull(inner, seeds, sources, nodes)
    if job.options.straight_through:
        propagate_marks(inner.graph)
    gradients = [found.get(v) or shapes.full_like(inner.tensor(v), 0) for v in sources]
    return [inner.copied(g, "gradient") for g in gradients]


def _finish_blocks(job: Job, blocks: Blocks, suffix: str) -> dict[str, dict[str, str]]:
    """Finish with the blocks as results; their names, by y, then by x."""
    job.finish({f"{y.name}_{x.name}_{suffix}": t for (y, x), t in blocks.items()})
    table: dict[str, dict[str, str]] = {}
    for (y, x), name in zip(blocks, job.results, strict=True):
        table.setdefault(y.name or "", {})[x.name or ""] = name
    return table
