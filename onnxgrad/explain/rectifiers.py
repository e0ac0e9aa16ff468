"""Explanations that let only what is positive come back through rectifiers."""

from __future__ import annotations

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import Rules, Visit
from onnxgrad.explain.method import Explaining, Explanation, method
from onnxgrad.graph.constants import constant_of
from onnxgrad.transforms.options import Wrt


@method
def guided_backprop(net: ir.Model, wrt: Wrt = None, **options: Unpack[Explaining]) -> None:
    """A model that also gives the gradient of a score without what rectifiers would make negative.

    At each rectifier the gradient with respect to its operand is cut off at 0 from below.
    Springenberg et al. 2014, "Striving for Simplicity"; captum's GuidedBackprop.

    Rectifiers are Relu, ThresholdedRelu, a Clip from 0 and a Max with 0, in branches and loops too.
    captum takes nn.ReLU alone, not F.relu and not nn.ReLU6. Leaky and smooth relatives, such as
    LeakyRelu, Elu and Gelu, keep their gradient, and so does what LSTM and its kin hold, and a Relu
    that quantisation has made a bound of.

    Args:
        model, wrt, of, target, ...: As for `saliency`.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.

    Example:
        >>> model = og.explain.guided_backprop("models/mlp.onnx", target=1)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    explanation = Explanation(net, wrt, **options)
    explanation.finish(explanation.gradients(GUIDED))


@method
def deconvolution(net: ir.Model, wrt: Wrt = None, **options: Unpack[Explaining]) -> None:
    """A model that also gives a score pulled back through rectifiers as if they were linear.

    At each rectifier the gradient that comes from above is cut off at 0 from below, and passes
    whatever the operand was. Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional
    Networks"; captum's Deconvolution.

    Args:
        model, wrt, of, target, ...: As for `saliency`. Rectifiers are those of `guided_backprop`.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.

    Example:
        >>> model = og.explain.deconvolution("models/mlp.onnx", target=1)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    explanation = Explanation(net, wrt, **options)
    explanation.finish(explanation.gradients(dict.fromkeys(_RECTIFIES, _deconvolved)))


def _guided(visit: Visit) -> dict[int, Tensor]:
    found = visit.vjp()
    if _RECTIFIES[visit.node.op_type](visit.node):
        return {k: visit.op.Relu(g) for k, g in found.items()}
    return found


def _deconvolved(visit: Visit) -> dict[int, Tensor]:
    (g, *_), (k, *others) = visit.gs, visit.wanted
    x = visit.node.inputs[k]
    if g is None or x is None or others or not _RECTIFIES[visit.node.op_type](visit.node):
        return visit.vjp()
    return {k: unbroadcast(visit.op.Relu(g), g.shape, visit.op.tensor(x))}


def _is_zero(value: ir.Value | None) -> bool:
    known = None if value is None else constant_of(value)
    return known is not None and not known.any()


def _clips_from_zero(node: ir.Node) -> bool:
    return len(node.inputs) > 1 and _is_zero(node.inputs[1])


def _is_max_with_zero(node: ir.Node) -> bool:
    return len(node.inputs) == 2 and any(map(_is_zero, node.inputs))


def _always(node: ir.Node) -> bool:
    return True


# By operator, whether a node of it is a rectifier.
_RECTIFIES = {
    "Clip": _clips_from_zero,
    "Max": _is_max_with_zero,
    "Relu": _always,
    "ThresholdedRelu": _always,
}
# The rules of guided backpropagation.
GUIDED: Rules = dict.fromkeys(_RECTIFIES, _guided)
