"""What is refused is refused in words that say what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

ZIPMAP = str(Path(__file__).parents[1] / "cases" / "zipmap.onnx")


def net(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21, "my" : 1]> g {text}')


PLAIN = net("(float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> { h = Mul(x, w) y = Sin(h) }")
SEQUENCE = net("""(seq(float[2]) o, float[2] x, int64 i) => (float[2] y)
    { v = SequenceAt(o, i) y = Mul(v, x) }""")
OPTIONAL = net("""(optional(float[2]) o, float[2] x) => (float[2] y)
    { v = OptionalGetElement(o) y = Mul(v, x) }""")
NOTHING_GIVES = net("(float[2] x) => (float[2] y) { h = Sin(x) y = Mul(h, hh) }")

MESSAGES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a sequence": (lambda: og.gradient(SEQUENCE, "o"), og.ArgumentError, "a sequence of FLOAT"),
    "an optional": (lambda: og.gradient(OPTIONAL, "o"), og.ArgumentError, "an optional FLOAT"),
    "maps": (
        lambda: og.gradient(ZIPMAP, "X", of="output_probability"),
        og.ArgumentError,
        "'output_probability' is a sequence of maps made of 'p'",
    ),
    "maps alone": (lambda: og.inspect(ZIPMAP), og.ArgumentError, "in of, such as 'p'"),
    "max_bytes": (
        lambda: og.jacobian(PLAIN, max_bytes="q"),  # type: ignore[arg-type]
        og.ArgumentError,
        "max_bytes is a number of bytes, not 'q'",
    ),
    "all is constant": (
        lambda: og.gradient(PLAIN, og.ALL, constant=["x", "w"]),
        og.ArgumentError,
        "ALL is empty",
    ),
    "operands": (
        lambda: og.attach(PLAIN, lambda op, w: op.Reshape(w, op.const([3, -7])), ["w"]),
        og.ArgumentError,
        r"Reshape\('w' FLOAT \[2\], 'const' INT64 \[2\] = \[3, -7\]\) does not fit",
    ),
    "unnamed sizes": (
        lambda: og.gradient(
            net("(float[?,2] x) => (float[?,2] y) { y = Sin(x) }"),
            of=og.heads.weighted_sum("y", [1, 2, 3]),
        ),
        og.ArgumentError,
        r"does not fit 'y' \[\?,2\]: weights",
    ),
    "an array for a tensor": (
        lambda: og.attach(PLAIN, lambda op, w: op.Add(w, np.ones(2)), ["w"]),
        og.ArgumentError,
        "Add takes tensors, as op.const makes them, no ndarray",
    ),
    "no position": (lambda: og.NetPortGradient([]), og.ArgumentError, r"position, .* not \[\]"),
}


@pytest.mark.parametrize(("call", "error", "words"), MESSAGES.values(), ids=list(MESSAGES))
def test_messages(call: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("transform", [og.gradient, og.jacobian, og.hessian, og.jvp, og.vmap])
def test_a_tensor_that_nothing_gives(transform: Any) -> None:
    words = "Mul, node '': it takes the tensor 'hh', which .* no node gives it. Nearest: 'h'"
    with pytest.raises(og.ModelError, match=words):
        transform(NOTHING_GIVES)


def test_an_output_that_nothing_gives() -> None:
    with pytest.raises(og.ModelError, match="the graph, as an output: it takes the tensor 'z'"):
        og.gradient(net("(float[2] x) => (float[2] y, float[2] z) { y = Sin(x) }"), of="y")


def test_beside_an_optional_input() -> None:
    """What it holds only the run tells; the way from x does not lead through it."""
    gradient = og.gradient(OPTIONAL, "x", forward=False)
    (g,) = runner(gradient)({"o": np.array([2, 3], np.float32), "x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(g, [2, 3])


@pytest.fixture
def misnamed() -> Iterator[None]:
    """A derivative that calls the operand as the function in the model does."""
    og.elementwise("my::G", lambda op, p: 300 * p)
    yield
    og.forget("my::G")


@pytest.mark.usefixtures("misnamed")
def test_a_rule_whose_parameter_names_nothing() -> None:
    model = net("""(float[2] x) => (float[2] y) { y = my.G(x) }
        <domain: "my", opset_import: ["" : 21]> G (p) => (o) { o = Sin(p) }""")
    with pytest.raises(og.RuleError, match=r"my::G: its parameter 'p' .* operand \(x\)"):
        og.gradient(model)


def test_parameters_leave_out_what_is_constant() -> None:
    assert og.Net(PLAIN).parameters == ("w",)
    assert og.Net(PLAIN, constant="w").parameters == ()
