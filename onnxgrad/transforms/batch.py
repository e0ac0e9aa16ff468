"""Gradients by example, and nets with a batch."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import copy_graph, merged, scan, unless_empty
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of
from onnxgrad.graph.names import All
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.blocks import MAX_BYTES, alike, require_fit, size_in_bytes
from onnxgrad.transforms.examples import batch_inputs, by_example, new_dim, shapes_of_one
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.metadata import GRADIENTS, describe
from onnxgrad.transforms.options import Common, Inputs, Options, Wrt, transform


@transform
def per_example_gradient(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    batched: Inputs | None = None,
    max_bytes: int = MAX_BYTES,
    **options: Unpack[Common],
) -> None:
    """A model that computes gradients example by example, without the sum over the batch.

    The net is run once more for each example, as a batch of one, so examples must not influence
    each other in it.

    Args:
        model, of, ...: As for `gradient`; `of` are floating-point graph outputs.
        wrt: As for `gradient`, but no batched input; None means every trainable weight.
        batched: The graph inputs whose first axis is the batch; None means every graph input that
            is no parameter.
        max_bytes: The size in bytes above which results are refused, where it is known.

    Returns:
        A model of the same kind. For each tensor `w` of `wrt` it has an output `<w>_grad` of shape
        [N, *w.shape], N being the size of the batch: the first axis of every tensor of `batched`.
        The metadata property "onnxgrad.gradients" is as for `gradient`.

    Raises:
        ArgumentError: A name in `batched` is no graph input, or the gradients would be larger than
            `max_bytes`. Else as for `gradient`.

    Example:
        >>> model = og.per_example_gradient("models/mlp.onnx", [["fc1", "weight"]])  # [N, 16, 4]
        >>> [y.name for y in model.graph.output]
        ['logits', 'fc1.weight_grad']
    """
    single = net.clone()
    job, inputs = examples_of(net, wrt, batched, max_bytes, Options(**options))
    job.trace(job.of, job.wrt)
    job.warn()

    def emit(inner: Builder, nodes: list[ir.Node], values: dict[str, ir.Value]) -> list[Tensor]:
        sources = [values[x.name or ""] for x in job.wrt]
        ys = [inner.tensor(values[y.name or ""]) for y in job.of]
        seeds = merged(inner, ((y, shapes.full_like(y, 1)) for y in ys))
        found = pull(inner, seeds, sources, nodes)
        return [found.get(v) or shapes.full_like(inner.tensor(v), 0) for v in sources]

    stacks = by_example(job, single, inputs, emit, alike(job.wrt))
    job.finish({f"{x.name}_grad": t for x, t in zip(job.wrt, stacks, strict=True)})
    describe(net, {GRADIENTS: dict(zip(job.wrt_names, job.results, strict=True))})


@transform
def vmap(
    net: ir.Model, *, batched: Inputs | None = None, batch: str = "batch", example: Any = None
) -> None:
    """A model with a new first axis, the batch, on its inputs and outputs.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        batched: The graph inputs that get the axis; None means every graph input that is no
            parameter. The others are the same for every example.
        batch: The name of the new dimension, numbered where another one has it.
        example: Feeds of the model as it is: as for `gradient`.

    Returns:
        A model of the same kind. Each input `x` of `batched` has shape [batch, *x.shape], and so
        has each output. Inside, a Scan runs the net once for each example.

    Raises:
        ArgumentError: A name in `batched` is no graph input, or an output cannot have the axis.
        ModelError: The model cannot be read or is not valid.
        FeedError: The net cannot be run on the example.

    Example:
        >>> model = og.vmap("models/mlp.onnx", batch="nets")
        >>> [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        ['nets', 'N', 4]
    """
    normalise(net, [], example=example, hides=True)
    graph = net.graph
    inputs = batch_inputs(graph, batched)
    for y in graph.outputs:
        if y.producer() is None or not isinstance(y.type, ir.TensorType):
            kind = "no tensor" if y.producer() else "an input too"
            raise ArgumentError(f"the output {y.name!r} is {kind}, so it cannot have a batch")
    batch = new_dim(graph, batch)
    for v in inputs:
        if v.shape is not None:
            v.shape = ir.Shape([batch, *v.shape])
    op = Builder(graph)
    outputs = list(graph.outputs)

    def of_one(inner: Builder, *slices: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        _, copies = copy_graph(inner, graph, dict(zip(inputs, slices, strict=True)))
        return [], [copies[y] for y in outputs]

    read = [op.tensor(v) for v in inputs]
    found = scan(op, of_one, [], read)[1]
    stacks = unless_empty(op, shapes.dim(read[0], 0), found, shapes_of_one(op, inputs))
    names = [y.name for y in outputs]
    graph.outputs.clear()
    for y, name, stack in zip(outputs, names, stacks, strict=True):
        y.name = op.names.fresh(f"{name}_single")
        stack.value.name = name
        graph.outputs.append(stack.value)
    optimise(net)


def examples_of(
    net: ir.Model, wrt: Wrt, batched: Inputs | None, max_bytes: int, options: Options
) -> tuple[Job, list[ir.Value]]:
    """The job of gradients by example, and the inputs with the batch.

    Raises:
        ArgumentError: What is named cannot have such gradients, or they would be too large.
    """
    job = Job(net, All.ALL if wrt is None else wrt, options)
    if wrt is None:
        job.wrt = [v for v in job.wrt if v.is_initializer()]
        if not job.wrt:
            raise ArgumentError(
                "the net has no trainable weight; name inputs without the batch in wrt"
            )
    inputs = batch_inputs(net.graph, batched)
    for v in inputs:
        if dims_of(v) == ():
            raise ArgumentError(f"batched: {v.name!r} is a scalar, so it has no batch")
    for x in job.wrt:
        if x.producer() is not None:
            raise ArgumentError(
                f"wrt: {x.name!r} is an inner tensor; gradients by example are those of parameters "
                "and of inputs without the batch"
            )
        if x in inputs:
            raise ArgumentError(
                f"wrt: {x.name!r} is an input with the batch; its gradient, as og.gradient gives "
                "it, has no sum over the batch"
            )
    count = next((d for v in inputs for d in (dims_of(v) or ())[:1] if isinstance(d, int)), None)
    sizes = {f"the gradient of {x.name!r} by example": size_in_bytes(x, count) for x in job.wrt}
    require_fit(sizes, max_bytes, "Feed fewer examples at a time")
    return job, inputs
