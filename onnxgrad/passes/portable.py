"""What the target `portable` changes once a model is differentiated: less is asked of a runtime.

The formulations of single operators are chosen where they are emitted (`emit.targets`). Here is
what the whole graph has to be known for, with the net's own nodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.subgraphs import captures, rename
from onnxgrad.graph.constants import SMALL, constant_of
from onnxgrad.graph.facts import FLOATS, HALVES, all_nodes, dims_of, inner_graphs
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.functions import body_of, substitute
from onnxgrad.graph.inference import Inference
from onnxgrad.graph.marks import copy_notes
from onnxgrad.passes.written import drop_unused

# Operators of a weight that a runtime computes once, when it loads the file.
_LAYOUTS = {"Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_LOSSES = {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}
# Operators for which a runtime packs a weight.
_PACKED = {"MatMul", "Gemm", "Conv", "ConvTranspose"}


def ask_least(model: ir.Model) -> None:
    """Rewrite a model such that more runtimes take it, in place; it computes the same."""
    names = Names(model.graph)
    _expand_losses(model.graph, names)
    for node in list(all_nodes(model.graph)):
        if node.op_type == "Scan" and not node.domain:
            _PlainScan(node, names).replace()
        elif node.op_type == "Gemm" and not node.domain and node.outputs[0].dtype in HALVES:
            _as_matmul(node, names)
    order = {node: k for k, node in enumerate(all_nodes(model.graph))}
    for weight in list(model.graph.initializers.values()):
        if weight.dtype in FLOATS and not weight.is_graph_input() and _is_square(weight):
            _unshare(weight, order, names)


# -- losses ----------------------------------------------------------------------------------------


def _expand_losses(graph: ir.Graph, names: Names) -> None:
    """Write out the standard's losses of classes, which few runtimes have."""
    opset = graph.opset_imports[""]
    inference = Inference(opset)
    for node in [n for n in all_nodes(graph) if n.op_type in _LOSSES and not n.domain]:
        if node.op_type == "SoftmaxCrossEntropyLoss":
            node = _of_log_softmax(node, names)
        if (body := body_of(node, opset)) is not None:
            rename(body, names)
            nodes = list(body)
            substitute(node, body)
            for inner in nodes:
                inference.infer(inner)


def _of_log_softmax(node: ir.Node, names: Names) -> ir.Node:
    """The NegativeLogLikelihoodLoss of a LogSoftmax that takes the place of a node."""
    scores, graph = node.inputs[0], node.graph
    assert scores is not None and graph is not None
    softmax = _node("LogSoftmax", [scores], scores, names)
    softmax.attributes["axis"] = ir.AttrInt64("axis", 1)
    log_prob = softmax.outputs[0]
    loss = ir.Node(
        "",
        "NegativeLogLikelihoodLoss",
        [log_prob, *node.inputs[1:]],
        list(node.attributes.values()),
        name=node.name,
    )
    for old, new in zip(node.outputs, (loss.outputs[0], log_prob), strict=False):
        if old.name:
            new.name, new.type, new.shape = old.name, old.type, old.shape
            copy_notes(old, new)
            old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_before(node, [softmax, loss])
    graph.remove(node, safe=True)
    return loss


# -- Gemm ------------------------------------------------------------------------------------------


def _as_matmul(gemm: ir.Node, names: Names) -> None:
    """Write a Gemm in half precision, which tract gives in float32, as a MatMul and an Add."""
    graph, y = gemm.graph, gemm.outputs[0]
    factors = [a.as_float() for k in ("alpha", "beta") if (a := gemm.attributes.get(k))]
    if graph is None or factors != [1.0] * len(factors):
        return
    operands = []
    for x, name in zip(gemm.inputs[:2], ("transA", "transB"), strict=True):
        assert x is not None
        if (a := gemm.attributes.get(name)) and a.as_int():
            node = _node("Transpose", [x], x, names)
            node.attributes["perm"] = ir.AttrInt64s("perm", [1, 0])
            node.outputs[0].shape = None if x.shape is None else ir.Shape(list(x.shape)[::-1])
            graph.insert_before(gemm, node)
            x = node.outputs[0]
        operands.append(x)
    new = _node("MatMul", operands, y, names)
    graph.insert_before(gemm, new)
    if len(gemm.inputs) > 2 and (bias := gemm.inputs[2]) is not None:
        new = _node("Add", [new.outputs[0], bias], y, names)
        graph.insert_before(gemm, new)
    new.outputs[0].name = y.name
    copy_notes(y, new.outputs[0])
    y.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    graph.remove(gemm, safe=True)


