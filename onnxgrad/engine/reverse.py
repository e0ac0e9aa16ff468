"""Reverse mode on a graph: what depends on what, the walk, accumulation. It names no operator.

The cotangent of a value is the derivative of the scalar with respect to it. No cotangent means
zero, and no node is emitted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import copy_into, merged, total
from onnxgrad.emit.tensor import Refusal, Tensor
from onnxgrad.engine.arguments import Arguments
from onnxgrad.engine.flow import Flow, describe, operand_name, operands, refuse, require_rules
from onnxgrad.engine.straight_through import entry_of, is_straight
from onnxgrad.graph.errors import RuleError
from onnxgrad.graph.facts import cotangent_dtype, subgraphs
from onnxgrad.graph.functions import body_of


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
    arguments = Arguments(op, node, entry, gs, {"pull": pull, "matters": matters})
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
