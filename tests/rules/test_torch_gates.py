"""A block of small vision nets: its passes over tensors, and PyTorch's numbers.

A convolution with its BatchNormalization and HardSwish is multiplied with a gate that follows from
its means, as in squeeze and excitation, and its image, made larger, is added to another.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
F = torch.nn.functional

TEXT = """<ir_version: 10, opset_import: ["": 21]>
net (float[{n}, 16, {h}, {w}] x, float[{n}, 16, K, L] z) => (y)
    <float[4] scales = {{1, 1, 2, 2}}> {{
    c = Conv(x, W)  b = BatchNormalization(c, scale, shift, mean, variance)  a = HardSwish(b)
    m = GlobalAveragePool(a)  v = Conv(m, V)  s = HardSigmoid(v)  g = Mul(a, s)
    r = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
               nearest_mode = "floor">(g, , scales)
    y = Add(r, z) }}"""
SHAPES = {"W": (16, 16, 1, 1), "V": (16, 16, 1, 1)} | dict.fromkeys(("scale", "shift", "mean"), 16)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
    return found | {"variance": rng.uniform(0.5, 2, 16).astype(np.float32)}


def net(n: object, h: object, w: object) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.format(n=n, h=h, w=w))
    tensors = [onnx.numpy_helper.from_array(a, k) for k, a in weights().items()]
    model.graph.initializer.extend(tensors)
    return model


def in_torch(x, z):
    W, V, scale, shift, mean, variance = (
        torch.tensor(weights()[k]) for k in ("W", "V", "scale", "shift", "mean", "variance")
    )
    a = F.hardswish(F.batch_norm(F.conv2d(x, W), mean, variance, scale, shift))
    s = torch.clamp(0.2 * F.conv2d(a.mean((2, 3), keepdim=True), V) + 0.5, 0, 1)
    return F.interpolate(a * s, scale_factor=2, mode="nearest") + z


@pytest.mark.parametrize("sizes", [(1, 3, 4), (2, 3, 4), ("N", "H", "W"), ("?", "?", "?")])
def test_gate_of_means(sizes):
    model, rng = net(*sizes), np.random.default_rng(1)
    built = og.gradient(model, ["x", "z"], ograd=True, forward=False)
    counted = Counter(node.op_type for node in built.graph.node)
    assert "Expand" not in counted  # what is the same for a channel is added as it is
    assert counted["BatchNormalization"] == (3 if sizes[0] == 1 else 2)  # its own, and lines
    n, h, w = sizes if sizes[0] == 2 else (1, 3, 4)
    for k, m in ((2 * h, 2 * w), (1, 2 * w)) if sizes == ("N", "H", "W") else [(2 * h, 2 * w)]:
        shapes = {"x": (n, 16, h, w), "z": (n, 16, k, m), "y_ograd": (n, 16, 2 * h, 2 * w)}
        feeds = {k: rng.standard_normal(s, dtype=np.float32) for k, s in shapes.items()}
        leaves = [torch.tensor(feeds[k], requires_grad=True) for k in "xz"]
        seed = torch.tensor(feeds["y_ograd"])
        want = torch.autograd.grad(in_torch(*leaves), leaves, seed, create_graph=True)
        for got, its in zip(runner(built)(feeds), want, strict=True):
            np.testing.assert_allclose(got, its.detach().numpy(), rtol=1e-4, atol=1e-5)
        twice = og.gradient(built, "x", of="x_grad", ograd=True, forward=False)
        (second,) = torch.autograd.grad(want[0], leaves[:1], leaves[0].detach() ** 2)
        feeds["x_grad_ograd"] = feeds["x"] ** 2
        asked = {i.name: feeds[i.name] for i in twice.graph.input}
        np.testing.assert_allclose(runner(twice)(asked)[0], second.numpy(), rtol=1e-3, atol=1e-4)
