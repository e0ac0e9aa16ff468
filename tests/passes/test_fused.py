"""Fused operators stay in the forward pass where the gradient needs no part of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og

RNG = np.random.default_rng(3)
HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString())
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def operators(model: onnx.ModelProto) -> list[str]:
    """Those of all graphs, of com.microsoft only."""
    found, graphs = [], [model.graph]
    while graphs:
        for node in graphs.pop().node:
            graphs += [a.g for a in node.attribute if a.HasField("g")]
            found += [node.op_type] if node.domain else []
    return found


def four_bits() -> onnx.ModelProto:
    """A matrix product with weights of 4 bits, and an elementwise node after it."""
    rng = np.random.default_rng(5)
    weights = {
        "B": rng.integers(0, 256, (6, 2, 8), dtype=np.uint8),
        "s": rng.uniform(0.1, 0.2, (6, 2)).astype(np.float32),
    }
    node = helper.make_node(
        "MatMulNBits", ["a", "B", "s"], ["h"], domain="com.microsoft", K=32, N=6, block_size=16,
        bits=4,
    )  # fmt: skip
    graph = helper.make_graph(
        [node, helper.make_node("Tanh", ["h"], ["y"])],
        "net",
        [helper.make_tensor_value_info("a", 1, ["N", 32])],
        [helper.make_tensor_value_info("y", 1, ["N", 6])],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


A = RNG.standard_normal((3, 32)).astype(np.float32)


def test_weights_of_four_bits_stay_in_the_forward_pass() -> None:
    """Only the backward pass sees them as floats: the gradient is that of the standard's nodes."""
    model, plain = (og.gradient(four_bits(), target=t) for t in ("cpu", "portable"))
    assert operators(model) == ["MatMulNBits"] and not operators(plain)
    products = [n for n in model.graph.node if n.op_type in ("MatMul", "Gemm")]
    assert len(products) == 1  # that of the backward pass
    found, expected = run(model, a=A), run(plain, a=A)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["a_grad"], expected["a_grad"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["y"], run(four_bits(), a=A)["y"])


@pytest.mark.parametrize("make", [og.hvp, og.jvp, lambda m: og.gradient(og.gradient(m))])
def test_second_orders(make: Any) -> None:
    model = make(four_bits())
    assert operators(model)
    onnx.checker.check_model(model, full_check=True)
    given = {v.name: A for v in model.graph.input}
    plain = og.gradient(four_bits(), target="portable")
    assert not operators(plain) and run(model, **given)


def test_off_the_path() -> None:
    text = f"""{HEAD} net (float[N, 4] x, float[N, 4] z) => (float[N, 4] y, float[N, 4] w) {{
        y = Sin(x) w = com.microsoft.QuickGelu <alpha = 1.5> (z) }}"""
    model = og.gradient(onnx.parser.parse_model(text), "x")
    assert operators(model) == ["QuickGelu"]


def test_parts_that_the_gradient_needs() -> None:
    """They are computed with the rest of the expansion, not once more beside the kernel."""
    text = f"""{HEAD} net (float[N, 4] x) => (float[N, 4] y)
        <float[4] g = {{1, 2, 3, 4}}> {{
        h = com.microsoft.SkipLayerNormalization (x, x, g) y = Sin(h) }}"""
    model = og.gradient(onnx.parser.parse_model(text), "x")
    assert operators(model) == []
    assert sum(n.op_type == "LayerNormalization" for n in model.graph.node) == 1


def test_in_a_branch_and_a_loop() -> None:
    text = f"""{HEAD} net (float[N, 4] x, bool c) => (float[N, 4] y) {{
        y = If (c) <then_branch = a () => (float[N, 4] u) {{
              t = com.microsoft.QuickGelu <alpha = 1.5> (x) u = Identity(t) }},
            else_branch = b () => (float[N, 4] v) {{ v = Sin(x) }}> }}"""
    model = og.gradient(onnx.parser.parse_model(text), "x")
    onnx.checker.check_model(model, full_check=True)
    x = A[:, :4]
    for c in (True, False):
        found = run(model, x=x, c=np.array(c))
        expected = run(
            og.gradient(onnx.parser.parse_model(text), target="portable"), x=x, c=np.array(c)
        )
        np.testing.assert_allclose(found["x_grad"], expected["x_grad"], rtol=1e-5, atol=1e-6)


def test_named_results_of_fused_operators() -> None:
    """The result of such an operator is a tensor like any other: in wrt, of and values."""
    wrt = og.gradient(four_bits(), ["h"])
    of = og.gradient(four_bits(), "a", of="h", values="h")
    assert operators(wrt) == operators(of) == ["MatMulNBits"]
    found = run(of, a=A)
    np.testing.assert_allclose(run(wrt, a=A)["h_grad"], 1 - found["y"] ** 2, rtol=1e-4)
    by_hand = run(og.gradient(four_bits(), "a", of="h", target="portable"), a=A)
    np.testing.assert_allclose(found["a_grad"], by_hand["a_grad"], rtol=1e-4, atol=1e-5)


