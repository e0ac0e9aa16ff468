"""Transforms beyond the gradient: forward mode, Hessians, Jacobians, per example, batched.

All of them follow from the reverse walk. The backward pass is linear in its seed, so pulling it
back once more gives forward mode; a Scan over unit seeds gives a Jacobian, with what does not
depend on the seed computed once, outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad import shapes
from onnxgrad.builder import Builder, Tensor
from onnxgrad.differentiate import Flow, pull
from onnxgrad.errors import ArgumentError
from onnxgrad.examples import (
    batch_inputs,
    batch_of,
    by_example,
    new_dim,
    require_batch,
    shapes_of_one,
)
from onnxgrad.jacobians import (
    Blocks,
    Linear,
    Mode,
    alike,
    by_columns,
    by_rows,
    plan_mode,
    require_fit,
    size_in_bytes,
)
from onnxgrad.job import Job
from onnxgrad.names import All
from onnxgrad.normalise import normalise
from onnxgrad.notes import GRADIENTS, HVPS, JACOBIANS, OGRADS, TANGENTS, note
from onnxgrad.optimise import optimise
from onnxgrad.options import Common, Imposed, Options, Spec, Wrt, transform
from onnxgrad.scopes import copy_graph, merged, renamed_copy, scan, unless_empty
from onnxgrad.shapes import Size
from onnxgrad.straight import spread
from onnxgrad.values import dims_of

MAX_BYTES = 2**31


@transform
def jvp(net: ir.Model, wrt: Wrt = None, **options: Unpack[Common]) -> None:
    """A model that computes Jacobian-vector products: tangents in, tangents out.

    For each tensor `x` of `wrt` the result has an input `<x>_tangent` of the shape and dtype of
    `x`, for each tensor `y` of `of` an output `<y>_tangent` of the shape and dtype of `y`: the sum
    over `wrt` of dy/dx times the tangent of x. The metadata property "onnxgrad.tangents" maps, in
    JSON, the tensors' names to those of their tangents.

    Args, Raises: As for `gradient`; a tensor of `of` that depends on none of `wrt` is unreachable.
    """
    job = Job(net, wrt, Options(**options))
    for x in job.wrt:
        if x in job.of:
            raise ArgumentError(
                f"{x.name!r} is in wrt, so its tangent is an input: leave it out of `of`"
            )
    tangents = {x: job.input(f"{x.name}_tangent", x) for x in job.wrt}
    _require_moved(job)
    job.zeros = True
    with Linear(job) as linear:
        moved = linear.push(job.op, tangents, list(net.graph))
    job.finish({f"{y.name}_tangent": t for y, t in zip(job.of, moved, strict=True)})
    outputs = dict(zip((y.name or "" for y in job.of), job.results, strict=True))
    note(net, {TANGENTS: _names(tangents) | outputs})


@transform
def hvp(net: ir.Model, wrt: Wrt = None, **options: Unpack[Imposed]) -> None:
    """A model that computes Hessian-vector products of the scalar that `gradient` differentiates.

    For each tensor `x` of `wrt` the result has an input `<x>_tangent` and an output `<x>_hvp`, both
    of the shape and dtype of `x`. The outputs are the product of the Hessian with respect to all of
    `wrt` together with the tangents. The metadata properties "onnxgrad.tangents" and
    "onnxgrad.hvps" map, in JSON, the tensors' names to those of the inputs and outputs.

    Args, Raises: As for `gradient`.
    """
    job = Job(net, wrt, Options(**options))
    tangents = {x: job.input(f"{x.name}_tangent", x) for x in job.wrt}
    seeds, ograds = job.seeds()
    first = job.pull(seeds)
    job.zeros = True  # a gradient that does not depend on x has a Hessian of zero
    second = job.pull(merged(job.op, [(first[x], t) for x, t in tangents.items()]))
    job.finish({f"{x.name}_hvp": second[x] for x in job.wrt})
    products = dict(zip(job.wrt_names, job.results, strict=True))
    note(net, {TANGENTS: _names(tangents), OGRADS: _names(ograds), HVPS: products})


@transform
def jacobian(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    mode: Mode = "auto",
    batched: bool | Spec = False,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Common],
) -> None:
    """A model that computes the Jacobian of each tensor of `of` with respect to each of `wrt`.

    For each pair it has an output `<y>_<x>_jacobian` of shape [*y.shape, *x.shape] and the dtype of
    `x`. The metadata property "onnxgrad.jacobians" maps, in JSON, y to x to the name of that
    output. The forward values are computed once.

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
        max_bytes: The size of all of them above which they are refused, where it is known.

    Raises:
        ArgumentError: The Jacobians would be larger than `max_bytes`. Else as for `gradient`.
    """
    single = net.clone()
    job = Job(net, wrt, Options(**options))
    job.require(job.of, job.wrt)
    _require_moved(job)
    inputs, batch = _batch(job, job.of, batched)
    if plan_mode(job.of, job.wrt, mode, max_bytes, "jacobian", batch) == "forward":
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
    note(net, {JACOBIANS: _finish_blocks(job, ordered, "jacobian")})


@transform
def hessian(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    batched: bool | Spec = False,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Imposed],
) -> None:
    """A model that computes the Hessian of the scalar that `gradient` differentiates.

    For each pair of tensors `a`, `b` of `wrt` it has an output `<a>_<b>_hessian` of shape
    [*a.shape, *b.shape]. The metadata property "onnxgrad.jacobians" maps a to b to its name. To
    pick one element of a larger output, impose an ograd of one 1 among zeros.

    Args:
        model, wrt, of, ograd, ...: As for `gradient`.
        batched: As for `jacobian`, for blocks [N, *a.shape[1:], *b.shape[1:]]: the Hessians of what
            each example adds to the scalar. Of tensors without the batch they have all axes.
        max_bytes: The size of all of them above which they are refused, where it is known.

    Raises:
        ArgumentError: The Hessians would be larger than `max_bytes`. Else as for `gradient`.
    """
    single = net.clone()
    job = Job(net, wrt, Options(**options))
    inputs, batch = _batch(job, [], batched)
    plan_mode(job.wrt, job.wrt, "reverse", max_bytes, "hessian", batch)
    seeds, ograds = job.seeds()
    first = job.pull(seeds)
    job.zeros = True
    if inputs and not batch.issuperset(job.wrt):
        require_batch(inputs, batch, job.of)
        blocks = _blocks_by_example(job, single, inputs, None, job.wrt, batch, ograds)
    else:
        gradients = {renamed_copy(job.op, first[x], "gradient"): x for x in job.wrt}
        nodes = list(job.op.graph)
        found = by_rows(job.op, list(gradients), job.wrt, nodes, lead=int(bool(inputs)))
        blocks = {(gradients[g], x): block for (g, x), block in found.items()}
    note(net, {JACOBIANS: _finish_blocks(job, blocks, "hessian"), OGRADS: _names(ograds)})


def _batch(
    job: Job, of: Sequence[ir.Value], batched: bool | Spec
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
        found = by_rows(inner, ys, xs, nodes)
        return [
            shapes.reshape(block, sizes(inner, pair))
            for pair, block in zip(pairs, found.values(), strict=True)
        ]

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
        spread(inner.graph)
    gradients = [found.get(v) or shapes.full_like(inner.tensor(v), 0) for v in sources]
    return [renamed_copy(inner, g, "gradient") for g in gradients]


@transform
def per_example_gradient(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    batched: Spec | None = None,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Common],
) -> None:
    """A model that computes gradients example by example, without the sum over the batch.

    For each tensor `w` of `wrt` it has an output `<w>_grad` of shape [N, *w.shape], N being the
    size of the batch: the first axis of every tensor of `batched`. The metadata property
    "onnxgrad.gradients" is as for `gradient`. The net is run once more for each example, as a batch
    of one, so examples must not influence each other in it; it takes up to as long as N gradients
    of a batch of one.

    Args:
        model, of, ...: As for `gradient`; `of` are
            floating-point graph outputs.
        wrt: As for `gradient`, but no batched input; None means every weight that is learnt.
        batched: The graph inputs whose first axis is the batch; None means every graph input that
            is no parameter.
        max_bytes: The size of all of them above which they are refused, where it is known.

    Raises:
        ArgumentError: A name in `batched` is no graph input, or the gradients would be larger than
            `max_bytes`. Else as for `gradient`.
    """
    single = net.clone()
    job, rows = _by_example(net, wrt, batched, max_bytes, Options(**options))
    job.require(job.of, job.wrt)
    job.warn()

    def emit(inner: Builder, nodes: list[ir.Node], values: dict[str, ir.Value]) -> list[Tensor]:
        sources = [values[x.name or ""] for x in job.wrt]
        ys = [inner.tensor(values[y.name or ""]) for y in job.of]
        seeds = merged(inner, ((y, shapes.full_like(y, 1)) for y in ys))
        found = pull(inner, seeds, sources, nodes)
        return [found.get(v) or shapes.full_like(inner.tensor(v), 0) for v in sources]

    stacks = by_example(job, single, rows, emit, alike(job.wrt))
    job.finish({f"{x.name}_grad": t for x, t in zip(job.wrt, stacks, strict=True)})
    note(net, {GRADIENTS: dict(zip(job.wrt_names, job.results, strict=True))})


@transform
def vmap(
    net: ir.Model, *, batched: Spec | None = None, batch: str = "batch", example: Any = None
) -> None:
    """A model with a new first axis, the batch, on its inputs and outputs.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        batched: The graph inputs that get the axis; None means every graph input that is no
            parameter. The others are the same for every example.
        batch: The name of the new dimension, numbered where another one has it.
        example: Feeds of the model as it is: as for `gradient`.

    Returns:
        A model of the same kind: each input `x` of `batched` has shape [batch, *x.shape], and so
        has each output. Inside, a Scan runs the net once for each example.

    Raises:
        ArgumentError: A name in `batched` is no graph input, or an output cannot have the axis.
        ModelError: The model cannot be read or is not valid.
    """
    normalise(net, [], example=example)
    graph = net.graph
    rows = batch_inputs(graph, batched)
    for y in graph.outputs:
        if y.producer() is None or not isinstance(y.type, ir.TensorType):
            kind = "no tensor" if y.producer() else "an input too"
            raise ArgumentError(f"the output {y.name!r} is {kind}, so it cannot have a batch")
    batch = new_dim(graph, batch)
    for v in rows:
        if v.shape is not None:
            v.shape = ir.Shape([batch, *v.shape])
    op = Builder(graph)
    outputs = list(graph.outputs)

    def of_one(inner: Builder, *slices: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        _, copies = copy_graph(inner, graph, dict(zip(rows, slices, strict=True)))
        return [], [copies[y] for y in outputs]

    read = [op.tensor(v) for v in rows]
    found = scan(op, of_one, [], read)[1]
    stacks = unless_empty(op, shapes.dim(read[0], 0), found, shapes_of_one(op, rows))
    names = [y.name for y in outputs]
    graph.outputs.clear()
    for y, name, stack in zip(outputs, names, stacks, strict=True):
        y.name = op.names.fresh(f"{name}_single")
        stack.value.name = name
        graph.outputs.append(stack.value)
    optimise(net)


def _require_moved(job: Job) -> None:
    """Raise for a tensor of `of` that depends on none of `wrt`."""
    for y in job.of:
        flow = Flow.of(job.op.graph, job.wrt, [y])
        if not job.zeros and not flow.matters(y):
            job.require([y], job.wrt)  # raises, and says why


def plan(
    kind: str,
    net: ir.Model,
    wrt: Wrt = None,
    *,
    of: Spec | None = None,
    constant: Spec | None = None,
    mode: Mode = "auto",
    batched: bool | Spec | None = None,
    max_bytes: int = MAX_BYTES,
    example: Any = None,
) -> Mode:
    """Only the decisions of a transform: its mode, and whether its results are too large.

    `kind` is "jacobian", "hessian" or "per_example_gradient", the model a private one whose inputs
    have the sizes to decide for. Raises what those raise for their arguments.
    """
    options = Options(of=of, constant=constant, unreachable="zeros", example=example)
    if kind == "per_example_gradient":
        inputs = None if isinstance(batched, bool) else batched
        _by_example(net, wrt, inputs, max_bytes, options)
        return "reverse"
    job = Job(net, wrt, options)
    _, batch = _batch(job, [] if kind == "hessian" else job.of, batched or False)
    of = job.wrt if kind == "hessian" else job.of
    return plan_mode(of, job.wrt, mode, max_bytes, kind, batch)


def _by_example(
    net: ir.Model, wrt: Wrt, batched: Spec | None, max_bytes: int, options: Options
) -> tuple[Job, list[ir.Value]]:
    """What gradients by example start from, and the inputs with the batch."""
    job = Job(net, All.ALL if wrt is None else wrt, options)
    if wrt is None:
        job.wrt = [v for v in job.wrt if v.is_initializer()]
        if not job.wrt:
            raise ArgumentError(
                "the net has no weight that is learnt; name inputs without the batch in wrt"
            )
    rows = batch_inputs(net.graph, batched)
    for v in rows:
        if dims_of(v) == ():
            raise ArgumentError(f"batched: {v.name!r} is a scalar, so it has no batch")
    for x in job.wrt:
        if x.producer() is not None:
            raise ArgumentError(
                f"wrt: {x.name!r} is an inner tensor; gradients by example are those of parameters "
                "and of inputs without the batch"
            )
        if x in rows:
            raise ArgumentError(
                f"wrt: {x.name!r} is an input with the batch; its gradient, as og.gradient gives "
                "it, has no sum over the batch"
            )
    count = next((d for v in rows for d in (dims_of(v) or ())[:1] if isinstance(d, int)), None)
    sizes = {f"the gradient of {x.name!r} by example": size_in_bytes(x, count) for x in job.wrt}
    require_fit(sizes, max_bytes, "Feed fewer examples at a time")
    return job, rows


def _finish_blocks(job: Job, blocks: Blocks, suffix: str) -> dict[str, dict[str, str]]:
    """Finish with the blocks as results; their names, by y, then by x."""
    job.finish({f"{y.name}_{x.name}_{suffix}": t for (y, x), t in blocks.items()})
    table: dict[str, dict[str, str]] = {}
    for (y, x), name in zip(blocks, job.results, strict=True):
        table.setdefault(y.name or "", {})[x.name or ""] = name
    return table


def _names(inputs: Mapping[ir.Value, Tensor]) -> dict[str, str]:
    """The names of new inputs by those of the tensors that they belong to."""
    return {v.name or "": t.value.name or "" for v, t in inputs.items()}
