"""Straight-through gradients: what they pass and what they block, and that they are asked for."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from tests.oracle import close, directional, inner, runner
from tests.rules.test_rules import validate
from tests.torch_gradients import torch

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
RNG = np.random.default_rng(0)
X, G = (RNG.standard_normal((3, 4)).astype(np.float32) for _ in "xg")
SCALE = np.array(0.02, np.float32)  # of int8 with zero point 3: from -2.62 to 2.48


def parse(
    body: str, inputs: str = "float[3, 4] x, float s", constants: str = ""
) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"{HEAD} g ({inputs}) => (float[3, 4] y) {constants} {{ {body} }}"
    )


def gradients(model: onnx.ModelProto, wrt: list[str], feeds: dict, through: object) -> list:
    backward = og.gradient(model, wrt, ograd=True, forward=False, straight_through=through)
    validate(backward)
    return runner(backward)(feeds | {"y_ograd": G})


FAKE = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int4", "uint4"])
def test_per_tensor_like_torch(kind: str) -> None:
    """PyTorch's learnable fake quantisation, which has a gradient of the scale too."""
    bits, signed = int(kind.strip("uint")), kind[0] == "i"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = np.array(4 / 2**bits, np.float32)
    model = parse(FAKE, constants=f"<{kind} z = {{3}}>")
    x, s, z = (torch.tensor(a, requires_grad=True) for a in (X * 2, scale[None], [3.0]))
    y = torch._fake_quantize_learnable_per_tensor_affine(x, s, z, low, high, 1.0)
    y.backward(torch.tensor(G))
    got = gradients(model, ["x", "s"], {"x": X * 2, "s": scale}, "QuantizeLinear")
    np.testing.assert_allclose(got[0], x.grad.numpy(), rtol=1e-5)
    rounding = 12 * 2**bits * 1e-7  # of numbers as large as the steps, which cancel
    np.testing.assert_allclose(got[1], s.grad.numpy()[0], rtol=1e-5, atol=rounding)
    assert 0 < (got[0] == 0).sum() < 12

    x = torch.tensor(X * 2, requires_grad=True)
    torch.fake_quantize_per_tensor_affine(x, float(scale), 3, low, high).backward(torch.tensor(G))
    np.testing.assert_allclose(got[0], x.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel_like_torch(axis: int) -> None:
    n = X.shape[axis]
    scales, zeros = np.linspace(0.005, 0.03, n).astype(np.float32), np.arange(n)
    listed = ", ".join(map(str, zeros))
    body = FAKE.replace("Linear(", f"Linear<axis = {axis}>(")
    model = parse(body, f"float[3, 4] x, float[{n}] s", f"<int8[{n}] z = {{{listed}}}>")
    got = gradients(model, ["x", "s"], {"x": X, "s": scales}, True)
    x, s, z = (torch.tensor(a, requires_grad=True) for a in (X, scales, zeros.astype(np.float32)))
    y = torch._fake_quantize_learnable_per_channel_affine(x, s, z, axis % 2, -128, 127, 1.0)
    y.backward(torch.tensor(G))
    np.testing.assert_allclose(got[0], x.grad.numpy(), rtol=1e-5)
    np.testing.assert_allclose(got[1], s.grad.numpy(), rtol=1e-4, atol=1e-4)
    assert 0 < (got[0] == 0).sum() < 12


def test_blocks_are_slices_with_a_scale_each() -> None:
    body = FAKE.replace("Linear(", "Linear<axis = 1, block_size = 2>(").replace(", z)", ")")
    scales = np.array([[0.005, 0.02], [0.03, 0.01], [0.004, 0.03]], np.float32)
    got = gradients(
        parse(body, "float[3, 4] x, float[3, 2] s"), ["x", "s"], {"x": X, "s": scales}, True
    )
    one = parse(FAKE.replace(", z)", ")"), "float[3, 4] x, float[1] s")
    backward = og.gradient(one, ["x", "s"], ograd=True, forward=False, straight_through=True)
    run = runner(backward)
    for row in range(3):
        for block in range(2):
            at = np.zeros((3, 4), bool)
            at[row, 2 * block : 2 * block + 2] = True
            x, s = run({"x": X, "s": scales[row, block, None], "y_ograd": G * at})
            np.testing.assert_allclose(got[0][at], x[at], rtol=1e-5)
            np.testing.assert_allclose(got[1][row, block], s, rtol=1e-4)


def test_dynamic_quantization() -> None:
    """As PyTorch differentiates its definition, with a rounding that passes gradients."""
    body = "q, a, z = DynamicQuantizeLinear(x) d = DequantizeLinear(q, a, z) y = Mul(d, d)"
    (got,) = gradients(parse(body, "float[3, 4] x"), ["x"], {"x": X}, ["DynamicQuantizeLinear"])
    x = torch.tensor(X, requires_grad=True)
    d = _dynamic(x)
    (d * d).backward(torch.tensor(G))
    np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-3, atol=1e-5)


