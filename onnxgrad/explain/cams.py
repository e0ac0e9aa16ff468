"""Class-activation maps: where a layer has found what speaks for a class."""

from __future__ import annotations

import json
from typing import Literal

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.class_map import ClassMap, Formula, Mapped, Placed, map_method
from onnxgrad.explain.layers import channels_of
from onnxgrad.explain.rectifiers import GUIDED
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.transforms.metadata import LAYERS
from onnxgrad.transforms.options import TensorSpecs


@map_method
def grad_cam(net: ir.Model, layer: TensorSpecs | None = None, **options: Unpack[Mapped]) -> None:
    """A model that also gives a class-activation map: where a layer speaks for a class.

    Each channel of the layer is weighted with the mean of its gradient over the places; the map is
    the sum of the channels, and 0 where it is negative. Selvaraju et al. 2017, "Grad-CAM";
    pytorch-grad-cam's GradCAM.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        layer: The name of the layer's tensor, [N, C, H, W] or with other places, also with the
            channels last where the operators tell it; of several layers the map is the mean. None
            for the last tensor with places, before they are pooled, that all of the score depends
            on and whose channels are still to be mixed. For a vision transformer name it, such as
            the first LayerNormalization of the last block.
        input: The name of the input that the map belongs to, if there are several with places.
        tokens: How the places lie in a layer of tokens, [N, T, C]: their rows and columns, or True
            for a square; for [N, H, W, C] True. False for channels that are first, where the
            operators do not tell it. None where they do.
        class_tokens: How many tokens, the first ones, are no places.
        interpolate: Resize the map to the input's places: True or "linear" as cv2.resize does,
            "nearest" to the place before.
        scale: Scale the map of each example to 0..1. With `interpolate` that is the result of
            pytorch-grad-cam, which scales before it resizes as well as behind; in three dimensions
            that resizes by splines. Its smoothing, aug_smooth and eigen_smooth, is not here.
        of, target, ...: As for `saliency`.

    Returns:
        A model of the same kind (for a path a `ModelProto`), with one more output
        `<layer>_attribution` of shape [N, H, W] and the layer's dtype. The metadata property
        "onnxgrad.attributions" maps, in JSON, the name of the layer, or those of the layers, to
        that of the output; so it tells which layer was found.

    Raises:
        OnnxGradError: As for `saliency`.
        ArgumentError: No layer is found, or its axes are not known; candidates are listed.

    Example:
        >>> model = og.explain.grad_cam("models/cnn.onnx", target=3, interpolate=True)
        >>> model.graph.output[-1].name
        'v_layer1.1.Relu_11_attribution'
    """
    _give(net, layer, _grad_cam, options)


@map_method
def grad_cam_plus_plus(
    net: ir.Model, layer: TensorSpecs | None = None, **options: Unpack[Mapped]
) -> None:
    """A model that also gives a class-activation map, for several objects of a class.

    Each channel is weighted with its positive gradients, each of them by a quotient of powers of
    the gradient. Chattopadhay et al. 2018, "Grad-CAM++", equation 19; pytorch-grad-cam's
    GradCAMPlusPlus.

    Args:
        model, layer, ...: As for `grad_cam`.

    Returns:
        A model of the same kind, with output and metadata as for `grad_cam`.

    Raises:
        OnnxGradError: As for `grad_cam`.

    Example:
        >>> model = og.explain.grad_cam_plus_plus("models/cnn.onnx", scale=True)
    """
    _give(net, layer, _grad_cam_plus_plus, options)


@map_method
def x_grad_cam(net: ir.Model, layer: TensorSpecs | None = None, **options: Unpack[Mapped]) -> None:
    """A model that also gives a class-activation map, of normalised activations.

    Each channel is weighted with its gradients times its activations, over the sum of these. Fu et
    al. 2020, "Axiom-based Grad-CAM"; pytorch-grad-cam's XGradCAM.

    Args:
        model, layer, ...: As for `grad_cam`.

    Returns:
        A model of the same kind, with output and metadata as for `grad_cam`.

    Raises:
        OnnxGradError: As for `grad_cam`.

    Example:
        >>> model = og.explain.x_grad_cam("models/cnn.onnx", scale=True)
    """
    _give(net, layer, _x_grad_cam, options)


@map_method
def hires_cam(net: ir.Model, layer: TensorSpecs | None = None, **options: Unpack[Mapped]) -> None:
    """A model that also gives a class-activation map, of each place by its own gradient.

    The sum over the channels of activation times gradient, and 0 where it is negative. Draelos and
    Carin 2020, "HiResCAM"; pytorch-grad-cam's HiResCAM.

    Args:
        model, layer, ...: As for `grad_cam`.

    Returns:
        A model of the same kind, with output and metadata as for `grad_cam`.

    Raises:
        OnnxGradError: As for `grad_cam`.

    Example:
        >>> model = og.explain.hires_cam("models/cnn.onnx", scale=True)
    """
    _give(net, layer, lambda a, g: _over_channels(a * g), options)


