"""The passes after differentiation: remove what neither an output nor a gradient needs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.emit.subgraphs import prune
from onnxgrad.graph.marks import DECLARED
from onnxgrad.graph.schemas import onnx_schema


def optimise(model: ir.Model) -> None:
    """Remove what nothing needs, functions and imports too, and put the rest in order, in place.

    Outputs of the net whose shape nothing tells are declared as they were.
    """
    prune(model.graph)  # the next pass keeps values that graphs of dead nodes capture
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    _fill_operands(model.graph)
    for function in model.functions.values():
        _fill_operands(function)
    common.RemoveUnusedOpsetsPass()(model)
    _results_last(model.graph)
    for v in model.graph.outputs:
        v.shape = DECLARED.of(v) if v.shape is None else v.shape  # an output needs one


def _fill_operands(graph: ir.Graph | ir.Function) -> None:
    """Name the absent operands that an operator has to list: of a Loop the condition.

    The pass before drops them from the end, and a Loop without states would have one operand.
    """
    for node in graph.all_nodes():
        schema = onnx_schema(node.domain, node.op_type, graph.opset_imports.get(node.domain))
        if schema and len(node.inputs) < schema.min_input:
            node.resize_inputs(schema.min_input)


def _results_last(graph: ir.Graph) -> None:
    """Put the nodes whose results no node uses at the end, in reversed order.

    onnxruntime goes back from a file's last node to all that it needs, then from the node before
    it, and so on. In the order of emission all gradients of weights would come after the last
    cotangent, and all values of the forward pass that they need would be kept until then.
    """
    inner = {v for g in graph.subgraphs() for v in g.outputs}
    results = [node for node in graph if not any(v.uses() or v in inner for v in node.outputs)]
    graph.remove(results)
    graph.extend(reversed(results))
