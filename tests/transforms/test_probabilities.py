"""A sum of probabilities is constant: who asks for its gradient by default is told, others not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og

W = "<float[3,4] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 2.0, 3.0}>"


def parse(body: str, opset: int = 21, outputs: str = "float[N,4] y") -> onnx.ModelProto:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    return onnx.parser.parse_model(f"{head} g (float[N,3] x) => ({outputs}) {W} {{ {body} }}")


NET = "l = MatMul(x, w) y = Softmax(l)"

# The nets whose sum is constant, and the tensor before it.
CONSTANT = {
    "a softmax": (NET, "l"),
    "of an old opset": ("l = MatMul(x, w) y = Softmax <axis = 1> (l)", "l"),
    "of a graph input": ("y = Softmax(x)", None),
    "moved afterwards": (
        """l = MatMul(x, w) p = Softmax(l) t = Transpose(p) c = Cast <to = 11> (t)
        f = Flatten <axis = 0> (c) d = Dropout(f) y = Cast <to = 1> (d)""",
        "l",
    ),
    "averaged": ("l = MatMul(x, w) p = Softmax(l) y = ReduceMean(p)", "l"),
    "moved before": ("l = MatMul(x, w) t = Transpose(l) y = Softmax(t)", "t"),
}
# Those whose sum is not.
OTHERS = {
    "logits": "y = MatMul(x, w)",
    "their logarithms": "l = MatMul(x, w) y = LogSoftmax(l)",
    "a product": "l = MatMul(x, w) p = Softmax(l) y = Mul(p, p)",
    "a part": "l = MatMul(x, w) p = Softmax(l) y, z = Split <num_outputs = 2, axis = 1> (p)",
    "a random choice": """l = MatMul(x, w) p = Softmax(l) t = Constant <value = bool {1}> ()
        r = Constant <value = float {0.5}> () y = Dropout(p, r, t)""",
}

DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "gradient": og.gradient,
    "hvp": og.hvp,
    "hessian": og.hessian,
    "per example": og.per_example_gradient,
    "net": lambda m: og.Net(m)(np.ones((2, 3), np.float32), og.NetPortGradient("x")),
}
CHOSEN: dict[str, Callable[[Any], Any]] = {
    "of": lambda m: og.gradient(m, of="y"),
    "ograd": lambda m: og.gradient(m, ograd=True),
    "vjp": og.vjp,
    "jvp": og.jvp,
    "jacobian": og.jacobian,
    "check": lambda m: og.check(m, np.ones((2, 3), np.float32)),
    "inspect": og.inspect,
    "imposed": lambda m: og.Net(m)(
        {"x": np.ones((2, 3), np.float32), og.NetPortGradient("y"): np.ones((2, 4), np.float32)},
        og.NetPortGradient("x"),
    ),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_the_way_out_is_named(name: str) -> None:
    body, before = CONSTANT[name]
    model = parse(body, 11 if "old" in name else 21)
    with pytest.warns(og.ConstantSumWarning, match="all elements of 'y' is constant") as caught:
        og.gradient(model)
    (warning,) = caught
    assert warning.filename == __file__
    said = str(warning.message)
    assert said in str(og.inspect(model))
    if before is None:
        assert "of=" not in said
    else:
        assert f"pass of='{before}'" in said
        og.gradient(model, of=before)  # says nothing


@pytest.mark.parametrize("name", OTHERS)
def test_other_sums_are_meant(name: str) -> None:
    model = parse(OTHERS[name])
    og.gradient(model)  # a warning is an error in these tests
    assert not og.inspect(model).caution


@pytest.mark.parametrize("name", DEFAULTS)
def test_who_is_told(name: str) -> None:
    with pytest.warns(og.ConstantSumWarning, match="pass of='l'") as caught:
        DEFAULTS[name](parse(NET))
    (warning,) = caught
    assert warning.filename == __file__


@pytest.mark.parametrize("name", CHOSEN)
def test_who_chooses_is_not_told(name: str) -> None:
    CHOSEN[name](parse(NET))


def test_several_outputs() -> None:
    both = "float[N,4] y, float[N,4] z"
    model = parse("l = MatMul(x, w) y = Softmax(l) k = Neg(l) z = Softmax(k)", outputs=both)
    with pytest.warns(og.ConstantSumWarning, match=r"of 'y', 'z' .*pass of=\['l', 'k'\]"):
        og.gradient(model)
    og.gradient(parse(f"{NET} z = Neg(l)", outputs=both))  # the sum of z is not constant


def test_tensors_of_functions_are_not_named() -> None:
    """What lies within a function has no name in the file."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 21]> f (a) => (b) { c = Neg(a) b = Softmax(c) }""")
    with pytest.warns(og.ConstantSumWarning) as caught:
        og.gradient(model)
    assert "of=" not in str(caught[0].message)


def test_it_can_be_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", og.ConstantSumWarning)
        og.gradient(parse(NET))
