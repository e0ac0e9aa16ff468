"""Forward mode: products with the Jacobian and with the Hessian."""

from __future__ import annotations

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit.subgraphs import merged
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.transforms.blocks import Linear
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.metadata import HVPS, OGRADS, TANGENTS, describe, names_of
from onnxgrad.transforms.options import Common, Imposed, Options, Wrt, transform


@transform
def jvp(net: ir.Model, wrt: Wrt = None, **options: Unpack[Common]) -> None:
    """A model that computes Jacobian-vector products: tangents in, tangents out.

    Args:
        model, wrt, of, ...: As for `gradient`.

    Returns:
        A model of the same kind. For each tensor `x` of `wrt` it has an input `<x>_tangent` of the
        shape and dtype of `x`, for each tensor `y` of `of` an output `<y>_tangent` of the shape and
        dtype of `y`: the sum over `wrt` of dy/dx times the tangent of x. The metadata property
        "onnxgrad.tangents" maps, in JSON, the tensors' names to those of their tangents.

    Raises:
        UnreachableError: A tensor of `of` depends on none of `wrt`. Else as for `gradient`.

    Example:
        >>> model = og.jvp("models/mlp.onnx")
        >>> [x.name for x in model.graph.input], [y.name for y in model.graph.output]
        (['input', 'input_tangent'], ['logits', 'logits_tangent'])
    """
    job = Job(net, wrt, Options(**options))
    for x in job.wrt:
        if x in job.of:
            raise ArgumentError(
                f"{x.name!r} is in wrt, so its tangent is an input: leave it out of `of`"
            )
    tangents = {x: job.add_input(f"{x.name}_tangent", x) for x in job.wrt}
    job.require_dependent()
    job.zeros = True
    with Linear(job) as linear:
        moved = linear.jvp(job.op, tangents, list(net.graph))
    job.finish({f"{y.name}_tangent": t for y, t in zip(job.of, moved, strict=True)})
    outputs = dict(zip((y.name or "" for y in job.of), job.results, strict=True))
    describe(net, {TANGENTS: names_of(tangents) | outputs})


@transform
def hvp(net: ir.Model, wrt: Wrt = None, **options: Unpack[Imposed]) -> None:
    """A model that computes Hessian-vector products of the scalar that `gradient` differentiates.

    Args:
        model, wrt, of, ograd, ...: As for `gradient`.

    Returns:
        A model of the same kind. For each tensor `x` of `wrt` it has an input `<x>_tangent` and an
        output `<x>_hvp`, both of the shape and dtype of `x`. The outputs are the product of the
        Hessian with respect to all of `wrt` together with the tangents. The metadata properties
        "onnxgrad.tangents" and "onnxgrad.hvps" map, in JSON, the tensors' names to those of the
        inputs and outputs.

    Raises:
        OnnxGradError: As for `gradient`.

    Example:
        >>> model = og.hvp("models/mlp.onnx")
        >>> [x.name for x in model.graph.input], [y.name for y in model.graph.output]
        (['input', 'input_tangent'], ['logits', 'input_hvp'])
    """
    job = Job(net, wrt, Options(**options))
    tangents = {x: job.add_input(f"{x.name}_tangent", x) for x in job.wrt}
    seeds, ograds = job.seeds()
    first = job.pull(seeds)
    job.zeros = True  # a gradient that does not depend on x has a Hessian of zero
    second = job.pull(merged(job.op, [(first[x], t) for x, t in tangents.items()]))
    job.finish({f"{x.name}_hvp": second[x] for x in job.wrt})
    products = dict(zip(job.wrt_names, job.results, strict=True))
    describe(net, {TANGENTS: names_of(tangents), OGRADS: names_of(ograds), HVPS: products})
