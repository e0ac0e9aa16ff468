"""Inner graphs, as If, Loop and Scan hold them: their captures, copies of them, and new ones."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.chosen import added
from onnxgrad.emit.factors import factored
from onnxgrad.emit.shapes import Size, full_like, full_of, vector
from onnxgrad.emit.tensor import Tensor
from onnxgrad.emit.views import side_by_side, summed
from onnxgrad.graph.constants import draws, forget_constant
from onnxgrad.graph.facts import (
    all_nodes,
    inner_graphs,
    is_sequence,
    subgraphs,
)
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.marks import copy_notes


def captures(node: ir.Node) -> tuple[ir.Value, ...]:
    """The outer values that the graphs of a node use, in the order of their first use."""
    found: dict[ir.Value, None] = {}
    graphs = subgraphs(node)
    if not graphs:
        return ()
    for graph in graphs:
        inner = {*graph.inputs, *graph.initializers.values()}
        for n in graph:
            inner.update(n.outputs)
        used = [v for n in graph for v in (*n.inputs, *captures(n))] + list(graph.outputs)
        found.update(dict.fromkeys(v for v in used if v is not None and v not in inner))
    return tuple(found)


def copy_into(
    op: Builder, graph: ir.Graph, inputs: Sequence[Tensor]
) -> tuple[list[ir.Node], list[Tensor]]:
    """Copy a graph's nodes into the one that `op` emits to, with other values as its inputs.

    Returns:
        The copies of the nodes, and of the graph's outputs.
    """
    copy = graph.clone(allow_outer_scope_values=True)
    nodes, outputs = taken_out(op, copy, dict(zip(copy.inputs, inputs, strict=True)))
    op.graph.extend(nodes)
    return nodes, outputs


def taken_out(
    op: Builder, copy: ir.Graph, stands: Mapping[ir.Value, Tensor]
) -> tuple[list[ir.Node], list[Tensor]]:
    """Empty a copy of a graph: its nodes, renamed, are to be put where `op` emits.

    Args:
        stands: By an input or a weight of the copy, what takes its place.

    Returns:
        The nodes, and what stands for the outputs.
    """
    rename(copy, op.names)
    for formal, actual in stands.items():
        formal.replace_all_uses_with(actual.value, replace_graph_outputs=True)
    outputs = [op.tensor(v) for v in copy.outputs]
    copy.outputs.clear()
    nodes = list(copy)
    copy.remove(nodes)
    return nodes, outputs


def hoist(op: Builder, nodes: Iterable[ir.Node], inside: set[ir.Value]) -> None:
    """Append nodes to a graph; from an inner one those that use nothing `inside` go around it."""
    outside = (op.parent or op).graph
    for node in nodes:
        stays = node.domain or draws(node) or any(subgraphs(node))
        if stays or any(v in inside for v in node.inputs):
            inside.update(node.outputs)
            op.graph.append(node)
        else:
            outside.append(node)


def rename(graph: ir.Graph, names: Names) -> None:
    """Give every node and value of a graph, nested ones too, a name that nothing else has."""
    for node in graph:
        node.name = names.fresh(node.name or node.op_type)
        for v in node.outputs:
            if v.name:
                v.name = names.fresh(v.name)
        for inner in subgraphs(node):
            for v in inner.inputs:
                v.name = names.fresh(v.name or "input")
            rename(inner, names)


def prune(graph: ir.Graph) -> None:
    """Remove the nodes and initializers that none of the graph's outputs needs.

    Uses of a value do not tell whether it is needed: some are uses by graphs that were discarded.
    """
    needed: set[ir.Value | None] = set(graph.outputs)
    for node in reversed(graph):
        if needed.isdisjoint(node.outputs):
            discard(graph, [node])
            continue
        needed.update(node.inputs, captures(node))
    for name, v in list(graph.initializers.items()):
        if v not in needed and not v.is_graph_input():
            del graph.initializers[name]


def discard(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Remove nodes that nothing needs; they and the nodes of their graphs use no value any more."""
    for node in nodes:
        for inner in subgraphs(node):
            inner.outputs.clear()
            discard(inner, list(inner))
        for k in range(len(node.inputs)):
            node.replace_input_with(k, None)
        graph.remove(node)


