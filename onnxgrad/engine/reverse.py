"""Reverse mode on a graph: the vjp of a node, and the backward pass made of these.

The cotangent of a value is the derivative of the scalar with respect to it. The vjp of a node, its
vector-Jacobian product, takes the cotangents of its outputs to those of its operands. It names no
operator: the rules do. No cotangent means zero, and no node is emitted for it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import copy_into, merged, total
from onnxgrad.emit.tensor import Refusal, Tensor
from onnxgrad.engine.arguments import Arguments
from onnxgrad.engine.flow import (
    Flow,
    describe,
    no_rule_error,
    operand_name,
    operands,
    require_rules,
)
from onnxgrad.engine.straight_through import entry_of, is_straight_through
from onnxgrad.graph.errors import RuleError
from onnxgrad.graph.facts import all_nodes, cotangent_dtype, dims_of, may_agree, subgraphs
from onnxgrad.graph.functions import body_of
from onnxgrad.graph.schemas import joined_name

# Gives the node whose values a rule reads in the place of a node of the forward pass; they may wait
# for a cotangent of that node.
Rematerialise = Callable[[ir.Node, Tensor], ir.Node]

# Rules that take the place of the operators' own in one backward pass, by the operators' names.
Rule: TypeAlias = Callable[["Visit"], dict[int, Tensor]]
Rules: TypeAlias = Mapping[str, Rule]


@dataclass(frozen=True)
class Visit:
    """A node that the walk has come to, as a rule for that pass alone sees it.

    Attributes:
        op: Emits what the rule computes.
        node: In an inner graph it is that of a copy.
        gs: The cotangents of its outputs, None where there is none.
        wanted: The indices of the operands whose cotangents are asked for.
        rules: The rules of this pass.
    """

    op: Builder
    node: ir.Node
    gs: Sequence[Tensor | None]
    wanted: Sequence[int]
    rules: Rules

    def vjp(
        self, gs: Sequence[Tensor | None] | None = None, node: ir.Node | None = None
    ) -> dict[int, Tensor]:
        """The vector-Jacobian product by the operator's own rule, by the operands' indices.

        Args:
            gs: Other cotangents than those that have come.
            node: Another node of this operator, where its derivative is taken.
        """
        given = self.gs if gs is None else gs
        return _own_vjp(self.op, node or self.node, given, self.wanted, self.rules)


def backward(
    op: Builder,
    flow: Flow,
    seeds: Mapping[ir.Value, Tensor],
    rematerialise: Rematerialise | None = None,
    rules: Rules | None = None,
) -> dict[ir.Value, Tensor]:
    """Emit the backward pass.

    Args:
        op: Emits at the end of the graph.
        flow: The nodes on the paths from the sources to the targets.
        seeds: The cotangents of the targets.
        rematerialise: Gives a copy of a node, computed from checkpoints, whose values its rule
            reads. By default these are the node's own, kept since the forward pass.
        rules: Take the place of the operators' own in this pass, in inner graphs too.

    Returns:
        The cotangents of the sources; a source that none reaches is absent.

    Raises:
        NoRuleError: A node on a path cannot be differentiated.
        RuleError: A rule returned what is no cotangent of its operand.
    """
    cotangents = Cotangents(op, seeds)
    with _replacing(op, {*flow.sources, *flow.targets}):
        for node, edges in reversed(flow.steps):
            with _applying_rule_of(node, op, flow):
                gs = [cotangents.of(v) for v in node.outputs]
                if (first := next((g for g in gs if g is not None), None)) is None:
                    continue
                values = operands(node)
                primal = rematerialise(node, first) if rematerialise else node
                for index, g in vjp(op, primal, gs, [e.index for e in edges], rules).items():
                    if (v := values[index]) is not None:
                        cotangents.add(v, _checked(g, v, node, index))
        found = {v: cotangents.of(v) for v in flow.sources}
        # Some wait to be emitted until their value is asked for.
        return {v: op.tensor(g.value) for v, g in found.items() if g is not None}


class Cotangents:
    """The cotangents found so far: of each value the sum of those that its uses contribute."""

    def __init__(self, op: Builder, seeds: Mapping[ir.Value, Tensor]) -> None:
        self._op = op
        self._parts = {v: [g] for v, g in seeds.items()}

    def add(self, value: ir.Value, g: Tensor) -> None:
        """Add the contribution of one use of a value."""
        self._parts.setdefault(value, []).append(g)

    def of(self, value: ir.Value) -> Tensor | None:
        """The cotangent of a value to which all uses have contributed; None if none has."""
        parts = self._parts.get(value)
        if parts is None:
            return None
        parts[:] = [total(self._op, parts)]
        return parts[0]


@contextlib.contextmanager
def _replacing(op: Builder, kept: Collection[ir.Value]) -> Iterator[None]:
    """Replace forward nodes at the end, where rules have given other tensors for their outputs.

    A backward pass within this one replaces its own at its own end. From here on the builder guards
    products against a zero times an infinity: see `finite`.

    Args:
        op: Collects the replacements.
        kept: Values that stay, since they are differentiated themselves.
    """
    outer, op.replaced, op.guards = op.replaced, {}, True
    try:
        yield
        for old, new in op.replaced.items():
            if old in kept:
                continue
            if old.is_graph_output():
                old.name, new.name = op.names.fresh(f"{old.name}_replaced"), old.name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        if op.replaced:
            op.graph.sort()
    finally:
        op.replaced = outer


@contextlib.contextmanager
def _applying_rule_of(node: ir.Node, op: Builder, flow: Flow) -> Iterator[None]:
    """Name what is emitted after a node, and raise its rule's refusal with the node and the path.

    Raises:
        NoRuleError: The rule refuses the node.
    """
    outer, op.scope = op.scope, f"{node.name}/grad"
    try:
        yield
    except Refusal as refusal:
        raise no_rule_error(node, None, str(refusal), flow) from None
    finally:
        op.scope = outer


def pull(
    op: Builder,
    seeds: dict[ir.Value, Tensor],
    sources: Sequence[ir.Value],
    nodes: Sequence[ir.Node] | None = None,
    rules: Rules | None = None,
) -> dict[ir.Value, Tensor]:
    """Pull cotangents back through a graph: trace what matters, then emit the backward pass.

    Args:
        op: Emits at the end of its graph.
        seeds: Cotangents of values.
        sources: The values whose cotangents are asked for.
        nodes: The nodes through which the sources influence those values, in topological order;
            by default all of the builder's graph.
        rules: As for `backward`.

    Returns:
        The cotangents of `sources`; one that is zero is absent.

    Raises:
        NoRuleError: A node on a path cannot be differentiated.
    """
    flow = Flow.of(op.graph if nodes is None else nodes, sources, list(seeds))
    require_rules(flow)
    return backward(op, flow, {v: g for v, g in seeds.items() if flow.matters(v)}, rules=rules)


def matters(
    graph: ir.Graph, sources: Sequence[ir.Value], targets: Sequence[ir.Value]
) -> set[ir.Value]:
    """The `sources` that influence `targets`; rules of nodes with graphs ask for them."""
    flow = Flow.of(graph, sources, targets)
    return {v for v in sources if flow.matters(v)}


def vjp(
    op: Builder,
    node: ir.Node,
    gs: Sequence[Tensor | None],
    wanted: Sequence[int],
    rules: Rules | None = None,
) -> dict[int, Tensor]:
    """The vector-Jacobian product of a node, by its rule, or by the one in the place of it.

    Args:
        op: Emits it.
        node: Its operands and outputs are what a rule reads.
        gs: The cotangents of its outputs.
        wanted: The indices of the operands whose cotangents are asked for.
        rules: As for `backward`.

    Returns:
        The cotangents by the operands' indices; one that is zero is absent.

    Raises:
        Refusal: The rule refuses the node.
        NoRuleError: A node inside of this one cannot be differentiated.
        RuleError: The rule is wrong.
    """
    rules = rules or {}
    if (rule := rules.get(joined_name(node.domain, node.op_type))) is not None:
        return rule(Visit(op, node, gs, wanted, rules))
    return _own_vjp(op, node, gs, wanted, rules)


def _own_vjp(
    op: Builder, node: ir.Node, gs: Sequence[Tensor | None], wanted: Sequence[int], rules: Rules
) -> dict[int, Tensor]:
    """The vector-Jacobian product of a node by its operator's own rule."""
    entry = entry_of(node)
    if entry is None:
        return _vjp_of_body(op, node, gs, wanted, rules)
    values = operands(node)
    formal = [operand_name(node, k, entry) for k in range(len(values))]
    result: dict[int, Tensor | None] = {}
    own = functools.partial(pull, rules=rules)
    arguments = Arguments(op, node, entry, gs, {"pull": own, "matters": matters})
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
    if entry.broadcast and sum(v is not None for v in values) > 1:
        out = op.tensor(node.outputs[0]).shape
        for index, g in present.items():
            if (v := values[index]) is not None:
                others = [
                    None if w.dtype == ir.DataType.INT64 else dims_of(w)  # it may hold a shape
                    for k, w in enumerate(values)
                    if w is not None and k != index
                ]
                present[index] = unbroadcast(g, out, op.tensor(v), others)
    return present


