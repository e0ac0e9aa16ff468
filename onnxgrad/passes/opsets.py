"""One opset for the whole of a model, and functions of its own inlined into it.

A function can be written for another opset than the graph that calls it. Then each call becomes a
model of its own, raised as such, before it takes the place of the call.
"""

from __future__ import annotations

import contextlib
import graphlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.emit.subgraphs import rename
from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import all_nodes, subgraphs
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.functions import called, fits, substitute
from onnxgrad.graph.schemas import joined_name, onnx_schema

# The opset that rules are written for. Newer models stay as they are. 21 is the newest that
# onnxruntime 1.19 knows.
FLOOR = 21

# The domain of operators that a converter or inference is not to see.
HIDDEN = "onnxgrad.hidden"
# The domain of what is set aside while the graph around it is raised.
_ASIDE = "onnxgrad.aside"

# What changed its meaning since opset 13, but not its form.
_OTHERWISE = {"GroupNormalization", "Split"}

# How deep functions of several opsets can call each other.
_DEPTH = 50

Functions = dict[ir.OperatorIdentifier, ir.Function]


def inline(model: ir.Model, keeps: Callable[[ir.Function], bool]) -> None:
    """Inline the functions of a model, in place.

    Args:
        model: Its graphs can hold calls of functions. Its opset is raised where theirs are others.
        keeps: Whether the calls of a function stay, and the function with all that it calls.

    Raises:
        ModelError: A function calls itself or has the name of an operator of the standard, or an
            opset is too new or cannot be raised.
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
    """Refuse a function with the name of an operator of the standard: runtimes take either."""
    versions = (h.opset_imports.get(function.domain) for h in holders)
    if any(v and onnx_schema(function.domain, function.name, v) for v in versions):
        name = joined_name(function.domain, function.name)
        raise ModelError(
            f"the model has a function {name!r}, which is an operator of the standard too, and "
            "runtimes do not agree which of them counts: give the function another domain or name"
        )


def raise_opset(model: ir.Model, target: int) -> None:
    """Raise the opset of a model, its functions too, to `target` or what the graph has, in place.

    Raises:
        ModelError: It cannot be raised.
    """
    functions = dict(model.functions)
    model.functions.clear()
    _raise_graph(model, target)
    for key, function in functions.items():
        model.functions[key] = _raised(function, model.graph.opset_imports[""])


def _raise_graph(model: ir.Model, target: int) -> None:
    """Raise the graph of a model without functions, past operators that the standard had later.

    onnxruntime had some of them before the standard did.
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
    with _quiet():
        ConvertVersionPass(target_version=target, fallback=True)(model)
    if model.graph.opset_imports[""] != target:
        raise ModelError(f"opset {version} cannot be raised to {target}")


def _raised(function: ir.Function, target: int) -> ir.Function:
    """A function that stays, raised."""
    version = function.opset_imports.get("", target)
    if not any(not n.domain and _differs(n, version, target) for n in all_nodes(function)):
        function.opset_imports[""] = target
        return function
    model = ir.Model(function.clone().graph, ir_version=10)
    # No converter reads an attribute that the call gives.
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
    """Make nodes of the initializers that a converter adds: a function has none."""
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
    """Put a mark in a node's place while the graph around it is raised; what it was."""
    form = (node.domain, node.op_type, node.overload, dict(node.attributes))
    node.domain, node.op_type, node.overload = _ASIDE, f"node{number}", ""
    node.attributes.clear()
    model.graph.opset_imports[_ASIDE] = 1
    return form


def _aside(model: ir.Model) -> list[tuple[ir.Node, int]]:
    """The nodes that are set aside, with their numbers; the converter may have made new ones."""
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
    """Raise a graph, and apart from it each call of a function, which then takes its place."""
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
    """Let a node give each output of a function: an input given out has the name of its own."""
    for k, v in enumerate(function.outputs):
        if v.producer() is None or v in function.outputs[:k]:
            copy = ir.node("Identity", [v])
            copy.outputs[0].name = f"{v.name}_out{k}"
            function.append(copy)
            function.outputs[k] = copy.outputs[0]


def _unify_others(graph: ir.Graph, functions: Functions) -> None:
    """Give other domains than the standard's the newest version that graph or function imports.

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
    """The functions that a graph calls, by way of others too."""
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
    """Refuse functions that call themselves, or each other too deep to be raised one by one."""
    calls = {
        key: {n.op_identifier() for n in all_nodes(f)} & functions.keys()
        for key, f in functions.items()
    }
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
    """Give the calls of functions that stay the defaults of attributes: their rules ask for all."""
    for node in all_nodes(model.graph):
        if function := model.functions.get(node.op_identifier()):
            for name, attribute in function.attributes.items():
                if attribute.value is not None:
                    node.attributes.setdefault(name, attribute)


def _resize_as_of_old(graph: ir.Graph) -> None:
    """Say how Upsample and Resize found their coordinates before opset 11, where none could.

    The converter leaves them to the defaults. onnxruntime rounds up where it makes smaller.
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


# The level of a logger is every thread's.
_LEVEL = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let onnxscript report errors alone: that it falls back to onnx's converter is none."""
    logger = logging.getLogger("onnxscript")
    with _LEVEL:
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _exists(node: ir.Node, version: int) -> bool:
    return onnx_schema("", node.op_type, version) is not None
