"""A net for several lists of arrays at once: as one batch where its examples are apart."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.graph.facts import dims_of
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.examples import new_dim
from onnxgrad.transforms.row_sizes import Rows
from onnxgrad.transforms.rows import rows_of


def batch_inputs(model: ir.Model) -> list[str]:
    """The inputs whose first axis is a batch of any size of which no example influences another.

    Each output then has the examples on its first axis. Empty where this cannot be proven.
    """
    net = io.load(model)
    graph = net.graph
    required = [v for v in graph.inputs if not v.is_initializer()]
    leading = {v: dims[0] for v in required if (dims := dims_of(v))}
    first = next((v for v, size in leading.items() if not isinstance(size, int)), None)
    if first is None:
        return []
    size, batch = leading[first], new_dim(graph, "examples")
    chosen = [v for v, d in leading.items() if v is first or (d is not None and d == size)]
    names = [v.name or "" for v in chosen]
    for v in chosen:
        v.shape = ir.Shape([batch, *(dims_of(v) or ())[1:]])
    for v in graph.outputs:
        v.shape = None  # inferred anew
    try:
        normalise(net, [])
    except OnnxGradError:  # its sizes do not fit: some are fixed
        return []
    rows = rows_of(net.graph, {v: 0 for v in net.graph.inputs if v.name in names}, batch)
    return names if all(rows.get(y) == Rows(0) for y in net.graph.outputs) else []


def with_free_batch(model: ir.Model) -> ir.Model:
    """The model, for batches of any size where it is declared for one, if examples are apart."""
    required = [v for v in model.graph.inputs if not v.is_initializer()]
    sizes = [d for v in required for d in dims_of(v) or (None,)]
    if not sizes or any(not isinstance(d, int) for d in sizes):
        return model
    free = io.load(model)
    batch = new_dim(free.graph, "examples")
    first = next(dims[0] for v in required if (dims := dims_of(v)))
    for v in free.graph.inputs:
        if not v.is_initializer() and (dims_of(v) or (None,))[0] == first:
            _lead(v, batch)
    for y in free.graph.outputs:
        _lead(y, batch)
    return free if batch_inputs(free) else model


def _lead(value: ir.Value, size: str) -> None:
    """Name the first axis."""
    if dims := dims_of(value):
        value.shape = ir.Shape([size, *dims[1:]])
