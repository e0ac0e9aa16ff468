"""The partition of a model with a backward pass, so that no forward pass is run twice.

The forward part gives the net's outputs and the residuals: the values of the forward pass that the
backward pass reads. The backward part takes them in the place of computing them.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

import onnx_ir as ir

from onnxgrad.engine.flow import operands
from onnxgrad.graph import io
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.fresh import Names
from onnxgrad.passes.clean_up import optimise
from onnxgrad.transforms.metadata import OGRADS, table


def partition(model: ir.Model, own: Sequence[str]) -> tuple[ir.Model, ir.Model, list[str]]:
    """The forward part and the backward part of a model, and the names of the residuals.

    Args:
        model: The model, which stays as it is.
        own: The names of the outputs of the net; the other outputs are those of the backward part.

    Returns:
        The forward part has the inputs of the net, its outputs and then the residuals that are none
        of them. The backward part has the inputs of the model, then the residuals. Where a residual
        would be no tensor there are none, and the backward part runs the forward pass anew.
    """
    residuals = _residuals(model.graph, own)
    forward, backward = io.load(model), io.load(model)
    values, seeds = by_name(forward.graph), set(table(model, OGRADS).values())
    _keep(forward.graph.inputs, [v for v in forward.graph.inputs if v.name not in seeds])
    _keep(forward.graph.outputs, [values[n] for n in dict.fromkeys([*own, *residuals])])
    optimise(forward)
    _keep(backward.graph.outputs, [v for v in backward.graph.outputs if v.name not in own])
    _feed(backward.graph, residuals)
    optimise(backward)
    return forward, backward, residuals


def _residuals(graph: ir.Graph, own: Sequence[str]) -> list[str]:
    """The values of the forward pass that vary and that the backward pass reads."""
    needed = {v for v in graph.outputs if v.name in own}
    forward = set[ir.Node]()
    for node in reversed(graph):
        if not needed.isdisjoint(node.outputs):
            forward.add(node)
            needed.update(v for v in operands(node) if v is not None)
    varying = {v for v in graph.inputs if not v.is_initializer()}
    read: dict[ir.Value, None] = {}
    for node in graph:
        if not varying.isdisjoint(v for v in operands(node) if v is not None):
            varying.update(node.outputs)
        if node not in forward:
            read |= dict.fromkeys(v for v in operands(node) if v is not None)
    found = [v for v in read if v in varying and v.producer() in forward]
    if any(not isinstance(v.type, ir.TensorType) for v in found):
        return []
    return [v.name or "" for v in found]


def _keep(listed: MutableSequence[ir.Value], values: Sequence[ir.Value]) -> None:
    """Let a graph have these inputs, or outputs, alone."""
    listed.clear()
    listed.extend(values)


def _feed(graph: ir.Graph, names: Sequence[str]) -> None:
    """Make inputs of values of a graph, under their names."""
    values, fresh = by_name(graph), Names(graph)
    for name in names:
        value = values[name]
        given = ir.Value(name=name, type=value.type, shape=value.shape)
        value.replace_all_uses_with(given)
        value.name = fresh.fresh(name)
        graph.inputs.append(given)
