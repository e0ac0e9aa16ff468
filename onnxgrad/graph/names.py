"""Finds the tensor that a name stands for, or the position of a parameter in the net."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import onnx
import onnx_ir as ir

from onnxgrad.graph.errors import ArgumentError, UnknownNameError, nearest
from onnxgrad.graph.facts import FLOATS, by_name, inner_graphs

Position: TypeAlias = Sequence[str | int]
TensorSpec: TypeAlias = str | Position


class All(enum.Enum):
    """The type of `ALL`."""

    ALL = "all"

    def __repr__(self) -> str:
        return "ALL"


ALL: Final = All.ALL
"""Every floating-point graph input and every trainable weight."""


def parameters(model: ir.Model) -> dict[str, ir.Value]:
    """The floating-point initializers and Constant nodes, those of inner graphs too, by name."""
    found: dict[str, ir.Value] = {}
    for graph in model.graphs():
        for name, value in _constants(graph).items():
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is None or tensor.dtype not in FLOATS:
                continue
            # A lone number in a Constant node is the exporter's arithmetic, not a weight.
            if value.producer() is None or tensor.size > 1:
                found.setdefault(name, value)
    return found


def _constants(graph: ir.Graph) -> dict[str, ir.Value]:
    """A graph's initializers and the outputs of its Constant nodes, by name."""
    nodes = (node.outputs[0] for node in graph if node.op_type == "Constant")
    return {v.name: v for v in (*graph.initializers.values(), *nodes) if v.name}


def resolve(model: ir.Model, spec: TensorSpec) -> str:
    """The name of the tensor that `spec` stands for.

    Args:
        model: The model as the caller has it: node indices count its nodes.
        spec: A tensor's name, or a position: a sequence of names and indices. A position is looked
            up among the parameters' names split at `.` and `/`, so that `["layer1", 0, "weight"]`
            is `layer1.0.weight`. Then among the nodes: a node's name or index, then the formal name
            or the index of an input of its operator, as in `["/conv1/Conv", "W"]`.

    Raises:
        UnknownNameError: No such tensor or position, or more than one; the nearest are listed.
    """
    if isinstance(spec, str):
        return _by_name(model, spec)
    position = list(spec) if isinstance(spec, Sequence) else []
    if not position or not all(isinstance(part, str | int) for part in position):
        raise UnknownNameError(
            f"A tensor's name or its position, names and indices, is needed, not {spec!r}."
        )
    wanted = _split(*position)
    names = parameters(model)
    matches = [name for name in names if _split(name) == wanted]
    if not matches:
        nodes = _nodes_at(model, position[:-1])
        matches = sorted({_operand(model, node, position[-1], spec) for node in nodes})
    if not matches:
        known = [*names, *(node.name or "" for node in model.graph)]
        near = nearest(".".join(wanted), known) or nearest(".".join(wanted[:-1]), known)
        raise UnknownNameError(f"The net has no parameter at the position {spec!r}.{near}")
    if len(matches) > 1:
        raise UnknownNameError(
            f"The position {spec!r} is ambiguous: it can be {' or '.join(map(repr, matches))}."
        )
    return matches[0]


def resolve_all(model: ir.Model, spec: Any) -> list[str]:
    """The names that one name or a sequence of names and positions stands for.

    Raises:
        ArgumentError: `spec` is neither.
        UnknownNameError: As `resolve`.
    """
    if isinstance(spec, str):
        return [resolve(model, spec)]
    known = by_name(model.graph)
    if not isinstance(spec, Sequence) or not spec:
        raise ArgumentError(f"a name or a sequence of names is needed, not {spec!r}")
    try:
        names = (s if isinstance(s, str) and s in known else resolve(model, s) for s in spec)
        return list(dict.fromkeys(names))
    except UnknownNameError as error:
        raise UnknownNameError(f"{error}{_as_position(model, spec)}") from None


def _as_position(model: ir.Model, spec: Sequence[Any]) -> str:
    """A hint for a position that was given where a list of tensors is expected, or ""."""
    try:
        name = resolve(model, list(spec))
    except UnknownNameError:
        return ""
    return f" A list is one of tensors: for {name!r} by its position write [{list(spec)!r}]."


def _by_name(model: ir.Model, name: str) -> str:
    known = by_name(model.graph)
    if name in known:
        return name
    for graph in inner_graphs(model.graph):
        if name in _constants(graph):
            return name
        if name in by_name(graph):
            raise UnknownNameError(
                f"The tensor {name!r} lies inside a branch or a loop's body, where it has no "
                "gradient of its own. Choose a tensor of the main graph."
            )
    near = nearest(name, known) or _ports(model.graph)
    raise UnknownNameError(f"The net has no tensor {name!r}.{near}")


def _ports(graph: ir.Graph) -> str:
    """The sentences that name a graph's inputs and outputs, the first ones of many."""
    given = {"Inputs": graph.inputs, "Outputs": graph.outputs}
    names = {kind: [repr(v.name) for v in values] for kind, values in given.items()}
    return "".join(
        f" {kind}: {', '.join(listed[:5])}{', ...' if len(listed) > 5 else ''}."
        for kind, listed in names.items()
        if listed
    )


def _split(*parts: str | int) -> tuple[str, ...]:
    return tuple(piece for part in parts for piece in re.split(r"[./]", str(part)) if piece)


def _nodes_at(model: ir.Model, place: Position) -> list[ir.Node]:
    nodes = list(model.graph)
    if len(place) == 1 and isinstance(place[0], int):
        index = place[0]
        return [nodes[index]] if -len(nodes) <= index < len(nodes) else []
    wanted = _split(*place)
    return [node for node in nodes if node.name and wanted and _split(node.name) == wanted]


def _operand(model: ir.Model, node: ir.Node, operand: str | int, spec: TensorSpec) -> str:
    formal = _formal_inputs(model, node)
    index = formal.index(operand) if operand in formal else operand
    value = None
    if isinstance(index, int) and -len(node.inputs) <= index < len(node.inputs):
        value = node.inputs[index]
    if value is None or not value.name:
        given = [name for name, value in zip(formal, node.inputs, strict=False) if value]
        raise UnknownNameError(
            f"{node.op_type} node {node.name!r} has no input {operand!r} (position {spec!r}). "
            f"It has {', '.join(map(repr, given)) or 'none'}, or the indices "
            f"0 to {len(node.inputs) - 1}."
        )
    return value.name


def _formal_inputs(model: ir.Model, node: ir.Node) -> list[str]:
    function = model.functions.get(node.op_identifier())
    if function is not None:
        return [value.name or "" for value in function.inputs]
    version = model.graph.opset_imports.get(node.domain, 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return []  # an operator that onnx does not know: its inputs have indices only
    return [parameter.name for parameter in schema.inputs]