# -- Scan ------------------------------------------------------------------------------------------


class _PlainScan:
    """A Scan that goes forward only and captures nothing, in the place of another.

    What that one reads and writes backwards is reversed around it. What it captures become states;
    small constants that are no numbers of the net, such as axes, become constants of the body.
    """

    def __init__(self, scan: ir.Node, names: Names) -> None:
        self.scan, self.names = scan, names
        self.body = scan.attributes["body"].as_graph()
        self.reads = scan.attributes["num_scan_inputs"].as_int()
        self.states = len(scan.inputs) - self.reads
        self.writes = len(scan.outputs) - self.states

    def replace(self) -> None:
        """Put it in the place of the other."""
        scan, n = self.scan, self.states
        captured = self._captured()
        self._separate()
        reversals = self._ports("input", self.reads, "directions")
        if not (captured or any(reversals + self._ports("output", self.writes, "directions"))):
            return
        read: list[ir.Value | None] = []
        axes = self._ports("input", self.reads, "axes")
        for x, axis, reverse in zip(scan.inputs[n:], axes, reversals, strict=True):
            assert x is not None
            read.append(self._reversed(x, axis, scan) if reverse else x)
        kept = [a for a in scan.attributes.values() if not a.name.endswith("_directions")]
        plain = ir.Node(
            "",
            "Scan",
            [*scan.inputs[:n], *captured, *read],
            kept,
            num_outputs=len(scan.outputs) + len(captured),
            name=scan.name,
        )
        plain.metadata_props.update(scan.metadata_props)
        assert scan.graph is not None
        scan.graph.insert_before(scan, plain)
        self._give(plain, len(captured))
        scan.graph.remove(scan, safe=True)

    def _ports(self, side: str, count: int, what: str) -> list[int]:
        """The axes or directions of what the steps read or write slices of."""
        given = self.scan.attributes.get(f"scan_{side}_{what}")
        return [0] * count if given is None else list(given.as_ints())

    def _captured(self) -> list[ir.Value]:
        """What the body captures, of which it makes states; constants go into the body."""
        found: list[ir.Value] = []
        for outer in captures(self.scan):
            known = constant_of(outer)
            if not isinstance(outer.type, ir.TensorType):
                continue  # a Scan carries no sequence
            if known is not None and known.size <= SMALL and outer.dtype not in FLOATS:
                _replace_inside(self.body, outer, _constant(known, self.body, self.names))
                drop_unused(outer)
                continue
            inner = ir.Value(name=self.names.fresh("state"), type=outer.type, shape=outer.shape)
            _replace_inside(self.body, outer, inner)
            after = _node("Identity", [inner], inner, self.names)
            self.body.append(after)
            self.body.inputs.insert(self.states + len(found), inner)
            self.body.outputs.insert(self.states + len(found), after.outputs[0])
            found.append(outer)
        return found

    def _separate(self) -> None:
        """Let what steps write be read by nothing else: tract would read a slice with an axis."""
        first = len(self.body.outputs) - self.writes
        for k, v in enumerate(self.body.outputs):
            if k >= first and v.uses():
                node = _node("Identity", [v], v, self.names)
                self.body.append(node)
                self.body.outputs[k] = node.outputs[0]

    def _give(self, plain: ir.Node, added: int) -> None:
        """Let the outputs of the new node take the places and names of the old one's."""
        n = self.states
        axes = [0] * n + self._ports("output", self.writes, "axes")
        reversals = [0] * n + self._ports("output", self.writes, "directions")
        outputs = [*plain.outputs[:n], *plain.outputs[n + added :]]
        for v in plain.outputs[n : n + added]:
            v.name = self.names.fresh("unused")
        for old, new, axis, reverse in zip(
            self.scan.outputs, outputs, axes, reversals, strict=True
        ):
            new.type, new.shape = old.type, old.shape
            if not old.name:
                new.name = ""
                continue
            if reverse:
                new.name = self.names.fresh(f"{old.name}_reversed")
                new = self._reversed(new, axis, self.scan)
            new.name = old.name
            copy_notes(old, new)
            old.replace_all_uses_with(new, replace_graph_outputs=True)

    def _reversed(self, x: ir.Value, axis: int, before: ir.Node) -> ir.Value:
        """A Slice of `x` from the last to the first element along an axis."""
        graph = before.graph
        assert graph is not None
        how = [[-1], [-(2**31)], [axis], [-1]]
        node = _node(
            "Slice", [x, *(_constant(np.array(h), graph, self.names) for h in how)], x, self.names
        )
        graph.insert_before(before, node)
        return node.outputs[0]


