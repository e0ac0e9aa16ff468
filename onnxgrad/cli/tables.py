"""What the commands print in tables: what goes in and out of a model, and the results of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from rich.table import Table

from onnxgrad.cli.printing import say
from onnxgrad.graph.errors import printable
from onnxgrad.runtimes.ports import Port


class _Table(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(printable, cells), **options)


def table(*columns: str) -> Table:
    """An empty table, whose cells are texts."""
    empty = _Table(box=None, pad_edge=False)
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def show_ports(source: ir.Model, result: ir.Model) -> None:
    """Print which inputs a transform's model has beyond those of its source, and its outputs."""
    rows = table("", "name", "dtype", "shape")
    known = {value.name for value in source.graph.inputs}
    for value in result.graph.inputs:
        if value.name not in known:
            rows.add_row("new input", *_described(Port.of(value)))
    for value in result.graph.outputs:
        rows.add_row("output", *_described(Port.of(value)))
    say(rows)


def _described(port: Port) -> tuple[str, str, str]:
    return port.name, *port.texts()


def show_results(results: Mapping[str, Any]) -> None:
    """Print the dtype and shape of each result, and how large its numbers are."""
    rows = table("result", "dtype", "shape", "norm", "min", "max")
    for name, value in results.items():
        array = np.asarray(value)
        if array.dtype.kind in "fiu" and array.size:
            norm = np.linalg.norm(array.astype(np.float64))
            numbers = [f"{norm:.6g}", f"{array.min():.6g}", f"{array.max():.6g}"]
        else:
            numbers = [""] * 3
        rows.add_row(name, str(array.dtype), str(array.shape), *numbers)
    say(rows)
