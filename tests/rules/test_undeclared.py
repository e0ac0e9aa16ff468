"""Operands that broadcast, of sizes that nothing declares: two unknown sizes are not equal ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import Feeds, close, runner
from tests.rules.test_rules import validate, vjp_error

# An operator with its operands a, b, ... and their shapes.
BROADCAST = [
    ("Einsum <equation = '...ij,...jk->...ik'>", [(2, 1, 3, 4), (1, 5, 4, 2)]),
    ("Einsum <equation = '...ij,...jk->...'>", [(2, 1, 3, 4), (2, 5, 4, 2)]),
    ("Einsum <equation = 'i...,...->...i'>", [(2, 1, 3), (4, 3)]),
    ("Einsum <equation = 'ij,jk->ik'>", [(1, 1), (4, 2)]),
    ("Einsum <equation = 'ij,jk->ik'>", [(3, 4), (1, 2)]),
    ("Einsum <equation = 'ij,jk->i'>", [(3, 4), (1, 2)]),
    ("Einsum <equation = 'bij,bjk->bik'>", [(1, 3, 4), (2, 4, 5)]),
    ("Einsum <equation = 'bij,bjk,b->ik'>", [(2, 3, 4), (1, 4, 5), (2,)]),
    ("Einsum <equation = 'ii,ij->j'>", [(3, 3), (1, 2)]),
    ("MatMul", [(2, 1, 3, 4), (1, 5, 4, 2)]),
    ("MatMul", [(1, 3, 4), (5, 4, 2)]),
    ("MatMul", [(3, 4), (5, 4, 2)]),
    ("MatMul", [(2, 3, 4), (4,)]),
    ("Gemm", [(3, 4), (4, 2), (3, 1)]),
    ("Gemm", [(3, 4), (4, 2), (1, 2)]),
    ("Add", [(2, 1, 3), (1, 4, 3)]),
    ("Div", [(2, 1, 3), (4, 1)]),
    ("Pow", [(2, 1), (2, 3)]),
    ("PRelu", [(2, 4, 3), (4, 1)]),
    ("Max", [(2, 1), (1, 3), (2, 3)]),
    ("Mean", [(2, 3), (1, 3), (1, 1)]),
    ("Where", [(2, 1), (1, 3), (2, 3)]),
    ("Expand", [(2, 1, 3), (4, 1, 5, 3)]),
    ("LayerNormalization", [(2, 4, 3), (1, 3), (1, 1, 3)]),
    ("Attention", [(2, 2, 3, 4), (2, 1, 5, 4), (2, 1, 5, 4), (1, 1, 1, 5)]),
    ("Attention", [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), (1, 5)]),
]


def model_of(operator: str, shapes: list[tuple[int, ...]]) -> tuple[onnx.ModelProto, Feeds]:
    """y = operator(a, b, ...), of which the ranks alone are declared, and feeds."""
    rng = np.random.default_rng(0)
    feeds = {n: rng.uniform(0.5, 1.5, s) for n, s in zip("abcd", shapes, strict=False)}
    names = ", ".join(feeds)
    steps = f"y = {operator}({names})"
    if operator == "Where":
        steps = "one = CastLike(k, a)  p = Greater(a, one)  y = Where(p, b, c)"
    if operator == "Expand":
        steps = "s = Shape(b)  y = Expand(a, s)"
    declared = ", ".join(f"double[{','.join('?' * v.ndim)}] {n}" for n, v in feeds.items())
    text = f"g ({declared}) => (double[] y) <int64 k = {{1}}> {{ {steps} }}".replace("'", '"')
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 23]>' + text)
    for v in model.graph.input:
        for d in v.type.tensor_type.shape.dim:
            d.ClearField("dim_param")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model, feeds


@pytest.mark.parametrize(("operator", "shapes"), BROADCAST)
@pytest.mark.parametrize("order", [1, 2])
def test_gradient(operator: str, shapes: list[tuple[int, ...]], order: int) -> None:
    model, feeds = model_of(operator, shapes)
    wrt = [n for n in feeds if (operator, n) not in (("Where", "a"), ("Expand", "b"))]
    if order == 2:
        model = og.gradient(model, wrt, forward=False)
    backward = og.gradient(model, wrt, ograd=True, unreachable="zeros")
    validate(backward)
    analytic, numeric = vjp_error(model, backward, feeds, np.random.default_rng(1), runner)
    assert close(analytic, numeric, 1e-6), (analytic, numeric)
