"""Infers shapes in the graphs of If, Loop and Scan that the standard's inference leaves open."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.corrections import complete_ranks
from onnxgrad.graph.facts import (
    all_nodes,
    common_shape,
    elements_of,
    inner_graphs,
    is_sequence,
    subgraphs,
)
from onnxgrad.graph.inference import Inference
from onnxgrad.graph.schemas import onnx_schema


def see_outer_constants(graph: ir.Graph) -> bool:
    """Set shapes in inner graphs that follow from constants of the main graph.

    The outputs of an If then get the sizes in which its branches agree.

    Returns:
        Whether more is known than before.
    """
    inner = inner_graphs(graph)
    if not inner:
        return False
    inference = Inference(graph.opset_imports[""])
    found = [_infer_more(inference, node) for g in inner for node in g]
    branching = [n for n in all_nodes(graph) if n.op_type == "If" and not n.domain]
    agreed = [_agree(node) for node in reversed(branching)]  # those within others first
    return any(found) or any(agreed)


def _agree(node: ir.Node) -> bool:
    """Set the sizes in which the branches of an If agree; returns whether one was not known."""
    before = [v.shape for v in node.outputs]
    for v, *given in zip(node.outputs, *(g.outputs for g in subgraphs(node)), strict=True):
        common = common_shape(*(w.shape for w in given))
        if common is not None and v.shape is not None:
            pairs = zip(common, v.shape, strict=True)
            v.shape = ir.Shape([d if c is None else c for c, d in pairs])
    return before != [v.shape for v in node.outputs]


def _infer_more(inference: Inference, node: ir.Node) -> bool:
    """Infer a node's outputs whose shape is not wholly known; returns whether it told more."""
    known = {v: v.shape for v in node.outputs if v.name and elements_of(v) is None}
    if not known or any(subgraphs(node)) or onnx_schema(node.domain, node.op_type) is None:
        return False
    inference.infer_again(node, known)
    found = any(v.shape is not None and v.shape != s for v, s in known.items())
    for v, shape in known.items():
        v.shape = shape if v.shape is None else v.shape
    return found


# The place of the first input of a body whose shape follows from the operands of the node.
_FIRST_STATE = {"Loop": 2, "Scan": 0}


def inner_states(node: ir.Node) -> list[ir.Value]:
    """The inputs of a Loop's or Scan's body whose shapes follow from the node's operands."""
    first = None if node.domain else _FIRST_STATE.get(node.op_type)
    if first is None:
        return []
    inputs = list(next(iter(subgraphs(node))).inputs)[first:]
    return [v for v in inputs if isinstance(v.type, ir.TensorType)]


def agree_on_states(graph: ir.Graph) -> bool:
    """Set shapes of states that the body of a Loop leaves undeclared; returns whether it did."""
    loops = [n for n in all_nodes(graph) if n.op_type == "Loop" and not n.domain]
    undeclared = {n: [k for k in range(2, len(n.inputs)) if _is_open(n, k)] for n in loops}
    if not any(undeclared.values()):
        return False
    before = {v: v.shape for g in inner_graphs(graph) for n in g for v in n.outputs}
    inner = _Inner(Inference(graph.opset_imports[""]), undeclared)
    for node in graph:
        if any(subgraphs(node)):
            inner.follow(node)
    for v, shape in before.items():
        v.shape = shape if v.shape is None else v.shape
    return any(not _is_open(n, k) for n, ks in undeclared.items() for k in ks)


def _is_open(node: ir.Node, k: int) -> bool:
    state = next(iter(subgraphs(node))).inputs[k]
    return state.shape is None and isinstance(state.type, ir.TensorType)


class _Inner:
    """Follows shapes from the operands of a node into its graphs, and back to its outputs."""

    def __init__(self, inference: Inference, undeclared: dict[ir.Node, list[int]]) -> None:
        self._inference = inference
        # For every Loop the places of the states whose shapes its body does not declare.
        self._undeclared = undeclared
        self._by_operator = {"Loop": self._loop, "Scan": self._scan}

    def follow(self, node: ir.Node) -> None:
        """Infer the graphs that a node holds, and then its outputs."""
        way = None if node.domain else self._by_operator.get(node.op_type)
        for graph in subgraphs(node):
            if way is None:
                self._body(graph)
            else:
                way(node, graph)
        complete_ranks(node)

    def _loop(self, node: ir.Node, body: ir.Graph) -> None:
        """Give states their initial shapes, but for the sizes that a step does not keep."""
        undeclared = self._undeclared[node]
        kept = {k: v.shape for k in undeclared if (v := node.inputs[k]) is not None}
        while True:
            shapes = {k: s for k, s in kept.items() if s is not None}
            for k in undeclared:
                body.inputs[k].shape = shapes.get(k)
            self._body(body)
            kept = {k: common_shape(s, body.outputs[k - 1].shape) for k, s in shapes.items()}
            if kept == shapes:
                return

    def _scan(self, node: ir.Node, body: ir.Graph) -> None:
        """A state keeps its shape, and a step reads a slice along one axis."""
        states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
        read = len(node.inputs) - states
        axes = list(node.attributes.get_ints("scan_input_axes") or [0] * read)
        for k, (formal, given) in enumerate(zip(body.inputs, node.inputs, strict=True)):
            sizes = None if given is None or given.shape is None else list(given.shape)
            if sizes and k >= states:
                del sizes[axes[k - states]]
            formal.shape = None if sizes is None else ir.Shape(sizes)
        self._body(body)

    def _body(self, body: ir.Graph) -> None:
        """Infer an inner graph from the shapes of its inputs."""
        for node in body:
            for v in node.outputs if onnx_schema(node.domain, node.op_type) is not None else ():
                v.shape = v.shape if is_sequence(v) else None
            if any(subgraphs(node)):
                self.follow(node)
            else:
                _infer_more(self._inference, node)