def _vjp_of_body(
    op: Builder, node: ir.Node, gs: Sequence[Tensor | None], wanted: Sequence[int], rules: Rules
) -> dict[int, Tensor]:
    """The vector-Jacobian product of a node without a rule, by a copy of its function body."""
    nodes, outputs = copy_body(op, node)
    sources = {k: v for k in wanted if (v := node.inputs[k]) is not None}
    seeds = merged(op, zip(outputs, gs, strict=True))
    found = pull(op, seeds, list(sources.values()), nodes, rules)
    return {k: found[v] for k, v in sources.items() if v in found}


def copy_body(op: Builder, node: ir.Node) -> tuple[list[ir.Node], list[Tensor]]:
    """Copy the function body of a node's operator, of the node's operands.

    Returns:
        The nodes, and what stands for the node's outputs.

    Raises:
        Refusal: The standard defines the operator by none.
    """
    body = body_of(node, op.opset)
    if body is None:
        raise Refusal(f"no rule, and no function body in opset {op.opset} for these attributes")
    nodes, outputs = copy_into(op, body, [op.tensor(v) for v in node.inputs if v is not None])
    for n in nodes:
        op.infer_outputs(n)
        for m in (m for graph in subgraphs(n) for m in all_nodes(graph)):
            op.infer_outputs(m)  # what follows from constants outside of its graph
    return nodes, outputs


def _checked(g: Tensor, value: ir.Value, node: ir.Node, index: int) -> Tensor:
    """What a rule returned for an operand, with the dtype and as far as known the shape of it.

    Raises:
        RuleError: It cannot be the operand's cotangent; the rule is to blame.
    """
    where = f"the rule of {describe(node)}, operand {operand_name(node, index)!r}, returned"
    if not isinstance(g, Tensor):
        raise RuleError(f"{where} {type(g).__name__}, not a Tensor")
    dtype = cotangent_dtype(value)
    if dtype is not None and is_straight_through(node):
        g = g.op.cast(g, dtype)
    if dtype is not None and g.dtype != dtype:
        raise RuleError(f"{where} a cotangent of {g.dtype.name} for {dtype.name} {value.name!r}")
    mine, its = g.shape, dims_of(value)
    if its is None or mine == its:
        return g
    if not may_agree(mine, its):
        raise RuleError(
            f"{where} a cotangent of shape {g.value.shape} for {value.name!r} of {value.shape}"
        )
    return g.op.typed(g, g.op.tensor(value))
