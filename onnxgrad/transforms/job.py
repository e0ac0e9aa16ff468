"""One differentiation: what a transform's names stand for, its seeds and its results."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.declare import registry
from onnxgrad.declare.trainable import is_trainable
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.finite import PICK
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import Edge, Flow, describe, operands, require_rules
from onnxgrad.engine.rematerialise import Rematerialisation, choose_checkpoints
from onnxgrad.engine.reverse import Rules, backward
from onnxgrad.engine.stopped import is_gate, restore, stop
from onnxgrad.engine.straight_through import mark, propagate_marks, rounding_left_out
from onnxgrad.graph import maps
from onnxgrad.graph.constants import stand_in
from onnxgrad.graph.errors import (
    ArgumentError,
    QuantizedWarning,
    UnknownNameError,
    UnreachableError,
    nearest,
)
from onnxgrad.graph.facts import by_name, is_float
from onnxgrad.graph.names import All
from onnxgrad.graph.schemas import joined_name
from onnxgrad.heads.head import emit_heads
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.passes.portable import ask_least
from onnxgrad.transforms.asked import Asked
from onnxgrad.transforms.memory import Memory
from onnxgrad.transforms.options import Options, Wrt
from onnxgrad.transforms.probabilities import advice, warn


class Job:
    """One differentiation: names resolved, the net normalised, results named.

    Args:
        net: A private model, which is changed.
        wrt: As for `gradient`.
        options: As for `gradient`.

    Attributes:
        op: Emits at the end of the net's graph.
        wrt, of: The tensors to differentiate with respect to, and those to differentiate.
        values: Those to give out as they are.
        heads, read: Their heads, and the names of the tensors that each reads.
        head_nodes: The nodes of the heads.
        constant: The names of the tensors that no cotangent flows through.
        minus: Those of the tensors whose gradient is given with its sign changed.
        zeros: Whether a tensor that nothing reaches has a gradient of zeros.
        caution: What to say of a scalar that nobody has chosen and whose gradient means nothing.
        results: The names of the results, once they are finished.

    Raises:
        ModelError: The model is not valid.
        UnknownNameError: No tensor of that name.
        ArgumentError: The arguments make no sense together.
        FeedError: The net cannot be run on the example.
    """

    def __init__(self, net: ir.Model, wrt: Wrt = None, options: Options | None = None) -> None:
        self.net = net
        self.options = options = options or Options()
        self.zeros = options.unreachable == "zeros" or isinstance(wrt, All)
        self.results: list[str] = []
        self._warned: set[ir.Node] = set()
        own = set(by_name(net.graph))  # before normalising adds others
        asked = Asked.resolve(net, wrt, options)
        self.constant, self.read, self.minus = asked.constant, asked.heads, asked.minus
        normalise(
            net,
            asked.names,
            options.straight_through,
            options.example,
            self.keeps_fused,
            options.opset,
        )
        self.memory = Memory(net, asked.budget, options.example)
        own_nodes = len(net.graph)
        self.heads = emit_heads(net.graph, asked.heads, options.target)
        self.head_nodes = set(net.graph[own_nodes:])
        mark(net.graph, options.straight_through)
        self.op = Builder(net.graph, target=options.target)
        stop(net.graph, asked.constant, self.op.names)
        self._find(asked, isinstance(wrt, All))
        self.imposed = self.of if options.ograd is not False else []
        self.caution = "" if self.imposed else advice(self.of, own)

    def _find(self, names: Asked, trainable_only: bool) -> None:
        """Find the values of the names in the normalised net."""
        values = by_name(self.net.graph)
        for name in names.constant:
            _require_tensor(_value(values, name, "constant"))
        self.checkpoints = {_float_value(values, n, "checkpoints") for n in names.checkpoints}
        self.wrt = [_float_value(values, n, "wrt") for n in names.wrt]
        of = [_float_value(values, n, "of") for n in names.of]
        self.of = [*of, *(self.heads[head] for head in names.of_heads)]
        self.values = [_value(values, n, "values") for n in names.values]
        self.values += [self.heads[head] for head in names.value_heads]
        if trainable_only:
            self.wrt = [v for v in self.wrt if not v.is_initializer() or is_trainable(v)]
            if not self.wrt:
                raise ArgumentError(
                    "wrt: ALL is empty, as the model has no floating-point input and no trainable "
                    "weight, but for those in constant; name other tensors in wrt"
                )
        if weights := [v for v in self.wrt if v.is_initializer()]:
            stand_in(self.net.graph, weights)  # a second derivative by them may follow

    @property
    def keeps_fused(self) -> bool:
        """Whether the result may have the operators of a runtime that the net has."""
        return self.options.target != "portable"

    @property
    def wrt_names(self) -> list[str]:
        """The names of the tensors to differentiate with respect to."""
        return [v.name or "" for v in self.wrt]

    def seeds(self) -> tuple[dict[ir.Value, Tensor], dict[ir.Value, Tensor]]:
        """The cotangents of `of`, ones where none is imposed; and those that are graph inputs.

        It warns of a scalar whose gradient means nothing.
        """
        op = self.op
        self.warn()
        ograds = {y: self.add_input(f"{y.name}_ograd", y) for y in self.imposed}
        return {y: ograds.get(y) or shapes.full_like(op.tensor(y), 1) for y in self.of}, ograds

    def warn(self) -> None:
        """Warn of a scalar whose gradient means nothing, where it is the default."""
        if self.caution and self.options.of is None:
            warn(self.caution)

    def add_input(self, name: str, like: ir.Value) -> Tensor:
        """A new graph input of the dtype and shape of `like`; a taken name has its end repeated."""
        value = ir.Value(name=self._unique(name), type=like.type, shape=like.shape)
        self.op.graph.inputs.append(value)
        self.op.numbers.note_mask(value, PICK)
        return self.op.tensor(value)

    def pull(
        self,
        seeds: dict[ir.Value, Tensor],
        sources: Sequence[ir.Value] | None = None,
        op: Builder | None = None,
        rules: Rules | None = None,
    ) -> dict[ir.Value, Tensor]:
        """Pull cotangents back to `sources`, by default `wrt`.

        Args:
            seeds: The cotangents of values of the net.
            sources: The values whose cotangents are asked for.
            op: Emits the backward pass, as to an inner graph; by default at the end of the net.
            rules: Take the place of the operators' own in this pass.

        Returns:
            The cotangents of all `sources`; where none arrives it is zeros.

        Raises:
            UnreachableError: There is none, and it was not asked for zeros.
            NoRuleError: An operator on the path has no gradient rule.
        """
        sources = self.wrt if sources is None else sources
        flow = self.trace(list(seeds), sources)
        seeds = {y: g for y, g in seeds.items() if flow.matters(y)}
        op = op or self.op
        found = backward(op, flow, seeds, self._rematerialisation(flow), rules)
        if self.options.straight_through:  # for a second order
            propagate_marks(op.graph)
        for v in sources:
            if v not in found:
                if not self.zeros:
                    raise _unreachable(self.op.graph, v, list(flow.targets))
                found[v] = shapes.full_like(op.tensor(v), 0)
        return found

    def _rematerialisation(self, flow: Flow) -> Rematerialisation | None:
        if self.options.checkpoints is False:
            return None
        if (plan := self.memory.plan(flow)) is not None:
            return Rematerialisation(self.op, flow, plan.checkpoints, plan.first_kept)
        return Rematerialisation(self.op, flow, self.checkpoints or choose_checkpoints(flow))

    def trace(self, targets: list[ir.Value], sources: Sequence[ir.Value]) -> Flow:
        """The flow from `sources` to `targets`.

        Raises:
            UnreachableError: No target depends on a source, and it was not asked for zeros.
            NoRuleError: An operator on the path has no gradient rule.
        """
        flow = Flow.of(self.op.graph, sources, targets)
        require_rules(flow)
        if advice := self.caution_of_rounding(flow):
            warn(advice, QuantizedWarning)
        for v in sources:
            if not self.zeros and not flow.matters(v):
                raise _unreachable(self.op.graph, v, targets)
        return flow

    def caution_of_rounding(self, flow: Flow) -> str:
        """What to say of numbers that are rounded on a path, though a gradient passes them by."""
        own = (node for node in flow.nodes if node not in self._warned)
        if not (nodes := rounding_left_out(own)):
            return ""
        self._warned.update(nodes)
        names = sorted({joined_name(node.domain, node.op_type) for node in nodes})
        return (
            f"{describe(nodes[0])} rounds numbers, and the gradient flows through its scale alone, "
            f"which is next to nothing. Pass straight_through={names} for the gradient as of the "
            "net before it was quantised."
        )

    def require_dependent(self) -> None:
        """Check that each tensor of `of` depends on one of `wrt`, unless it was asked for zeros.

        Raises:
            UnreachableError: One does not.
        """
        for y in self.of:
            if not self.zeros and not Flow.of(self.op.graph, self.wrt, [y]).matters(y):
                self.trace([y], self.wrt)  # raises and says why

    def finish(self, results: dict[str, Tensor]) -> None:
        """List the results as outputs under their names, drop what is no longer needed."""
        graph, op = self.net.graph, self.op
        if not self.options.forward:
            graph.outputs.clear()
        self._give_values()
        for name, t in results.items():
            self.results.append(self._unique(name))
            op.output(self.results[-1], t)
        names = {v: v.name for v in (*self.wrt, *self.of)}
        if self.constant:
            restore(graph)
        optimise(self.net, self.options.opset)
        if op.target.whole_graph:
            ask_least(self.net)
        for v, known_as in names.items():
            v.name = known_as  # an optional output that nothing uses any more has lost it

    def _give_values(self) -> None:
        """List the tensors of `values` as outputs, under their own names where these can be."""
        self.given: dict[str, str] = {}
        graph = self.net.graph
        for v in self.values:
            name = v.name or ""
            if v.producer() is None:  # an input or a weight
                self.given[name] = self._unique(f"{name}_value")
                self.op.output(self.given[name], self.op.tensor(v))
            elif v not in graph.outputs:
                graph.outputs.append(v)
            self.given.setdefault(name, name)

    def _unique(self, name: str) -> str:
        stem, mark, end = name.rpartition("_")
        return self.op.names.suffixed(stem, mark + end)


def _value(values: dict[str, ir.Value], name: str, argument: str) -> ir.Value:
    if name not in values:
        raise UnknownNameError(f"{argument}: no tensor {name!r} in the net.{nearest(name, values)}")
    return values[name]


def _require_tensor(value: ir.Value) -> None:
    """Refuse a sequence in constant: what is taken out of it may not depend on it any more."""
    if not isinstance(value.type, ir.TensorType | type(None)):
        raise ArgumentError(
            f"constant: {value.name!r} is no tensor; name the tensors that are taken out of it"
        )


def _float_value(values: dict[str, ir.Value], name: str, argument: str) -> ir.Value:
    value = _value(values, name, argument)
    if not is_float(value):
        raise ArgumentError(
            f"{argument}: {name!r} is {_kind(value)}; only floating-point tensors have a gradient"
        )
    return value


def _kind(value: ir.Value) -> str:
    """What a value is, in words."""
    if source := maps.source_of(value):
        return f"a sequence of maps made of {source!r}"
    if value.dtype is None:
        return "a value of unknown type"
    if isinstance(value.type, ir.SequenceType):
        return f"a sequence of {value.dtype.name}"
    optional = isinstance(value.type, ir.OptionalType)
    return f"an optional {value.dtype.name}" if optional else value.dtype.name


def _unreachable(graph: ir.Graph, value: ir.Value, targets: list[ir.Value]) -> UnreachableError:
    to = ", ".join(repr(t.name) for t in targets)
    flow = Flow.of(graph, [value], targets)
    advice = {"unreachable": ", or pass unreachable='zeros'"}
    stopped = dict.fromkeys(repr(e.node.outputs[0].name) for e in flow.blocked if is_gate(e.node))
    blocked = [e for e in flow.blocked if not is_gate(e.node)]
    passes = [f"a tensor of constant: {', '.join(stopped)}"] if stopped else []
    if blocked:
        where = "; ".join(dict.fromkeys(f"{describe(e.node)} ({e.reason})" for e in blocked[:4]))
        passes.append(f"an operator of zero derivative: {where}")
        advice["straight_through"] = _straight_through(blocked)
    if passes:
        what = f"every path from {value.name!r} to {to} passes {' or '.join(passes)}"
    else:
        what = f"{to} does not depend on {value.name!r}: {_dead_end(graph, value)}"
    return UnreachableError(what, advice)


def _straight_through(blocked: list[Edge]) -> str:
    """The words that offer a straight-through gradient, or an empty string."""
    names = [joined_name(e.node.domain, e.node.op_type) for e in blocked]
    passable = set(names) & set(registry.straight_through())
    if passable:
        return f". For a straight-through gradient pass straight_through={sorted(passable)}"
    if not _same_type(blocked[0]):
        return ""
    return (
        f". For a straight-through gradient declare one, "
        f"onnxgrad.elementwise({names[0]!r}, lambda: 1, straight_through=True), and pass "
        f"straight_through=True"
    )


def _same_type(e: Edge) -> bool:
    source = operands(e.node)[e.index]
    return source is not None and [v.dtype for v in e.node.outputs] == [source.dtype]


def _dead_end(graph: ir.Graph, value: ir.Value) -> str:
    """Where the influence of `value` ends."""
    if not value.uses():
        return "no node uses it"
    influenced, last = {value}, None
    for node in graph:
        if any(v in influenced for v in node.inputs):
            influenced.update(node.outputs)
            last = node
    assert last is not None
    ends = ", ".join(repr(v.name) for v in last.outputs)
    return f"its influence ends in {ends} of {describe(last)}"
