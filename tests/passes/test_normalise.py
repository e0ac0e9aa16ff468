"""Real files as they come: what normalisation has to cope with."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import onnxgrad as og
from onnxgrad.passes.normalise import normalise
from tests.oracle import runner


def with_unused_weight(opset: int, ir_version: int) -> onnx.ModelProto:
    """y = x * w, and a weight that nothing uses; both weights are listed as inputs, as of old."""
    weights = {"w": np.array([2, 3], np.float32), "unused": np.ones((1, 2), np.float32)}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])]
    inputs += [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, w.shape) for n, w in weights.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "net",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


@pytest.mark.parametrize(("opset", "ir_version"), [(9, 3), (13, 7), (21, 10)])
def test_a_weight_that_nothing_uses(opset: int, ir_version: int) -> None:
    model = with_unused_weight(opset, ir_version)
    full = og.gradient(model, og.ALL, forward=False)
    x = np.array([[1, 2], [3, 4]], np.float32)
    found = dict(zip([o.name for o in full.graph.output], runner(full)({"x": x}), strict=True))
    np.testing.assert_array_equal(found["w_grad"], [4, 6])
    np.testing.assert_array_equal(found["unused_grad"], [[0, 0]])
    with pytest.raises(og.UnreachableError, match="no node uses it"):
        og.gradient(model, "unused")


SCATTER = """<ir_version: 4, opset_import: ["" : 10]>
net (float[3, 3] x, float[2, 3] u) => (float[3, 3] y) {
    i = Constant<value = int64[2, 3] {1, 0, 2, 0, 2, 1}>()
    y = Scatter(x, i, u)
}"""
UPSAMPLE = """<ir_version: 4, opset_import: ["" : 9]>
net (float[1, 1, 2, 2] x) => (float[1, 1, 4, 4] y) {
    s = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()
    y = Upsample<mode = "nearest">(x, s)
}"""


@pytest.mark.parametrize(("text", "total"), [(SCATTER, 9), (UPSAMPLE, 16)])
def test_deprecated_operators_are_replaced_by_raising_the_opset(text: str, total: int) -> None:
    model = onnx.parser.parse_model(text)
    shapes = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input
    }
    feeds = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    found = runner(og.gradient(model, forward=False))(feeds)
    # Each element of the output is a copy of one element of an input.
    assert sum(g.sum() for g in found) == total


@pytest.mark.parametrize("scale", [2.0, 1.5, 0.6])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_resizing_finds_coordinates_as_of_old(op: str, opset: int, mode: str, scale: float) -> None:
    if op == "Upsample" and scale < 1:
        pytest.skip("it only enlarges")
    model = onnx.parser.parse_model(
        f'<ir_version: 4, opset_import: ["" : {opset}]> net (float[1, 2, 5, 5] x) => (float[] y) '
        f"{{ s = Constant<value = float[4] {{1.0, 1.0, {scale}, {scale}}}>() "
        f' y = {op}<mode = "{mode}">(x, s) }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)}
    np.testing.assert_array_equal(runner(og.gradient(model))(feeds)[0], runner(model)(feeds)[0])


def test_a_size_of_minus_one_is_unknown() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> net (float[N, 2] x) => (float[N, 2] y) '
        "{ y = Tanh(x) }"
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    found = runner(og.gradient(model, forward=False))({"x": np.zeros((3, 2), np.float32)})
    np.testing.assert_array_equal(found[0], np.ones((3, 2)))


def test_the_logger_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """Also by several threads at once, and silent on the way."""
    logger = logging.getLogger("onnxscript")
    model = with_unused_weight(9, 7)

    def build(_: int) -> None:
        og.gradient(model)

    with caplog.at_level(logging.WARNING, "onnxscript"):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(build, range(24)))
        assert logger.level == logging.WARNING
    assert not [r for r in caplog.records if r.name.startswith("onnxscript")]


WINDOWS = [
    ("Conv", {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 2]}),
    ("Conv", {"kernel_shape": [2, 3], "strides": [3, 2], "dilations": [2, 3]}),
    ("Conv", {"kernel_shape": [3, 2], "strides": [1, 3], "auto_pad": "SAME_UPPER"}),
    ("Conv", {"kernel_shape": [3, 2], "strides": [2, 1], "auto_pad": "VALID"}),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 1, 0, 0]}),
    ("AveragePool", {"kernel_shape": [2, 4], "auto_pad": "SAME_LOWER", "strides": [3, 1]}),
    ("LpPool", {"kernel_shape": [4, 1], "strides": [1, 4]}),
]


@pytest.mark.parametrize(("op_type", "attributes"), WINDOWS)
def test_what_a_window_leaves_is_named_by_a_formula(op_type, attributes) -> None:
    """Two of them in a row; the names, calculated, are the sizes that the runtime gives."""
    weights = {"w": np.ones((3, 3, *attributes["kernel_shape"]), np.float32)}
    operands = list(weights) if op_type == "Conv" else []
    graph = helper.make_graph(
        [
            helper.make_node(op_type, ["x", *operands], ["h"], **attributes),
            helper.make_node("Tanh", ["h"], ["t"]),
            helper.make_node(op_type, ["t", *operands], ["y"], **attributes),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "a", "b"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items() if operands],
    )
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    net = ir.from_proto(model)
    normalise(net, [])
    assert net.graph.outputs[0].shape is not None
    names = [str(d).replace("[", "(").replace("]", ")") for d in net.graph.outputs[0].shape][2:]
    for a, b in ((23, 24), (25, 29), (30, 31), (36, 40)):
        (y,) = runner(model)({"x": np.zeros((1, 3, a, b), np.float32)})
        assert [eval(name, {"a": a, "b": b}) for name in names] == list(y.shape[2:])


def test_branches_of_equal_size_are_not_broadcast() -> None:
    """A residual block with steps: its sum needs no reduction, whatever the size of the image."""
    text = """
        <ir_version: 10, opset_import: ["": 21]>
        net (float[N, 2, H, W] x, float[2, 2, 3, 3] v, float[2, 2, 1, 1] w) => (float[N, 2, h, k] y)
        {
            a = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x, v)
            r = Relu(a)
            c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(r, v)
            b = Conv<kernel_shape = [1, 1], strides = [2, 2]>(x, w)
            s = Add(c, b)
            y = Mul(s, s)
        }"""
    grad = og.gradient(onnx.parser.parse_model(text))
    used = {n.op_type for n in grad.graph.node}
    assert not used & {"ReduceSum", "NonZero", "Size"}
    static = og.gradient(onnx.parser.parse_model(text.replace("N, 2, H, W", "2, 2, 7, 6")))
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("x", (2, 2, 7, 6)), ("v", (2, 2, 3, 3)), ("w", (2, 2, 1, 1)))
    }
    for found, expected in zip(runner(grad)(feeds), runner(static)(feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_axis_of_an_einsum_that_is_1_in_its_first_operand() -> None:
    """Inference gives the result its name, though it may be larger in another operand."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[N, 3] a, float[M, 3, 2] b) => (float[K, 2] z) {
            y = Einsum<equation = "bi,bij->bj">(a, b)
            z = Mul(y, y)
        }""")
    once = og.gradient(model, ["a", "b"], forward=False)
    twice = og.gradient(once, "a", forward=False)
    b = np.random.default_rng(0).standard_normal((2, 3, 2)).astype(np.float32)
    (found,) = runner(twice)({"a": np.ones((1, 3), np.float32), "b": b})
    # Of the sum of 2 b y and 2 a y, with y = a b, for a in all of the batch.
    of_a = 2 * np.einsum("bij,bkj->i", b, b)
    of_b = 2 * (3 * b.sum(axis=(0, 2)) + b.sum())
    np.testing.assert_allclose(found, (of_a + of_b)[None], 1e-4, 1e-5)


def test_a_range_of_vectors() -> None:
    """As in onnx's function body of AffineGrid: onnxruntime refuses it where it sees the sizes."""
    text = """
        <ir_version: 10, opset_import: ["": 21]>
        net (float[2] x, int64[3] n) => (float[3] y) <
            int64 three = {3}, int64[1] some = {3}, int64[1] more = {4}, int64 zero = {0},
            int64[1] one = {1}
        > {
            size = Size(n)
            c = Equal(size, three)
            end = If(c)<then_branch = a () => (int64[A] p) { p = Identity(some) },
                else_branch = b () => (int64[B] q) { q = Identity(more) }>
            r = Range(zero, end, one)
            f = Cast<to = 1>(r)
            s = ReduceSumSquare<keepdims = 0>(x)
            y = Mul(f, s)
        }"""
    model = onnx.parser.parse_model(text)
    feeds = {"x": np.array([1, 2], np.float32), "n": np.zeros(3, np.int64)}
    y, x_grad = runner(og.gradient(model))(feeds)
    np.testing.assert_array_equal(y, [0, 5, 10])
    np.testing.assert_array_equal(x_grad, [6, 12])


