"""Raises a model to one opset, and inlines the functions of the model.

A function can be written for another opset than the graph that calls it. Then each call becomes a
model of its own, which is raised and then put in the place of the call.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.emit.subgraphs import rename
from onnxgrad.graph import limits
from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import all_nodes, subgraphs
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.functions import called, fits, substitute
from onnxgrad.graph.schemas import joined_name, onnx_schema

# The opset that rules are written for, the newest that onnxruntime 1.19 knows. Newer models stay.
FLOOR = 21

# The domain of nodes that are hidden from a converter or from inference.
HIDDEN = "onnxgrad.hidden"
# The domain of nodes that are set aside while the graph around them is raised.
_ASIDE = "onnxgrad.aside"

# Operators that changed their meaning since opset 13, but not their form.
_OTHERWISE = {"GroupNormalization", "Split"}

# How deep functions of several opsets can call each other.
_DEPTH = 50

Functions = dict[ir.OperatorIdentifier, ir.Function]


def inline(model: ir.Model, keeps: Callable[[ir.Function], bool]) -> None:
    """Inline the functions of a model, in place.

    Args:
        model: The model. Its opset is raised where its functions have others.
        keeps: Tells whether the calls of a function stay, and the function with all that it calls.

    Raises:
        ModelError: There would be more nodes than `limits.NODES`, a function calls itself or has
            the name of an operator of the standard, or an opset is too new or cannot be raised.
    """
    functions = dict(model.functions)
    opsets, versions = model.graph.opset_imports, _versions(functions)
    opsets.setdefault("", max(versions, default=FLOOR))
    for version in (opsets[""], *versions):
        _require_known(version)
    _require_order(functions, len({opsets[""], *versions}) == 1)
    model.functions.clear()
    for f in _reached(model.graph, functions).values():
        _require_own_name(f, [model.graph, *functions.values()])
    used = _reached(model.graph, {key: f for key, f in functions.items() if not keeps(f)})
    _require_few(model.graph, used)
    for function in used.values():
        _give_own_outputs(function)
    versions = _versions(_reached(model.graph, functions))
    if all(version == opsets[""] for version in versions):
        _inline_equal(model, used)
    else:
        _inline_raised(model, used, max(FLOOR, opsets[""], *versions))
    model.functions.update(_reached(model.graph, functions))
    _fill_defaults(model)


def _require_own_name(function: ir.Function, holders: Sequence[ir.Graph | ir.Function]) -> None:
    """Check that a function has not the name of an operator of the standard: runtimes differ."""
    versions = (h.opset_imports.get(function.domain) for h in holders)
    if any(v and onnx_schema(function.domain, function.name, v) for v in versions):
        name = joined_name(function.domain, function.name)
        raise ModelError(
            f"the model has a function {name!r}, which is an operator of the standard too, and "
            "runtimes do not agree which of them counts: give the function another domain or name"
        )


def raise_opset(model: ir.Model, target: int) -> None:
    """Raise the opset of a model to at least `target`, that of its functions too, in place.

    Raises:
        ModelError: It cannot be raised.
    """
    functions = dict(model.functions)
    model.functions.clear()
    _raise_graph(model, target)
    for key, function in functions.items():
        model.functions[key] = _raised(function, model.graph.opset_imports[""])


def _raise_graph(model: ir.Model, target: int) -> None:
    """Raise the graph of a model without functions.

    Operators that its opset does not have yet are left as they are: onnxruntime has had some of
    them before the standard.
    """
    version = model.graph.opset_imports[""]
    if version >= target:
        return
    if version < 9 and any(n.op_type == "Scan" and not n.domain for n in all_nodes(model.graph)):
        raise ModelError(
            "the model holds a Scan of opset 8, which scans each example of a batch by itself and "
            "which no converter raises: export the model with opset 9 or later"
        )
    ahead = [n for n in all_nodes(model.graph) if not n.domain and not _exists(n, version)]
    for node in ahead:
        node.domain = HIDDEN
    if ahead:
        model.graph.opset_imports[HIDDEN] = 1
    _convert(model, target)
    for node in all_nodes(model.graph):
        if node.domain == HIDDEN:
            node.domain = ""
    model.graph.opset_imports.pop(HIDDEN, None)
    if version < 11:
        _resize_as_of_old(model.graph)


def _convert(model: ir.Model, target: int) -> None:
    from onnxscript.version_converter import ConvertVersionPass  # few nets need it

    version = model.graph.opset_imports[""]
    ConvertVersionPass(target_version=target, fallback=True)(model)
    if model.graph.opset_imports[""] != target:
        raise ModelError(f"opset {version} cannot be raised to {target}")


def _raised(function: ir.Function, target: int) -> ir.Function:
    """Raise a function that stays in the model."""
    version = function.opset_imports.get("", target)
    if not any(not n.domain and _differs(n, version, target) for n in all_nodes(function)):
        function.opset_imports[""] = target
        return function
    model = ir.Model(function.clone().graph, ir_version=10)
    # No converter takes a node with an attribute of the function.
    given = [n for n in all_nodes(model.graph) if any(a.is_ref() for a in n.attributes.values())]
    for node in given:
        if not _stays(node, version, target):
            raise ModelError(
                f"operator {node.op_type} of the function {function.domain}::{function.name} has "
                f"an attribute of the function and cannot be raised from opset {version} to "
                f"{target}: export the model with opset {target}"
            )
    forms = [_set_aside(model, node, k) for k, node in enumerate(given)]
    _convert(model, target)
    for node, k in _aside(model):
        node.domain, node.op_type, node.overload, attributes = forms[k]
        node.attributes.update(attributes)
    _hold_constants(model.graph)
    return ir.Function(
        function.domain,
        function.name,
        function.overload,
        graph=model.graph,
        attributes=list(function.attributes.values()),
    )


def _hold_constants(graph: ir.Graph) -> None:
    """Make Constant nodes of the initializers that a converter adds: a function has none."""
    for name, value in list(graph.initializers.items()):
        assert value.const_value is not None
        constant = ir.node("Constant", [], {"value": ir.AttrTensor("value", value.const_value)})
        value.replace_all_uses_with(constant.outputs[0])
        graph.insert_before(graph[0], constant)
        del graph.initializers[name]
        constant.outputs[0].name = name


def _set_aside(
    model: ir.Model, node: ir.Node, number: int
) -> tuple[str, str, str, dict[str, ir.Attr]]:
    """Make a node a placeholder while the graph around it is raised; returns what it was."""
    form = (node.domain, node.op_type, node.overload, dict(node.attributes))
    node.domain, node.op_type, node.overload = _ASIDE, f"node{number}", ""
    node.attributes.clear()
    model.graph.opset_imports[_ASIDE] = 1
    return form


def _aside(model: ir.Model) -> list[tuple[ir.Node, int]]:
    """The placeholders with their numbers; the converter may have made new nodes of them."""
    model.graph.opset_imports.pop(_ASIDE, None)
    nodes = [node for node in all_nodes(model.graph) if node.domain == _ASIDE]
    return [(node, int(node.op_type.removeprefix("node"))) for node in nodes]


def _stays(node: ir.Node, version: int, target: int) -> bool:
    """Whether a node can be left as it is when the graph around it is raised."""
    if any(subgraphs(node)):
        return False
    if node.domain or not _differs(node, version, target):
        return True
    return version >= 13 and node.op_type not in _OTHERWISE and fits(node, target)


def _inline_equal(model: ir.Model, functions: Functions) -> None:
    """Inline functions whose opset of the standard is the graph's."""
    _unify_others(model.graph, functions)
    model.functions.update(functions)
    if functions:
        common.InlinePass()(model)
    model.functions.clear()


