"""The target `portable`: the same numbers, of operators that more runtimes take."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest

import onnxgrad as og
from onnxgrad.emit.subgraphs import captures
from onnxgrad.graph.facts import all_nodes
from onnxgrad.graph.io import load
from tests.oracle import runner

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def parse(body: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> net {body}')
    for name, shape in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    return model


def compared(build: Any, feeds: dict[str, Any]) -> list[Any]:
    """The nodes of `build("portable")`, which gives what `build("cpu")` gives."""
    built, expected = build("portable"), build("cpu")
    onnx.checker.check_model(built, full_check=True)
    for a, b in zip(runner(built)(feeds), runner(expected)(feeds), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    return list(all_nodes(load(built).graph))


LSTM = parse(
    """(float[T, N, 3] x) => (float[T, 2, N, 4] y) {
        y, h, c = LSTM<hidden_size = 4, direction = "bidirectional">(x, W, R, B)
    }""",
    W=(2, 16, 3),
    R=(2, 16, 4),
    B=(2, 32),
)
MLP = parse(
    """(float[N, 4] x) => (float[N, 4] y) {
        a = Gemm<transB = 1>(x, W, b)
        t = Tanh(a)
        y = MatMul(t, V)
    }""",
    W=(4, 4),
    b=(4,),
    V=(4, 4),
)
LOOP = parse(
    """(float[2, 4] x) => (float[2, 4] y) {
        n = Constant<value = int64 {3}>()
        t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 4] s) => (bool d, float[2, 4] z) {
            d = Identity(c)
            m = MatMul(s, W)
            z = Tanh(m)
        }>
    }""",
    W=(4, 4),
)


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda t: og.gradient(LSTM, og.ALL, target=t), (3, 2, 3)),
        (lambda t: og.gradient(og.gradient(LSTM, target=t), "R", of="x_grad", target=t), (3, 2, 3)),
        (lambda t: og.jacobian(MLP, "x", batched=True, target=t), (2, 4)),
        (lambda t: og.gradient(LOOP, og.ALL, target=t), (2, 4)),
    ],
    ids=["LSTM", "second order", "jacobian", "Loop"],
)
def test_scans_go_forward_and_capture_nothing(build, x):
    scans = [n for n in compared(build, {"x": normal(*x)}) if n.op_type == "Scan"]
    assert scans and not any(captures(n) for n in scans)
    assert not any(name.endswith("_directions") for n in scans for name in n.attributes)


def test_reversed_scans():
    """One of the net's own, which reads and writes backwards, along other axes than the first."""
    net = parse("""(float[2, T, 3] x, float[2, 3] s) => (float[2, 3] last, float[2, 3, T] y) {
        last, y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
            scan_output_axes = [-1], scan_output_directions = [1],
            body = b (float[2, 3] h, float[2, 3] v) => (float[2, 3] g, float[2, 3] w) {
            p = Mul(h, k)
            g = Add(p, v)
            w = Mul(g, g)
        }> (s, x)
    }""", k=(3,))  # fmt: skip
    feeds = {"x": normal(2, 4, 3), "s": normal(2, 3)}
    nodes = compared(lambda t: og.gradient(net, og.ALL, target=t), feeds)
    scans = [n for n in nodes if n.op_type == "Scan"]
    assert scans and not any(captures(n) for n in scans)
    assert not any(name.endswith("_directions") for n in scans for name in n.attributes)


def test_square_weights_are_not_shared_between_layouts():
    """Every weight is packed in one layout; the second order still knows of which weight."""
    nodes = compared(lambda t: og.hvp(MLP, "x", target=t), {"x": normal(2, 4), "x_tangent": normal(2, 4)})  # fmt: skip # noqa: E501
    layouts: dict[Any, set[Any]] = {}
    for n in nodes:
        if n.op_type in ("Gemm", "MatMul"):
            transposed = "transB" in n.attributes and n.attributes["transB"].as_int()
            layouts.setdefault(n.inputs[1].name, set()).add(transposed)
    assert {"W", "V"} <= layouts.keys() and all(len(found) == 1 for found in layouts.values())
    second = lambda t: og.gradient(og.gradient(MLP, "x", target=t), ["W", "V"], of="x_grad")  # noqa: E731
    compared(second, {"x": normal(2, 4)})


