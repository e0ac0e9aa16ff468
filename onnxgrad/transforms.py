"""Transforms beyond the gradient: forward mode, Hessians, Jacobians, per example, batched.

All of them follow from the reverse walk. The backward pass is linear in its seed, so pulling it back
once more gives forward mode; a Scan over unit seeds gives a Jacobian, with what does not depend on
the seed computed once, outside of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxgrad import io, shapes
from onnxgrad.api import Job, Spec
from onnxgrad.builder import Builder, Tensor, dims_of
from onnxgrad.differentiate import Flow, pull
from onnxgrad.errors import ArgumentError
from onnxgrad.names import All
from onnxgrad.normalise import normalise
from onnxgrad.optimise import optimise
from onnxgrad.scopes import close, copy_graph, merged, new_input, renamed_copy

Unreachable = Literal["error", "zeros"]

TANGENTS = "onnxgrad.tangents"
JACOBIANS = "onnxgrad.jacobians"


def jvp(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    forward: bool = True,
    unreachable: Unreachable = "error",
) -> Any:
    """A model that computes Jacobian-vector products: tangents in, tangents out.

    For each tensor `x` of `wrt` the result has an input `<x>_tangent` of the shape and dtype of `x`,
    for each tensor `y` of `of` an output `<y>_tangent` of the shape and dtype of `y`: the sum over
    `wrt` of dy/dx times the tangent of x. The metadata property "onnxgrad.tangents" maps, in JSON,
    the tensors' names to those of their tangents.

    Args, Raises: As for `gradient`; a tensor of `of` that depends on none of `wrt` is unreachable.
    """
    net = io.load(model)
    job = Job(net, wrt, of, unreachable)
    tangents = {x: job.input(f"{x.name}_tangent", x) for x in job.wrt}
    for y in job.of:
        flow = Flow.of(net.graph, job.wrt, [y])
        if not job.zeros and not flow.matters(y):
            job.require([y], job.wrt)  # raises, and says why
    job.zeros = True
    with _Linear(job) as linear:
        moved = linear.push(job.op, tangents, list(net.graph))
        names = (f"{y.name}_tangent" for y in job.of)
        job.finish(dict(zip(names, moved, strict=True)), forward)
    names = {x.name: t.value.name for x, t in tangents.items()}
    names |= dict(zip((y.name for y in job.of), job.results, strict=True))
    net.metadata_props[TANGENTS] = json.dumps(names)
    return io.like(net, model)


def hvp(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    ograd: bool | Spec = False,
    forward: bool = True,
    unreachable: Unreachable = "error",
) -> Any:
    """A model that computes Hessian-vector products of the scalar that `gradient` differentiates.

    For each tensor `x` of `wrt` the result has an input `<x>_tangent` and an output `<x>_hvp`, both
    of the shape and dtype of `x`. The outputs are the product of the Hessian with respect to all of
    `wrt` together with the tangents.

    Args, Raises: As for `gradient`.
    """
    net = io.load(model)
    job = Job(net, wrt, of, unreachable, ograd)
    tangents = {x: job.input(f"{x.name}_tangent", x) for x in job.wrt}
    first = job.pull(job.seeds()[0])
    job.zeros = True  # a gradient that does not depend on x has a Hessian of zero
    second = job.pull(merged(job.op, [(first[x], t) for x, t in tangents.items()]))
    job.finish({f"{x.name}_hvp": second[x] for x in job.wrt}, forward)
    names = {x.name: t.value.name for x, t in tangents.items()}
    net.metadata_props[TANGENTS] = json.dumps(names)
    return io.like(net, model)


def jacobian(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    mode: Literal["auto", "reverse", "forward"] = "auto",
    forward: bool = True,
    unreachable: Unreachable = "error",
    max_bytes: int = 2**31,
) -> Any:
    """A model that computes the Jacobian of every tensor of `of` with respect to every one of `wrt`.

    For each pair it has an output `<y>_<x>_jacobian` of shape [*y.shape, *x.shape] and the dtype of
    `x`. The metadata property "onnxgrad.jacobians" maps, in JSON, y to x to the name of that output.
    The forward values are computed once.

    Args:
        model, wrt, of, forward, unreachable: As for `gradient`.
        mode: "reverse" takes one backward step for each element of `y`, "forward" one for each
            element of `wrt`; "auto" the one with fewer steps where the sizes are known, else
            "reverse".
        max_bytes: The size above which a Jacobian of known shape is refused.

    Raises:
        ArgumentError: A Jacobian would be larger than `max_bytes`. Else as for `gradient`.
    """
    if mode not in ("auto", "reverse", "forward"):
        raise ArgumentError(f"mode is 'auto', 'reverse' or 'forward', not {mode!r}")
    net = io.load(model)
    job = Job(net, wrt, of, unreachable)
    return io.like(_jacobians(net, job, job.of, mode, forward, max_bytes, "jacobian"), model)


def hessian(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    ograd: bool | Spec = False,
    forward: bool = True,
    unreachable: Unreachable = "error",
    max_bytes: int = 2**31,
) -> Any:
    """A model that computes the Hessian of the scalar that `gradient` differentiates.

    For each pair of tensors `a`, `b` of `wrt` it has an output `<a>_<b>_hessian` of shape
    [*a.shape, *b.shape]. The metadata property "onnxgrad.jacobians" maps a to b to its name. To
    pick one element of a larger output, impose an ograd of one 1 among zeros.

    Args:
        model, wrt, of, ograd, forward, unreachable: As for `gradient`.
        max_bytes: The size above which a Hessian of known shape is refused.

    Raises:
        ArgumentError: A Hessian would be larger than `max_bytes`. Else as for `gradient`.
    """
    net = io.load(model)
    job = Job(net, wrt, of, unreachable, ograd)
    first = job.pull(job.seeds()[0])
    job.zeros = True
    gradients = [renamed_copy(job.op, first[x], "gradient") for x in job.wrt]
    for g, x in zip(gradients, job.wrt, strict=True):
        g.meta["onnxgrad.of"] = x.name
    return io.like(_jacobians(net, job, gradients, "reverse", forward, max_bytes, "hessian"), model)


def per_example_gradient(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    batched: Spec | None = None,
    forward: bool = True,
    unreachable: Unreachable = "error",
) -> Any:
    """A model that computes gradients example by example, without the sum over the batch.

    For each tensor `w` of `wrt` it has an output `<w>_grad` of shape [N, *w.shape], N being the size
    of the batch: the first axis of every tensor of `batched`. The metadata property
    "onnxgrad.gradients" is as for `gradient`. The net is run once more for each example, as a batch
    of one, so examples must not influence each other in it.

    Args:
        model, of, forward, unreachable: As for `gradient`; `of` are floating-point graph outputs.
        wrt: As for `gradient`, but no batched input; None means every parameter.
        batched: The graph inputs whose first axis is the batch; None means every graph input that
            is no parameter.

    Raises:
        ArgumentError: A name in `batched` is no graph input. Else as for `gradient`.
    """
    net = io.load(model)
    job = Job(net, All.ALL if wrt is None else wrt, of, unreachable)
    graph, op = net.graph, job.op
    if wrt is None:
        job.wrt = [v for v in job.wrt if v.is_initializer()]
    rows = _batch_inputs(graph, batched)
    for x in job.wrt:
        if x in rows:
            raise ArgumentError(
                f"wrt: {x.name!r} is an input with the batch; its gradient, as og.gradient gives it, "
                "has no sum over the batch"
            )
    job.require(job.of, job.wrt)
    inner = op.child("example")
    examples = {v: inner.Unsqueeze(_slice(inner, v), inner.const([0])) for v in rows}
    nodes, copies = copy_graph(inner, graph, examples)
    seeds = merged(inner, ((copies[y], shapes.full_like(copies[y], 1)) for y in job.of))
    sources = [copies[x].value for x in job.wrt]
    found = pull(inner, seeds, sources, nodes)
    close(inner, [found.get(v) or shapes.full_like(inner.tensor(v), 0) for v in sources])
    like = [_stacked(op, x, None) for x in job.wrt]
    attributes = {"body": inner.graph, "num_scan_inputs": len(rows)}
    stacks = op.node("Scan", [op.tensor(v) for v in rows], len(like), attributes, like=like)
    job.finish({f"{x.name}_grad": t for x, t in zip(job.wrt, stacks, strict=True)}, forward)
    names = dict(zip(job.wrt_names, job.results, strict=True))
    net.metadata_props["onnxgrad.gradients"] = json.dumps(names)
    return io.like(net, model)


def vmap(model: Any, *, batched: Spec | None = None, batch: str = "batch") -> Any:
    """A model with a new first axis, the batch, on its inputs and outputs.

    Args:
        model: A path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        batched: The graph inputs that get the axis; None means every graph input that is no
            parameter. The others are the same for every example.
        batch: The name of the new dimension.

    Returns:
        A model of the same kind: each input `x` of `batched` has shape [batch, *x.shape], and so has
        each output. Inside, a Scan runs the net once for each example.

    Raises:
        ArgumentError: A name in `batched` is no graph input.
        ModelError: The model cannot be read or is not valid.
    """
    net = io.load(model)
    normalise(net, [])
    graph = net.graph
    op = Builder(graph)
    rows = _batch_inputs(graph, batched)
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
    return io.like(net, model)


class _Linear:
    """The backward pass as a linear map of its seed, ready to be pulled back once more.

    The seeds are stand-ins: as the pass is linear in them, their values cancel out of what is pulled
    back, and only their shapes can remain.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stand_ins = {y: job.input(f"{y.name}_seed", y) for y in job.of}
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
        for y, t in self.stand_ins.items():
            if t.value.uses():
                t.value.replace_all_uses_with(op.tensor(y).value)
            graph.inputs.remove(t.value)


