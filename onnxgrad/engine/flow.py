"""What depends on what, and which edges of the graph carry a derivative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_ir as ir

from onnxgrad.declare.registry import Entry, State
from onnxgrad.emit.subgraphs import captures
from onnxgrad.engine.stopped import is_gate
from onnxgrad.engine.straight_through import entry_of, is_straight_through
from onnxgrad.graph.errors import NoRuleError
from onnxgrad.graph.facts import carries
from onnxgrad.graph.functions import has_body
from onnxgrad.graph.marks import NOT_EXPANDED, ROUNDED
from onnxgrad.graph.schemas import joined_name, schema_of


@dataclass(frozen=True)
class Edge:
    """One operand of one node, and what is known of the derivative with respect to it."""

    node: ir.Node
    index: int
    state: State
    reason: str


Operands: TypeAlias = dict[ir.Node, tuple[ir.Value | None, ...]]

# The name under which a rule asks for outer values that a node's graphs capture.
CAPTURES = "captures"


def operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """What a node depends on: its inputs, then the outer values that its graphs capture."""
    return (*node.inputs, *captures(node))


def operand_name(node: ir.Node, index: int, entry: Entry | None = None) -> str:
    """The formal name of an operand, or its index where the operator has no schema."""
    if index >= len(node.inputs):
        return CAPTURES
    entry = entry or entry_of(node)
    schema = entry.schema if entry else schema_of(node.domain, node.op_type)
    return schema.operand(index) if schema and schema.inputs else str(index)


def edge(node: ir.Node, index: int, value: ir.Value) -> Edge:
    """What is known of the derivative of a node with respect to `value`, its operand at `index`."""
    if is_gate(node):
        return Edge(node, index, "zero", f"{node.outputs[0].name!r} is constant")
    if ROUNDED.on(value) and not is_straight_through(node):
        return Edge(node, index, "zero", "takes rounded numbers for integers")
    entry = entry_of(node)
    if entry is None and has_body(node.domain, node.op_type):
        floating = carries(node.outputs[0])
        return Edge(node, index, "rule" if floating else "zero", "through its function body")
    if entry is None:
        known = schema_of(node.domain, node.op_type) is not None
        reason = "no rule yet" if known else "not an operator of the standard, and no rule for it"
        reason = NOT_EXPANDED.of(node) or reason
        return Edge(node, index, "none", reason)
    state, reason = entry.operand_state(operand_name(node, index, entry))
    if not any(carries(v) for v in node.outputs):
        return Edge(node, index, "zero", reason or "its outputs carry no gradient")
    return Edge(node, index, state, reason)


@dataclass
class Flow:
    """Which values matter: those that `sources` influence and that influence `targets`."""

    sources: Sequence[ir.Value]
    targets: Sequence[ir.Value]
    # Value -> the edge through which a source first reaches it; None for a source.
    reached: dict[ir.Value, Edge | None] = field(default_factory=dict)
    # Operands with zero derivative at which a path from a source ends.
    blocked: list[Edge] = field(default_factory=list)
    # Values that influence a target.
    useful: set[ir.Value] = field(default_factory=set)
    # The nodes on a path, in topological order, with the operands through which it leads.
    steps: list[tuple[ir.Node, list[Edge]]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        graph: ir.Graph | Sequence[ir.Node],
        sources: Sequence[ir.Value],
        targets: Sequence[ir.Value],
    ) -> Flow:
        """Trace a graph, or a part of one, whose nodes are in topological order."""
        flow = cls(sources, targets, dict.fromkeys(sources))
        before = _before(graph, targets)
        flow._go_forward(before)
        flow._go_back(before)
        return flow

    def _go_forward(self, before: Operands) -> None:
        """Follow what the sources influence; the nodes in `before` are in reversed order."""
        for node in reversed(before):
            edges = [
                edge(node, k, v)
                for k, v in enumerate(before[node])
                if v is not None and v in self.reached
            ]
            self.blocked += [e for e in edges if e.state == "zero"]
            edges = [e for e in edges if e.state != "zero"]
            if not edges:
                continue
            self.steps.append((node, edges))
            through = next((e for e in edges if e.state == "none"), edges[0])
            for v in node.outputs:
                if carries(v):
                    self.reached.setdefault(v, through)

    def _go_back(self, before: Operands) -> None:
        """Keep the nodes to which a cotangent can come back from the targets."""
        self.useful = {v for v in self.targets if v in self.reached}
        live = []
        for node, edges in reversed(self.steps):
            if not self.useful.isdisjoint(node.outputs):
                live.append((node, edges))
                self.useful |= {u for e in edges if (u := before[node][e.index]) is not None}
        self.steps = live[::-1]

    @property
    def nodes(self) -> list[ir.Node]:
        """The nodes on a path, in topological order."""
        return [node for node, _ in self.steps]

    def matters(self, value: ir.Value | None) -> bool:
        """Whether the cotangent of `value` is needed."""
        return value is not None and value in self.reached and value in self.useful

    def path(self, value: ir.Value) -> str:
        """The path from a source to `value`, as text."""
        steps = [f"{value.name!r}"]
        while (e := self.reached.get(value)) is not None:
            value = operands(e.node)[e.index]  # type: ignore[assignment]
            steps.append(f"{value.name!r} -> {e.node.op_type}")
        if len(steps) > 7:
            steps[3:-3] = ["..."]
        return " -> ".join(reversed(steps))


def _before(graph: ir.Graph | Sequence[ir.Node], targets: Sequence[ir.Value]) -> Operands:
    """The nodes that targets depend on, from the last to the first, with their operands."""
    useful, before = set(targets), {}
    for node in reversed(graph):
        if not useful.isdisjoint(node.outputs):
            before[node] = operands(node)
            useful.update(v for v in before[node] if v is not None)
    return before


def describe(node: ir.Node) -> str:
    """A node as a message names it."""
    name = joined_name(node.domain, node.op_type)
    return f"operator {name}, node {node.name!r}"


def no_rule_error(
    node: ir.Node, index: int | None, reason: str, flow: Flow, where: str = ""
) -> NoRuleError:
    """The error for a node on a path that has no rule."""
    at = "" if index is None else f", operand {operand_name(node, index)!r}"
    source = next((v for v in operands(node) if v in flow.reached), None)
    path = f" Path: {flow.path(source)} -> {node.op_type}." if source is not None else ""
    name = joined_name(node.domain, node.op_type)
    return NoRuleError(
        f"{describe(node)}{at}{where}: {reason}.{path} "
        f"Leave it off the path with other names in wrt or of, or add a rule with "
        f"onnxgrad.rule({name!r})."
    )


def require_rules(flow: Flow) -> None:
    """Raise for the first node on a path with an operand that matters and has no rule.

    Raises:
        NoRuleError: it names operator, node, path and what to do.
    """
    for node, edges in flow.steps:
        for e in edges:
            if e.state == "none":
                raise no_rule_error(node, e.index, e.reason, flow)
