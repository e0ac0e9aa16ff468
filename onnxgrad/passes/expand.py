"""Replaces operators of other domains by operators of the standard's default domain.

An expansion is a function that emits the same values with `op`. Its parameters are the operator's
operands, by position, and after a star its attributes, by name:

    @expansion("com.microsoft::QuickGelu")
    def _(op, X, *, alpha=1.702):
        return X * op.Sigmoid(X * alpha)

A parameter with two stars takes the attributes that are passed on to an operator of the standard,
which checks them. An expansion returns one tensor or a tuple, with None for outputs that it leaves
to the operator. A list stands for a sequence whose elements are all known; `items` gives it to a
later expansion.

Where attributes name tensors of the graph, `bind` makes operands of these tensors, so that passes
that rename, move or remove values respect them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import onnx_ir as ir

from onnxgrad.declare.expansions import Function, expansion_of, naming_of
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Refusal, Tensor
from onnxgrad.graph.errors import ModelError, RuleError, nearest
from onnxgrad.graph.facts import all_nodes, subgraphs
from onnxgrad.graph.marks import ITEMS, NOT_EXPANDED
from onnxgrad.passes.fused import can_stay, hide, import_hidden


def needs_expansion(graph: ir.Graph) -> bool:
    """Whether an operator of the graph, or of one within, has an expansion."""
    return any(expansion_of(n) for n in all_nodes(graph))


def bind(graph: ir.Graph, outer: Mapping[str | None, ir.Value] | None = None) -> None:
    """Make operands of the tensors that attributes of nodes name.

    Args:
        graph: The nodes may be out of order.
        outer: The values that an inner graph sees, by name.

    Raises:
        ModelError: There is no tensor of that name.
    """
    if not any(naming_of(n) for n in all_nodes(graph)):
        return
    inner = (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs))
    values = {**(outer or {}), **{v.name: v for v in inner}}
    for node in graph:
        for name in _named(node):
            if not name or name not in values:
                where = f"{node.domain}::{node.op_type}, node {node.name!r}"
                raise ModelError(
                    f"{where} names {name!r}, and there is no such tensor."
                    + nearest(str(name), (v for v in values if v))
                )
            node.resize_inputs(len(node.inputs) + 1)
            node.replace_input_with(len(node.inputs) - 1, values[name])
        for body in subgraphs(node):
            bind(body, values)


def _named(node: ir.Node) -> list[str]:
    """The names of tensors that attributes hold, in the order of the attributes."""
    found: list[str] = []
    for attribute in naming_of(node):
        if (a := node.attributes.get(attribute)) is not None:
            found += [a.value] if isinstance(a.value, str) else a.value
    return found


def expand(graph: ir.Graph, hides: bool = False) -> None:
    """Replace the operators that have an expansion; their outputs keep their names.

    The nodes are left out of order. A node that cannot be replaced stays, with a note of the
    reason.

    Args:
        graph: A graph whose types are inferred, as far as inference knows the operators.
        hides: Whether a replaced node stays, hidden, for `fused.restore`.
    """
    if hides:
        import_hidden(graph)
    _expand(Builder(graph), hides)


def _expand(op: Builder, hides: bool) -> None:
    for node in list(op.graph):
        for inner in subgraphs(node):
            _expand(Builder(inner, op), hides)
        function = expansion_of(node)
        if function is None:
            op.inference.infer_open(node)  # its types may follow from an expansion before it
            continue
        op.scope = node.name or node.op_type
        try:
            results = _call(op, function, node)
        except (Refusal, RuleError) as e:
            NOT_EXPANDED.set(node, str(e))
            node.resize_inputs(len(node.inputs) - len(_named(node)))
            continue
        for old, new in zip(node.outputs, results, strict=False):
            if isinstance(new, list):
                ITEMS.set(old, new)
                NOT_EXPANDED.set(node, "a later use of it is not known when the graph is built")
            elif new is not None and old.name:
                _replace(op, old, new)
        if any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        if hides and can_stay(node, results):
            hide(node, results)
        else:
            op.graph.remove(node, safe=True)


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
    """Replace a value by `new`, which takes its name."""
    if new.value not in op.emitted or new.value.is_graph_output():
        new = op.node("Identity", [new])[0]
    name, old.name = old.name, op.names.fresh(f"{old.name}_replaced")
    old.replace_all_uses_with(new.value, replace_graph_outputs=True)
    new.value.name = name
    op.emitted.discard(new.value)  # a second output gets a node of its own
