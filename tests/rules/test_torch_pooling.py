"""Pooling against PyTorch: ties, padding, overhanging windows, vectors of zeros."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.rules.test_rules import sample_model
from tests.samples import Sample, distinct, normal, sample_id
from tests.torch_gradients import assert_like_torch, torch

F = torch.nn.functional
TIES = np.array([[1.0, 1, 0, 2, 2], [1, 1, 2, 2, 0], [0, 3, 3, 3, 3], [3, 3, 3, 0, 0]])[None, None]


def window(kernel, stride, padding, ceil):
    return {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [padding] * 4,
        "ceil_mode": int(ceil),
    }


SHAPES = [(2, 2, 0, False), (3, 2, 1, False), (3, 2, 0, True), (2, 1, 0, False), (3, 2, 1, True)]
CASES = [
    *(
        (
            Sample("MaxPool", [x], window(*w)),
            lambda x, w=w: F.max_pool2d(x, w[0], w[1], w[2], ceil_mode=w[3]),
        )
        for x in (TIES, normal(2, 3, 6, 7))
        for w in SHAPES
    ),
    *(
        (
            Sample("AveragePool", [normal(2, 3, 6, 7)], window(*w) | {"count_include_pad": count}),
            lambda x, w=w, count=count: F.avg_pool2d(
                x, w[0], w[1], w[2], ceil_mode=w[3], count_include_pad=bool(count)
            ),
        )
        for w in SHAPES
        for count in (0, 1)
    ),
    *(
        (Sample("LpPool", [distinct(1, 2, 6, 6)], window(*SHAPES[k]) | {"p": p}),
         lambda x, p=p, k=k: F.lp_pool2d(x.abs(), p, SHAPES[k][0], SHAPES[k][1]))
        for k in (0, 3)
        for p in (1, 2, 3)
    ),
    (Sample("GlobalAveragePool", [normal(2, 3, 4, 5)]), lambda x: x.mean((2, 3), keepdim=True)),
    (Sample("GlobalMaxPool", [TIES]), lambda x: x.amax((2, 3), keepdim=True)),
    (Sample("GlobalMaxPool", [distinct(2, 3, 5)]), lambda x: x.amax(2, keepdim=True)),
]  # fmt: skip


@pytest.mark.parametrize(("sample", "function"), CASES, ids=sample_id)
def test_pooling(sample, function):
    assert_like_torch(sample, function)


def searched(model, **options):
    """The gradient with respect to x, and whether it needs no Indices."""
    built = og.gradient(model, ograd=True, forward=False, **options)
    return built, not any(n.op_type == "MaxPool" and len(n.output) > 1 for n in built.graph.node)


@pytest.mark.parametrize("target", ["cpu", "portable"])
@pytest.mark.parametrize("dims", ["static", "batch", "symbolic"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "pads", "ceil"),
    [
        ((2, 3, 8), [2], [2], [0], 0),
        ((2, 3, 11), [4], [4], [0], 0),
        ((2, 3, 12), [3], [2], [1], 1),
        ((2, 3, 6, 8), [2, 2], [2, 2], [0, 0], 0),
        ((2, 3, 7, 9), [2, 2], [2, 2], [0, 0], 0),
        ((1, 16, 6, 8), [2, 2], [2, 2], [0, 0], 0),  # which onnxruntime pools in blocks of channels
        ((2, 3, 4, 8), [1, 3], [1, 3], [0, 0], 0),
        ((2, 3, 9, 4), [4, 1], [4, 1], [0, 0], 0),
        ((1, 16, 9, 8), [3, 3], [2, 2], [1, 1], 0),
        ((2, 3, 5, 6), [5, 3], [1, 2], [2, 0], 1),
        ((2, 3, 8, 7), [2, 1], [3, 2], [1, 0], 0),
        ((1, 2, 4, 5, 6), [3, 2, 3], [2, 1, 3], [1, 0, 1], 0),
    ],
)
def test_windows(shape, kernel, strides, pads, ceil, dtype, dims, target):
    """Of ties, zeros of both signs and infinities too, the first, however it is found."""
    rng = np.random.default_rng(0)
    x = rng.choice([-np.inf, -1, -0.0, 0, 2, np.inf], shape, p=[0.5, *[0.1] * 5]).astype(dtype)
    named = {"static": 0, "batch": 1, "symbolic": len(shape)}[dims]
    sizes = [f"d{a}" if a < named else n for a, n in enumerate(shape)]
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (float{dtype[5:].replace("32", "")}[{", ".join(map(str, sizes))}] x) => (y) {{
            y = MaxPool<kernel_shape = {kernel}, strides = {strides}, pads = {pads * 2},
                        ceil_mode = {ceil}>(x)
        }}""")
    leaf = torch.tensor(x.astype(np.float32), requires_grad=True)
    y = getattr(F, f"max_pool{len(kernel)}d")(leaf, kernel, strides, pads, 1, bool(ceil))
    g = (np.arange(y.numel()) + 1).reshape(y.shape).astype(dtype)
    (want,) = torch.autograd.grad(y, leaf, torch.tensor(g.astype(np.float32)))
    built, is_searched = searched(model, target=target)
    assert is_searched
    (got,) = runner(built)({"x": x, "y_ograd": g})
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, want.numpy())


