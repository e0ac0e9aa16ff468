"""Operators that the standard defines by a function body: their bodies as graphs."""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.graph.facts import subgraphs, type_proto
from onnxgrad.graph.schemas import onnx_schema


@functools.cache
def has_body(domain: str, op_type: str) -> bool:
    """Whether the standard defines the operator by a function."""
    schema: Any = onnx_schema(domain, op_type)  # onnx's stubs leave out its functions
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def body_of(node: ir.Node, opset: int) -> ir.Graph | None:
    """The body of a node's operator, with this node's attributes filled in.

    Its inputs and outputs are those of the node, in their order; an absent input is absent in the
    body too.

    Returns:
        A graph of its own, or None where the standard has no body for this node in `opset`.
    """
    schema: Any = onnx_schema(node.domain, node.op_type, opset)
    if schema is None or not has_body(node.domain, node.op_type):
        return None
    versions, get = (
        (schema.function_opset_versions, schema.get_function_with_opset_version)
        if schema.has_function
        else (
            schema.context_dependent_function_opset_versions,
            functools.partial(_context_dependent, schema, node),
        )
    )
    # The newest body that this opset can hold.
    found = (get(v) for v in sorted(versions, reverse=True) if v <= opset)
    function = next((f for f in found if f), None)
    if function is None:
        return None
    graph = _inlined(node, ir.serde.deserialize_function(onnx.FunctionProto.FromString(function)))
    return graph if all(fits(n, opset) for n in graph) else None


def inline_body(node: ir.Node, opset: int) -> None:
    """Put the body of a node's operator in its place, where there is one."""
    body = body_of(node, opset)
    if body is not None:
        substitute(node, body)


def substitute(node: ir.Node, body: ir.Graph) -> None:
    """Replace a node by the nodes of a graph, which has an input for each input of the node."""
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        return
    given = [v for v in node.inputs if v is not None]
    for formal, actual in zip(body.inputs, given, strict=True):
        formal.replace_all_uses_with(actual)
    nodes, outputs = list(body), list(body.outputs)
    body.outputs.clear()
    body.remove(nodes)
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs, outputs)


def _context_dependent(schema: Any, node: ir.Node, version: int) -> bytes:
    types = [b"" if v is None else type_proto(v).SerializeToString() for v in node.inputs]
    proto = ir.serde.serialize_node(node)
    for a in proto.attribute:  # onnx's function builders lose the initializers of graphs
        constants = [
            onnx.helper.make_node("Constant", [], [t.name], value=t) for t in a.g.initializer
        ]
        nodes = [*constants, *a.g.node]
        del a.g.initializer[:], a.g.node[:]
        a.g.node.extend(nodes)
    get = schema.get_context_dependent_function_with_opset_version
    function = onnx.FunctionProto.FromString(get(version, proto.SerializeToString(), types))
    del function.attribute[:]  # all of them are filled in
    return function.SerializeToString()


def _inlined(node: ir.Node, function: ir.Function) -> ir.Graph:
    """The graph of `called`, with types in its inner graphs."""
    model = called(node, function)
    if any(any(subgraphs(n)) for n in model.graph):
        _type_inner_graphs(model)
    return model.graph


def called(node: ir.Node, function: ir.Function) -> ir.Model:
    """A model that is one call of a function, inlined, with the node's operands and attributes.

    It has an input for each input that the node has, and an output for each output of the node.
    """
    inputs = [
        None if v is None else ir.Value(name=f"in{k}", type=v.type, shape=v.shape)
        for k, v in enumerate(node.inputs)
    ]
    call = ir.Node(
        function.domain,
        function.name,
        inputs,
        [a for name, a in node.attributes.items() if name in function.attributes],
        overload=function.overload,
        num_outputs=len(node.outputs),
    )
    for k, v in enumerate(call.outputs):
        v.name = f"out{k}"
    graph = ir.Graph(
        [v for v in inputs if v is not None],
        call.outputs,
        nodes=[call],
        opset_imports=dict(function.opset_imports),
        name="body",
    )
    model = ir.Model(graph, ir_version=10, functions=[function])
    common.InlinePass()(model)
    return model


def _type_inner_graphs(model: ir.Model) -> None:
    """Set types and shapes in inner graphs only: inference of single nodes does not enter them."""
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    for node in model.graph:
        for v in node.outputs:
            v.type = v.shape = None


def fits(node: ir.Node, opset: int) -> bool:
    """Whether a node that was written for an older opset is valid in this one."""
    schema = onnx_schema(node.domain, node.op_type, opset)
    return (
        schema is not None
        and all(name in schema.attributes for name in node.attributes)
        and schema.min_input <= len(node.inputs) <= schema.max_input
    )
