"""What is known of runtimes: each limit is found in a file that has it, and in no other.

`make runtimes` holds the limits against what the runtimes make of files (tests/runtimes).
"""

from __future__ import annotations

import onnx
import pytest

import onnxgrad as og
from onnxgrad.verify.limits import RUNTIMES, obstacles


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]>\n{text}')


SQUARE = """g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z) <float[2, 2] w = {1, 2, 3, 4}> {
    y = MatMul(x, w)
    z = Gemm<transB = TRANSPOSED>(x, w)
}"""
SCAN = """g (float[2] a, float[3, 2] x) => (float[2] y) {
    y = Scan<num_scan_inputs = 1, scan_input_directions = [DIRECTION],
        body = b (float[2] s, float[2] e) => (float[2] t) { t = Add(s, OPERAND) }>(a, x)
}"""
AXES = """g (float[2, 3] x, int64[1] axes) => (float[N] y) <int64[1] fixed = {1}> {
    y = ReduceSum<keepdims = 0>(x, GIVEN)
}"""
IF = """If(c) <then_branch = a () => (float[2] p) { p = Neg(x) },
    else_branch = b () => (float[2] q) { q = Abs(x) }>"""


def words(runtime: str, text: str) -> str:
    return "; ".join(f"{o.what}: {', '.join(o.where)}" for o in obstacles(parse(text), runtime))


@pytest.mark.parametrize(
    ("runtime", "text", "has", "has_not", "said"),
    [
        ("openvino", SQUARE, ("TRANSPOSED", "1"), ("TRANSPOSED", "0"), "a square weight"),
        ("openvino", SCAN.replace("DIRECTION", "0"), ("OPERAND", "a"), ("OPERAND", "e"),
         "captures"),
        ("openvino", AXES, ("GIVEN", "axes"), ("GIVEN", "fixed"), "axes that are computed"),
        ("reference", SCAN.replace("OPERAND", "e"), ("DIRECTION", "1"), ("DIRECTION", "0"),
         "backwards"),
        ("tract", "g (float[SIZE] x) => (float[SIZE] y) { y = Neg(x) }", ("SIZE", "N"),
         ("SIZE", "2"), "not fixed: x"),
        ("tract", f"g (bool c, float[2] x) => (float[2] y, float[2] z) {{ y = {IF} z = OTHER }}",
         ("OTHER", IF), ("OTHER", "Neg(x)"), "more than one If"),
        ("tract", "g (TYPE[2, 2] x) => (TYPE[2, 2] y) { y = Gemm(x, x) }", ("TYPE", "float16"),
         ("TYPE", "float"), "half precision"),
        ("webgpu", "g (float[1, 2, 4] x, float[4, 1, 2] w) => (float[1, 4, 3] y) "
         "{ y = Conv<group = COUNT>(x, w) }", ("COUNT", "2"), ("COUNT", "1"), "in groups"),
        ("tensorrt", "g (float[2] x) => (float[2] y) { y = OP(x) }", ("OP", "Det"), ("OP", "Neg"),
         "lacks: Det"),
        ("coreml", "g (float[2] x) => (float[2] y) { y = OP(x) }", ("OP", "Neg"), ("OP", "Exp"),
         "lacks: Neg"),
    ],
)  # fmt: skip
def test_limits(
    runtime: str, text: str, has: tuple[str, str], has_not: tuple[str, str], said: str
) -> None:
    assert said in words(runtime, text.replace(*has))
    assert said not in words(runtime, text.replace(*has_not))


def test_portable_asks_less() -> None:
    net = parse(
        """g (float[2, 1, 8, 8] x) => (float[2, 1, 4, 4] y) {
            y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
        }"""
    )
    assert obstacles(og.gradient(net), "tract")
    assert not obstacles(og.gradient(net, target="portable"), "tract")


def test_an_unknown_runtime() -> None:
    with pytest.raises(og.OnnxGradError, match="Nearest: 'openvino'"):
        obstacles(parse("g (float[2] x) => (float[2] y) { y = Neg(x) }"), "openvin")
    assert set(RUNTIMES) >= {"openvino", "tract", "webgpu", "reference", "tensorrt"}