def _dynamic(x):
    """Dynamic quantisation with a rounding that passes gradients."""
    s = (x.clamp(min=0).max() - x.clamp(max=0).min()) / 255
    steps = x / s
    return (steps + (steps.round() - steps).detach()) * s


B, ZERO = RNG.integers(-128, 128, (4, 4)), RNG.integers(-20, 20, 4)
W = RNG.integers(-128, 128, (2, 1, 2, 2))


def test_dynamic_matrix_product() -> None:
    """What quantize_dynamic makes of a MatMul; a column of weights has a zero point."""
    body = """q, a, z = DynamicQuantizeLinear(x) p = MatMulInteger(q, b, z, bz) f = Cast<to = 1>(p)
      m = Mul(a, s) y = Mul(f, m)"""
    weights = f"int8[4, 4] b = {{{', '.join(map(str, B.ravel()))}}}"
    zeros = f"int8[4] bz = {{{', '.join(map(str, ZERO))}}}"
    model = parse(body, constants=f"<{weights}, {zeros}>")
    got = gradients(model, ["x"], {"x": X, "s": SCALE}, "DynamicQuantizeLinear")
    x = torch.tensor(X, requires_grad=True)
    (_dynamic(x) @ torch.tensor((B - ZERO) * SCALE, dtype=torch.float32)).backward(torch.tensor(G))
    np.testing.assert_allclose(got[0], x.grad.numpy(), rtol=1e-3, atol=1e-3)


def test_dynamic_convolution() -> None:
    body = """i = Constant<value_ints = [0, 1]>() u = Unsqueeze(x, i)
      q, a, z = DynamicQuantizeLinear(u) p = ConvInteger<pads = [1, 0, 0, 1]>(q, w, z)
      f = Cast<to = 1>(p) m = Mul(a, s) c = Mul(f, m)
      one = Constant<value_ints = [1]>() k = ReduceSum(c, one) y = Squeeze(k, i)"""
    model = parse(body, constants=f"<int8[2, 1, 2, 2] w = {{{', '.join(map(str, W.ravel()))}}}>")
    got = gradients(model, ["x"], {"x": X, "s": SCALE}, True)
    x = torch.tensor(X, requires_grad=True)
    padded = torch.nn.functional.pad(_dynamic(x)[None, None], (0, 1, 1, 0))
    y = torch.nn.functional.conv2d(padded, torch.tensor(W * SCALE, dtype=torch.float32))
    y.sum(1)[0].backward(torch.tensor(G))
    np.testing.assert_allclose(got[0], x.grad.numpy(), rtol=1e-3, atol=1e-3)


def learnable(x, scale, zero: int, low: int, high: int):
    """PyTorch's learnable fake quantisation; the scale is a vector of one number there."""
    zero = torch.tensor([float(zero)])
    return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, low, high, 1.0)


