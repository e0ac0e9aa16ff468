"""Fused operators of a runtime: the ones that an expansion has replaced, and where they come back.

For the time of a differentiation a fused node stays beside its expansion, under a domain that
nothing knows, and with the results of the expansion as further operands. Afterwards it takes their
place again, unless the backward pass needs a part of the expansion that depends on activations: the
expansion is computed then anyway. Parts that weights alone tell, as their floating-point numbers,
are no reason: the forward pass keeps its kernel, and the small weights. Neither are parts that only
count, as those that tell places in a cache, which other nodes share. A runtime would compute the
floating-point numbers of all weights when it loads the file, and keep them. So they are computed
where the backward pass needs them, of small weights that a cotangent delays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxgrad.declare.expansions import is_on_cpu
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.order import delayed
from onnxgrad.emit.subgraphs import captures
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import SMALL
from onnxgrad.graph.facts import VIEWS, all_nodes, elements_of, is_float
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.marks import DECLARED

_DOMAIN = "onnxgrad.fused"
# The dtypes of sizes, places and indices. Quantized activations have others.
_COUNTING = {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL}

# Of such a node: its own domain, the number of its own operands, and the outputs that the further
# operands stand for.
_OWN, _OPERANDS, _OUTPUTS = "fused_domain", "fused_operands", "fused_outputs"


def can_stay(node: ir.Node, results: Sequence[Tensor | list[Tensor] | None]) -> bool:
    """Whether a node that was expanded may come back: a runtime has it, and it has tensors only."""
    values = [v for v in node.inputs if v is not None]
    lists = any(isinstance(r, list) for r in results)
    return is_on_cpu(node) and not lists and all(isinstance(v.type, ir.TensorType) for v in values)


def import_hidden(graph: ir.Graph) -> None:
    """Import the domain of hidden nodes into the main graph, which libraries ask for."""
    graph.opset_imports[_DOMAIN] = 1


def hide(node: ir.Node, results: Sequence[Tensor | list[Tensor] | None]) -> None:
    """Let a node that nothing uses any more stay beside its expansion."""
    given = {k: r.value for k, r in enumerate(results) if isinstance(r, Tensor)}
    given = {k: v for k, v in given.items() if k < len(node.outputs)}
    own = len(node.inputs)
    node.attributes.add(ir.AttrString(_OWN, node.domain))
    node.attributes.add(ir.AttrInt64(_OPERANDS, own))
    node.attributes.add(ir.AttrInt64s(_OUTPUTS, list(given)))
    node.domain = _DOMAIN
    node.resize_inputs(own + len(given))
    for k, (index, value) in enumerate(given.items()):
        node.replace_input_with(own + k, value)
        output = node.outputs[index]
        output.type, output.shape, output.name = value.type, value.shape, ""


def restore(graph: ir.Graph) -> None:
    """Put hidden nodes in the place of their expansions, where nothing needs more of these.

    Inner graphs included. The others are removed.
    """
    hidden = [node for node in all_nodes(graph) if node.domain == _DOMAIN]
    if not hidden:
        return
    names, places = Names(graph), {node: k for k, node in enumerate(graph)}
    active: set[ir.Value] = set()  # where a search has ended; a later one goes no further back
    for node in hidden:
        _restore(node, names, places, active)
    graph.sort()


def _restore(
    node: ir.Node, names: Names, places: Mapping[ir.Node, int], active: set[ir.Value]
) -> None:
    graph, own = node.graph, node.attributes.get_int(_OPERANDS)
    assert isinstance(graph, ir.Graph)
    results = [v for v in node.inputs[own:] if v is not None]
    outputs = [node.outputs[k] for k in node.attributes.get_ints(_OUTPUTS)]
    node.resize_inputs(own)
    node.domain = node.attributes.get_string(_OWN)
    for name in (_OWN, _OPERANDS, _OUTPUTS):
        del node.attributes[name]
    parts = _parts(graph, set(node.inputs), results, active)
    if parts is None:
        graph.remove(node, safe=True)
        return
    _delay(graph, parts, set(node.inputs), results, places, active)
    for result, output in zip(results, outputs, strict=True):
        output.name, result.name = result.name, names.fresh(f"{result.name}_expanded")
        output.type, output.shape = result.type, result.shape
        DECLARED.set(output, DECLARED.of(result))
        result.replace_all_uses_with(output, replace_graph_outputs=True)
    place = results[0].producer()
    assert place is not None
    graph.remove(node)
    place.append(node)


def _parts(
    graph: ir.Graph,
    operands: set[ir.Value | None],
    results: Sequence[ir.Value],
    active: set[ir.Value],
) -> set[ir.Node] | None:
    """The nodes of an expansion that others need; None where one computes with activations."""
    if any(v.graph is not graph or v.producer() is None for v in results):
        return None
    within = _between(operands, results)
    needed = [
        v
        for inner in within
        for v in inner.outputs
        if v not in results
        and (v.is_graph_output() or any(use.node not in within for use in v.uses()))
    ]
    parts = _between(operands, needed)
    activations = {
        v
        for part in parts
        for v in _read(part)
        if v in operands and v.dtype not in _COUNTING and not _is_weight(v, active)
    }
    return None if any(_computes(part, operands, activations) for part in parts) else parts


def _computes(part: ir.Node, operands: set[ir.Value | None], activations: set[ir.Value]) -> bool:
    """Whether a part of an expansion gives floating-point numbers that depend on activations."""
    if not activations or part.op_type in VIEWS or not any(map(is_float, part.outputs)):
        return False
    before = _between(operands, list(part.outputs))
    return any(v in activations for node in before for v in _read(node))


def _delay(
    graph: ir.Graph,
    parts: set[ir.Node],
    operands: set[ir.Value | None],
    results: Sequence[ir.Value],
    places: Mapping[ir.Node, int],
    active: set[ir.Value],
) -> None:
    """Let the parts wait for what they are first used with, where they unpack a weight."""
    packed = {
        v
        for part in parts
        for v in part.inputs
        if v in operands and v is not None and v.is_initializer() and not is_float(v)
    }
    packed = {v for v in packed if (elements_of(v) or 0) > SMALL}
    uses = _uses(parts, _between(operands, results), active)
    if not (packed and uses) or any(node not in places for node in uses):
        return
    first = min(uses, key=places.__getitem__)
    after = next((v for v in first.inputs if v is not None and not _is_weight(v, active)), None)
    if after is None:  # the graphs of a node read it
        return
    op = Builder(graph)
    for v in packed:
        late = delayed(op.tensor(v), op.tensor(after)).value
        for part in parts:
            for k, operand in enumerate(part.inputs):
                if operand is v:
                    part.replace_input_with(k, late)


def _uses(parts: set[ir.Node], but: set[ir.Node], active: set[ir.Value]) -> set[ir.Node]:
    """The nodes where what weights alone tell meets activations, but for some."""
    found: set[ir.Node] = set()
    open_ = [v for part in parts for v in part.outputs]
    while open_:
        for node in {use.node for use in open_.pop().uses()} - but - found:
            if all(_is_weight(v, active) for v in _read(node)):
                open_.extend(node.outputs)
            else:
                found.add(node)
    return found


def _between(operands: set[ir.Value | None], results: Sequence[ir.Value]) -> set[ir.Node]:
    """The nodes that give `results` from `operands`."""
    found: set[ir.Node] = set()
    open_ = list(results)
    while open_:
        value = open_.pop()
        node = value.producer()
        if node is None or value in operands or node in found:
            continue
        found.add(node)
        open_.extend(_read(node))
    return found


def _read(node: ir.Node) -> list[ir.Value]:
    """What a node reads, its graphs included."""
    return [v for v in (*node.inputs, *captures(node)) if v is not None]


def _is_weight(value: ir.Value, active: set[ir.Value]) -> bool:
    """Whether weights alone tell a value.

    Args:
        active: Values that are known to depend on more; `value` is added where it does.
    """
    seen, open_ = {value}, [value]
    while open_:
        v = open_.pop()
        node = v.producer()
        if v in active or v.is_graph_input() or (node is None and not v.is_initializer()):
            active.add(value)
            return False
        more = [] if node is None else [w for w in _read(node) if w not in seen]
        seen.update(more)
        open_ += more
    return True
