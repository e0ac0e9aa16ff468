"""Full-gradient maps: the gradient at the input, and those of all biases."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import Flow
from onnxgrad.explain.layers import channels_of
from onnxgrad.explain.method import Explaining, Explanation, method
from onnxgrad.explain.places import channels_first, resized, scaled
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of, shown
from onnxgrad.transforms.options import Wrt


@method
def full_grad(
    net: ir.Model, wrt: Wrt = None, *, scale: bool = False, **options: Unpack[Explaining]
) -> None:
    """A model that also gives a map of an input: its gradient, and those of all biases.

    The map is a sum of absolute values: of the input times its gradient, and at each convolution
    or BatchNormalization of the bias times its gradient. Each channel of each of them is scaled to
    0..1 and resized to the input's places first. Srinivas and Fleuret 2019, "Full-Gradient
    Representation for Neural Network Visualization"; pytorch-grad-cam's FullGrad.

    The bias of a BatchNormalization is B - mean scale / sqrt(var + epsilon). One that is merged
    into a convolution without a bias gives the same map. The biases of ConvTranspose and Gemm do
    not count, nor do they there.

    Args:
        model: As for `saliency`.
        wrt: The name of the input, [N, C, H, W] or with other places; also [N, H, W, C]. None for
            the one that has places.
        scale: Scale the map of each example to 0..1, as pytorch-grad-cam does.
        of, target, ...: As for `saliency`.

    Returns:
        A model of the same kind (for a path a `ModelProto`), with one more output
        `<input>_attribution` of shape [N, H, W] and the input's dtype. The metadata property
        "onnxgrad.attributions" is as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.
        ArgumentError: The input has no places, or there are several that have.

    Example:
        >>> model = og.explain.full_grad("models/cnn.onnx", target=3)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    explanation = Explanation(net, wrt, **options)
    job, op = explanation.job, explanation.op
    image = _with_places(job.wrt)
    biases = list(_biases(op, image, Flow.of(op.graph, [image], job.of)))
    seeds, _ = job.seeds()
    gradients = job.pull(seeds, [image, *(v for v, _ in biases)])
    x, g = (
        channels_first(t, channels_of(image, op.graph))
        for t in (op.tensor(image), gradients[image])
    )
    sizes = shapes.dims(x)[2:]
    maps = [_absolute(x, g)]
    maps += [resized(_absolute(bias, gradients[v]), sizes) for v, bias in biases]
    total = op.sum(maps)
    total = scaled(total) if scale else total
    explanation.finish({image: op.cast(total, op.tensor(image).dtype)})


def _with_places(wrt: list[ir.Value]) -> ir.Value:
    """The one tensor with places."""
    found = [v for v in wrt if len(dims_of(v) or ()) > 2]
    if len(found) != 1:
        names = ", ".join(map(shown, wrt))
        raise ArgumentError(
            f"one input with channels and places, [N, C, H, W], is needed in wrt, not {names}"
        )
    return found[0]


def _absolute(t: Tensor, g: Tensor) -> Tensor:
    """The sum over the channels of absolute products, which are scaled by channel."""
    op = g.op
    return shapes.reduce_sum(scaled(op.Abs(op.promoted(t) * op.promoted(g)), first=2), [1])


def _biases(op: Builder, image: ir.Value, flow: Flow) -> Iterator[tuple[ir.Value, Tensor]]:
    """The tensors with as many axes as the input that a bias has gone into; and that bias."""
    rank = len(dims_of(image) or ())
    for node in flow.nodes:
        out = node.outputs[0]
        if node.domain or len(dims_of(out) or ()) != rank or not flow.matters(out):
            continue
        inputs = [op.tensor(v) for v in node.inputs if v is not None]
        if node.op_type == "Conv" and len(inputs) == 3:
            yield out, op.Unsqueeze(inputs[2], op.const(range(1, rank - 1)))
        elif node.op_type == "BatchNormalization":
            factor, bias, mean, var = map(op.promoted, inputs[1:])
            epsilon = node.attributes.get_float("epsilon", 1e-5)
            bias = bias - mean * factor / op.Sqrt(var + epsilon)
            yield out, op.Unsqueeze(bias, op.const(range(1, rank - 1)))
        elif node.op_type == "Add":
            for a, b in (inputs, inputs[::-1]):
                if _is_bare(a) and b.value not in flow.reached:
                    yield out, b


def _is_bare(t: Tensor) -> bool:
    """Whether a tensor is that of a convolution without a bias of its own."""
    node = t.value.producer()
    return node is not None and node.op_type == "Conv" and len(node.inputs) == 2