@pytest.mark.parametrize("per", ["tensor", "row and column"])
def test_quantized_matrix_product(per: str) -> None:
    """Integers in, integers out, as of old quantisation by operators."""
    bs = np.linspace(0.01, 0.02, 4).astype(np.float32) if per != "tensor" else SCALE
    bz = ZERO if per != "tensor" else np.array(5)
    kind = "[4]" if per != "tensor" else ""
    weights = f"int8[4, 4] b = {{{', '.join(map(str, B.ravel()))}}}"
    zeros = (
        f"int8{kind} bz = {{{', '.join(map(str, bz.ravel()))}}}, int8 z = {{3}}, uint8 u = {{9}}"
    )
    model = parse(
        "q = QuantizeLinear(x, s, z) p = QLinearMatMul(q, s, z, b, bs, bz, t, u) "
        "y = DequantizeLinear(p, t, u)",
        f"float[3, 4] x, float s, float{kind} bs, float t",
        f"<{weights}, {zeros}>",
    )
    feeds = {"x": X, "s": SCALE, "bs": bs, "t": np.array(0.03, np.float32)}
    got = gradients(model, list(feeds), feeds, ["QuantizeLinear", "QLinearMatMul"])
    x, s, bs, t = (torch.tensor(np.atleast_1d(a), requires_grad=True) for a in feeds.values())
    b = torch.tensor((B - bz).astype(np.float32)) * bs
    y = learnable(learnable(x, s, 3, -128, 127) @ b, t, 9, 0, 255)
    y.backward(torch.tensor(G))
    assert 0 < (y == y.min()).sum() < 12  # some are clipped
    for one, other in zip(got, (x, s, bs, t), strict=True):
        want = other.grad.numpy().reshape(one.shape)
        np.testing.assert_allclose(one, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("per", ["tensor", "filter"])
@pytest.mark.parametrize("bias", [False, True])
def test_quantized_convolution(per: str, bias: bool) -> None:
    ws = np.array([0.01, 0.02] if per == "filter" else 0.01, np.float32)
    wz = np.array([0, 0] if per == "filter" else 0)
    kind = "[2]" if per == "filter" else ""
    filters = f"int8[2, 1, 2, 2] w = {{{', '.join(map(str, W.ravel()))}}}"
    zeros = f"int8{kind} wz = {{{', '.join(map(str, wz.ravel()))}}}, int8 z = {{3}}, int8 u = {{0}}"
    model = parse(
        """i = Constant<value_ints = [0, 1]>() v = Unsqueeze(x, i) q = QuantizeLinear(v, s, z)
        B = Cast<to = 6>(b)
        p = QLinearConv<pads = [1, 0, 0, 1]>(q, s, z, w, ws, wz, t, u"""
        + (", B" if bias else "")
        + """) d = DequantizeLinear(p, t, u)
        one = Constant<value_ints = [1]>() k = ReduceSum(d, one) y = Squeeze(k, i)""",
        f"float[3, 4] x, float s, float{kind} ws, float t, float[2] b",
        f"<{filters}, {zeros}>",
    )
    feeds = {"x": X, "s": SCALE, "ws": ws, "t": np.array(0.02, np.float32)}
    feeds["b"] = np.array([900, -1100], np.float32)
    wrt = [name for name in feeds if bias or name != "b"]
    got = gradients(model, wrt, feeds, True)
    x, s, ws, t, b = (torch.tensor(np.atleast_1d(a), requires_grad=True) for a in feeds.values())
    w = torch.tensor(W, dtype=torch.float32) * ws.reshape(-1, 1, 1, 1)
    shift = b * s * ws if bias else None
    data = torch.nn.functional.pad(learnable(x, s, 3, -128, 127)[None, None], (0, 1, 1, 0), value=0)
    c = learnable(torch.nn.functional.conv2d(data, w, shift), t, 0, -128, 127)
    c.sum(1)[0].backward(torch.tensor(G))
    assert 0 < (c == c.max()).sum() < 12  # some are clipped
    for one, other in zip(got, (x, s, ws, t, b), strict=False):
        want = other.grad.numpy().reshape(one.shape)
        np.testing.assert_allclose(one, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("operator", ["Round", "Floor", "Ceil", "Sign"])
def test_rounding(operator: str) -> None:
    model = parse(f"r = {operator}(x) y = Mul(r, s)")
    (got,) = gradients(model, ["x"], {"x": X, "s": SCALE}, [operator])
    np.testing.assert_allclose(got, G * SCALE)


def test_there_and_back_by_casts() -> None:
    model = parse("r = Mul(x, s) q = Cast<to = 3>(r) f = Cast<to = 1>(q) y = Exp(f)")
    (got,) = gradients(model, ["x"], {"x": X, "s": np.array(2, np.float32)}, "Cast")
    np.testing.assert_allclose(got, 2 * G * np.exp(np.trunc(2 * X)), rtol=1e-5)


def test_in_a_loop() -> None:
    body = """y = Loop <body = b (int64 i, bool c, float[3, 4] v) => (bool d, float[3, 4] o) {
      d = Identity(c) q = QuantizeLinear(v, s, z) f = DequantizeLinear(q, s, z) o = Add(f, x)
    }> (n, t, x)"""
    constants = "<int8 z = {3}, int64 n = {2}, bool t = {1}>"
    model = parse(body, constants=constants)
    (got,) = gradients(model, ["x"], {"x": X, "s": SCALE}, True)
    inside = np.abs(X + 0.07) < 2.55
    after = np.abs(X + np.clip(X, -2.62, 2.48) + 0.07) < 2.55
    np.testing.assert_allclose(got, G * (1 + after * (1.0 + inside)), rtol=1e-5)


def test_second_order() -> None:
    """The first order, which has no rounding of cotangents, is differentiated like any model."""
    first = og.gradient(
        parse(FAKE + " ", constants="<int8 z = {3}>"), ["x", "s"], ograd=True, forward=False,
        straight_through=True,
    )  # fmt: skip
    second = og.gradient(first, ["y_ograd", "s"], of="s_grad", forward=False)
    feeds = {"x": X, "s": SCALE, "y_ograd": G}
    grads, slope = runner(second)(feeds), RNG.standard_normal((3, 4)).astype(np.float32)
    run = runner(first)
    moved = directional(run, feeds, ["y_ograd"], [slope], 1e-1)[1]
    assert close(inner([grads[0]], [slope]), float(moved), 1e-3)


def test_it_has_to_be_asked_for_and_does_not_stay() -> None:
    model = ir.from_proto(parse("r = Round(x) y = Mul(r, s)"))
    with pytest.raises(og.UnreachableError, match="straight_through=\\['Round'\\]"):
        og.gradient(model, "x")
    with pytest.raises(og.UnreachableError):
        og.gradient(model, "x", straight_through=["Floor"])
    passed = og.gradient(model, "x", straight_through="Round", forward=False)
    again = og.gradient(model, "x", straight_through="Round")
    with pytest.raises(og.UnreachableError):
        og.gradient(again, "x", of="y")
    assert len(passed.graph.outputs) == 1


def test_beside_integers_that_are_no_numbers() -> None:
    """What picks elements has no gradient, rounded or not."""
    body = "m = ReduceMax<keepdims = 0>(s) k = Cast<to = 7>(m) w = Gather(x, k) y = Add(w, x)"
    with pytest.raises(og.UnreachableError, match="Gather"):
        og.gradient(parse(body), "s", straight_through=True)


def test_integers_that_a_branch_captures_end_the_path() -> None:
    body = """q = QuantizeLinear(x, s, z) y = If <then_branch = a () => (float[3, 4] t) {
      t = DequantizeLinear(q, s, z) }, else_branch = b () => (float[3, 4] e) {
      e = DequantizeLinear(q, s) }> (c)"""
    model = parse(body, "float[3, 4] x, float s, bool c", "<int8 z = {3}>")
    with pytest.raises(og.UnreachableError, match="takes rounded numbers for integers"):
        og.gradient(model, "x", straight_through=True)


def test_a_name_without_such_a_gradient() -> None:
    with pytest.raises(og.ArgumentError, match=r"no straight-through rule for 'Rond'.*'Round'"):
        og.gradient(parse("y = Mul(x, s)"), straight_through="Rond")
    with pytest.raises(og.ArgumentError, match="for 'ArgMax'"):
        og.gradient(parse("y = Mul(x, s)"), straight_through=["ArgMax"])
    for wrong in (5, [5], iter(["Round"]), None):
        with pytest.raises(og.ArgumentError, match="True or names of operators"):
            og.gradient(parse("y = Mul(x, s)"), straight_through=wrong)


def test_a_rule_of_ones_own() -> None:
    og.elementwise("com.acme::Snap", lambda: 1, straight_through=True)
    og.zero("com.acme::Snap", reason="piecewise constant")
    text = '<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>'
    text += "g (float[N] x) => (float[N] y) { h = com.acme.Snap(x) y = Neg(h) }"
    model = onnx.parser.parse_model(text)
    try:
        with pytest.raises(og.UnreachableError, match=r"com\.acme::Snap"):
            og.gradient(model)
        backward = og.gradient(model, straight_through="com.acme::Snap", forward=False)
    finally:
        og.forget("com.acme::Snap")
    assert "Neg" in [n.op_type for n in backward.graph.node]


# -- the other transforms, against PyTorch's ------------------------------------------------------

SQUARE = RNG.standard_normal((3, 3)).astype(np.float32)
FIXED = "<float s = {0.02}, int8 z = {3}, float t = {0.05}, int8 u = {0}>"
# Squares of rounded numbers, in floating point and as products of integers.
NETS = {
    "floats": f"{FAKE.replace('y =', 'd =')} y = Mul(d, d)",
    "integers": """q = QuantizeLinear(x, s, z) p = MatMulInteger(q, q, z, z) f = Cast<to = 1>(p)
      m = Mul(s, s) y = Mul(f, m)""",
    "rounded integers": """q = QuantizeLinear(x, s, z)
      p = QLinearMatMul(q, s, z, q, s, z, t, u) y = DequantizeLinear(p, t, u)""",
}


def square(name: str) -> onnx.ModelProto:
    text = f"{HEAD} g (float[3, 3] x) => (float[3, 3] y) {FIXED} {{ {NETS[name]} }}"
    return onnx.parser.parse_model(text)


def twin(name: str):
    def f(x):
        d = torch.fake_quantize_per_tensor_affine(x, 0.02, 3, -128, 127)
        if name == "rounded integers":
            return torch.fake_quantize_per_tensor_affine(d @ d, 0.05, 0, -128, 127)
        return d @ d if name == "integers" else d * d

    return f


@pytest.mark.parametrize("name", NETS)
def test_transforms_like_torch(name: str) -> None:
    functional = torch.autograd.functional
    f, x, v = twin(name), torch.tensor(SQUARE * 2), torch.tensor(G[:, :3].copy())
    feeds = {"x": x.numpy()}
    options = {"forward": False, "straight_through": True}
    moved = feeds | {"x_tangent": v.numpy()}
    (got,) = runner(og.jvp(square(name), **options))(moved)
    np.testing.assert_allclose(got, functional.jvp(f, x, v)[1].numpy(), rtol=1e-5, atol=1e-6)
    (got,) = runner(og.hvp(square(name), **options))(moved)
    want = functional.hvp(lambda x: f(x).sum(), x, v)[1].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert np.abs(want).max() > 1
    want = functional.jacobian(f, x).numpy()
    for mode in ("reverse", "forward"):
        (got,) = runner(og.jacobian(square(name), mode=mode, **options))(feeds)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    (got,) = runner(og.hessian(square(name), **options))(feeds)
    want = functional.hessian(lambda x: f(x).sum(), x).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for transform in (og.jvp, og.hvp, og.jacobian, og.hessian):
        with pytest.raises(og.UnreachableError, match="straight_through"):
            transform(square(name))


def test_gradients_by_example_like_torch() -> None:
    """Of weights that are rounded, as in training for quantisation."""
    body = f"{FAKE.replace('x,', 'w,').replace('y =', 'd =')} p = MatMul(x, d) y = Mul(p, p)"
    listed = ", ".join(map(str, (SQUARE * 2).ravel()))
    model = onnx.parser.parse_model(
        f"{HEAD} g (float[N, 3] x) => (float[N, 3] y) "
        f"<float[3, 3] w = {{{listed}}}, float s = {{0.02}}, int8 z = {{3}}> {{ {body} }}"
    )
    each = og.per_example_gradient(model, "w", forward=False, straight_through="QuantizeLinear")
    validate(each)
    (got,) = runner(each)({"x": X[:, :3]})
    for k, x in enumerate(X[:, :3]):
        w = torch.tensor(SQUARE * 2, requires_grad=True)
        d = torch.fake_quantize_per_tensor_affine(w, 0.02, 3, -128, 127)
        ((torch.tensor(x) @ d) ** 2).sum().backward()
        np.testing.assert_allclose(got[k], w.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_net() -> None:
    net, plain = og.Net(square("floats"), straight_through=True), og.Net(square("floats"))
    x = torch.tensor(SQUARE * 2, requires_grad=True)
    twin("floats")(x).sum().backward()
    got = net(x.detach().numpy(), og.NetPortGradient("x"))
    np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-5)
    tangent = G[:, :3].copy()
    want = torch.autograd.functional.jvp(twin("floats"), x.detach(), torch.tensor(tangent))[1]
    np.testing.assert_allclose(net.jvp(x.detach().numpy(), tangent), want.numpy(), rtol=1e-5)
    with pytest.raises(og.UnreachableError):
        plain(SQUARE, og.NetPortGradient("x"))


def test_net_moves_numbers_that_were_int8() -> None:
    """A net that onnxruntime takes, though not raised to opset 21 without a setting."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[3, 4] x) => (float[12] y) {FIXED} {{
          q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
          flat = Constant<value_ints = [-1]>() r = Reshape(d, flat) y = Mul(r, r)
        }}"""
    )
    net = og.Net(model, straight_through=True)
    steps = np.clip(np.round(X / SCALE), -131, 124)
    got = net(X, og.NetPortGradient("x"))
    np.testing.assert_allclose(got, 2 * steps * SCALE * (np.abs(X + 0.07) < 2.55), rtol=1e-5)


def test_dynamic_quantisation_without_it_is_told() -> None:
    """A warning, and a caution of `inspect`; none where it was asked for."""
    body = "q, a, z = DynamicQuantizeLinear(x) d = DequantizeLinear(q, a, z) y = Mul(d, d)"
    model = parse(body, "float[3, 4] x")
    with pytest.warns(
        og.QuantizedWarning, match="DynamicQuantizeLinear.*straight_through="
    ) as found:
        og.gradient(model)
    assert len(found) == 1 and found[0].filename == __file__
    assert "straight_through" in og.inspect(model).caution
    assert not og.inspect(model, straight_through=True).caution
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        og.gradient(model, straight_through=True)
        og.gradient(model, wrt="a")
