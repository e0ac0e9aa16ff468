"""Transforms beyond the gradient: forward mode, Hessians, Jacobians, per example, batched.

All of them follow from the reverse walk. The backward pass is linear in its seed, so pulling it
back once more gives forward mode; a Scan over unit seeds gives a Jacobian, with what does not
depend on the seed computed once, outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad import shapes
from onnxgrad.builder import Builder, Names, Tensor
from onnxgrad.differentiate import Flow, pull
from onnxgrad.errors import ArgumentError, RuleError
from onnxgrad.job import Job
from onnxgrad.names import All
from onnxgrad.normalise import normalise
from onnxgrad.notes import GRADIENTS, HVPS, JACOBIANS, OGRADS, TANGENTS, note
from onnxgrad.optimise import optimise
from onnxgrad.options import Common, Imposed, Options, Spec, Wrt, transform
from onnxgrad.scopes import close, copy_graph, merged, new_input, renamed_copy
from onnxgrad.stopped import stop
from onnxgrad.straight import mark
from onnxgrad.values import Dim, dims_of

Mode = Literal["auto", "reverse", "forward"]

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
    with _Linear(job) as linear:
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
        max_bytes: The size of all of them above which they are refused, where it is known.

    Raises:
        ArgumentError: The Jacobians would be larger than `max_bytes`. Else as for `gradient`.
    """
    job = Job(net, wrt, Options(**options))
    job.require(job.of, job.wrt)
    _require_moved(job)
    blocks = _jacobians(job, job.of, _plan(job.of, job.wrt, mode, max_bytes, "jacobian"))
    note(net, {JACOBIANS: _finish_blocks(job, blocks, "jacobian")})


@transform
def hessian(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Imposed],
) -> None:
    """A model that computes the Hessian of the scalar that `gradient` differentiates.

    For each pair of tensors `a`, `b` of `wrt` it has an output `<a>_<b>_hessian` of shape
    [*a.shape, *b.shape]. The metadata property "onnxgrad.jacobians" maps a to b to its name. To
    pick one element of a larger output, impose an ograd of one 1 among zeros.

    Args:
        model, wrt, of, ograd, ...: As for `gradient`.
        max_bytes: The size of all of them above which they are refused, where it is known.

    Raises:
        ArgumentError: The Hessians would be larger than `max_bytes`. Else as for `gradient`.
    """
    job = Job(net, wrt, Options(**options))
    _plan(job.wrt, job.wrt, "reverse", max_bytes, "hessian")
    seeds, ograds = job.seeds()
    first = job.pull(seeds)
    job.zeros = True
    gradients = [renamed_copy(job.op, first[x], "gradient") for x in job.wrt]
    for g, x in zip(gradients, job.wrt, strict=True):
        g.meta["onnxgrad.of"] = x.name
    blocks = _finish_blocks(job, _jacobians(job, gradients, "reverse"), "hessian")
    note(net, {JACOBIANS: blocks, OGRADS: _names(ograds)})


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
    op = job.op
    job.require(job.of, job.wrt)
    job.warn()
    inner = op.child("example")
    nodes, copies = _copy_of_one(inner, single, job, rows)
    ys = [copies[y.name] for y in job.of]
    seeds = merged(inner, ((y, shapes.full_like(y, 1)) for y in ys))
    sources = [copies[x.name].value for x in job.wrt]
    found = _pull_one(inner, seeds, sources, nodes, rows)
    close(inner, [found.get(v) or shapes.full_like(inner.tensor(v), 0) for v in sources])
    like = [_stacked(op, x, None) for x in job.wrt]
    attributes = {"body": inner.graph, "num_scan_inputs": len(rows)}
    stacks = op.node("Scan", [op.tensor(v) for v in rows], len(like), attributes, like=like)
    job.finish({f"{x.name}_grad": t for x, t in zip(job.wrt, stacks, strict=True)})
    note(net, {GRADIENTS: dict(zip(job.wrt_names, job.results, strict=True))})


def _pull_one(
    inner: Builder,
    seeds: dict[ir.Value, Tensor],
    sources: list[ir.Value],
    nodes: list[ir.Node],
    rows: list[ir.Value],
) -> dict[ir.Value, Tensor]:
    """The cotangents of one example, of a net that may be made for batches of another size."""
    try:
        return pull(inner, seeds, sources, nodes)
    except RuleError as error:
        sizes = {d for v in rows for d in (dims_of(v) or ())[:1] if isinstance(d, int) and d != 1}
        if not sizes:
            raise
        raise ArgumentError(
            f"the net is declared for batches of {', '.join(map(str, sizes))} and does not fit one "
            f"example, a batch of one: {error}"
        ) from error


