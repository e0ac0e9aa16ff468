"""The passes after differentiation: remove what neither an output nor a gradient needs."""

from __future__ import annotations

import functools

import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.emit.subgraphs import prune
from onnxgrad.graph.facts import all_nodes, dims_of, inner_graphs, without_invented
from onnxgrad.graph.marks import DECLARED
from onnxgrad.graph.schemas import onnx_schema
from onnxgrad.passes.fused import restore
from onnxgrad.passes.written import write_opset


def optimise(model: ir.Model, opset: int | None = None) -> None:
    """Remove what nothing needs, functions and imports too, and put the rest in order, in place.

    Outputs of the net whose shape nothing tells are declared as they were, and sizes of inputs and
    outputs have the names that the file has given them, or none.

    Args:
        model: The model.
        opset: The one to write it in; None for an old one.

    Raises:
        ArgumentError: A node is not possible in that opset.
    """
    restore(model.graph)
    prune(model.graph)  # the next pass keeps values that graphs of dead nodes capture
    common.RemoveUnusedNodesPass()(model)
    if model.functions:
        common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    _complete_nodes(model.graph, {"", *(f.domain for f in model.functions.values())})
    for function in model.functions.values():
        _complete_nodes(function, {""})
    _results_last(model.graph)
    for v in model.graph.outputs:
        v.shape = DECLARED.of(v) if v.shape is None else v.shape  # an output needs one
    for v in (*model.graph.inputs, *model.graph.outputs):
        if (dims := dims_of(v)) is not None:
            v.shape = ir.Shape(without_invented(dims))
    write_opset(model, opset)


def _complete_nodes(graph: ir.Graph | ir.Function, domains: set[str]) -> None:
    """Add the absent operands that an operator has to list, and drop unused imports of domains.

    The pass before drops absent operands from the end, and a Loop without states would have one.

    Args:
        domains: Those that are used though no node is of them.
    """
    opsets = graph.opset_imports
    for node in all_nodes(graph):
        domain, given = node.domain, len(node.inputs)
        domains.add(domain)
        if given < (needed := _least_operands(domain, node.op_type, opsets.get(domain))):
            node.resize_inputs(needed)
    for domain in opsets.keys() - domains:
        del opsets[domain]


@functools.cache
def _least_operands(domain: str, op_type: str, version: int | None) -> int:
    """How many operands an operator has to list."""
    schema = onnx_schema(domain, op_type, version)
    return schema.min_input if schema else 0


def _results_last(graph: ir.Graph) -> None:
    """Put the nodes whose results no node uses at the end, in reversed order.

    onnxruntime goes back from a file's last node to all that it needs, then from the node before
    it, and so on. In the order of emission all gradients of weights would come after the last
    cotangent, and all values of the forward pass that they need would be kept until then.
    """
    inner = {v for g in inner_graphs(graph) for v in g.outputs}
    results = [
        node
        for node in graph
        if not any(v.uses() for v in node.outputs) and inner.isdisjoint(node.outputs)
    ]
    graph.remove(results)
    graph.extend(reversed(results))