@pytest.mark.parametrize("rows", [0, 3])
def test_half_precision_has_no_gemm(rows):
    net = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 18]>
        net (float16[N, 2] x, float16[3, 2] w, float16[3] b) => (float16[N, 3] y) {
            y = Gemm<transB = 1>(x, w, b)
        }"""
    )
    feeds = {"x": normal(rows, 2), "w": normal(3, 2), "b": normal(3)}
    feeds = {name: a.astype(np.float16) for name, a in feeds.items()}
    wrt = ["x", "w", "b"]
    built, expected = (og.gradient(net, wrt, target=t) for t in ("portable", "cpu"))
    onnx.checker.check_model(built, full_check=True)
    for a, b in zip(runner(built)(feeds), runner(expected)(feeds), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype == np.float16
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)
    assert "Gemm" not in {n.op_type for n in all_nodes(load(built).graph)}


@pytest.mark.parametrize("rows", [0, 2])
def test_the_reference_evaluator_takes_a_loop(rows):
    net = parse(
        """(float[N, 4] x) => (float[N, 4] y) <int64 steps = {3}, bool go = {1}> {
            y = Loop(steps, go, x) <body = body (int64 i, bool on, float[N, 4] s)
                => (bool onward, float[N, 4] next) {
                onward = Identity(on)
                m = MatMul(s, W)
                next = Tanh(m)
            }>
        }""",
        W=(4, 4),
    )
    built = og.gradient(net, ["x", "W"], target="portable")
    feeds = {"x": normal(rows, 4)}
    found = onnx.reference.ReferenceEvaluator(built).run(None, feeds)
    for a, b in zip(found, runner(built)(feeds), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attributes", ["", 'ignore_index = 1, reduction = "sum"', 'reduction = "none"'])  # fmt: skip # noqa: E501
def test_losses_are_written_out(attributes):
    shape = "float[N, 2]" if "none" in attributes else "float"
    net = parse(f"""(float[N, 3, 2] x, int64[N, 2] t) => ({shape} y, float[N, 3, 2] p) {{
        y, p = SoftmaxCrossEntropyLoss<{attributes}>(x, t, w)
    }}""".replace("<>", ""))  # fmt: skip
    net.graph.initializer.append(onnx.numpy_helper.from_array(abs(normal(3)), "w"))
    feeds = {"x": normal(4, 3, 2), "t": RNG.integers(0, 3, (4, 2))}
    nodes = compared(lambda t: og.gradient(net, ["x", "w"], of="y", target=t), feeds)
    assert not {n.op_type for n in nodes if n.op_type.endswith("Loss")}


@pytest.mark.parametrize(
    "how",
    [
        "kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]",
        "kernel_shape = [3, 2], strides = [2, 3], ceil_mode = 1",
        "kernel_shape = [2, 2], strides = [1, 2], dilations = [2, 3], pads = [0, 1, 1, 0]",
        'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_LOWER"',
    ],
)
@pytest.mark.parametrize("sizes", ["2, 3, 7, 8", "N, 3, H, W"])
def test_pools_need_no_indices(how, sizes):
    """Windows that overlap, with ties, whose first element takes all."""
    net = parse(f"""(float[{sizes}] x) => (float[A, B, C, D] y) {{
        p = MaxPool<{how}>(x)
        y = Mul(p, p)
    }}""")
    x = RNG.integers(-3, 3, (2, 3, 7, 8)).astype(np.float32)
    nodes = compared(lambda t: og.gradient(net, target=t), {"x": x})
    assert all(len(n.outputs) == 1 for n in nodes if n.op_type == "MaxPool")
    assert not {"ScatterElements", "ScatterND"} & {n.op_type for n in nodes}
    model = og.gradient(net, target="portable", opset=15 if "N" in sizes else 13)
    assert runner(model)({"x": x})[1].shape == x.shape


def test_filters_are_products_of_matrices():
    net = parse("""(float[N, 4, S, S] x) => (float[N, 6, H, W] y) {
        a = Conv<pads = [2, 2, 2, 2], strides = [2, 2], dilations = [2, 1], group = 2>(x, W1)
        b = Conv<pads = [3, 3, 3, 3]>(a, W2)
        y = Mul(b, b)
    }""", W1=(6, 2, 3, 3), W2=(6, 6, 7, 7))  # fmt: skip
    nodes = compared(
        lambda t: og.gradient(net, ["W1", "W2"], target=t), {"x": normal(2, 4, 12, 12)}
    )
    assert [n.op_type for n in nodes].count("Conv") == 2  # those of the net


@pytest.mark.parametrize(("x", "y"), [((2, 3, 4), (3, 4)), ((2, 1, 4), (3, 1)), ((2, 0, 4), (1, 4))])  # fmt: skip # noqa: E501
def test_no_axes_at_run_time(x, y):
    net = parse("(float[A, B, C] x, float[D, E] y) => (float[A, P, Q] z) { z = Mul(x, y) }")
    feeds = {"x": normal(*x), "y": normal(*y)}
    nodes = compared(lambda t: og.gradient(net, target=t), feeds)
    assert "NonZero" not in {n.op_type for n in nodes}


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_products_of_sizes_have_names(target):
    """Two Flattens of one shape, and a Reshape to the same, are known to be equal."""
    net = parse("""(float[N, T, 4] x) => (float[K, 8] y) {
        a = Flatten<axis = 2>(x)
        b = Tanh(x)
        c = Flatten<axis = 2>(b)
        d = Add(a, c)
        shape = Constant<value = int64[2] {-1, 4}>()
        e = Reshape(x, shape)
        f = Mul(d, e)
        y = MatMul(f, W)
    }""", W=(4, 8))  # fmt: skip
    ops = {n.op_type for n in og.gradient(net, target=target).graph.node}
    assert not {"NonZero", "ReduceSum", "Expand"} & ops
