"""Nine classic vision nets of opset 9, whose topologies onnx itself ships, with random weights.

The files make each weight by ConstantOfShape. Here it becomes an initializer, listed as an input as
old files do. PyTorch gives the gradients of the logits for a random seed, as for real models.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxgrad as og
from tests.oracle import accept

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: make torch")

from tests.torch_net import Net  # noqa: E402

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
# Of millions of random units a few lie within rounding of Relu's kink, and fall on its other side
# on the other runtime: PyTorch's own single and double precision differ by 2 % in inception_v2.
# What they add has a direction of its own, while a wrong rule changes the gradient's length too.
TOLERANCE_OF_LENGTH, TOLERANCE = 2e-3, 5e-2
FLOAT = onnx.TensorProto.FLOAT
# Smaller images for the nets that have layers of 4096 neurons on top, for the sake of time.
IMAGE = {"bvlc_alexnet": 96, "vgg19": 32, "zfnet512": 96}
NEURONS = 64


def net(name: str) -> onnx.ModelProto:
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    if name in IMAGE:
        _shrink(model, IMAGE[name])
    graph, rng = model.graph, np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in made:
        shape = shapes[node.input[0]]
        if len(shape) > 1:  # keeps the size of the values
            weight = rng.standard_normal(shape, np.float32) / math.sqrt(np.prod(shape[1:]))
        else:  # a bias, or what normalises a channel
            weight = rng.uniform(0.5, 1.5, shape)
        tensor = onnx.numpy_helper.from_array(weight.astype(np.float32), node.output[0])
        graph.initializer.append(tensor)
        graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
        graph.node.remove(node)
    return model


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    return next(port for port in model.graph.input if "data" in port.name)


def _shrink(model: onnx.ModelProto, size: int) -> None:
    """Another size of the image, and fewer neurons in the layers that see all of it."""
    graph = model.graph
    for dim in _image(model).type.tensor_type.shape.dim[2:]:
        dim.dim_value = size
    sizes = {t.name: t for t in graph.initializer}
    producers = {out: node for node in graph.node for out in node.output}

    def resize(name: str, shape: list[int]) -> None:
        sizes[name].CopyFrom(onnx.numpy_helper.from_array(np.array(shape, np.int64), name))

    for node in graph.node:
        if node.op_type == "Reshape":
            resize(node.input[1], [1, -1])
    gemms = [node for node in graph.node if node.op_type == "Gemm"]
    for k, node in enumerate(gemms):
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
        known = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred}
        del model.graph.value_info[:]
        source = next(n for n in graph.node if n.op_type == "Reshape").output[0]
        width = NEURONS if k else known[source][1]
        neurons = 1000 if node is gemms[-1] else NEURONS
        resize(producers[node.input[1]].input[0], [neurons, width])
        resize(producers[node.input[2]].input[0], [neurons])


@pytest.mark.parametrize("name", sorted(p.stem[len("light_") :] for p in FOLDER.glob("*.onnx")))
def test_gradients_of_a_classic_net(name: str) -> None:
    model = net(name)
    graph = model.graph
    port = _image(model)
    image = port.name
    last = graph.node[-1]
    logits = last.input[0] if last.op_type == "Softmax" else last.output[0]
    used = {operand for node in graph.node for operand in node.input}
    weights = [t.name for t in graph.initializer if t.name in used and t.data_type == FLOAT]
    names = [image, weights[0], weights[len(weights) // 2], weights[-1]]
    grad = og.gradient(model, names, of=logits, ograd=True, forward=False)
    accept(grad)

    rng = np.random.default_rng(1)
    shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    torch_net = Net(model, torch.float32)
    values = torch_net.run({image: x}, names)
    seed = rng.standard_normal(values[logits].shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(grad.SerializeToString(), options)
    found = session.run(None, {image: x, f"{logits}_ograd": seed})
    wanted = torch_net.gradients({logits: seed})
    for tensor, one in zip(names, found, strict=True):
        other = wanted[tensor]
        norm = np.linalg.norm(other)
        assert norm > 0
        assert np.linalg.norm(one - other) <= TOLERANCE * norm, tensor
        assert abs(np.vdot((one - other) / norm, other / norm)) <= TOLERANCE_OF_LENGTH, tensor