def test_by_example() -> None:
    model = og.jacobian(four_bits(), batched=True)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, a=A)["y_a_jacobian"]
    expected = run(og.jacobian(four_bits(), batched=True, target="portable"), a=A)["y_a_jacobian"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_net_on_a_runtime_without_them() -> None:
    net = og.Net(four_bits(), runtime="reference")
    found = net(A, og.NetPortGradient("a"))
    expected = run(og.gradient(four_bits()), a=A)["a_grad"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def shared_counts() -> str:
    """Two expansions that share how long the texts are; a gradient needs the second one alone."""
    attention = (
        "com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1>"
        "({x}, {x}k, {x}k, past, past, last, total)"
    )
    return f"""{HEAD} net (float[N, S, 16] x, float[N, 1, P, 8] past, int32[N] last, int32 total)
        => (float[N, S, 16] y) <int64[1] b = {{0}}, int64[1] e = {{8}}, int64[1] a = {{2}}> {{
        xk = Slice (x, b, e, a)
        u, uc, ud = {attention.format(x="x")}
        w = Exp (u) wk = Slice (w, b, e, a)
        y, yc, yd = {attention.format(x="w")} }}"""


def test_parts_that_only_count_are_no_reason() -> None:
    """The first attention stays, though nodes of its expansion are those of the second's, too."""
    text = shared_counts()
    feeds = {
        "x": RNG.standard_normal((2, 3, 16)).astype(np.float32),
        "past": np.zeros((2, 1, 0, 8), np.float32),
        "last": np.full(2, 2, np.int32),
        "total": np.array(3, np.int32),
    }
    model = og.gradient(onnx.parser.parse_model(text), "w")
    assert operators(model) == ["GroupQueryAttention"]
    plain = og.gradient(onnx.parser.parse_model(text), "w", target="portable")
    found, expected = run(model, **feeds), run(plain, **feeds)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_activations_that_are_quantized_are_no_counts() -> None:
    """A convolution is not computed twice: its result before it is rounded tells the mask."""
    text = f"""{HEAD} net (uint8[N, 1, 4, 4] x, float s) => (float[N, 2, 3, 3] y)
        <float t = {{0.1}}, uint8 z = {{128}}, uint8[2, 1, 2, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}> {{
        q = com.microsoft.QLinearConv (x, s, z, w, t, z, t, z) y = DequantizeLinear (q, t, z) }}"""
    model = og.gradient(onnx.parser.parse_model(text), "s", straight_through=True)
    forward = [n.op_type for n in model.graph.node if "/grad/" not in n.name]
    assert forward.count("Conv") == 1 and not operators(model)


def test_weights_are_not_unpacked_when_a_file_is_loaded(tmp_path: Any) -> None:
    """onnxruntime would keep the floating-point numbers of all weights: it folds constants."""
    rng = np.random.default_rng(5)
    model = four_bits()
    arrays = {"B": rng.integers(0, 256, (512, 8, 16), dtype=np.uint8)}
    arrays["s"] = rng.uniform(0.1, 0.2, (512, 8)).astype(np.float32)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for attribute in model.graph.node[0].attribute:
        attribute.i = {"K": 256, "N": 512, "block_size": 32, "bits": 4}[attribute.name]
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 256
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 512
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "made.onnx")
    x = rng.standard_normal((3, 256)).astype(np.float32) / 10
    found = []
    for target in ("cpu", "portable"):
        made = og.gradient(model, target=target)
        session = ort.InferenceSession(made.SerializeToString(), options)
        found.append(session.run(["a_grad"], {"a": x})[0])
        sizes = [
            t.ByteSize() for t in onnx.load(options.optimized_model_filepath).graph.initializer
        ]
        assert (max(sizes) > 4 * 512 * 256) == (target == "portable")
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_parts_that_indices_tell_are_no_reason() -> None:
    """A rotation is linear: its gradient needs no more than rows of tables."""
    rotate = "com.microsoft.RotaryEmbedding"
    text = f"""{HEAD} net (float[N, 2, S, 8] x, int64[N, S] at) => (float[N, 2, S, 8] y)
        <float[5, 4] c = {{{",".join(str(np.cos(k)) for k in range(20))}}},
         float[5, 4] s = {{{",".join(str(np.sin(k)) for k in range(20))}}}> {{
        u = {rotate} (x, at, c, s) w = Exp (u) y = {rotate} (w, at, c, s) }}"""
    feeds = {
        "x": RNG.standard_normal((2, 2, 3, 8)).astype(np.float32),
        "at": np.array([[0, 4, 1], [2, 2, 3]]),
    }
    model, plain = (
        og.gradient(onnx.parser.parse_model(text), "x", target=t) for t in ("cpu", "portable")
    )
    assert operators(model) == 2 * ["RotaryEmbedding"]
    found, expected = run(model, **feeds), run(plain, **feeds)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)
