"""Shapes in the graphs of If, Loop and Scan, which the standard's inference leaves unknown."""

from __future__ import annotations

from typing import TypeAlias

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.graph.facts import common_shape, elements_of, is_sequence, subgraphs
from onnxgrad.graph.ranks import keep_rank
from onnxgrad.graph.schemas import onnx_schema


def infer_inner(graph: ir.Graph) -> bool:
    """Set shapes in inner graphs, where inference does not see the constants of the main graph."""
    found, inner = False, list(graph.subgraphs())
    op = Builder(graph) if inner else None
    for node in (n for g in inner for n in g):
        found |= op is not None and _infer_anew(op, node)
    branching = [n for n in graph.all_nodes() if n.op_type == "If" and not n.domain]
    agreed = [_agree(node) for node in reversed(branching)]  # those within others first
    return found or any(agreed)


def _agree(node: ir.Node) -> bool:
    """Set the sizes in which the branches of an If agree; whether one was not known."""
    before = [v.shape for v in node.outputs]
    for v, *given in zip(node.outputs, *(g.outputs for g in subgraphs(node)), strict=True):
        common = common_shape(*(w.shape for w in given))
        if common is not None and v.shape is not None:
            pairs = zip(common, v.shape, strict=True)
            v.shape = ir.Shape([d if c is None else c for c, d in pairs])
    return before != [v.shape for v in node.outputs]


def _infer_anew(op: Builder, node: ir.Node) -> bool:
    """Infer the outputs of a node that are not wholly known; whether more is known now."""
    known = {v: v.shape for v in node.outputs if v.name and elements_of(v) is None}
    if not known or any(subgraphs(node)) or onnx_schema(node.domain, node.op_type) is None:
        return False
    op.infer_again(node, known)
    found = any(v.shape is not None and v.shape != s for v, s in known.items())
    for v, shape in known.items():
        v.shape = shape if v.shape is None else v.shape
    return found


def inner_states(node: ir.Node) -> list[ir.Value]:
    """The inputs of a Loop's or Scan's body whose shapes follow from the node's operands."""
    if node.domain or node.op_type not in ("Loop", "Scan"):
        return []
    inputs = list(next(iter(subgraphs(node))).inputs)
    return [
        v
        for v in (inputs[2:] if node.op_type == "Loop" else inputs)
        if isinstance(v.type, ir.TensorType)
    ]


# The states of every Loop whose shapes its body does not declare.
_Open: TypeAlias = dict[ir.Node, list[int]]


def infer_states(graph: ir.Graph) -> bool:
    """Set the shapes of states that the body of a Loop declares none of; whether there was one."""
    loops = [n for n in graph.all_nodes() if n.op_type == "Loop" and not n.domain]
    undeclared = {n: [k for k in range(2, len(n.inputs)) if _is_open(n, k)] for n in loops}
    if not any(undeclared.values()):
        return False
    before = {v: v.shape for g in graph.subgraphs() for n in g for v in n.outputs}
    op = Builder(graph)
    for node in graph:
        if any(subgraphs(node)):
            _infer_holder(op, node, undeclared)
    for v, shape in before.items():
        v.shape = shape if v.shape is None else v.shape
    return any(not _is_open(n, k) for n, ks in undeclared.items() for k in ks)


def _is_open(node: ir.Node, k: int) -> bool:
    state = next(iter(subgraphs(node))).inputs[k]
    return state.shape is None and isinstance(state.type, ir.TensorType)


def _infer_holder(op: Builder, node: ir.Node, undeclared: _Open) -> None:
    """Infer the graphs that a node holds, and what follows for its outputs."""
    inner = list(subgraphs(node))
    if node in undeclared:
        _infer_loop(op, node, inner[0], undeclared)
    elif node.op_type == "Scan":
        _infer_scan(op, node, inner[0], undeclared)
    else:
        for graph in inner:
            _infer_body(op, graph, undeclared)
    if node.op_type == "If":
        for v, *given in zip(node.outputs, *(g.outputs for g in inner), strict=True):
            if v.shape is None:
                v.shape = common_shape(*(w.shape for w in given))
    keep_rank(node)


def _infer_loop(op: Builder, node: ir.Node, body: ir.Graph, undeclared: _Open) -> None:
    """Take states for what they are initially, and forget the sizes that a step does not keep."""
    initial = {k: v.shape for k in undeclared[node] if (v := node.inputs[k]) is not None}
    kept = initial
    while True:
        shapes = {k: s for k, s in kept.items() if s is not None}
        for k in undeclared[node]:
            body.inputs[k].shape = shapes.get(k)
        _infer_body(op, body, undeclared)
        kept = {k: common_shape(s, body.outputs[k - 1].shape) for k, s in shapes.items()}
        if kept == shapes:
            return


def _infer_scan(op: Builder, node: ir.Node, body: ir.Graph, undeclared: _Open) -> None:
    """A state keeps its shape, and a step reads a slice along one axis."""
    states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    axes = [0] * states + list(
        node.attributes.get_ints("scan_input_axes") or [0] * len(node.inputs)
    )
    for k, (formal, given) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        sizes = None if given is None or given.shape is None else list(given.shape)
        if sizes and k >= states:
            del sizes[axes[k]]
        formal.shape = None if sizes is None else ir.Shape(sizes)
    _infer_body(op, body, undeclared)


def _infer_body(op: Builder, body: ir.Graph, undeclared: _Open) -> None:
    """Infer an inner graph from the shapes of its inputs."""
    for node in body:
        for v in node.outputs if onnx_schema(node.domain, node.op_type) is not None else ():
            v.shape = v.shape if is_sequence(v) else None
        if any(subgraphs(node)):
            _infer_holder(op, node, undeclared)
        else:
            _infer_anew(op, node)
