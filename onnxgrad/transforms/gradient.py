"""The gradient: a model goes in, a model comes out. Read this page first.

load -> normalise -> trace what matters -> seed -> pull back -> name the results -> clean up

`transform` loads and gives back, a `Job` does the rest.
"""

from __future__ import annotations

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.transforms.job import Job
from onnxgrad.transforms.metadata import GRADIENTS, MINUS, OGRADS, VALUES, describe, names_of
from onnxgrad.transforms.options import Full, Kept, Options, Wrt, transform


@transform
def gradient(net: ir.Model, wrt: Wrt = None, **options: Unpack[Full]) -> None:
    """A model that also computes the gradient of a scalar of `model`'s outputs.

    The scalar is the sum of all elements of the tensors `of`; where an output gradient is imposed,
    the sum of the dot products of those tensors with theirs, and the others contribute nothing.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        wrt: Name or names of the tensors to differentiate with respect to: graph inputs,
            initializers, weights in Constant nodes, intermediate tensors. `ALL` for every
            floating-point input and every trainable weight. None for every floating-point
            graph input.
        of: Name or names of the floating-point tensors to differentiate; or a head or a loss, such
            as `heads.class_score("logits", target=3)`, whose inputs the result has too. None for
            every floating-point graph output; of a model that carries gradients, or what else a
            transform gives, for those.
        ograd: True to impose an output gradient on each tensor of `of`, or the names (or heads) of
            those to impose one on. It is a new graph input `<name>_ograd` of the tensor's shape and
            dtype.
        forward: Keep the model's own outputs, first and in their order.
        values: Names of tensors, or heads, to give out as well: inner ones under their names.
        unreachable: "error", or "zeros" for a tensor that the chosen outputs do not depend on or
            reach only through operators of zero derivative. `ALL` implies "zeros".
        minus: True to change the sign of all gradients, or the names of the tensors of `wrt` whose
            gradient has its sign changed: forces are minus the gradient of an energy.
        straight_through: Operators that round, to be differentiated as if they changed nothing but
            where a value is clipped: names of operators such as "Round" or "QuantizeLinear", or
            True for all that have such a gradient.
        constant: Names of tensors through which no gradient flows, as `detach` and `stop_gradient`
            do: inputs, weights, inner tensors. `ALL` and None in `wrt` leave them out.
        checkpoints: For less memory, by rematerialisation: names of tensors to keep. The backward
            pass computes what lies between them anew, at the cost of one more forward pass. True
            to have about √n of them chosen, for n nodes. Or a budget in bytes, such as 512 * 10**6
            or "512MB", for the values of the forward pass that the backward pass has in memory at
            once: as much as fits is kept. Where sizes are symbolic, it is for those of `example`.
        example: Feeds of which the ranks, not the sizes, are learnt by running the net once: for
            tensors of which neither the operators nor the inputs tell how many axes they have, as
            after a Squeeze without axes. The input's value, or a dict by input name.
        target: What is to run the result: of several equal formulations the one to emit. "cpu" and
            "cuda" are for onnxruntime, and keep operators of its own which the net has. "portable"
            asks least of a runtime, at the cost of some time: it is for all others, and
            docs/runtimes.md tells what each of these takes.
        opset: The opset of the standard to write, where all operators allow it, such as 17 for an
            older runtime. None for the net's own, but at least 18, or the oldest from there on
            that they allow. The IR version follows from it.

    Returns:
        A model of the same kind (for a path a `ModelProto`) in the standard's operators, with one
        more output `<name>_grad` for each tensor of `wrt`, of that tensor's shape and dtype.
        Before the gradients come the tensors of `values`.
        The metadata properties "onnxgrad.gradients" and "onnxgrad.ograds" map, in JSON, the
        tensors' names to those of their gradient outputs and seed inputs; "onnxgrad.minus" maps
        those of `minus` likewise.

    Raises:
        ModelError: The model cannot be read or is not valid.
        UnknownNameError: No tensor of that name; the nearest are listed.
        ArgumentError: The arguments make no sense together.
        UnreachableError: No gradient flows from the chosen outputs to a tensor.
        NoRuleError: An operator on the path has no gradient rule, or needs a rank that is unknown.
        FeedError: The net cannot be run on the example.

    Example:
        >>> model = og.gradient("models/mlp.onnx", ["input", ["fc1", "weight"]])
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_grad', 'fc1.weight_grad']
    """
    _differentiate(net, wrt, Options(**options))


@transform
def vjp(net: ir.Model, wrt: Wrt = None, **options: Unpack[Kept]) -> None:
    """A model that computes vector-Jacobian products: seeds in, gradients out.

    The same as `gradient` with ``ograd=True``.

    Args:
        model, wrt, of, ...: As for `gradient`.

    Returns:
        A model of the same kind. For each tensor `y` of `of` it has an input `<y>_ograd` of the
        shape and dtype of `y`, the seed, and for each tensor `x` of `wrt` an output `<x>_grad` of
        the shape and dtype of `x`: the sum over `of` of the seed times dy/dx. The metadata
        properties are as for `gradient`.

    Raises:
        OnnxGradError: As for `gradient`.

    Example:
        >>> model = og.vjp("models/mlp.onnx")
        >>> [x.name for x in model.graph.input], [y.name for y in model.graph.output]
        (['input', 'logits_ograd'], ['logits', 'input_grad'])
    """
    _differentiate(net, wrt, Options(ograd=True, **options))


def _differentiate(net: ir.Model, wrt: Wrt, options: Options) -> None:
    job = Job(net, wrt, options)
    seeds, ograds = job.seeds()
    imposed = names_of(ograds)  # before an unused y goes
    cotangents = job.pull(seeds)
    signed = {v: -g if v.name in job.minus else g for v, g in cotangents.items()}
    job.finish({f"{v.name}_grad": signed[v] for v in job.wrt})
    gradients = dict(zip(job.wrt_names, job.results, strict=True))
    minus = {name: gradients[name] for name in job.wrt_names if name in job.minus}
    describe(net, {GRADIENTS: gradients, OGRADS: imposed, VALUES: job.given, MINUS: minus})
