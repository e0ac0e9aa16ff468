"""The table of tensors: complete, right, and of names that the transforms take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad.graph.names import resolve
from onnxgrad.verify.tensors import NamedTensor, tensors_of

MODELS = Path(__file__).parents[2] / "models"
WEIGHT = np.ones((3, 4), np.float32)


def model(opset: int = 17, batch: Any = "N") -> onnx.ModelProto:
    """Weights in an initializer, in a Constant node and in a branch; a lone number; an ArgMax."""
    info = helper.make_tensor_value_info
    inner = numpy_helper.from_array(np.ones(4, np.float32), "inside")
    branches = [
        helper.make_graph(
            [helper.make_node(op, ["h", "inside"], [out])], out, [], [info(out, 1, None)], [inner]
        )
        for op, out in (("Add", "then"), ("Mul", "else"))
    ]
    constant = {"value": numpy_helper.from_array(np.ones(4, np.float32))}
    nodes = [
        helper.make_node("Constant", [], ["bias"], "held", **constant),
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("MatMul", ["x", "w"], ["xw"], "first"),
        helper.make_node("Add", ["xw", "bias"], ["h"], "second"),
        helper.make_node("ArgMax", ["h"], ["k"], axis=-1, keepdims=0),
        helper.make_node(
            "If", ["c"], ["r"], "choice", then_branch=branches[0], else_branch=branches[1]
        ),
        helper.make_node("Mul", ["r", "two"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", 1, [batch, 3]), info("c", 9, [])],
        [info("y", 1, None), info("k", 7, None)],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("opset", [13, 21])
def test_rows(opset: int) -> None:
    f, i = np.dtype(np.float32), np.dtype(np.int64)
    assert list(og.inspect(model(opset)).tensors) == [
        NamedTensor("x", "input", f, ("N", 3)),
        NamedTensor("c", "input", np.dtype(bool), ()),
        NamedTensor("w", "parameter", f, (3, 4)),
        NamedTensor("bias", "parameter", f, (4,), "Constant", "held"),
        NamedTensor("two", "constant", f, (), "Constant", ""),
        NamedTensor("inside", "parameter", f, (4,)),
        NamedTensor("xw", "inner", f, ("N", 4), "MatMul", "first"),
        NamedTensor("h", "inner", f, ("N", 4), "Add", "second"),
        NamedTensor("k", "output", i, ("N",), "ArgMax", ""),
        NamedTensor("r", "inner", f, ("N", 4), "If", "choice"),
        NamedTensor("y", "output", f, ("N", 4), "Mul", ""),
    ]


@pytest.mark.parametrize("batch", [None, 5, "N"])
def test_every_row_can_be_named(batch: Any) -> None:
    source = model(batch=batch)
    for row in tensors_of(source):
        assert resolve(ir.from_proto(source), row.name) == row.name
        if row.dtype == np.float32:
            og.gradient(source, row.name, of=og.heads.weighted_sum("y", 1), unreachable="zeros")
            og.gradient(source, of=row.name, unreachable="zeros")


def test_the_values_have_the_dtypes_and_shapes_of_the_rows() -> None:
    net = og.Net(model(batch=5))
    rows = list(tensors_of(model(batch=5)))
    feeds = {"x": np.ones((5, 3), np.float32), "c": np.array(True)}
    found = net(feeds, [og.Value(row.name) for row in rows])
    assert {row.name: (row.dtype, row.shape) for row in rows} == {
        name: (array.dtype, array.shape) for name, array in found.items()
    }


def test_weights_in_branches_are_checked_with_a_head() -> None:
    feeds = {"x": np.ones((5, 3), np.float32), "c": np.array(False)}
    report = og.check(model(), feeds, ["inside", "bias"], of=og.heads.norm("y"))
    assert [(row.name, row.verdict) for row in report.rows] == [("inside", "ok"), ("bias", "ok")]


def test_patterns_match_tensors_operators_and_nodes() -> None:
    table = tensors_of(model())
    assert [row.name for row in table.matching("M?t")] == ["xw"]
    assert [row.name for row in table.matching("second")] == ["h"]
    assert [row.name for row in table.matching("choice")] == ["r"]
    assert [row.name for row in table.matching("b*s")] == ["bias"]
    assert not len(table.matching("[w]"))
    assert str(table.matching("[w]")).split()[:2] == ["tensor", "kind"]


def test_the_table_is_aligned() -> None:
    lines = str(og.inspect(MODELS / "cnn.onnx").tensors).splitlines()
    for title in ("kind", "dtype", "shape", "operator"):
        column = lines[0].index(title)
        assert all(line[column - 2 : column].strip() == "" for line in lines)


def test_names_are_shown_in_printable_characters() -> None:
    source = model()
    source.graph.node[2].name = "a\x1b[2J\nb"
    assert r"a\x1b[2J\nb" in str(tensors_of(source))
    assert len(str(tensors_of(source)).splitlines()) == 12


def test_the_table_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("onnxgrad.verify.inspect.tensors_of", lambda net: calls.append(net))
    report = og.inspect(model())
    assert not calls
    assert (report.tensors, report.tensors) == (None, None)
    assert len(calls) == 1
    assert report == og.inspect(model())
