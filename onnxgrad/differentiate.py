"""Reverse mode on a graph: what depends on what, the walk, accumulation. It names no operator.

The cotangent of a value is the derivative of the scalar with respect to it. No cotangent means
zero, and no node is emitted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnxgrad import shapes
from onnxgrad.builder import Builder, Refusal, Tensor
from onnxgrad.errors import NoRuleError, RuleError
from onnxgrad.expand import REASON
from onnxgrad.functions import body_of, has_body
from onnxgrad.registry import Entry, Schema, State, is_moving, joined_name, schema_of
from onnxgrad.scopes import captures, copy_into, merged, total
from onnxgrad.stopped import is_gate
from onnxgrad.straight import entry_of, is_straight
from onnxgrad.values import ROUNDED, carries, cotangent_dtype, subgraphs


@dataclass(frozen=True)
class Edge:
    """One operand of one node, and what is known of the derivative with respect to it."""

    node: ir.Node
    index: int
    state: State
    reason: str


CAPTURES = "captures"


def operands(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """What a node depends on: its inputs, then the outer values that its graphs capture."""
    return (*node.inputs, *captures(node))


def operand_name(node: ir.Node, index: int) -> str:
    """The formal name of an operand, or its index where the operator has no schema."""
    if index >= len(node.inputs):
        return CAPTURES
    entry = entry_of(node)
    schema = entry.schema if entry else schema_of(node.domain, node.op_type)
    return schema.operand(index) if schema and schema.inputs else str(index)


def edge(node: ir.Node, index: int, value: ir.Value) -> Edge:
    """What is known of the derivative of a node with respect to `value`, its operand at `index`."""
    if is_gate(node):
        return Edge(node, index, "zero", f"{node.outputs[0].name!r} is constant")
    if ROUNDED in value.meta and not is_straight(node):
        return Edge(node, index, "zero", "takes rounded numbers for integers")
    entry = entry_of(node)
    if entry is None and has_body(node.domain, node.op_type):
        floating = carries(node.outputs[0])
        return Edge(node, index, "rule" if floating else "zero", "through its function body")
    if entry is None:
        known = schema_of(node.domain, node.op_type) is not None
        reason = "no rule yet" if known else "not an operator of the standard, and no rule for it"
        reason = node.meta.get(REASON, reason)
        return Edge(node, index, "none", reason)
    state, reason = entry.operand_state(operand_name(node, index))
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
        useful = set(targets)
        before: dict[ir.Node, tuple[ir.Value | None, ...]] = {}
        for node in reversed(graph):
            if any(v in useful for v in node.outputs):
                before[node] = operands(node)
                useful.update(v for v in before[node] if v is not None)
        steps: list[tuple[ir.Node, list[Edge]]] = []
        for node in reversed(before):
            edges = [
                edge(node, k, v)
                for k, v in enumerate(before[node])
                if v is not None and v in flow.reached
            ]
            flow.blocked += [e for e in edges if e.state == "zero"]
            edges = [e for e in edges if e.state != "zero"]
            if not edges:
                continue
            steps.append((node, edges))
            through = next((e for e in edges if e.state == "none"), edges[0])
            for v in node.outputs:
                if carries(v):
                    flow.reached.setdefault(v, through)
        # A node is on a path only if a cotangent can come back to it.
        live = {v for v in targets if v in flow.reached}
        for node, edges in reversed(steps):
            if any(v in live for v in node.outputs):
                flow.steps.append((node, edges))
                live |= {u for e in edges if (u := before[node][e.index]) is not None}
        flow.steps.reverse()
        flow.useful = live
        return flow

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


def describe(node: ir.Node) -> str:
    """A node as a message names it."""
    name = joined_name(node.domain, node.op_type)
    return f"operator {name}, node {node.name!r}"


def refuse(
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
                raise refuse(node, e.index, e.reason, flow)


def pull_back(
    op: Builder,
    flow: Flow,
    seeds: dict[ir.Value, Tensor],
    again: Callable[[ir.Node, Tensor], ir.Node] | None = None,
) -> dict[ir.Value, Tensor]:
    """Emit the backward pass.

    Args:
        op: Emits at the end of the graph.
        flow: What matters.
        seeds: The cotangents of the targets.
        again: Gives the node that takes the place of one of the forward pass, whose values are
            computed again once a cotangent of it is there.

    Returns:
        The cotangents of the sources; a source that none reaches is absent.

    Raises:
        NoRuleError: A node on a path cannot be differentiated.
        RuleError: A rule returned what is no cotangent of its operand.
    """
    parts: dict[ir.Value, list[Tensor]] = {v: [t] for v, t in seeds.items()}
    sources = set(flow.sources)
    scope, outer, op.guards = op.scope, op.replaced, True
    op.replaced = {}  # what a walk within this one gives is put in place at its own end
    whole: dict[ir.Value, Tensor] = {}

    def cotangent(v: ir.Value) -> Tensor | None:
        if v not in whole and v in parts:
            whole[v] = total(op, parts.pop(v))
        return whole.get(v) if v in sources else whole.pop(v, None)

    for node, edges in reversed(flow.steps):
        op.scope = f"{node.name}/grad"
        gs = [cotangent(v) for v in node.outputs]
        first = next((g for g in gs if g is not None), None)
        if first is None:
            continue
        values = operands(node)
        wanted = [e.index for e in edges]
        try:
            present = again(node, first) if again else node
            for index, g in apply(op, present, gs, wanted).items():
                v = values[index]
                assert v is not None
                if is_straight(node) and (dtype := cotangent_dtype(v)) is not None:
                    g = op.cast(g, dtype)
                _check(g, v, node, index)
                parts.setdefault(v, []).append(g)
        except Refusal as e:
            raise refuse(node, None, str(e), flow) from None
    op.scope = scope
    found = {v: cotangent(v) for v in flow.sources}
    _replace(op, {*flow.sources, *flow.targets})
    op.replaced = outer
    return {v: g for v, g in found.items() if g is not None}


def _replace(op: Builder, kept: set[ir.Value]) -> None:
    """Put in place what rules gave for outputs of nodes, but for those that have to stay."""
    for old, new in op.replaced.items():
        if old in kept:
            continue
        if old.is_graph_output():
            old.name, new.name = op.names.fresh(f"{old.name}_replaced"), old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    if op.replaced:
        op.graph.sort()


def pull(
    op: Builder,
    seeds: dict[ir.Value, Tensor],
    sources: Sequence[ir.Value],
    nodes: Sequence[ir.Node] | None = None,
) -> dict[ir.Value, Tensor]:
    """The cotangents of `sources`, as far as there are any, given those of other values.

    They lie in the graph that `op` emits to, or among `nodes`, in topological order.

    Raises:
        NoRuleError: A node on a path cannot be differentiated.
    """
    flow = Flow.of(op.graph if nodes is None else nodes, sources, list(seeds))
    require_rules(flow)
    return pull_back(op, flow, {v: g for v, g in seeds.items() if flow.matters(v)})


def matters(
    graph: ir.Graph, sources: Sequence[ir.Value], targets: Sequence[ir.Value]
) -> set[ir.Value]:
    """Those of `sources` that influence `targets`: for rules of nodes with graphs."""
    flow = Flow.of(graph, sources, targets)
    return {v for v in sources if flow.matters(v)}


def apply(
    op: Builder, node: ir.Node, gs: Sequence[Tensor | None], wanted: Sequence[int]
) -> dict[int, Tensor]:
    """Apply a node's rule: the cotangents of its operands at `wanted`, given its outputs'."""
    entry = entry_of(node)
    if entry is None:
        return _through_body(op, node, gs, wanted)
    values = operands(node)
    formal = [operand_name(node, k) for k in range(len(values))]
    result: dict[int, Tensor | None] = {}
    arguments = _Arguments(op, node, entry, gs)
    for index in wanted:
        if formal[index] in entry.functions:
            function, names = entry.functions[formal[index]]
            result[index] = arguments.call(function, names, i=index - formal.index(formal[index]))
    rest = {k: (formal[k], k - formal.index(formal[k])) for k in wanted if k not in result}
    if rest:
        function, names = entry.functions[""]
        given = arguments.call(
            function, names, wanted={*rest.values(), *(f for f, _ in rest.values())}
        )
        for index, (operand, i) in rest.items():
            result[index] = given.get((operand, i), given.get(operand))
    present = {index: g for index, g in result.items() if g is not None}
    if entry.broadcast:
        out = op.tensor(node.outputs[0]).shape
        for index, g in present.items():
            if (v := values[index]) is not None:
                present[index] = shapes.unbroadcast(g, out, op.tensor(v))
    return present


def _through_body(
    op: Builder, node: ir.Node, gs: Sequence[Tensor | None], wanted: Sequence[int]
) -> dict[int, Tensor]:
    """The cotangents of a node's operands by way of its function body, recomputed."""
    body = body_of(node, op.opset)
    if body is None:
        raise Refusal(f"no rule, and no function body in opset {op.opset} for these attributes")
    inputs = [v for v in node.inputs if v is not None]
    nodes, outputs = copy_into(op, body, [op.tensor(v) for v in inputs])
    for n in nodes:
        op.infer_outputs(n)
        for m in (m for graph in subgraphs(n) for m in graph.all_nodes()):
            op.infer_outputs(m)  # what follows from constants outside of its graph
    sources = {k: v for k in wanted if (v := node.inputs[k]) is not None}
    found = pull(op, merged(op, zip(outputs, gs, strict=True)), list(sources.values()), nodes)
    return {k: found[v] for k, v in sources.items() if v in found}


