"""The tensors of a net that can be named, so that a layer can be found."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.names import parameters
from onnxgrad.passes.normalise import normalise
from onnxgrad.runtimes.ports import Port
from onnxgrad.verify.table import aligned

TensorKind = Literal["input", "parameter", "constant", "inner", "output"]


@dataclass(frozen=True)
class NamedTensor:
    """One tensor that can be named.

    Attributes:
        name: What `of`, `wrt`, `values` and the like take.
        kind: "input"; "parameter", which is a weight in floating point; "constant", another weight
            or a lone number; "output"; or "inner", what a node computes.
        dtype: Its numpy dtype; None if unknown, and for a sequence or an optional.
        shape: Its dimensions, each an int, a name, or None; None if even the rank is unknown.
        operator, node: The operator of the node that computes it, and the node's name; empty for
            what none computes.
    """

    name: str
    kind: TensorKind
    dtype: np.dtype | None
    shape: tuple[int | str | None, ...] | None
    operator: str = ""
    node: str = ""


@dataclass(frozen=True)
class TensorTable:
    """Tensors of a net: inputs and weights first, then in the order of the nodes.

    `str` gives a table.
    """

    rows: tuple[NamedTensor, ...]

    def __iter__(self) -> Iterator[NamedTensor]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [("tensor", "kind", "dtype", "shape", "operator", "node")]
        for row in self.rows:
            dtype, shape = Port(row.name, row.dtype, row.shape).texts()
            cells.append((row.name, row.kind, dtype, shape, row.operator, row.node))
        return "\n".join(aligned(cells))

    def matching(self, pattern: str) -> TensorTable:
        """Those with a pattern in the name of the tensor, the operator or the node.

        Args:
            pattern: Characters, ``*`` for any and ``?`` for one.
        """
        glob = f"*{pattern.replace('[', '[[]')}*"
        return TensorTable(
            tuple(
                row
                for row in self.rows
                if any(
                    fnmatch.fnmatchcase(text, glob) for text in (row.name, row.operator, row.node)
                )
            )
        )


@guarded
def tensors_of(model: Any) -> TensorTable:
    """The tensors of a net that can be named.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.

    Raises:
        ModelError: The model cannot be read or is not valid.
    """
    net = io.load(model)
    weights = parameters(net)
    named = by_name(net.graph) | weights  # with those of inner graphs
    inferred = io.load(net)
    normalise(inferred, list(named))
    known = by_name(inferred.graph)
    rows = [_row(net.graph, v, known.get(name, v), weights) for name, v in named.items()]
    order = {"input": 0, "parameter": 1, "constant": 1}
    return TensorTable(tuple(sorted(rows, key=lambda row: order.get(row.kind, 2))))


def _row(
    graph: ir.Graph, value: ir.Value, inferred: ir.Value, weights: dict[str, ir.Value]
) -> NamedTensor:
    """The row of a value, whose type and shape are those that were inferred."""
    name, node, port = value.name or "", value.producer(), Port.of(inferred)
    kind: TensorKind = "inner"
    if name in weights:
        kind = "parameter"
    elif value.is_initializer() or (node is not None and node.op_type == "Constant"):
        kind = "constant"
    elif node is None:
        kind = "input"
    elif value in graph.outputs:
        kind = "output"
    operator, at = (node.op_type, node.name or "") if node is not None else ("", "")
    return NamedTensor(name, kind, port.dtype, port.shape, operator, at)