# What nothing infers the shape of an output of: the expansion of a classifier, a rank that only a
# run tells, elements of a sequence.
OPEN = {
    "an expansion": """g (float[N, 2] x) => (int64[N] l, float[N, 2] p) {
        l, p = ai.onnx.ml.SVMClassifier<kernel_type = "POLY", kernel_params = [0.5, 1.0, 2.0],
            support_vectors = [1.0, 2.0, -1.0, 0.5], vectors_per_class = [1, 1],
            coefficients = [0.7, -0.4], rho = [0.1], prob_a = [-1.2], prob_b = [0.1],
            classlabels_ints = [0, 1]>(x) }""",
    "a squeeze": "g (float[N, 2, 1] x) => (float[A, B] y) { z = Squeeze(x) y = Sin(z) }",
    "a function": """g (float[N, 2, 1] x) => (float[A, B] y) { y = my.F(x) }
        <domain: "my", opset_import: ["" : 21]> F (x) => (y) { z = Squeeze(x) y = Sin(z) }""",
    "a sequence": """g (float[N, 2] a, float[N, 2] b) => (float[C, 2] y) {
        s = SequenceConstruct(a, b) c = Constant<value = int64 {1}>() t = SequenceErase(s, c)
        y = ConcatFromSequence<axis = 0>(t) }""",
}


@pytest.mark.parametrize("text", OPEN.values(), ids=list(OPEN))
def test_the_models_own_outputs_keep_the_shapes_that_it_declares(text: str) -> None:
    """Where nothing else tells one: onnx.checker refuses an output that has none."""
    imports = '["" : 21, "ai.onnx.ml" : 3, "my" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: {imports}> {text}")
    onnx.checker.check_model(model)
    onnx.checker.check_model(og.gradient(model, unreachable="zeros"))