def _copy_of_one(
    inner: Builder, single: ir.Model, job: Job, rows: list[ir.Value]
) -> tuple[list[ir.Node], dict[str | None, Tensor]]:
    """The nodes of the net in the body of a Scan over the examples, and what is there by name.

    Args:
        single: A copy of the model that is not normalised: its sizes become those of one example.
    """
    graph = job.net.graph
    examples = {v.name: inner.Unsqueeze(_slice(inner, v), inner.const([0])) for v in rows}
    for v in single.graph.inputs:
        if v.name in examples and v.shape is not None:
            v.shape = ir.Shape([1, *v.shape[1:]])
    straight_through = job.options.straight_through
    names = [*job.wrt_names, *(y.name or "" for y in job.of), *job.constant]
    normalise(single, names, straight_through, _first(job, rows))
    mark(single.graph, straight_through)
    stop(single.graph, job.constant, Names(single.graph))
    stands = {}
    known = {v.name: v for v in (*graph.inputs, *graph.initializers.values())}
    for v in (*single.graph.inputs, *single.graph.initializers.values()):
        if v.name not in known:  # of a branch that runs for one example only
            known[v.name] = ir.Value(
                name=v.name, type=v.type, shape=v.shape, const_value=v.const_value
            )
            graph.register_initializer(known[v.name])
        stands[v] = examples.get(v.name) or inner.tensor(known[v.name])
    nodes, copies = copy_graph(inner, single.graph, stands)
    return nodes, {v.name: t for v, t in copies.items()}


def _first(job: Job, rows: list[ir.Value]) -> Any:
    """The example of the whole batch, less all but its first row."""
    example = job.options.example
    if not isinstance(example, Mapping):
        return example if example is None else np.asarray(example)[:1]
    names = {v.name for v in rows}
    return {n: np.asarray(x)[:1] if n in names else x for n, x in example.items()}


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
    op = Builder(graph)
    rows = _batch_inputs(graph, batched)
    for y in graph.outputs:
        if y.producer() is None or not isinstance(y.type, ir.TensorType):
            kind = "no tensor" if y.producer() else "an input too"
            raise ArgumentError(f"the output {y.name!r} is {kind}, so it cannot have a batch")
    batch = _new_dim(graph, batch)
    inner = op.child("example")
    _, copies = copy_graph(inner, graph, {v: new_input(inner, "example", v) for v in rows})
    outputs = list(graph.outputs)
    close(inner, [copies[y] for y in outputs])
    for v in rows:
        if v.shape is not None:
            v.shape = ir.Shape([batch, *v.shape])
    like = [_stacked(op, y, batch) for y in outputs]
    attributes = {"body": inner.graph, "num_scan_inputs": len(rows)}
    stacks = op.node("Scan", [op.tensor(v) for v in rows], len(like), attributes, like=like)
    names = [y.name for y in outputs]
    graph.outputs.clear()
    for y, name, stack in zip(outputs, names, stacks, strict=True):
        y.name = op.names.fresh(f"{name}_single")
        stack.value.name = name
        graph.outputs.append(stack.value)
    optimise(net)