def copy_graph(
    op: Builder, graph: ir.Graph, replaced: dict[ir.Value, Tensor]
) -> tuple[list[ir.Node], dict[ir.Value, Tensor]]:
    """Copy the main graph's nodes into the inner one that `op` emits to, with some inputs replaced.

    A copy that depends on no replaced input is put outside, to be computed once, as the nodes that
    dequantise weights.

    Returns:
        The copies of the nodes, and for each value of the graph the tensor that replaces it.
    """
    copy = graph.clone()
    here = [*graph.inputs, *graph.initializers.values()]
    there = [*copy.inputs, *copy.initializers.values()]
    stands = {v: replaced.get(v) or op.tensor(v) for v in here}
    formal = {w: stands[v] for v, w in zip(here, there, strict=True)}
    nodes, _ = taken_out(op, copy, formal)
    for original, node in zip(graph, nodes, strict=True):
        stands |= {v: op.tensor(w) for v, w in zip(original.outputs, node.outputs, strict=True)}
    hoist(op, nodes, {t.value for t in replaced.values() if t.value.graph is op.graph})
    return nodes, stands


def copy_node(
    op: Builder, node: ir.Node, stands: Mapping[ir.Value, Tensor], suffix: str
) -> ir.Node:
    """Append a copy of a node which reads, in its graphs too, other values in the place of some.

    Args:
        stands: By value, what takes its place.
        suffix: Tells the names of the copy from those of the node.
    """

    def read(v: ir.Value | None) -> ir.Value | None:
        return v if v is None or v not in stands else stands[v].value

    def copied(a: ir.Attr) -> ir.Attr:
        if a.type != ir.AttributeType.GRAPH:
            return a
        graph = a.as_graph().clone(allow_outer_scope_values=True)
        rename(graph, op.names)
        for n in all_nodes(graph):
            for k, v in enumerate(n.inputs):
                n.replace_input_with(k, read(v))
        for inner in (graph, *inner_graphs(graph)):
            inner.outputs[:] = [stands[v].value if v in stands else v for v in inner.outputs]
        return ir.AttrGraph(a.name, graph)

    copy = ir.Node(
        node.domain,
        node.op_type,
        list(map(read, node.inputs)),
        list(map(copied, node.attributes.values())),
        num_outputs=len(node.outputs),
        name=op.names.fresh(f"{node.name}/{suffix}"),
    )
    copy_notes(node, copy)
    for new, old in zip(copy.outputs, node.outputs, strict=True):
        copy_notes(old, new)
        new.name = op.names.fresh(f"{old.name}_{suffix}") if old.name else ""
        new.type, new.shape = old.type, old.shape
    op.graph.append(copy)
    return copy


def copy_dependent(
    op: Builder, nodes: Iterable[ir.Node], stands: dict[ir.Value, Tensor], suffix: str
) -> dict[ir.Node, ir.Node]:
    """Copy those of the nodes that depend on values in whose place others stand.

    Args:
        nodes: In topological order.
        stands: By value, what takes its place; what the copies give is added.
        suffix: As for `copy_node`.

    Returns:
        The copies by node.
    """
    copies = {}
    for node in nodes:
        if stands.keys().isdisjoint((*node.inputs, *captures(node))):
            continue
        copies[node] = copy_node(op, node, stands, suffix)
        for old, new in zip(node.outputs, copies[node].outputs, strict=True):
            forget_constant(new)
            stands.setdefault(old, op.tensor(new))
    return copies


def new_input(op: Builder, stem: str, like: ir.Value) -> Tensor:
    """A new input of an inner graph, of the dtype and shape of `like`."""
    value = ir.Value(name=op.names.fresh(stem), type=like.type, shape=like.shape)
    op.graph.inputs.append(value)
    return op.tensor(value)