def test_windows_with_nan():
    """What a runtime takes for the maximum then differs; one element of each window has all."""
    x = np.random.default_rng(0).choice([np.nan, 0, 1], (2, 16, 8, 8)).astype(np.float32)
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2, 16, 8, 8] x) => (y) {
            y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        }""")
    built, is_searched = searched(model)
    g = 1 + np.arange(512, dtype=np.float32).reshape(2, 16, 4, 4)
    (got,) = runner(built)({"x": x, "y_ograd": g})
    blocks = got.reshape(2, 16, 4, 2, 4, 2)
    np.testing.assert_array_equal(blocks.max((3, 5)), g)
    np.testing.assert_array_equal(blocks.sum((3, 5)), g)
    assert is_searched


K = torch.tensor([[[-1.0]], [[0]], [[1]]])
WIDE = torch.tensor(np.linspace(-1, 1, 9, dtype=np.float32))
IN_FRONT = [
    ("r = Relu(x)", torch.relu),
    ("r = LeakyRelu<alpha = 0.1>(x)", lambda x: F.leaky_relu(x, 0.1)),
    ("r = Clip(x, zero, six)", F.relu6),
    ("r = Clip(x, zero, two)", lambda x: x.clamp(0, 2)),
    ("s = Sigmoid(x) r = Mul(x, s)", F.silu),
    ("t = Tanh(x) b = Mul(t, k) r = Add(b, k)", lambda x: torch.tanh(x) * K + K),
    ("a = Relu(x) r = Mul(a, wide)", lambda x: torch.relu(x) * WIDE),
]


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "sizes", "target"),
    [
        (2, 2, 0, "2, 3, 7, 9", "cpu"),
        (2, 2, 0, "N, 3, H, 9", "cpu"),
        (2, 2, 0, "N, 3, H, 9", "portable"),
        (3, 2, 1, "N, 3, 7, 9", "cpu"),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_what_stands_in_front(kernel, stride, pad, sizes, target, others):
    """Its derivative, at the chosen elements and where others read its result; its second too."""
    rng = np.random.default_rng(0)
    x = rng.choice([-2, -0.0, 0, 1, 2, 3, 6, 7], (2, 3, 7, 9)).astype(np.float32)
    x[0, 0], v = 0, rng.standard_normal(x.shape).astype(np.float32)
    for nodes, function in IN_FRONT[: 2 if others else None]:
        model = onnx.parser.parse_model(f"""
            <ir_version: 10, opset_import: ["": 21]>
            net (float[{sizes}] x) => (y)
            <float zero = {{0}}, float two = {{2}}, float six = {{6}}, float other = {{{others}}},
             float[3, 1, 1] k = {{-1, 0, 1}}, float[9] wide = {{{str(WIDE.tolist())[1:-1]}}}> {{
                {nodes}
                p = MaxPool<kernel_shape = {[kernel] * 2}, strides = {[stride] * 2},
                            pads = {[pad] * 4}>(r)
                q = ReduceSumSquare<keepdims = 0>(p)
                {"z = ReduceSumSquare<keepdims = 0>(r)" if others else "z = Identity(zero)"}
                y = Add(q, z)
            }}""")

        def f(x, function=function):
            p = F.max_pool2d(r := function(x), kernel, stride, pad)
            return (p * p).sum() + others * (r * r).sum()

        (want,) = torch.autograd.grad(f(leaf := torch.tensor(x).requires_grad_()), leaf)
        (got,) = runner(og.gradient(model, forward=False, target=target))({"x": x})
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5, err_msg=nodes)
        _, want = torch.autograd.functional.hvp(f, torch.tensor(x), torch.tensor(v))
        built = og.hvp(model, forward=False, target=target)
        (got,) = runner(built)({"x": x, "x_tangent": v})
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5, err_msg=nodes)


@pytest.mark.parametrize(
    ("nodes", "forward"),
    [("r = Relu(c)", ["Relu"]), ("s = Sigmoid(c) r = Mul(c, s)", ["Sigmoid", "Mul"])],
)
def test_masks_are_as_small_as_what_is_pooled(nodes, forward):
    built = og.gradient(
        onnx.parser.parse_model(f"""
            <ir_version: 10, opset_import: ["": 21]>
            net (float[N, 2, 8, 8] x, float[4, 2, 3, 3] w) => (y) {{
                c = Conv<pads = [1, 1, 1, 1]>(x, w)
                {nodes}
                y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
            }}"""),
        "x",
    )
    inferred = onnx.shape_inference.infer_shapes(built, data_prop=True).graph.value_info
    dims = {v.name: v.type.tensor_type.shape.dim for v in inferred}
    large = {name for name, sizes in dims.items() if sizes and sizes[-1].dim_value == 8}
    found = [n.op_type for n in built.graph.node if {*n.output} & large]
    assert found == ["Conv", *forward, "MaxUnpool"]


def test_dilated_windows_have_indices():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[1, 1, 5, 5] x) => (y) {
            y = MaxPool<kernel_shape = [2, 2], strides = [2, 2], dilations = [2, 2]>(x)
        }""")
    assert not searched(model)[1]


def test_unpooling():
    x = torch.tensor(distinct(1, 2, 4, 6))
    y, indices = F.max_pool2d(x, 2, return_indices=True)
    planes = np.arange(2).reshape(1, 2, 1, 1) * 24  # ONNX counts over all planes
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    sample = Sample("MaxUnpool", [y.numpy(), indices.numpy() + planes], attributes)
    assert_like_torch(sample, lambda y, i: F.max_unpool2d(y, i - torch.tensor(planes), 2))


@pytest.mark.parametrize("op", ["LpPool", "GlobalLpPool"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_zeros_have_a_gradient_of_zero(op, p):
    attributes = {"p": p} | ({"kernel_shape": [2]} if op == "LpPool" else {})
    x = np.array([[[0.0, 0, 0, 2, 0, 0]], [[0.0] * 6]])
    model, feeds = sample_model(Sample(op, [x], attributes), False, False)
    (gradient,) = runner(og.gradient(model, forward=False))(feeds)
    assert np.isfinite(gradient).all()
    assert not gradient[1].any()
