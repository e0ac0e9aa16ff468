"""Learns ranks from an example: feeds with which the forward pass runs once.

Where neither the operators nor the ports tell how many axes a tensor has, as after a Squeeze
without axes, one run tells it. The ranks of that run are learnt, its sizes are not. A rank can
depend on the feeds, so the graph checks each rank that was learnt: a run with feeds that give
another rank fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError, ModelError
from onnxgrad.graph.facts import by_name, is_float
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.marks import DECLARED
from onnxgrad.runtimes.ports import Array, Port, arrays
from onnxgrad.runtimes.registry import on_cpu


def feeds_of(graph: ir.Graph, example: Any) -> dict[str, Any]:
    """The arrays of an example by input name.

    Args:
        graph: The main graph.
        example: The input's value where there is one, else a dict by input name.

    Raises:
        FeedError: The example does not fit the inputs.
    """
    ports = {v.name or "": Port.of(v) for v in graph.inputs}
    return arrays(ports, [name for name in ports if name not in graph.initializers], example)


def learn(model: ir.Model, feeds: Mapping[str, Any]) -> dict[ir.Value, int]:
    """The ranks of the main graph's tensors whose rank is open.

    Args:
        model: A model whose shapes have been inferred as far as possible.
        feeds: Arrays by input name.

    Raises:
        FeedError: The net cannot be run on them.
    """
    inner = [v for node in model.graph for v in node.outputs if v.name and _is_open(v)]
    values = _values(model, feeds, inner)
    return {v: np.ndim(array) for v, array in zip(inner, values, strict=True)}


def sizes(model: ir.Model, example: Any) -> dict[ir.Value, tuple[int, ...]]:
    """The shapes that the main graph's tensors have in a run on the example.

    Raises:
        FeedError: The net cannot be run on it.
    """
    values = [v for node in model.graph for v in node.outputs if v.name and is_float(v)]
    probe = io.load(model)
    found, names = by_name(probe.graph), Names(probe.graph)
    shapes = [ir.node("Shape", [found[v.name or ""]]) for v in values]
    for node in shapes:
        node.outputs[0].name = names.fresh("shape")
    probe.graph.extend(shapes)
    arrays = _values(probe, feeds_of(model.graph, example), [n.outputs[0] for n in shapes])
    return {v: tuple(map(int, array)) for v, array in zip(values, arrays, strict=True)}


def declare_inputs(graph: ir.Graph, feeds: Mapping[str, Any]) -> None:
    """Declare the ranks of inputs whose shape the file leaves out."""
    for v in graph.inputs:
        if v.name in feeds and _is_open(v):
            v.shape = ir.Shape([None] * np.ndim(feeds[v.name or ""]))


def roots(ranks: Mapping[ir.Value, int]) -> list[ir.Value]:
    """The values whose rank is still open, though those of their operands are known."""
    still = dict.fromkeys(v for v in ranks if v.shape is None)  # in the order of the graph
    return [v for v in still if not any(operand in still for operand in _operands(v))]


def _operands(value: ir.Value) -> list[ir.Value]:
    node = value.producer()
    return [] if node is None else [v for v in node.inputs if v is not None]


def pin(graph: ir.Graph, value: ir.Value, rank: int, names: Names) -> None:
    """Replace a value by an equal tensor of known rank, which takes its name.

    The tensor is a Reshape of the value to its own shape. That shape is first reshaped to a vector
    of `rank` sizes, which fails in a run where the value has another rank.
    """
    count = ir.Value(name=names.fresh("rank"), const_value=ir.tensor(np.array([rank], np.int64)))
    count.type, count.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    graph.register_initializer(count)
    shape = ir.node("Shape", [value])
    sizes = ir.node("Reshape", [*shape.outputs, count], {"allowzero": 1})
    same = ir.node("Reshape", [value, *sizes.outputs], {"allowzero": 1})
    told, name = same.outputs[0], value.name
    ir.convenience.replace_all_uses_with(value, told, replace_graph_outputs=True)
    for node in (shape, sizes, same):
        node.name = names.fresh(f"{name}/{node.op_type}")
        node.outputs[0].name = names.fresh(f"{node.name}_output")
    for node in (shape, same):
        node.replace_input_with(0, value)
    told.name, value.name = name, told.name
    told.type = value.type
    DECLARED.set(told, DECLARED.of(value))
    producer = value.producer()
    assert producer is not None
    producer.append([shape, sizes, same])


def _is_open(value: ir.Value) -> bool:
    return value.shape is None and (value.type is None or isinstance(value.type, ir.TensorType))


def _values(model: ir.Model, feeds: Mapping[str, Any], wanted: Sequence[ir.Value]) -> list[Array]:
    """The values of inner tensors, on onnxruntime where it takes the net, else on the reference."""
    if not wanted:
        return []
    names = [v.name or "" for v in wanted]
    probe = io.load(model)
    found = {v.name: v for node in probe.graph for v in node.outputs}
    probe.graph.outputs[:] = [found[name] for name in names]
    common.RemoveUnusedNodesPass()(probe)
    refusals = []
    for runtime in on_cpu().values():
        try:
            return runtime.load(io.load(probe)).run(feeds, names)
        except (ModelError, FeedError) as error:
            refusals.append(str(error))
    raise FeedError(f"The example cannot be run. {' '.join(refusals)}")