def _inline_raised(model: ir.Model, functions: Functions, target: int) -> None:
    """Raise a graph, and each call of a function by itself, whose body then replaces the call."""
    _unify_others(model.graph, functions)
    model.functions.update(functions)
    common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    model.functions.clear()
    calls = [n for n in all_nodes(model.graph) if n.op_identifier() in functions]
    bodies: list[ir.Graph] = []
    for k, call in enumerate(calls):
        body = called(call, functions[call.op_identifier()])
        _inline_raised(body, functions, target)
        bodies.append(body.graph)
        _set_aside(model, call, k)
    _raise_graph(model, target)
    names = Names(model.graph)
    for call, k in _aside(model):
        rename(bodies[k], names)
        substitute(call, bodies[k])


def _give_own_outputs(function: ir.Function) -> None:
    """Let a node of its own give each output of a function, also one that is an input as well."""
    for k, v in enumerate(function.outputs):
        if v.producer() is None or v in function.outputs[:k]:
            copy = ir.node("Identity", [v])
            copy.outputs[0].name = f"{v.name}_out{k}"
            function.append(copy)
            function.outputs[k] = copy.outputs[0]


def _unify_others(graph: ir.Graph, functions: Functions) -> None:
    """Import every other domain than the standard's in the newest version that a part imports.

    Raises:
        ModelError: An operator differs between them.
    """
    opsets = graph.opset_imports
    holders: list[ir.Graph | ir.Function] = [graph, *functions.values()]
    for holder in holders:
        for domain, version in holder.opset_imports.items():
            if domain:
                opsets[domain] = max(version, opsets.get(domain, version))
    for holder in holders:
        for node in all_nodes(holder):
            domain, newest = node.domain, opsets.get(node.domain, 1)
            version = holder.opset_imports.get(domain, newest)
            if domain and version != newest and _differs(node, version, newest):
                raise ModelError(
                    f"operator {domain}::{node.op_type}, node {node.name!r}, is of version "
                    f"{version} of its domain, and another part of the model is of {newest}: "
                    "export the model with one version"
                )
        for domain in holder.opset_imports:
            if domain:
                holder.opset_imports[domain] = opsets[domain]


