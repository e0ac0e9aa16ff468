"""Corrections of inference are declared for operators that there are."""

from __future__ import annotations

import pytest

import onnxgrad as og
from onnxgrad.graph import corrections
from onnxgrad.graph.corrections import Corrections
from onnxgrad.graph.schemas import onnx_schema

KINDS = {name: table for name, table in vars(corrections).items() if isinstance(table, Corrections)}


@pytest.mark.parametrize("kind", KINDS)
def test_operators_exist(kind: str) -> None:
    assert og.gradient  # the package declares them
    assert KINDS[kind]._table
    for op_type in KINDS[kind]._table:
        assert onnx_schema("", op_type) is not None
