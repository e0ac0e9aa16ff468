"""The batch: which values have one, and a net that is run for one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import copy_graph, scan, unless_empty
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import operands
from onnxgrad.engine.stopped import stop
from onnxgrad.engine.straight_through import mark
from onnxgrad.graph.errors import ArgumentError, RuleError
from onnxgrad.graph.facts import all_nodes, dims_of, shown
from onnxgrad.graph.fresh import Names
from onnxgrad.heads.head import Head, emit_heads
from onnxgrad.heads.scores import listed_classes, with_classes
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.blocks import Blocks
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Inputs

# Called for the net of one example, with a builder, its nodes, and its values by name.
Emit = Callable[[Builder, list[ir.Node], dict[str, ir.Value]], Sequence[Tensor]]


def batch_inputs(graph: ir.Graph, batched: Inputs | None) -> list[ir.Value]:
    """The graph inputs with the batch: those named, by default all that are no parameters.

    Raises:
        ArgumentError: A name is not that of such an input, or there is none.
    """
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


def batch_of(graph: ir.Graph, inputs: Sequence[ir.Value]) -> set[ir.Value]:
    """The values with the batch: inputs, and what depends on them."""
    found = set(inputs)
    for node in graph:
        if any(v in found for v in operands(node)):
            found.update(node.outputs)
    return found


def require_batch(
    inputs: Sequence[ir.Value], batch: Collection[ir.Value], values: Iterable[ir.Value]
) -> None:
    """Raise for a tensor that cannot have the batch for its first axis, as far as is known.

    Raises:
        ArgumentError: It is a scalar, of another size, or it depends on no input with the batch.
    """
    size = next((d for v in inputs for d in (dims_of(v) or ())[:1]), None)
    for v in (*inputs, *values):
        dims = dims_of(v)
        if v not in batch:
            raise ArgumentError(f"batched: {v.name!r} depends on no input with the batch")
        if dims == ():
            raise ArgumentError(f"batched: {v.name!r} is a scalar, so it has no batch")
        if dims and isinstance(dims[0], int) and size is not None and dims[0] != size:
            raise ArgumentError(
                f"batched: the first axis of {shown(v)} is not the batch, of size {size}"
            )


def hold_to_batch(
    blocks: Blocks, inputs: Sequence[ir.Value], batch: Collection[ir.Value]
) -> Blocks:
    """The blocks of y and x by example, by nodes that fail if y or x has not as many rows.

    Emitted where the sizes are not known to be equal, as only a run can tell then.
    """
    return {
        (y, x): _hold(block, [v for v in dict.fromkeys((y, x)) if v in batch], inputs)
        for (y, x), block in blocks.items()
    }


def _hold(block: Tensor, values: Sequence[ir.Value], inputs: Sequence[ir.Value]) -> Tensor:
    op, known = block.op, (dims_of(inputs[0]) or (None,))[0] if inputs else None
    unsure = [v for v in values if known is None or (dims_of(v) or (None,))[0] != known]
    scope = op.scope
    for v in [*inputs[:1], *unsure] if unsure else []:
        op.scope = f"the first axis of {v.name} is to be the batch"  # runtimes name the node
        size = shapes.vector(block, [shapes.dim(op.tensor(v), 0)])
        rows = op.Concat(size, op.Shape(block, start=1), axis=0)
        block = op.typed(op.Reshape(block, rows, allowzero=1), block)
    op.scope = scope
    return block


def by_example(
    job: Job,
    single: ir.Model,
    inputs: Sequence[ir.Value],
    emit: Emit,
    like: Callable[[Builder], Sequence[Tensor]],
    more: Sequence[ir.Value] = (),
) -> list[Tensor]:
    """The results for each example, of the net as it is for a batch of one, stacked.

    Args:
        job: Has the net for the whole batch.
        single: A copy of the model that is not normalised: its sizes become those of one example.
        inputs: Those with the batch.
        emit: Emits the results of one example.
        like: The shapes of these results, as `unless_empty` asks for them.
        more: Inputs with the batch that the job has added, for `emit` under their names.
    """
    op = job.op
    listed = {head: np.array(given) for head in job.read if (given := listed_classes(head))}
    heads = {head: with_classes(head, op.names.fresh("classes")) for head in listed}
    read = {v.name: op.tensor(v) for v in (*inputs, *more)}
    read |= {heads[head].inputs[-1]: op.const(classes) for head, classes in listed.items()}

    def example(inner: Builder, *slices: Tensor) -> tuple[list[Tensor], Sequence[Tensor]]:
        ones = [inner.Unsqueeze(t, inner.const([0])) for t in slices]
        named = dict(zip(read, ones, strict=True))
        nodes, values = _copy_of_one(inner, single, job, heads, named)
        return [], emit(inner, nodes, values)

    try:
        stacks = scan(op, example, [], list(read.values()))[1]
    except RuleError as error:
        sizes = {d for v in inputs for d in (dims_of(v) or ())[:1] if isinstance(d, int) and d != 1}
        if not sizes:
            raise
        raise ArgumentError(
            f"the net is declared for batches of {', '.join(map(str, sizes))} and does not fit one "
            f"example, a batch of one: {error}"
        ) from error
    return unless_empty(op, shapes.dim(next(iter(read.values())), 0), stacks, like)


def _copy_of_one(
    inner: Builder,
    single: ir.Model,
    job: Job,
    heads: Mapping[Head, Head],
    examples: dict[str | None, Tensor],
) -> tuple[list[ir.Node], dict[str, ir.Value]]:
    """The nodes of the net in the body of a Scan over the examples, and what is there by name.

    Args:
        heads: Those that are others for one example.
    """
    graph = job.net.graph
    for v in single.graph.inputs:
        if v.name in examples and v.shape is not None:
            v.shape = ir.Shape([1, *v.shape[1:]])
    straight_through = job.options.straight_through
    read = [name for names in job.read.values() for name in names]
    names = [*job.wrt_names, *(y.name or "" for y in job.of), *read, *job.constant]
    normalise(single, names, straight_through, _first(job, examples), job.keeps_fused)
    own = set(single.graph.initializers)
    of_one = {head: heads.get(head, head) for head in job.read}
    reads = {of_one[head]: names for head, names in job.read.items()}
    emitted = emit_heads(single.graph, reads, job.options.target)
    for head in job.read:
        emitted[of_one[head]].name = job.heads[head].name
    mark(single.graph, straight_through)
    stop(single.graph, job.constant, Names(single.graph))
    replacements = {v: examples[v.name] for v in single.graph.inputs if v.name in examples}
    known = {v.name: v for v in (*graph.inputs, *graph.initializers.values())}
    for v in (*single.graph.inputs, *single.graph.initializers.values()):
        if v in replacements:
            continue
        if v.const_value is not None and v.name not in own:  # of a head: the job has others
            array = v.const_value.numpy()
            replacements[v] = inner.const(array, dtype=array.dtype)
            continue
        if v.name not in known:  # of a branch that runs for one example only
            known[v.name] = ir.Value(
                name=v.name, type=v.type, shape=v.shape, const_value=v.const_value
            )
            graph.register_initializer(known[v.name])
        replacements[v] = inner.tensor(known[v.name])
    nodes, copies = copy_graph(inner, single.graph, replacements)
    values = {v.name or "": t.value for v, t in copies.items()}
    return nodes, values | {name or "": t.value for name, t in examples.items()}


def _first(job: Job, batched: Collection[str | None]) -> Any:
    """The feeds of the option `example`, cut to the first example of the batch."""
    example = job.options.example
    if not isinstance(example, Mapping):
        return example if example is None else np.asarray(example)[:1]
    return {n: np.asarray(x)[:1] if n in batched else x for n, x in example.items()}


def shapes_of_one(op: Builder, inputs: list[ir.Value]) -> Callable[[Builder], list[Tensor]]:
    """The shapes of a net's outputs for one example: where they are computed, for one of zeros."""
    graph, outputs = op.graph, list(op.graph.outputs)

    def of_one(none: Builder) -> list[Tensor]:
        zeros = {}
        for v in inputs:
            one, size = none.tensor(example_of(v)), none.Shape(none.tensor(v), start=1)
            zeros[v] = none.typed(shapes.full_of(one, size, 0), one)
        _, copies = copy_graph(none, graph, zeros)
        return [_shape_of(none.tensor(y), copies[y]) for y in outputs]

    return of_one


def _shape_of(y: Tensor, copy: Tensor) -> Tensor:
    """The shape of a value that is not computed, of a copy of it as far as nothing else tells."""
    op = y.op
    if y.shape is None:
        return op.Shape(copy)
    sizes = [
        shapes.dim(y, k)
        if isinstance(d, int) or d in op.declared
        else op.Shape(copy, start=k, end=k + 1)
        for k, d in enumerate(y.shape)
    ]
    return shapes.vector(y, sizes)


def new_dim(graph: ir.Graph, stem: str) -> str:
    """A name that no dimension has, as equal names are equal sizes."""
    if not isinstance(stem, str) or not stem:
        raise ArgumentError(f"batch is the name of a dimension, not {stem!r}")
    values = [*graph.inputs, *(v for node in all_nodes(graph) for v in node.outputs)]
    taken, name, k = {d for v in values for d in dims_of(v) or ()}, stem, 1
    while name in taken:
        k += 1
        name = f"{stem}_{k}"
    return name


def example_of(value: ir.Value) -> ir.Value:
    """A value of the dtype and shape of one example of `value`."""
    shape = None if value.shape is None else ir.Shape(value.shape[1:])
    return ir.Value(type=value.type, shape=shape)