def _replace_inside(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let all nodes of a graph, and of graphs in it, read another value."""
    for node in all_nodes(graph):
        for k, v in enumerate(node.inputs):
            if v is old:
                node.replace_input_with(k, new)
    for inner in (graph, *inner_graphs(graph)):
        for k, v in enumerate(inner.outputs):
            if v is old:
                inner.outputs[k] = new


def _constant(array: np.ndarray, graph: ir.Graph, names: Names) -> ir.Value:
    """A Constant node at the beginning of a graph."""
    value = ir.AttrTensor("value", ir.Tensor(array))
    node = ir.node("Constant", [], {"value": value})
    out = node.outputs[0]
    out.name, out.type = names.fresh("const"), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    out.shape = ir.Shape(array.shape)
    node.name = names.fresh("Constant")
    graph.insert_before(graph[0], node)
    return out


def _node(op_type: str, inputs: Sequence[ir.Value], like: ir.Value, names: Names) -> ir.Node:
    """A node whose output has the dtype and shape of a value."""
    node = ir.Node("", op_type, inputs, name=names.fresh(f"portable/{op_type}"))
    out = node.outputs[0]
    out.name, out.type, out.shape = names.fresh(f"{node.name}_out"), like.type, like.shape
    return node


# -- weights ---------------------------------------------------------------------------------------


def _is_square(weight: ir.Value) -> bool:
    """Whether a weight has the same shape in another layout."""
    dims = dims_of(weight) or ()
    return len(dims) > 1 and (dims[0] == dims[1] or dims[-1] == dims[-2])


def _unshare(weight: ir.Value, order: dict[ir.Node, int], names: Names) -> None:
    """Give operators that want a weight in another layout copies of their own.

    OpenVINO packs a constant once, by its address and shape, and so hands the second operator what
    it has packed for the first. A copy is computed, which a runtime does when it loads the file: so
    who differentiates or changes the weight need not know of it.

    Args:
        weight: A weight, or what `_LAYOUTS` make of one.
        order: The places of the nodes.
    """
    by_layout: dict[Hashable, list[tuple[ir.Node, int]]] = {}
    for node, k in sorted(weight.uses(), key=lambda use: order.get(use[0], -1)):
        if node.domain or node.op_type not in _LAYOUTS | _PACKED:
            continue
        if node.op_type in _LAYOUTS:
            _unshare(node.outputs[0], order, names)
        if node.op_type != "Neg":  # it has made a copy already
            by_layout.setdefault(_layout(node, k), []).append((node, k))
    for uses in list(by_layout.values())[1:]:
        weight = _copied(weight, names)
        for node, k in uses:
            node.replace_input_with(k, weight)


def _layout(node: ir.Node, k: int) -> Hashable:
    """In which layout a node wants its operand `k`."""
    if node.op_type in ("MatMul", "Gemm"):
        transposed = node.attributes.get("transB" if k else "transA")
        return "MatMul", k, transposed is not None and transposed.as_int()
    return node.op_type, k, *map(str, node.attributes.values())


def _copied(weight: ir.Value, names: Names) -> ir.Value:
    """A copy of a weight that no runtime takes for the weight itself: it is negated twice."""
    source, producer = weight, weight.producer()
    graph = weight.graph if producer is None else producer.graph
    assert graph is not None
    for _ in range(2):
        node = _node("Neg", [source], weight, names)
        if producer is None:
            graph.insert_before(graph[0], node)
        else:
            graph.insert_after(producer, node)
        source, producer = node.outputs[0], node
    return source