class _Arguments:
    """What a rule may ask for by name, for one node."""

    def __init__(
        self, op: Builder, node: ir.Node, entry: Entry, gs: Sequence[Tensor | None]
    ) -> None:
        self.op, self.node, self.entry, self.gs = op, node, entry, gs

    def call(self, function: Callable[..., Any], names: Iterable[str], **given: Any) -> Any:
        """Call a rule with the arguments that it asks for."""
        names = tuple(names)
        schema = self.entry.schema
        for k, g in enumerate(self.gs):
            formal = schema.outputs[min(k, len(schema.outputs) - 1)]
            if g is not None and not (k == 0 and "g" in names) and f"g_{formal}" not in names:
                self.op.refuse(f"there is no rule for its output {formal!r}, which is used")
        if "g" in names and self.gs[0] is None:
            given["g"] = shapes.full_like(self.op.tensor(self.node.outputs[0]), 0)
        return function(*(given[n] if n in given else self._get(n, schema) for n in names))

    def _get(self, name: str, schema: Schema) -> Any:
        node, op = self.node, self.op
        if name == "op":
            return op
        if name == "node":
            return node
        if name == CAPTURES:
            return [op.tensor(v) for v in captures(node)]
        if name == "pull":
            return pull
        if name == "matters":
            return matters
        if name == "g":
            return self.gs[0]
        if name in schema.inputs:
            return self._operand(list(node.inputs), schema.inputs, schema.variadic_input, name)
        if name in schema.outputs:
            k = schema.outputs.index(name)
            if k >= len(node.outputs) or not node.outputs[k].name:
                self._ask_for_output(k, name)
            return self._operand(list(node.outputs), schema.outputs, schema.variadic_output, name)
        if name.startswith("g_") and name[2:] in schema.outputs:
            k = schema.outputs.index(name[2:])
            if schema.variadic_output and k == len(schema.outputs) - 1:
                return list(self.gs[k:])
            return self.gs[k] if k < len(self.gs) else None
        return self._attribute(name)

    def _operand(
        self, values: list[ir.Value | None], formal: Sequence[str], variadic: bool, name: str
    ) -> Any:
        k = formal.index(name)
        tensors = [None if v is None else self._number(v) for v in values]
        if variadic and k == len(formal) - 1:
            return tensors[k:]
        return tensors[k] if k < len(tensors) else None

    def _number(self, value: ir.Value) -> Tensor:
        """A value; a rounded integer as the number that it stands for, where it is only moved."""
        tensor = self.op.tensor(value)
        if ROUNDED in value.meta and is_moving(self.node.domain, self.node.op_type):
            return self.op.cast(tensor, value.meta[ROUNDED])
        return tensor

    def _attribute(self, name: str) -> Any:
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return attribute.value
        schema = schema_of(
            self.node.domain, self.node.op_type, self.op.graph.opset_imports.get(self.node.domain)
        )
        return schema.attributes.get(name) if schema else None

    def _ask_for_output(self, k: int, name: str) -> None:
        """Add an optional output that the rule needs to the node of the forward pass."""
        node = self.node
        present = len(node.outputs)
        if k >= present:
            node.resize_outputs(k + 1)
        for i in range(present, k):
            node.outputs[i].name = ""
        node.outputs[k].name = self.op.names.fresh(f"{node.outputs[0].name}_{name}")
        self.op.infer_outputs(node)


def _check(g: Tensor, value: ir.Value, node: ir.Node, index: int) -> None:
    """That `g` can be the cotangent of an operand; the rule is to blame if not."""
    where = f"the rule of {describe(node)}, operand {operand_name(node, index)!r}, returned"
    if not isinstance(g, Tensor):
        raise RuleError(f"{where} {type(g).__name__}, not a Tensor")
    dtype = cotangent_dtype(value)
    if dtype is not None and g.dtype != dtype:
        raise RuleError(f"{where} a cotangent of {g.dtype.name} for {dtype.name} {value.name!r}")
    if value.shape is None:
        return
    mismatch = g.shape is not None and (
        len(g.shape) != len(value.shape)
        or any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(g.shape, value.shape, strict=True)
        )
    )
    if mismatch:
        raise RuleError(
            f"{where} a cotangent of shape {g.value.shape} for {value.name!r} of {value.shape}"
        )
    g.op.typed(g, g.op.tensor(value))