@map_method
def layer_cam(net: ir.Model, layer: TensorSpecs | None = None, **options: Unpack[Mapped]) -> None:
    """A model that also gives a class-activation map, of each place by its positive gradient.

    It is fine enough for early layers. Jiang et al. 2021, "LayerCAM"; pytorch-grad-cam's LayerCAM.

    Args:
        model, layer, ...: As for `grad_cam`.

    Returns:
        A model of the same kind, with output and metadata as for `grad_cam`.

    Raises:
        OnnxGradError: As for `grad_cam`.

    Example:
        >>> model = og.explain.layer_cam("models/cnn.onnx", scale=True)
    """
    _give(net, layer, lambda a, g: _over_channels(g.op.Relu(g) * a), options)


@map_method
def grad_cam_element_wise(
    net: ir.Model, layer: TensorSpecs | None = None, **options: Unpack[Mapped]
) -> None:
    """A model that also gives a class-activation map, of the positive products at each place.

    As `hires_cam`, but negative products are left out before the sum over the channels;
    pytorch-grad-cam's GradCAMElementWise.

    Args:
        model, layer, ...: As for `grad_cam`.

    Returns:
        A model of the same kind, with output and metadata as for `grad_cam`.

    Raises:
        OnnxGradError: As for `grad_cam`.

    Example:
        >>> model = og.explain.grad_cam_element_wise("models/cnn.onnx", scale=True)
    """
    _give(net, layer, lambda a, g: _over_channels(g.op.Relu(a * g)), options)


@map_method
def guided_grad_cam(
    net: ir.Model,
    layer: TensorSpecs | None = None,
    *,
    interpolate: Literal["nearest", "linear"] = "nearest",
    **options: Unpack[Placed],
) -> None:
    """A model that also gives the product of `guided_backprop` and of a `grad_cam` in its size.

    Selvaraju et al. 2017, "Grad-CAM"; captum's GuidedGradCam.

    Args:
        model, layer, ...: As for `grad_cam`.
        interpolate: How the map is resized to the input's places.
        scale: Scale the map of each example to 0..1, as the examples of pytorch-grad-cam do.

    Returns:
        A model of the same kind (for a path a `ModelProto`), with one more output
        `<input>_attribution` of the input's shape and dtype. The metadata property
        "onnxgrad.attributions" is as for `saliency`, and "onnxgrad.layers" maps, in JSON, the input
        to the layers, named or found.

    Raises:
        OnnxGradError: As for `grad_cam`.

    Example:
        >>> model = og.explain.guided_grad_cam("models/cnn.onnx", target=3)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    if interpolate not in ("nearest", "linear"):
        raise ArgumentError(f"interpolate is 'nearest' or 'linear', not {interpolate!r}")
    found = ClassMap(net, layer, interpolate=interpolate, **options)
    cam, job, op = found.map(_grad_cam), found.explanation.job, found.op
    image = found.image(cam.rank - 1)
    seeds, _ = job.seeds()
    gradient = job.pull(seeds, [image], rules=GUIDED)[image]
    if gradient.rank > cam.rank:
        cam = op.Unsqueeze(cam, op.const([channels_of(image, op.graph)]))
    found.explanation.finish({image: gradient * op.cast(cam, gradient.dtype)})
    names = [v.name or "" for v in found.layers]
    job.net.metadata_props[LAYERS] = json.dumps({image.name: names})


def _places(t: Tensor) -> range:
    return range(2, t.rank)


def _over_channels(t: Tensor) -> Tensor:
    return shapes.reduce_sum(t, [1])


def _grad_cam(a: Tensor, g: Tensor) -> Tensor:
    return _over_channels(shapes.reduce_mean(g, _places(g), keepdims=1) * a)


def _grad_cam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    squares, total = g * g, shapes.reduce_sum(a, _places(a), keepdims=1)
    share = squares / (2 * squares + total * squares * g + 1e-6)  # 0 where g is
    return _over_channels(shapes.reduce_sum(g.op.Relu(g) * share, _places(g), keepdims=1) * a)


def _x_grad_cam(a: Tensor, g: Tensor) -> Tensor:
    total = shapes.reduce_sum(a, _places(a), keepdims=1)
    return _over_channels(shapes.reduce_sum(g * a / (total + 1e-7), _places(g), keepdims=1) * a)


def _give(net: ir.Model, layer: TensorSpecs | None, formula: Formula, options: Mapped) -> None:
    """Give the map by a formula."""
    found = ClassMap(net, layer, **options)
    found.explanation.finish_joint(found.layers, found.map(formula))
