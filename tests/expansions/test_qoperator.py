"""Nets of quantised operators, straight through: as those with fake quantisation."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxgrad as og
from tests.oracle import runner

CASES = Path(__file__).parents[1] / "cases"
SIZES = {"image": (2, 4, 8, 8), "rows": (2, 6), "sequence": (2, 4, 6)}
WEIGHTS = {
    "w": (4, 4, 3, 3), "u": (2, 4, 1, 1), "b": (4,), "m": (6, 6), "k": (36, 5), "c": (5,),
    "o": (4, 5), "a": (96, 5), "d": (6,), "n": (6, 5), "p": (4, 6, 3, 3),
}  # fmt: skip
# A net's inputs, and the operators that quantize_static makes of it.
NETS = {
    "image": {
        "Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(h) q = MaxPool<kernel_shape = [3, 3], strides "
        "= [3, 3], pads = [1, 1, 1, 1]>(r) f = Flatten(q) y = Gemm(f, k, c)":
        "MaxPool Flatten QGemm",
        "Conv(x, w) r = LeakyRelu<alpha = 0.2>(h) s = Constant<value_ints = [-1, 36]>() f = "
        "Reshape(r, s) e = Slice(f, i0, i36, i1) y = MatMul(e, k)": "QLinearLeakyRelu Reshape",
        "Conv<pads = [1, 1, 1, 1]>(x, w) q = Add(h, x) g = Sigmoid(q) t = Mul(g, q) z = "
        "GlobalAveragePool(t) f = Flatten(z) y = MatMul(f, o)": "QLinearAdd QLinearMul "
        "QLinearSigmoid QLinearGlobalAveragePool Flatten QLinearMatMul",
        "Conv<pads = [1, 1, 1, 1]>(x, w) l = Conv(x, u) e = Concat<axis = 1>(h, l) y = Conv(e, p)":
        "QLinearConcat",
        "Conv<pads = [1, 1, 1, 1]>(x, w) z = AveragePool<kernel_shape = [3, 3], strides = [2, 2], "
        "pads = [1, 1, 1, 1]>(h) y = Conv(z, w)": "QLinearAveragePool",
        "Conv<pads = [1, 1, 1, 1]>(x, w) z = Resize<coordinate_transformation_mode = 'asymmetric'"
        ", nearest_mode = 'floor'>(h, , s2) y = Conv(z, u)": "Resize",
    },
    "rows": {
        "MatMul(x, m) e = Add(h, d) r = Relu(e) y = MatMul(r, n)": "QLinearAdd QLinearMatMul",
        "MatMul(x, m) y = Softmax(h)": "QLinearSoftmax",
    },
    "sequence": {
        "MatMul(x, m) t = Transpose<perm = [0, 2, 1]>(h) e = Unsqueeze(t, i1) s = Squeeze(e, i1) "
        "q, r = Split<axis = 2>(s) g = Gather<axis = 2>(q, i10) v = Add(g, r) z = Transpose<perm "
        "= [0, 2, 1]>(v) f = Pad(z, i010) y = MatMul(f, n)": "Transpose Unsqueeze Squeeze Split "
        "Gather Pad",
    },
}  # fmt: skip
ALL = [(kind, body, ops) for kind, nets in NETS.items() for body, ops in nets.items()]
CONSTANTS = """<int64[1] i0 = {0}, int64[1] i36 = {36}, int64[1] i1 = {1}, int64[2] i10 = {1, 0},
    int64[6] i010 = {0, 1, 0, 0, 1, 0}, float[4] s2 = {1, 1, 2, 2}>"""


class Calibration(CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(5)
        self.feeds = iter([{"x": rng.standard_normal(shape, np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.feeds, None)


def net(kind: str, body: str) -> onnx.ModelProto:
    sizes = ", ".join(["N", *map(str, SIZES[kind][1:])])
    body = body.replace("'", '"')
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[{sizes}] x) => (float[p] y) {CONSTANTS} {{ h = {body} }}""")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng, names = np.random.default_rng(1), {name for n in model.graph.node for name in n.input}
    for name, shape in WEIGHTS.items():
        if name in names:
            weight = rng.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
            model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return model


