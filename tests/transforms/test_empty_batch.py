"""A batch of no images: gradients of the right shape, and of parameters zero."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

PAIR = {"kernel_shape": [3, 3], "strides": [2, 2]}
SCALES = {"scales": np.array([1, 1, 2, 1.5], np.float32)}
CASES = [
    ("Conv", {"w": (4, 3, 3, 3)}, {"pads": [1, 1, 1, 1]}),
    ("Conv", {"w": (4, 3, 3, 3), "b": (4,)}, {"strides": [2, 2]}),
    ("Conv", {"w": (4, 3, 1, 1)}, {"strides": [2, 2]}),
    ("Conv", {"w": (4, 3, 7, 7)}, {"strides": [1, 2], "pads": [2, 2, 2, 2]}),
    ("Conv", {"w": (6, 1, 3, 3)}, {"group": 3}),
    ("ConvTranspose", {"w": (3, 4, 3, 3)}, {"strides": [2, 2]}),
    ("Add", {"b": (9,)}, {}),
    ("Add", {"b": (1, 3, 8, 9)}, {}),
    ("MatMul", {"w": (9, 4)}, {}),
    ("MaxPool", {}, PAIR),
    ("AveragePool", {}, PAIR),
    ("LpPool", {}, PAIR),
    ("GlobalAveragePool", {}, {}),
    ("GlobalMaxPool", {}, {}),
    ("Resize", SCALES, {}),
    ("Resize", SCALES, {"mode": "linear"}),
]


@pytest.mark.parametrize(("op", "operands", "attributes"), CASES)
def test_no_images(op, operands, attributes):
    rng = np.random.default_rng(0)
    names = ["", *operands] if op == "Resize" else list(operands)
    weights = {
        n: rng.standard_normal(s).astype(np.float32) if isinstance(s, tuple) else s
        for n, s in operands.items()
    }
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "net",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 9])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    parameters = [n for n in operands if n != "scales"]
    run = runner(og.gradient(onnx.shape_inference.infer_shapes(model), ["x", *parameters]))
    run({"x": rng.standard_normal((2, 3, 8, 9)).astype(np.float32)})
    _, x_grad, *others = run({"x": np.zeros((0, 3, 8, 9), np.float32)})
    assert x_grad.shape == (0, 3, 8, 9)
    for n, g in zip(parameters, others, strict=True):
        np.testing.assert_array_equal(g, np.zeros_like(weights[n]))
