"""Convolution and its transpose against PyTorch, first and second order."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.samples import Sample, ints, normal, sample_id
from tests.torch_gradients import assert_like_torch, torch

F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv(image, filters, stride=None, padding=None, dilation=None, groups=1):
    n = len(image) - 2
    stride, padding, dilation = stride or [1] * n, padding or [0] * n, dilation or [1] * n
    sample = Sample(
        "Conv",
        [normal(*image), normal(*filters), normal(filters[0])],
        {"strides": stride, "pads": padding * 2, "dilations": dilation, "group": groups},
    )
    return sample, lambda x, w, b: CONV[n](x, w, b, stride, padding, dilation, groups)


def transpose(image, filters, stride=None, padding=None, extra=None, groups=1, dilation=None):
    n = len(image) - 2
    stride, padding, dilation = stride or [1] * n, padding or [0] * n, dilation or [1] * n
    extra = extra or [0] * n
    sample = Sample(
        "ConvTranspose",
        [normal(*image), normal(*filters), normal(filters[1] * groups)],
        {
            "strides": stride,
            "pads": padding * 2,
            "dilations": dilation,
            "group": groups,
            "output_padding": extra,
        },
    )
    return sample, lambda x, w, b: TRANSPOSE[n](x, w, b, stride, padding, extra, groups, dilation)


CASES = [
    conv((2, 3, 9), (4, 3, 3), [2], [1]),
    conv((2, 4, 7, 8), (6, 2, 3, 2), [2, 3], [2, 1], [1, 2], groups=2),
    conv((2, 3, 6, 6), (6, 1, 3, 3), padding=[1, 1], groups=3),
    conv((1, 2, 4, 5, 4), (3, 2, 2, 3, 1), [1, 2, 3], [1, 0, 0]),
    transpose((2, 3, 4), (3, 2, 3), [2], [1], [1]),
    transpose((2, 4, 3, 4), (4, 3, 3, 2), [2, 3], [1, 0], [0, 2], groups=2),
    transpose((2, 3, 3, 3), (3, 1, 3, 3), [2, 2], [1, 1], [1, 1], groups=3, dilation=[2, 2]),
    transpose((1, 2, 2, 3, 2), (2, 2, 2, 1, 2), [2, 1, 2]),
]


@pytest.mark.parametrize(("sample", "function"), CASES, ids=sample_id)
def test_convolution(sample, function):
    assert_like_torch(sample, function, rtol=1e-10, atol=1e-11)
    no_bias = dataclasses.replace(sample, wrt=[0, 1])
    assert_like_torch(no_bias, function, second=True, rtol=1e-10, atol=1e-11)


def test_blocks():
    sample = Sample("Col2Im", [normal(2, 12, 15), ints(6, 7), ints(2, 3)], {"strides": [2, 1]})
    assert_like_torch(sample, lambda x, *_: F.fold(x, (6, 7), (2, 3), stride=(2, 1)))


@pytest.mark.parametrize("dims", ["2, 16, 7, 9", "N, 16, H, W"])
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [((3, 3), (2, 2), (1, 1)), ((5, 4), (2, 1), (0, 2)), ((2, 3), (1, 4), (1, 0))],
)
def test_steps_of_a_depthwise_convolution(dims, kernel, strides, pads):
    """On the CPU filters of one element put zeros into the cotangent, and a Conv follows."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, np.float32) for s in ((2, 16, 7, 9), (16, 1, *kernel)))
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[{dims}] x, float[{", ".join(map(str, w.shape))}] w) => (y) {{
            y = Conv<group = 16, strides = {list(strides)}, pads = {[*pads, *pads]}>(x, w)
        }}""")
    leaf = torch.tensor(x, requires_grad=True)
    y = F.conv2d(leaf, torch.tensor(w), None, strides, pads, 1, 16)
    g = rng.standard_normal(y.shape, np.float32)
    (want,) = torch.autograd.grad(y, leaf, torch.tensor(g))
    built = og.gradient(model, "x", ograd=True, forward=False)
    assert [n.op_type for n in built.graph.node if "Conv" in n.op_type] == ["ConvTranspose", "Conv"]
    (got,) = runner(built)({"x": x, "w": w, "y_ograd": g})
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(2, 41), ("N", "L")])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "pads"),
    [((1, 1), 16, 3, (4, 5)), ((3, 2), 8, 8, (0, 0)), ((1, 2), 3, 5, (1, 0))],
)
@pytest.mark.parametrize("images", [False, True])
def test_steps_along_a_signal_of_few_channels(sizes, channels, kernel, stride, pads, images):
    """The places between two steps are channels; the signal ends behind or within a window."""
    rng, (n, length), (m, c) = np.random.default_rng(0), sizes, channels
    one = [1] * images
    w = rng.standard_normal((m, c, *one, kernel)).astype(np.float32)
    dims = ", ".join(map(str, (n, c, *one, length)))
    attributes = (
        f"strides = {[*one, stride]}, pads = {[0] * images + [pads[0]] + [0] * images + [pads[1]]}"
    )
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[{dims}] x) => (y) {{ s = Mul(x, x)  y = Conv<{attributes}>(s, w) }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    built = og.gradient(model, "x", ograd=True, forward=False)
    assert "ConvTranspose" not in [n.op_type for n in built.graph.node]
    twice = og.gradient(built, "x", of="x_grad", ograd=True, forward=False)
    for size in (41, 42, 45):
        x = rng.standard_normal((2, c, *one, size if length == "L" else 41), np.float32)
        leaf = torch.tensor(x, requires_grad=True)
        flat = F.pad((leaf * leaf).flatten(2), pads)
        y = F.conv1d(flat, torch.tensor(w).flatten(2), stride=stride)
        g = rng.standard_normal(y.shape, np.float32)
        (want,) = torch.autograd.grad(y, leaf, torch.tensor(g), create_graph=True)
        feeds = {"x": x, "y_ograd": g.reshape(*g.shape[:2], *one, -1)}
        np.testing.assert_allclose(runner(built)(feeds)[0], want.detach(), rtol=1e-4, atol=1e-4)
        (second,) = torch.autograd.grad(want, leaf, torch.tensor(x))
        feeds["x_grad_ograd"] = x
        got = runner(twice)({i.name: feeds[i.name] for i in twice.graph.input})[0]
        np.testing.assert_allclose(got, second, rtol=1e-4, atol=1e-3)