def merged(op: Builder, pairs: Iterable[tuple[Tensor, Tensor | None]]) -> dict[ir.Value, Tensor]:
    """Cotangents by value, as `op` sees them. Several cotangents of one value are summed."""
    parts: dict[ir.Value, list[Tensor]] = {}
    for t, g in pairs:
        if g is not None:
            parts.setdefault(t.value, []).append(op.tensor(g.value))
    return {v: total(op, gs) for v, gs in parts.items()}


def total(op: Builder, gs: Sequence[Tensor]) -> Tensor:
    """The sum of cotangents of one value. Sequences are summed element by element."""
    if len(gs) == 1:
        return gs[0]
    if (found := added(gs, functools.partial(total, op))) is not None:
        return found
    if not is_sequence(gs[0].value):
        return factored(op, gs) or summed(op, side_by_side(op, gs))
    return functools.reduce(lambda a, b: each(op, lambda _, x, y: [x + y], [a, b])[0], gs)


def zeros_like(t: Tensor) -> Tensor:
    """The cotangent zero of a tensor or of a sequence of tensors."""
    if is_sequence(t.value):
        return each(t.op, lambda _, x: [full_like(x, 0)], [t])[0]
    return full_like(t, 0)


def close(op: Builder, results: Sequence[Tensor]) -> None:
    """List the results as outputs of an inner graph, copied where no node of its own gives them."""
    outputs: list[ir.Value] = []
    for t in results:
        v = t.value
        if v.producer() is None or v.graph is not op.graph or v in outputs:
            v = op.copied(t, "copy")
        outputs.append(v)
    op.graph.outputs.extend(outputs)
    prune(op.graph)