def quantised(model, kind: str, how: QuantFormat, folder: Path, **options) -> onnx.ModelProto:
    logging.disable(logging.WARNING)
    onnx.save(model, folder / "net.onnx")
    quantize_static(
        folder / "net.onnx", folder / "quantised.onnx", Calibration(SIZES[kind]),
        quant_format=how, weight_type=QuantType.QInt8, **options,
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    return onnx.load(folder / "quantised.onnx")


def backward(model: onnx.ModelProto, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    built = og.gradient(model, "x", ograd="y", forward=False, straight_through=True)
    return runner(built)({"x": x, built.graph.input[-1].name: g})[0]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("kind", "body", "ops"), ALL, ids=lambda v: str(v).split()[0])
def test_like_fake_quantisation(kind, body, ops, per_channel, tmp_path):
    model, x = net(kind, body), Calibration(SIZES[kind]).get_next()["x"]  # nothing is clipped
    options = {"per_channel": per_channel, "activation_type": QuantType.QInt8}
    if not per_channel:
        options["activation_type"] = QuantType.QUInt8
    integers, floats = (
        quantised(model, kind, how, tmp_path, **options)
        for how in (QuantFormat.QOperator, QuantFormat.QDQ)
    )
    assert set(ops.split()) <= {n.op_type for n in integers.graph.node}
    (y,) = runner(model)({"x": x})
    g = np.random.default_rng(3).standard_normal(y.shape, np.float32)
    got, want, real = (backward(m, x, g) for m in (integers, floats, model))
    if "AveragePool" not in ops:  # there fake quantisation leaves out a rounding
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    for other in (want, real):  # the net before it was quantised: Relu's kinks differ, not more
        distance = np.linalg.norm(got - other) / np.linalg.norm(real)
        assert distance < 0.35
    assert distance > 1e-6


def test_a_file_of_another_exporter():
    """Convolution, Flatten of int8, QGemm; and what it says where nothing is asked for works."""
    model = onnx.load(CASES / "qoperator_cnn.onnx")
    sizes = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(sizes, np.float32)
    with pytest.raises(og.UnreachableError, match=r"straight_through=\['QuantizeLinear'\]"):
        og.gradient(model)
    for names in (["QuantizeLinear"], True):
        (got,) = runner(og.gradient(model, forward=False, straight_through=names))({"x": x})
        assert np.abs(got).max() > 0
    values = og.Net(model, straight_through=True)
    np.testing.assert_allclose(values(x, og.NetPortGradient("x")), got, rtol=1e-4, atol=1e-6)


def test_that_file_as_torch():
    """The gradient of the sum of its outputs, with PyTorch's own fake quantisation."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    model = onnx.load(CASES / "qoperator_cnn.onnx")
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    w = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def quantized(t, name):
        scale, zero = w[f"{name}_scale"].item(), w[f"{name}_zero_point"].item()
        return torch.fake_quantize_per_tensor_affine(t, scale, zero, 0, 255)

    def weights(layer, operand):
        scale = w[f"{layer}.weight_scale"]
        bias = w[f"{layer}.bias_quantized"] * scale * w[f"{operand}_scale"]
        return w[f"{layer}.weight_quantized"] * scale, bias

    x = 3 * torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    hidden = torch.nn.functional.conv2d(quantized(x, "x"), *weights(0, "x"))
    hidden = quantized(hidden, "/0/Conv_output_0").flatten(1)
    y = quantized(torch.nn.functional.linear(hidden, *weights(3, "/0/Conv_output_0")), "y")
    y.sum().backward()
    assert 0 < int((x.grad == 0).sum()) < x.numel()  # some elements are clipped
    for target in ("cpu", "portable"):
        backward = og.gradient(model, straight_through=True, target=target)
        values, found = runner(backward)({"x": x.detach().numpy()})
        np.testing.assert_allclose(values, y.detach(), atol=1.001 * w["y_scale"].item())
        np.testing.assert_allclose(found, x.grad, rtol=1e-4, atol=1e-6)


# Operators on $ of the given shape.
MOVES = {
    (2, 4, 3): [
        "Flatten($)", "Reshape($, i_1)", "Transpose($)", "Concat<axis = 1>($, $)", "Identity($)",
        "Slice($, i0, i2, i1)", "Unsqueeze($, i1)", "Gather<axis = 1>($, i02)", "Trilu($)",
        "GatherElements($, at)", "GatherND($, at2)", "Expand($, e)", "Pad($, p)", "Tile($, i123)",
        "Where(c, $, $)", "Compress<axis = 2>($, c)", "CenterCropPad<axes = [1]>($, i2)",
        "MaxPool<kernel_shape = [2], strides = [2]>($)", "MaxPool<kernel_shape = [2]>($)",
        "ReverseSequence<batch_axis = 0, time_axis = 1>($, i13)",
    ],
    (2, 1, 3): ["Squeeze($, i1)"],
    (2, 4, 2, 2): ["DepthToSpace<blocksize = 2>($)", "SpaceToDepth<blocksize = 2>($)"],
}  # fmt: skip
INDICES = """<float s = {0.5}, int64[1] i_1 = {-1}, int64[1] i0 = {0}, int64[1] i1 = {1},
    int64[1] i2 = {2}, int64[2] i02 = {0, 2}, int64[2] i13 = {1, 3}, int64[3] i123 = {1, 2, 3},
    bool[3] c = {1, 0, 1}, int64[6] p = {0, 1, 0, 1, 0, 1}, int64[4] e = {2, 2, 4, 3},
    int64[1, 2] at2 = {1, 2}, int64[2, 1, 3] at = {0, 1, 0, 1, 1, 1}>"""


@pytest.mark.parametrize(("shape", "move"), [(k, m) for k, ms in MOVES.items() for m in ms])
@pytest.mark.parametrize(
    ("round_", "back"),
    [("QuantizeLinear(x, s)", "DequantizeLinear($, s)"), ("Cast<to = 3>(x)", "Cast<to = 1>($)")],
)
def test_integers_that_are_moved(shape, move, round_, back):
    """Moved before they are numbers again, or after: first and second order."""

    def derivatives(*steps):
        names = ["q", *(f"m{k}" for k in range(len(steps)))]
        body = " ".join(
            f"{new} = {step.replace('$', old)}"
            for step, old, new in zip(steps, names, names[1:], strict=False)
        )
        model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
            g (float[{", ".join(map(str, shape))}] x) => (float[p] y) {INDICES}
            {{ q = {round_} {body} y = Mul({names[-1]}, {names[-1]}) }}""")
        model.graph.output[0].type.tensor_type.ClearField("shape")
        options = {"forward": False, "straight_through": True}
        x = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(np.float32)
        feeds = {"x": x, "x_tangent": x[::-1].copy()}
        return (
            runner(og.gradient(model, **options))({"x": x})[0],
            runner(og.hvp(model, **options))(feeds)[0],
        )

    got, want = derivatives(move, back), derivatives(back, move)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
        assert np.abs(a).max() > 0


def test_arithmetic_on_integers_has_to_be_declared():
    """And what the message says is done works."""
    text = """<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>
        g (float[3] x) => (float[3] y) { q = Cast<to = 6>(x) n = com.acme.Turn(q)
        a = Cast<to = 1>(n) y = Mul(a, x) }"""
    model = onnx.parser.parse_model(text.replace("Mul(a, x)", "Mul(a, a)"))
    og.zero("com.acme::Turn", reason="integers")
    try:
        with pytest.raises(og.UnreachableError) as refused:
            og.gradient(model, straight_through=True)
        advice = "onnxgrad.elementwise('com.acme::Turn', lambda: 1, straight_through=True)"
        assert advice in str(refused.value)
        assert "pass straight_through=True" in str(refused.value)
        og.elementwise("com.acme::Turn", lambda: 1, straight_through=True)
        built = og.gradient(model, straight_through=True, forward=False)
        assert "com.acme" in {n.domain for n in built.graph.node}
    finally:
        og.forget("com.acme::Turn")