class _Linear:
    """The backward pass as a linear map of its seed, ready to be pulled back once more.

    The seeds are stand-ins, ones: as the pass is linear in them, their values cancel out of what is
    pulled back, and only their shapes can remain, and where a mask makes zeros of them. Shapes of
    what the pass calculates are taken from the net where a value of it has the same, so that
    nothing else of the pass remains either.
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
            y: op.tensor(renamed_copy(op, shapes.full_like(op.tensor(y), 1), f"{y.name}_seed"))
            for y in job.of
        }
        self.cotangents = job.pull(dict(self.stand_ins))

    def push(
        self, op: Builder, tangents: dict[ir.Value, Tensor], nodes: list[ir.Node]
    ) -> list[Tensor]:
        """The tangents of `of`, emitted by `op`, given those of `wrt`; `nodes` hold the pass."""
        seeds = merged(op, [(self.cotangents[x], t) for x, t in tangents.items()])
        found = pull(op, seeds, [t.value for t in self.stand_ins.values()], nodes)
        return [
            found.get(t.value) or shapes.full_like(op.tensor(y), 0)
            for y, t in self.stand_ins.items()
        ]

    def __enter__(self) -> _Linear:
        return self

    def __exit__(self, *error: object) -> None:
        graph, op = self.job.op.graph, self.job.op
        stands_for = {t.value: y for y, t in self.stand_ins.items()}
        for node in graph:
            if node.op_type in ("Shape", "Size") and (v := node.inputs[0]) is not None:
                same = self.by_shape.get(dims_of(v), v) if v in op.emitted else v
                node.replace_input_with(0, stands_for.get(v, same))


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
    batched: Spec | None = None,
    max_bytes: int = MAX_BYTES,
    example: Any = None,
) -> Mode:
    """Only the decisions of a transform: its mode, and whether its results are too large.

    `kind` is "jacobian", "hessian" or "per_example_gradient", the model a private one whose inputs
    have the sizes to decide for. Raises what those raise for their arguments.
    """
    options = Options(of=of, constant=constant, unreachable="zeros", example=example)
    if kind == "per_example_gradient":
        _by_example(net, wrt, batched, max_bytes, options)
        return "reverse"
    job = Job(net, wrt, options)
    return _plan(job.wrt if kind == "hessian" else job.of, job.wrt, mode, max_bytes, kind)


def _plan(
    of: list[ir.Value], wrt: list[ir.Value], mode: Mode, max_bytes: int, kind: str
) -> Literal["reverse", "forward"]:
    """The way with fewer steps, of Jacobians that are not too large."""
    if mode not in ("auto", "reverse", "forward"):
        raise ArgumentError(f"mode is 'auto', 'reverse' or 'forward', not {mode!r}")
    sizes = {}
    for y in of:
        for x in wrt:
            what = f"the {kind} of {y.name!r} {y.shape} with respect to {x.name!r} {x.shape}"
            sizes[what] = _bytes(x, _elements(y))
    _require_fit(sizes, max_bytes, "Take a jvp, vjp or hvp for each direction that is needed")
    if mode != "auto":
        return mode
    rows = [n for y in of if (n := _elements(y)) is not None]
    columns = [n for x in wrt if (n := _elements(x)) is not None]
    known = len(rows) == len(of) and len(columns) == len(wrt)
    return "forward" if known and sum(columns) < sum(rows) else "reverse"


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
    rows = _batch_inputs(net.graph, batched)
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
    sizes = {f"the gradient of {x.name!r} by example": _bytes(x, count) for x in job.wrt}
    _require_fit(sizes, max_bytes, "Feed fewer examples at a time")
    return job, rows


def _require_fit(sizes: Mapping[str, int | None], max_bytes: int, instead: str) -> None:
    """Raise if results, whose sizes in bytes are given as far as known, are too large together."""
    known = {what: size for what, size in sizes.items() if size is not None}
    total = sum(known.values())
    if total > max_bytes:
        what = max(known, key=lambda w: known[w])
        together = f" (all {len(known)} together: {total:,})" if len(known) > 1 else ""
        raise ArgumentError(
            f"{what} takes {known[what]:,} bytes{together}, more than max_bytes={max_bytes:,}. "
            f"{instead}, or raise max_bytes."
        )


def _finish_blocks(
    job: Job, blocks: Mapping[tuple[ir.Value, ir.Value], Tensor], suffix: str
) -> dict[str, dict[str, str]]:
    """Finish with the blocks as results; their names, by y, then by x."""
    job.finish({f"{_name(y)}_{x.name}_{suffix}": t for (y, x), t in blocks.items()})
    table: dict[str, dict[str, str]] = {}
    for (y, x), name in zip(blocks, job.results, strict=True):
        table.setdefault(_name(y), {})[_name(x)] = name
    return table


def _names(inputs: Mapping[ir.Value, Tensor]) -> dict[str, str]:
    """The names of new inputs by those of the tensors that they belong to."""
    return {v.name or "": t.value.name or "" for v, t in inputs.items()}


def _jacobians(
    job: Job, of: list[ir.Value], mode: Literal["reverse", "forward"]
) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    """dy/dx, of shape [*y.shape, *x.shape], for every y of `of` and every x of `wrt`."""
    return (_by_columns if mode == "forward" else _by_rows)(job, of)


def _by_rows(job: Job, of: list[ir.Value]) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    op, blocks = job.op, {}
    for y in of:

        def row(inner: Builder, seed: Tensor, y: ir.Value = y) -> list[Tensor]:
            found = pull(inner, {y: seed}, job.wrt, list(op.graph))
            return [found.get(x) or shapes.full_like(inner.tensor(x), 0) for x in job.wrt]

        stacks = _scan_units(op, op.tensor(y), [op.tensor(x) for x in job.wrt], row)
        for x, stack in zip(job.wrt, stacks, strict=True):
            blocks[y, x] = _unflatten(stack, op.tensor(y), op.tensor(x))
    return blocks


def _by_columns(job: Job, of: list[ir.Value]) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    op, blocks = job.op, {}
    job.zeros = True
    with _Linear(job) as linear:
        nodes = list(op.graph)
        for x in job.wrt:

            def column(inner: Builder, tangent: Tensor, x: ir.Value = x) -> list[Tensor]:
                return linear.push(inner, {x: tangent}, nodes)

            stacks = _scan_units(op, op.tensor(x), [op.tensor(y) for y in of], column)
            for y, stack in zip(of, stacks, strict=True):
                rank = len(stack.shape) if stack.shape is not None else op.tensor(y).rank + 1
                turned = op.Transpose(stack, perm=[*range(1, rank), 0])
                blocks[y, x] = _unflatten(turned, op.tensor(y), op.tensor(x))
        for y in of:
            for x in job.wrt:
                blocks[y, x] = blocks.pop((y, x))  # by rows, as the other way gives them
    return blocks


def _scan_units(
    op: Builder, along: Tensor, like: list[Tensor], step: Callable[..., list[Tensor]]
) -> tuple[Tensor, ...]:
    """The results of `step` for every unit vector in the shape of `along`, stacked."""
    inner = op.child("unit", hoists=True)
    size = op.Size(along)
    every = op.Range(op.const(np.int64(0)), size, op.const(np.int64(1)))
    k = ir.Value(name=op.names.fresh("k"), type=every.value.type, shape=ir.Shape([]))
    inner.graph.inputs.append(k)
    unit = inner.Cast(inner.tensor(every.value).equals(inner.tensor(k)), to=along.dtype)
    results = step(inner, shapes.reshape_like(unit, inner.tensor(along.value)))
    close(inner, results)
    count = math.prod(along.static) if along.static is not None else None
    stacked = [_stacked(op, t.value, count) for t in like]
    attributes = {"body": inner.graph, "num_scan_inputs": 1}
    return op.node("Scan", [every], len(like), attributes, like=stacked)


def _unflatten(stack: Tensor, y: Tensor, x: Tensor) -> Tensor:
    return shapes.reshape(stack, [*shapes.dims(y), *shapes.dims(x)])


def _stacked(op: Builder, value: ir.Value, count: int | str | None) -> Tensor:
    """A description of values stacked along a new first axis."""
    shape = None if value.shape is None else ir.Shape([count, *value.shape])
    return op.tensor(ir.Value(name="", type=value.type, shape=shape))


def _name(value: ir.Value) -> str:
    return value.meta.get("onnxgrad.of", value.name)


def _elements(value: ir.Value, by: Dim = 1) -> int | None:
    """The number of elements of a value, times another size, where both are known."""
    shape = dims_of(value)
    known = [d for d in (by, *(shape or ())) if isinstance(d, int)]
    return math.prod(known) if shape is not None and len(known) == len(shape) + 1 else None


def _bytes(value: ir.Value, by: Dim) -> int | None:
    """The size of so many tensors like `value`, where it is known."""
    count = _elements(value, by)
    return None if count is None or value.dtype is None else count * value.dtype.bitwidth // 8


def _batch_inputs(graph: ir.Graph, batched: Spec | None) -> list[ir.Value]:
    inputs = {v.name: v for v in graph.inputs if not v.is_initializer()}
    if batched is not None and not isinstance(batched, str | Sequence):
        raise ArgumentError(f"batched: a name or a sequence of names is needed, not {batched!r}")
    names = [batched] if isinstance(batched, str) else inputs if batched is None else batched
    for name in names:
        if name not in inputs:
            raise ArgumentError(
                f"batched: {name!r} is no graph input; they are {', '.join(map(repr, inputs))}"
            )
        if not isinstance(inputs[name].type, ir.TensorType):
            raise ArgumentError(f"batched: {name!r} is no tensor, so it has no axes")
    if not names:
        raise ArgumentError("the net has no input to batch")
    return list(dict.fromkeys(inputs[name] for name in names))


def _new_dim(graph: ir.Graph, stem: str) -> str:
    """A name that no dimension has, as equal names are equal sizes."""
    if not isinstance(stem, str) or not stem:
        raise ArgumentError(f"batch is the name of a dimension, not {stem!r}")
    values = [*graph.inputs, *(v for node in graph.all_nodes() for v in node.outputs)]
    taken, name, k = {d for v in values for d in dims_of(v) or ()}, stem, 1
    while name in taken:
        k += 1
        name = f"{stem}_{k}"
    return name


def _slice(inner: Builder, value: ir.Value) -> Tensor:
    """A new input of an inner graph for one row of `value`."""
    row = ir.Value(
        type=value.type, shape=None if value.shape is None else ir.Shape(value.shape[1:])
    )
    return new_input(inner, "example", row)
