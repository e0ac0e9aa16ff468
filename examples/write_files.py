"""Writes the files that the examples run where there is no Python.

python examples/write_files.py photo FOLDER
python examples/write_files.py digits FOLDER
"""

from __future__ import annotations

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
    trained = {w.name: numpy_helper.to_array(w) for w in net.graph.initializer}
    net = untrained(net)
    og.train.artifacts(net, folder, og.losses.cross_entropy("logits"), og.train.Adam())
    # Explained with whatever weights are fed: those of the training so far.
    ink = partial(og.explain.integrated_gradients, n_steps=32)
    cam = partial(og.explain.grad_cam, input="image", interpolate=True, scale=True)
    explanations = {"ink": ink, "cam": cam}
    both = og.explain.several(folder / "infer.onnx", explanations, "image", target="input")
    onnx.save(both, folder / "explained_digit.onnx")
    for name, tensors in {**data(), "trained": trained}.items():
        onnx.save(giving(tensors), folder / f"{name}.onnx")


def untrained(net: onnx.ModelProto) -> onnx.ModelProto:
    """The net with random weights, as He et al. 2015 draw them, and biases of zero."""
    rng = np.random.default_rng(0)
    for tensor in net.graph.initializer:
        shape = tuple(tensor.dims)
        drawn = np.zeros(shape)
        if len(shape) > 1:
            drawn = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        tensor.CopyFrom(numpy_helper.from_array(drawn.astype(np.float32), tensor.name))
    return net


def data() -> dict[str, Arrays]:
    """The digits of scikit-learn in random order, without and with those that
    `models/train_digits.py` held back."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = found.images[order, None].astype(np.float32) / 16
    labels = found.target[order].astype(np.int64)
    held_back = order % 5 == 0
    return {
        name: {"image": images[chosen], "labels": labels[chosen]}
        for name, chosen in {"training": ~held_back, "held_back": held_back}.items()
    }


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


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"photo": photo, "digits": digits}[what](folder)