def _jacobians(
    net: ir.Model,
    job: Job,
    of: list[ir.Value],
    mode: str,
    forward: bool,
    max_bytes: int,
    suffix: str,
) -> ir.Model:
    rows = {y: _elements(y) for y in of}
    columns = {x: _elements(x) for x in job.wrt}
    for y, m in rows.items():
        for x, n in columns.items():
            size = (m or 0) * (n or 0) * x.dtype.bitwidth // 8
            if size > max_bytes:
                raise ArgumentError(
                    f"the {suffix} of {_name(y)!r} {y.shape} with respect to {x.name!r} {x.shape} "
                    f"takes {size:,} bytes, more than max_bytes={max_bytes:,}. Take a jvp, vjp or "
                    "hvp for each direction that is needed, or raise max_bytes."
                )
    if mode == "auto":
        known = [*rows.values(), *columns.values()]
        fewer = None not in known and sum(columns.values()) < sum(rows.values())
        mode = "forward" if fewer else "reverse"
    blocks = (_by_columns if mode == "forward" else _by_rows)(job, of)
    names = {f"{_name(y)}_{x.name}_{suffix}": t for (y, x), t in blocks.items()}
    job.finish(names, forward)
    table: dict[str, dict[str, str]] = {}
    for (y, x), name in zip(blocks, job.results, strict=True):
        table.setdefault(_name(y), {})[x.name] = name
    net.metadata_props[JACOBIANS] = json.dumps(table)
    return net


