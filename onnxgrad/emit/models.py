"""Other models, copied into the graph under construction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import hoist, taken_out
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import Dim, dims_of, inner_graphs


def copy_model(op: Builder, graph: ir.Graph, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the main graph of another model into the one that `op` emits to.

    In an inner graph that hoists, a node that depends on nothing inner is put outside.

    Args:
        given: By the name of an input or a weight of the graph, what takes its place. Each other
            input becomes one of the graph that `op` emits to.

    Returns:
        The copies of the graph's outputs, by their names there.
    """
    copy = graph.clone()
    _name_sizes(op, copy, given)
    weights = copy.initializers
    stands = {
        v: given.get(v.name or "") or op.input(v.name or "", dims_of(v), v.dtype)
        for v in copy.inputs
        if v.name not in weights
    }
    stands |= {v: given.get(name) or _own_weight(op, name, v) for name, v in weights.items()}
    for domain, version in graph.opset_imports.items():
        op.graph.opset_imports.setdefault(domain, version)
        _outermost(op).graph.opset_imports.setdefault(domain, version)
    nodes, outputs = taken_out(op, copy, stands)
    op.emitted.update(v for node in nodes for v in node.outputs)
    if op.hoists and op.parent is not None:
        held = {t.value for t in stands.values() if op.holds(t)}
        hoist(op, nodes, set(op.graph.inputs) | held)
    else:
        op.graph.extend(nodes)
    return dict(zip((v.name or "" for v in graph.outputs), outputs, strict=True))


def _name_sizes(op: Builder, graph: ir.Graph, given: Mapping[str, Tensor]) -> None:
    """Give sizes of a graph names that the main graph lacks, but for those of equal inputs."""
    taken = {d for v in _values_in(_outermost(op).graph) for d in dims_of(v) or ()}
    renamed: dict[Dim, Dim] = {}
    for v in graph.inputs:
        mine, t = dims_of(v) or (), given.get(v.name or "")
        its = mine if t is None else t.shape or ()
        renamed.update({d: d for d, a in zip(mine, its, strict=False) if d == a})
    for v in _values_in(graph):
        for d in dims_of(v) or ():
            name, k = d, 1
            while isinstance(name, str) and d not in renamed and name in taken:
                name, k = f"{d}_{k}", k + 1
            taken.add(renamed.setdefault(d, name))
        if v.shape is not None:
            v.shape = ir.Shape([renamed[d] for d in dims_of(v) or ()])


def _values_in(graph: ir.Graph) -> Iterator[ir.Value]:
    """The inputs of a graph and of its inner graphs, and what their nodes give out."""
    for g in (graph, *inner_graphs(graph)):
        yield from g.inputs
        for node in g:
            yield from node.outputs


def _own_weight(op: Builder, name: str, like: ir.Value) -> Tensor:
    """A copy of another model's weight, in the main graph."""
    own = ir.Value(
        name=op.names.fresh(name), type=like.type, shape=like.shape, const_value=like.const_value
    )
    _outermost(op).graph.register_initializer(own)
    return op.tensor(own)


def _outermost(op: Builder) -> Builder:
    """The builder of the main graph."""
    while op.parent is not None:
        op = op.parent
    return op