def _differs(node: ir.Node, version: int, newest: int) -> bool:
    schemas = [onnx_schema(node.domain, node.op_type, v) for v in (version, newest)]
    since = {None if s is None else s.since_version for s in schemas}
    return len(since) > 1


def _reached(graph: ir.Graph, functions: Functions) -> Functions:
    """The functions that a graph calls, directly or by way of others."""
    found: Functions = {}
    left = [all_nodes(graph)] if functions else []
    while left:
        for node in left.pop():
            key = node.op_identifier()
            if key in functions and key not in found:
                found[key] = functions[key]
                left.append(all_nodes(functions[key]))
    return found


def _require_order(functions: Functions, equal: bool) -> None:
    """Check that no function calls itself, and that those to be raised do not nest too deep."""
    calls = _calls(functions)
    depth: dict[ir.OperatorIdentifier, int] = {}
    try:
        for key in graphlib.TopologicalSorter(calls).static_order():
            depth[key] = 1 + max((depth[other] for other in calls[key]), default=0)
    except graphlib.CycleError as error:
        names = " -> ".join(f"{domain}::{name}" for domain, name, _ in error.args[1])
        raise ModelError(f"a function of the model calls itself: {names}") from None
    if not equal and max(depth.values(), default=0) > _DEPTH:
        raise ModelError(
            f"functions of several opsets call each other more than {_DEPTH} deep: export the "
            "model with one opset"
        )


def _calls(functions: Functions) -> dict[ir.OperatorIdentifier, set[ir.OperatorIdentifier]]:
    """Which of them each function calls."""
    return {
        key: {n.op_identifier() for n in all_nodes(f)} & functions.keys()
        for key, f in functions.items()
    }


def _require_few(graph: ir.Graph, functions: Functions) -> None:
    """Check how many nodes a graph has once functions, which call no loop of them, are inlined."""
    counts: dict[ir.OperatorIdentifier, int] = {}

    def count(holder: ir.Graph | ir.Function) -> int:
        return sum(counts.get(n.op_identifier(), 1) for n in all_nodes(holder))

    for key in graphlib.TopologicalSorter(_calls(functions)).static_order():
        counts[key] = count(functions[key])
    if functions and (nodes := count(graph)) > limits.NODES:
        raise ModelError(
            f"the functions of the model, written out, are {nodes:,} nodes, more than "
            f"{limits.NODES:,}: set ONNXGRAD_MAX_NODES to allow more"
        )


def _versions(functions: Functions) -> list[int]:
    return [f.opset_imports[""] for f in functions.values() if "" in f.opset_imports]


def _require_known(version: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(
            f"the model is of opset {version} and the installed onnx {onnx.__version__} knows up "
            f"to {newest}: upgrade onnx"
        )


def _fill_defaults(model: ir.Model) -> None:
    """Write out default attributes in calls of functions that stay: their rules ask for all."""
    for node in all_nodes(model.graph):
        if function := model.functions.get(node.op_identifier()):
            for name, attribute in function.attributes.items():
                if attribute.value is not None:
                    node.attributes.setdefault(name, attribute)


def _resize_as_of_old(graph: ir.Graph) -> None:
    """Write out how Upsample and Resize found coordinates before opset 11, which had no attribute.

    The converter leaves the new attributes at their defaults, which differ from that. onnxruntime
    rounds up where a Resize shrinks.
    """
    for node in all_nodes(graph):
        if node.op_type == "Resize" and not node.domain:
            given = node.inputs[2]
            scales = None if given is None else constant_of(given)
            shrinks = scales is not None and scales.max() <= 1 and scales.min() < 1
            for name, value in (
                ("coordinate_transformation_mode", "asymmetric"),
                ("nearest_mode", "ceil" if shrinks else "floor"),
            ):
                node.attributes[name] = ir.AttrString(name, value)


def _exists(node: ir.Node, version: int) -> bool:
    return onnx_schema("", node.op_type, version) is not None
