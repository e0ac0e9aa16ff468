"""Writes the files that the examples run where there is no Python.

python examples/write_files.py photo FOLDER
python examples/write_files.py digits FOLDER
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

import onnxgrad as og

MODELS = Path(__file__).parents[1] / "models"
Arrays = dict[str, np.ndarray]


def photo(folder: Path) -> None:
    """A net of photos with its Grad-CAM, and a photo that needs no library to be read."""
    model = og.explain.grad_cam(MODELS / "efficientnet_lite0.onnx", interpolate=True)
    onnx.save(model, folder / "explained.onnx")
    image = Image.open(MODELS / "cat.jpg").resize((224, 224), Image.Resampling.BICUBIC)
    image.save(folder / "cat.ppm")


def digits(folder: Path) -> None:
    """The net of digits, to be trained from scratch, and the data."""
    net = onnx.load(MODELS / "digits.onnx")
    step = og.train.step(net, og.losses.cross_entropy("logits"), og.train.Adam())
    onnx.save(step, folder / "step.onnx")
    onnx.save(giving(first_state(step)), folder / "init.onnx")
    infer = with_weights_as_inputs(net)
    onnx.save(infer, folder / "infer.onnx")
    # Explained with whatever weights are fed: those of the training so far.
    cam = partial(og.explain.grad_cam, input="image", interpolate=True, scale=True)
    both = og.explain.several(infer, {"saliency": og.explain.saliency, "cam": cam}, "image")
    onnx.save(both, folder / "explained_digit.onnx")
    for name, tensors in data().items():
        onnx.save(giving(tensors), folder / f"{name}.onnx")


def data() -> dict[str, Arrays]:
    """The digits of scikit-learn in random order, of which every fifth is held back."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = found.images[order, None].astype(np.float32) / 16
    labels = found.target[order].astype(np.int64)
    held_back = np.arange(len(order)) % 5 == 0
    return {
        name: {"image": images[chosen], "labels": labels[chosen]}
        for name, chosen in {"training": ~held_back, "held_back": held_back}.items()
    }


def first_state(step: onnx.ModelProto) -> Arrays:
    """Random weights, as He et al. 2015 draw them, and everything else zero."""
    rng = np.random.default_rng(0)
    state = {}
    for port in step.graph.input:
        shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        state[port.name] = np.zeros(shape, dtype)
        if port.name.endswith(".weight"):
            std = np.sqrt(2 / np.prod(shape[1:]))
            state[port.name] = rng.normal(0, std, shape).astype(dtype)
    (names,) = (json.loads(p.value) for p in step.metadata_props if p.key == "onnxgrad.state")
    return {name: state[name] for name in names}


def giving(tensors: Arrays) -> onnx.ModelProto:
    """A model that takes nothing and gives tensors by their names."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(tensor))
        for name, tensor in tensors.items()
    ]
    outputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape
        )
        for name, tensor in tensors.items()
    ]
    graph = helper.make_graph(nodes, "tensors", [], outputs)
    opset = helper.make_opsetid("", 21)
    return helper.make_model(graph, ir_version=10, opset_imports=[opset])


def with_weights_as_inputs(net: onnx.ModelProto) -> onnx.ModelProto:
    """The net, to which its weights are fed."""
    result = onnx.ModelProto()
    result.CopyFrom(net)
    for weight in result.graph.initializer:
        result.graph.input.append(
            helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
    del result.graph.initializer[:]
    return result


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"photo": photo, "digits": digits}[what](folder)
