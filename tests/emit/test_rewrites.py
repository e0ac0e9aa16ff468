"""A workaround is one function with one decorator, and rules know nothing of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxgrad.emit import rewrites
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.rewrites import rewrite
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import RuleError


def operand(dtype: ir.DataType = ir.DataType.FLOAT) -> Tensor:
    x = ir.Value(name="x", shape=ir.Shape([3, 4]), type=ir.TensorType(dtype))
    return Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 21})).tensor(x)


def operators(x: Tensor) -> list[str]:
    return [node.op_type for node in x.op.graph]


@pytest.fixture
def table(monkeypatch):
    """The table, for entries that go again."""
    monkeypatch.setattr(rewrites, "_REWRITES", {})
    monkeypatch.setattr(rewrites, "_OF_EVERY_OPERATOR", [])


def test_other_operands(table):
    @rewrite("Abs", "Neg")
    def _(op, call):
        return call._replace(inputs=[op.Relu(call.inputs[0])])

    x = operand()
    x.op.Abs(x), x.op.Neg(x), x.op.Exp(x)
    assert operators(x) == ["Relu", "Abs", "Neg", "Exp"]


def test_other_nodes(table):
    @rewrite("Abs")
    def _(op, call):
        return (op.Sqrt(call.inputs[0] * call.inputs[0]),)

    x = operand()
    x.op.Abs(x)
    assert operators(x) == ["Mul", "Sqrt"]


def test_every_operator_after_its_own(table):
    order = []

    @rewrite()
    def _(op, call):
        order.append("every")
        return call

    @rewrite("Abs")
    def _(op, call):
        order.append("own")
        return call

    x = operand()
    x.op.Abs(x)
    assert order == ["own", "every"]


@pytest.mark.parametrize("hoists", [False, True])
def test_a_node_that_is_hoisted_is_rewritten_once(table, hoists):
    @rewrite("Transpose", "Abs")
    def _(op, call):
        return call._replace(inputs=[op.Relu(call.inputs[0])])

    x = operand()
    inner = x.op.child("inner", hoists)
    inner.Abs(inner.tensor(x.value))
    expected = (["Relu", "Abs"], []) if hoists else ([], ["Relu", "Abs"])
    assert (operators(x), [n.op_type for n in inner.graph]) == expected


def test_pad_without_axes():
    x = operand()
    y = x.op.Pad(x, x.op.const([1, 2]), None, x.op.const([-1]))
    pad = y.value.producer()
    assert len(pad.inputs) == 3 and y.static == (3, 7)
    np.testing.assert_array_equal(x.op.tensor(pad.inputs[1]).const, [0, 1, 0, 2])


@pytest.mark.parametrize("target", [[2, 3, 4], [0, 3, 4]])
def test_expand_to_no_elements(target):
    x = operand()
    y = x.op.Expand(x, x.op.const(target))
    assert ("Expand" in operators(x)) == (0 not in target) and y.static == tuple(target)


@pytest.mark.parametrize("reduction", ["add", None])
def test_sums_in_single(reduction):
    x = operand(ir.DataType.FLOAT16)
    y = x.op.ScatterND(
        x, x.op.const([[0]]), x.op.const(np.ones((1, 4)), like=x), reduction=reduction
    )
    assert y.dtype == ir.DataType.FLOAT16
    assert ("Cast" in operators(x)) == (reduction == "add")


def test_an_operator_without_bfloat16():
    x = operand(ir.DataType.BFLOAT16)
    y = x.op.Round(x)
    assert operators(x) == ["Cast", "Round", "Cast"] and y.dtype == x.dtype


def test_an_unknown_operator():
    with pytest.raises(RuleError, match="has no operator 'Missing'"):
        operand().op.Missing()