def scan(
    op: Builder,
    step: Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]],
    states: Sequence[Tensor],
    read: Sequence[Tensor | None],
    backwards: bool = False,
    hoists: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Emit a Scan over the first axis, or its only step where there is known to be one.

    Args:
        op: Emits the node.
        step: ``step(op, *states, *slices)`` emits one step to the inner graph; it returns the
            states after the step and the slices that it writes.
        states: The initial states.
        read: The tensors that the steps read slices of; None gives a slice None.
        backwards: Whether the steps go from the last slice to the first, in what they write too.
        hoists: Whether nodes that do not depend on the step are emitted outside of the Scan.

    Returns:
        The final states, and the stacked slices that the steps wrote.
    """
    tensors = [t for t in read if t is not None]
    if any(t.dim(0) == 1 for t in tensors):
        return _single(op, step, states, read)
    inner = op.child("step", hoists)
    carried = [new_input(inner, "state", t.value) for t in states]
    slices = [None if t is None else new_input(inner, "slice", _slice_of(t.value)) for t in read]
    after, written = step(inner, *carried, *slices)
    like = [*states, *(op.tensor(_stack_of(t.value, tensors[0].value)) for t in written)]
    close(inner, [*after, *written])
    attributes: dict[str, Any] = {"body": inner.graph, "num_scan_inputs": len(tensors)}
    if backwards:
        attributes["scan_input_directions"] = [1] * len(tensors)
        attributes["scan_output_directions"] = [1] * len(written)
    values = op.node("Scan", [*states, *tensors], len(like), attributes, like=like)
    return list(values[: len(states)]), list(values[len(states) :])


def _single(
    op: Builder,
    step: Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]],
    states: Sequence[Tensor],
    read: Sequence[Tensor | None],
) -> tuple[list[Tensor], list[Tensor]]:
    """What a Scan of one step gives."""
    first = op.const([0])
    after, written = step(op, *states, *(None if t is None else op.Squeeze(t, first) for t in read))
    return list(after), [op.Unsqueeze(t, first) for t in written]


def unless_empty(
    op: Builder,
    count: Size,
    stacks: Sequence[Tensor],
    slices: Callable[[Builder], Sequence[Tensor]],
) -> list[Tensor]:
    """The outputs of a Scan, or empty stacks for a Scan of no step, which onnxruntime cannot run.

    Args:
        op: The builder that has emitted the Scan, and nothing that uses it.
        count: The number of steps. Where it is not known, the Scan becomes the branch of an If.
        stacks: All outputs of the Scan.
        slices: ``slices(op)`` emits the shape of a slice of each output.
    """

    def empty(op: Builder, count: Size) -> list[Tensor]:
        empties = []
        for t, shape in zip(stacks, slices(op), strict=True):
            like = op.tensor(t.value)
            whole = op.Concat(vector(like, [count]), shape, axis=0)
            empties.append(op.typed(full_of(like, whole, 0), t))
        return empties

    if isinstance(count, int):
        return list(stacks) if count else empty(op, 0)
    scan = stacks[0].value.producer()
    assert scan is not None
    op.graph.remove(scan)
    some, none = op.child("steps"), op.child("no_steps")
    some.graph.append(scan)
    close(some, stacks)
    close(none, empty(none, none.tensor(count.value)))
    branches = {"then_branch": some.graph, "else_branch": none.graph}
    there_is_one = op.Cast(op.tensor(count.value), to=ir.DataType.BOOL)
    return list(op.node("If", [there_is_one], len(stacks), branches, like=stacks))


def loop(
    op: Builder,
    count: Size,
    step: Callable[..., Sequence[Tensor]],
    states: Sequence[Tensor],
) -> list[Tensor]:
    """Emit a Loop of a number of steps.

    Args:
        op: Emits the node.
        count: The number. Nodes that do not depend on the step are emitted outside of the Loop.
        step: ``step(op, *states)`` emits one step to the inner graph; it returns the states after
            it, of the dtypes and shapes of those before.
        states: The initial states.

    Returns:
        The final states.
    """
    inner, true = op.child("step", hoists=True), op.const(True, dtype=np.bool_)
    new_input(inner, "place", op.const(0).value)
    go = new_input(inner, "go", true.value)
    after = step(inner, *(new_input(inner, "state", t.value) for t in states))
    close(inner, [go, *after])
    trips = vector(true, [count])
    return list(
        op.node("Loop", [trips, true, *states], len(states), {"body": inner.graph}, like=states)
    )


def each(
    op: Builder, function: Callable[..., Sequence[Tensor]], operands: Sequence[Tensor]
) -> list[Tensor]:
    """Apply a function to each element of sequences, by a Loop: the sequences of its results.

    Args:
        op: Emits the node.
        function: ``function(op, *elements)`` emits the results of one element to the inner graph.
        operands: Sequences of equal length, of which the function takes the elements at one place;
            and tensors, which it takes whole at each place. The first is a sequence.
    """
    inner = op.child("each")
    place = new_input(inner, "place", op.const(0).value)
    go = new_input(inner, "go", op.const(True, dtype=np.bool_).value)
    results = function(
        inner, *(inner.SequenceAt(t, place) if is_sequence(t.value) else t for t in operands)
    )
    like = [op.tensor(list_of(r.value)) for r in results]
    before = [new_input(inner, "results", t.value) for t in like]
    after = [inner.SequenceInsert(s, r) for s, r in zip(before, results, strict=True)]
    close(inner, [go, *after])
    length, true = op.SequenceLength(operands[0]), op.const(True, dtype=np.bool_)
    empty = [op.SequenceEmpty(dtype=int(r.dtype)) for r in results]
    return list(op.node("Loop", [length, true, *empty], len(like), {"body": inner.graph}, like))


def _slice_of(value: ir.Value) -> ir.Value:
    """A value with the dtype and shape of a tensor's slices along the first axis."""
    return ir.Value(type=value.type, shape=value.shape and ir.Shape(value.shape[1:]))


def list_of(value: ir.Value) -> ir.Value:
    """A sequence of tensors like `value`; sizes that are not numbers may differ among them."""
    assert value.type is not None
    sizes = value.shape and ir.Shape([d if isinstance(d, int) else None for d in value.shape])
    return ir.Value(type=ir.SequenceType(ir.TensorType(value.type.dtype)), shape=sizes)


def _stack_of(value: ir.Value, read: ir.Value) -> ir.Value:
    """A value with the dtype and shape of stacked slices; `read` is as long as the stack."""
    length = read.shape[0] if read.shape else None
    shape = None if value.shape is None else ir.Shape([length, *value.shape])
    return ir.Value(type=value.type, shape=shape)
