"""Explanations that are the gradient itself, or a product with it."""

from __future__ import annotations

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.explain.method import Explaining, Explanation, method
from onnxgrad.transforms.options import TensorSpecs, Wrt


@method
def saliency(
    net: ir.Model, wrt: Wrt = None, *, abs: bool = True, **options: Unpack[Explaining]
) -> None:
    """A model that also gives the gradient of a class's score with respect to its inputs.

    Simonyan et al. 2013, "Deep Inside Convolutional Networks"; captum's Saliency.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        wrt: Name or names of the tensors to attribute the score to: inputs or inner tensors. None
            for every floating-point graph input.
        abs: Give absolute values.
        of: The tensor with the scores, [N, C], [N, C, ...] or [C]; or a head. None for the model's
            floating-point output; if it is the result of a Softmax, the tensor before it, which a
            warning tells.
        target: The class that is explained: "argmax" for that of the highest score of each example,
            found in the graph; "input" for a new int64 input "target" of shape [N]; a class; a
            class for each example. None for the sum of all elements of `of`.
        forward: Keep the model's own outputs, first and in their order.
        unreachable: "error", or "zeros" for a tensor that the score does not depend on.
        straight_through, constant, example: As for `onnxgrad.gradient`.
        runs_on: What is to run the result: "cpu", "cuda", or "portable", as `target` of
            `onnxgrad.gradient`.

    Returns:
        A model of the same kind (for a path a `ModelProto`), with one more output
        `<x>_attribution` for each tensor `x` of `wrt`, of that tensor's shape and dtype. The
        metadata property "onnxgrad.attributions" maps, in JSON, the tensors' names to those of
        their attributions.

    Raises:
        OnnxGradError: As for `onnxgrad.gradient`.
        ArgumentError: The class is not there, or the scores have no axis of classes.

    Example:
        >>> model = og.explain.saliency("models/mlp.onnx", target=2)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    explanation = Explanation(net, wrt, **options)
    op, found = explanation.op, explanation.gradients()
    explanation.finish({x: op.Abs(g) if abs else g for x, g in found.items()})


@method
def input_x_gradient(net: ir.Model, wrt: Wrt = None, **options: Unpack[Explaining]) -> None:
    """A model that also gives its inputs times the gradient of a class's score.

    Shrikumar et al. 2016, "Not Just a Black Box"; captum's InputXGradient.

    Args:
        model, wrt, of, ...: As for `saliency`.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.

    Example:
        >>> model = og.explain.input_x_gradient("models/mlp.onnx", target="input")
        >>> [x.name for x in model.graph.input]
        ['input', 'target']
    """
    explanation = Explanation(net, wrt, **options)
    op, found = explanation.op, explanation.gradients()
    explanation.finish({x: op.tensor(x) * g for x, g in found.items()})


@method
def layer_gradient_x_activation(
    net: ir.Model,
    layer: TensorSpecs,
    *,
    multiply_by_inputs: bool = True,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives inner tensors times the gradient of a class's score.

    captum's LayerGradientXActivation.

    Args:
        model, of, ...: As for `saliency`.
        layer: Name or names of the tensors.
        multiply_by_inputs: Multiply by the tensors. If not, it is the gradient.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.

    Example:
        >>> model = og.explain.layer_gradient_x_activation("models/mlp.onnx", "v_Relu_3")
        >>> [y.name for y in model.graph.output]
        ['logits', 'v_Relu_3_attribution']
    """
    explanation = Explanation(net, layer, **options)
    op, found = explanation.op, explanation.gradients()
    explanation.finish({x: op.tensor(x) * g if multiply_by_inputs else g for x, g in found.items()})
