"""Operators outside the standard's default domain, replaced by the standard's own before all else.

An expansion is a function of the operator's operands, by position, and of its attributes, by name
after the star, which emits the same values with `op`:

    @expansion("com.microsoft::QuickGelu")
    def _(op, X, *, alpha=1.702):
        return X * op.Sigmoid(X * alpha)

Two stars take the attributes that are passed on to an operator of the standard, which checks them.
It returns one tensor or a tuple, with None for outputs that it leaves to the operator. A list
stands for a sequence of which every element is known; `items` gives it to a later expansion.

Where attributes name tensors of the graph, `bind` makes these further operands, so that a pass that
renames, moves or removes values respects them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir

from onnxgrad.builder import Builder, Refusal, Tensor
from onnxgrad.errors import ModelError, RuleError, nearest
from onnxgrad.registry import split_name
from onnxgrad.values import subgraphs

Function = Callable[..., Any]

_TABLE: dict[tuple[str, str], Function] = {}
_NOTES: dict[tuple[str, str], str] = {}
# The attributes of an operator that hold names of tensors.
_NAMING: dict[tuple[str, str], tuple[str, ...]] = {}
# Where the reason is kept why an operator with an expansion could not be replaced.
REASON = "onnxgrad.not_expanded"
# Where the elements of a sequence are kept.
_ITEMS = "onnxgrad.items"


def expansion(
    *names: str, note: str = "", naming: tuple[str, ...] = ()
) -> Callable[[Function], Function]:
    """Declare the decorated function as the expansion of operators.

    Args:
        names: ``"domain::Op"`` each.
        note: What a user is to know of it, in a few words.
        naming: Attributes that hold names of tensors, which become operands after the others.

    Raises:
        RuleError: One is declared twice.
    """

    def decorate(function: Function) -> Function:
        for name in names:
            key = split_name(name)
            if key in _TABLE:
                raise RuleError(f"the expansion of {name} is declared twice")
            _TABLE[key], _NOTES[key] = function, note
            if naming:
                _NAMING[key] = naming
        return function

    return decorate


def items(sequence: Tensor) -> list[Tensor] | None:
    """The elements of a sequence; None where they are not known one by one."""
    return sequence.value.meta.get(_ITEMS)


def expandable() -> dict[tuple[str, str], str]:
    """The note of every operator with an expansion, by its domain and name."""
    return dict(sorted(_NOTES.items()))


def needs_expansion(graph: ir.Graph) -> bool:
    """Whether an operator of the graph, or of one within, has an expansion."""
    return any((n.domain, n.op_type) in _TABLE for n in graph.all_nodes())


def bind(graph: ir.Graph, outer: Mapping[str | None, ir.Value] | None = None) -> None:
    """Make operands of the tensors that attributes name, for every node that does so.

    Args:
        graph: The nodes may be out of order.
        outer: The values that an inner graph sees, by name.

    Raises:
        ModelError: There is no tensor of that name.
    """
    if not any((n.domain, n.op_type) in _NAMING for n in graph.all_nodes()):
        return
    inner = (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs))
    values = {**(outer or {}), **{v.name: v for v in inner}}
    for node in graph:
        for name in _named(node):
            if not name or name not in values:
                where = f"{node.domain}::{node.op_type}, node {node.name!r}"
                raise ModelError(
                    f"{where} names {name!r}, and there is no such tensor."
                    + nearest(name, (v for v in values if v))
                )
            node.resize_inputs(len(node.inputs) + 1)
            node.replace_input_with(len(node.inputs) - 1, values[name])
        for body in subgraphs(node):
            bind(body, values)


def _named(node: ir.Node) -> list[str]:
    """The names of tensors that attributes hold, in the order of the attributes."""
    found: list[str] = []
    for attribute in _NAMING.get((node.domain, node.op_type), ()):
        if (a := node.attributes.get(attribute)) is not None:
            found += [a.value] if isinstance(a.value, str) else a.value
    return found


def expand(graph: ir.Graph) -> None:
    """Replace the operators that have an expansion; their outputs keep their names.

    The nodes are left out of order. One that cannot be replaced stays, with the reason in its meta.

    Args:
        graph: Of inferred types, as far as inference knows the operators.
    """
    _expand(Builder(graph))


def _expand(op: Builder) -> None:
    for node in list(op.graph):
        for inner in subgraphs(node):
            _expand(Builder(inner, op))
        function = _TABLE.get((node.domain, node.op_type))
        if function is None:
            _infer(op, node)
            continue
        op.scope = node.name or node.op_type
        try:
            results = _call(op, function, node)
        except (Refusal, RuleError) as e:
            node.meta[REASON] = str(e)
            node.resize_inputs(len(node.inputs) - len(_named(node)))
            continue
        for old, new in zip(node.outputs, results, strict=False):
            if isinstance(new, list):
                old.meta[_ITEMS] = new
                node.meta[REASON] = "a later use of it is not known when the graph is built"
            elif new is not None and old.name:
                _replace(op, old, new)
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            op.graph.remove(node, safe=True)


def _infer(op: Builder, node: ir.Node) -> None:
    """The types and ranks that follow from an expansion, which inference did not know before."""
    declared = {v: v.type for v in node.outputs if v.type is None or v.shape is None}
    for v in declared:
        v.type = None
    try:
        if declared:
            op.infer_outputs(node)
    except RuleError:
        pass  # a later operator that needs the type will say so
    for v, kind in declared.items():
        v.type = v.type or kind


def _call(
    op: Builder, function: Function, node: ir.Node
) -> tuple[Tensor | list[Tensor] | None, ...]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    attributes = {name: a.value for name, a in node.attributes.items()}
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    passed_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not passed_on and (unknown := sorted(attributes.keys() - known)):
        op.refuse(f"its attribute {unknown[0]!r} is not known here")
    for v in node.inputs:
        if v is not None and v.type is None:
            op.refuse(f"the dtype of its operand {v.name!r} is not known when the graph is built")
    tensors = [None if v is None else op.tensor(v) for v in node.inputs]
    if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        places = len(parameters) - len(known) - passed_on
        if any(t is not None for t in tensors[places:]):
            op.refuse(f"its operand {places} is not known here")
        tensors = [*tensors, *[None] * places][:places]
    results = function(op, *tensors, **attributes)
    return results if isinstance(results, tuple) else (results,)


def _replace(op: Builder, old: ir.Value, new: Tensor) -> None:
    """Let `new` take the place and the name of a value."""
    if new.value not in op.emitted or new.value.is_graph_output():
        new = op.node("Identity", [new])[0]
    name, old.name = old.name, op.names.fresh(f"{old.name}_replaced")
    old.replace_all_uses_with(new.value, replace_graph_outputs=True)
    new.value.name = name
    op.emitted.discard(new.value)  # a second output gets a node of its own