def _by_rows(job: Job, of: list[ir.Value]) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    op, blocks = job.op, {}
    for y in of:
        job.require([y], job.wrt)

        def row(inner: Builder, seed: Tensor, y: ir.Value = y) -> list[Tensor]:
            found = pull(inner, {y: seed}, job.wrt, list(op.graph))
            return [found.get(x) or shapes.full_like(inner.tensor(x), 0) for x in job.wrt]

        stacks = _scan_units(op, op.tensor(y), [op.tensor(x) for x in job.wrt], row)
        for x, stack in zip(job.wrt, stacks, strict=True):
            blocks[y, x] = _unflatten(stack, op.tensor(y), op.tensor(x))
    return blocks


def _by_columns(job: Job, of: list[ir.Value]) -> dict[tuple[ir.Value, ir.Value], Tensor]:
    op, blocks = job.op, {}
    for y in of:
        job.require([y], job.wrt)
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


def _elements(value: ir.Value) -> int | None:
    shape = dims_of(value)
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return math.prod(d for d in shape if isinstance(d, int))


def _batch_inputs(graph: ir.Graph, batched: Spec | None) -> list[ir.Value]:
    inputs = {v.name: v for v in graph.inputs if not v.is_initializer()}
    names = [batched] if isinstance(batched, str) else inputs if batched is None else batched
    for name in names:
        if name not in inputs:
            raise ArgumentError(
                f"batched: {name!r} is no graph input; they are {', '.join(map(repr, inputs))}"
            )
    if not names:
        raise ArgumentError("the net has no input to batch")
    return [inputs[name] for name in names]


def _slice(inner: Builder, value: ir.Value) -> Tensor:
    """A new input of an inner graph for one row of `value`."""
    row = ir.Value(
        type=value.type, shape=None if value.shape is None else ir.Shape(value.shape[1:])
    )
    return new_input(inner, "example", row)
