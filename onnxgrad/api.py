"""The transforms: a model goes in, a model comes out. Read this page first.

load -> normalise -> trace what matters -> seed -> pull back -> name the results -> clean up
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import onnx
import onnx_ir as ir

from onnxgrad import io, shapes
from onnxgrad.builder import Builder, Tensor, is_float
from onnxgrad.differentiate import Edge, Flow, describe, edge, pull_back, require_rules
from onnxgrad.errors import ArgumentError, UnknownNameError, UnreachableError, nearest
from onnxgrad.names import All, parameters, resolve
from onnxgrad.normalise import normalise
from onnxgrad.optimise import optimise

Model = TypeVar("Model", onnx.ModelProto, ir.Model)
# A tensor's name, or a position in the net such as ["layer1", 0, "weight"].
Spec = str | Sequence[str]

GRADIENTS = "onnxgrad.gradients"
OGRADS = "onnxgrad.ograds"


def gradient(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    ograd: bool | Spec = False,
    forward: bool = True,
    unreachable: Literal["error", "zeros"] = "error",
) -> Any:
    """A model that also computes the gradient of a scalar of `model`'s outputs.

    The scalar is the sum of all elements of the tensors `of`; where an output gradient is imposed,
    the sum of the dot products of those tensors with theirs, and the others contribute nothing.

    Args:
        model: A path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        wrt: Name or names of the tensors to differentiate with respect to: graph inputs,
            initializers, weights in Constant nodes, intermediate tensors. `ALL` for every
            floating-point input and parameter. None for every floating-point graph input.
        of: Name or names of the floating-point tensors to differentiate. None for every
            floating-point graph output.
        ograd: True to impose an output gradient on each tensor of `of`, or the names of those to
            impose one on. It is a new graph input `<name>_ograd` of the tensor's shape and dtype.
        forward: Keep the model's own outputs, first and in their order.
        unreachable: "error", or "zeros" for a tensor that the chosen outputs do not depend on or
            reach only through operators of zero derivative. `ALL` implies "zeros".

    Returns:
        A model of the same kind (for a path a `ModelProto`) in the standard's operators, with one
        more output `<name>_grad` for each tensor of `wrt`, of that tensor's shape and dtype.
        The metadata properties "onnxgrad.gradients" and "onnxgrad.ograds" map, in JSON, the
        tensors' names to those of their gradient outputs and seed inputs.

    Raises:
        ModelError: The model cannot be read or is not valid.
        UnknownNameError: No tensor of that name; the nearest are listed.
        ArgumentError: The arguments make no sense together.
        UnreachableError: No gradient flows from the chosen outputs to a tensor.
        NoRuleError: An operator on the path has no gradient rule.
    """
    if unreachable not in ("error", "zeros"):
        raise ArgumentError(f"unreachable is 'error' or 'zeros', not {unreachable!r}")
    net = io.load(model)
    job = Job(net, wrt, of, ograd, zeros=unreachable == "zeros" or isinstance(wrt, All))
    job.run()
    _finish(net, job, forward)
    return io.like(net, model)


def vjp(
    model: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    forward: bool = True,
    unreachable: Literal["error", "zeros"] = "error",
) -> Any:
    """A model that computes vector-Jacobian products: seeds in, gradients out.

    The same as `gradient` with ``ograd=True``: for each tensor `y` of `of` the result has an input
    `<y>_ograd` of the shape and dtype of `y`, for each tensor `x` of `wrt` an output `<x>_grad` of
    the shape and dtype of `x`, which is the sum over `of` of the seed times dy/dx.

    Args, Returns, Raises: As for `gradient`.
    """
    return gradient(model, wrt, of=of, ograd=True, forward=forward, unreachable=unreachable)


class Job:
    """One differentiation: names resolved, the net normalised, the backward pass emitted."""

    def __init__(
        self,
        net: ir.Model,
        wrt: Spec | All | None,
        of: Spec | None,
        ograd: bool | Spec = False,
        zeros: bool = False,
    ) -> None:
        self.net, self.zeros = net, zeros
        self.of_names = _floats_of(net, of)
        self.imposed = self.of_names if ograd is True else _names(net, ograd) if ograd else []
        for name in self.imposed:
            if of is not None and name not in self.of_names:
                raise ArgumentError(
                    f"ograd names {name!r}, which is not among of: {', '.join(self.of_names)}"
                )
        if self.imposed:
            self.of_names = self.imposed
        if isinstance(wrt, All):
            self.wrt_names = [*_float_inputs(net), *parameters(net)]
        elif wrt is None:
            self.wrt_names = _float_inputs(net)
            if not self.wrt_names:
                raise ArgumentError(
                    "the model has no floating-point input; name the tensors to differentiate "
                    "with respect to in wrt"
                )
        else:
            self.wrt_names = _names(net, wrt)
        normalise(net, [*self.wrt_names, *self.of_names])
        values = _values(net.graph)
        self.wrt = [_float_value(values, n, "wrt") for n in self.wrt_names]
        self.of = [_float_value(values, n, "of") for n in self.of_names]
        if isinstance(wrt, All):
            self.wrt = [v for v in self.wrt if not _structural(v)]
        self.gradients: dict[str, Tensor] = {}
        self.seeds: dict[str, ir.Value] = {}

    def run(self) -> None:
        """Emit the backward pass."""
        graph = self.net.graph
        op = Builder(graph)
        flow = Flow.of(graph, self.wrt, self.of)
        require_rules(flow)
        if not self.zeros:
            for v in self.wrt:
                if not flow.matters(v):
                    raise _unreachable(graph, v, self.of)
        cotangents = pull_back(op, flow, self._seed(op, flow))
        for v in self.wrt:
            if v in cotangents:
                self.gradients[v.name] = cotangents[v]
            elif self.zeros:
                self.gradients[v.name] = shapes.full_like(op.tensor(v), 0)
            else:
                raise _unreachable(graph, v, self.of)
        self.op = op

    def _seed(self, op: Builder, flow: Flow) -> dict[ir.Value, Tensor]:
        seeds = {}
        for y in self.of:
            if y.name in self.imposed:
                seed = ir.Value(
                    name=op.names.suffixed(y.name, "_ograd"), type=y.type, shape=y.shape
                )
                op.graph.inputs.append(seed)
                self.seeds[y.name] = seed
                seeds[y] = op.tensor(seed)
            elif flow.matters(y):
                seeds[y] = shapes.full_like(op.tensor(y), 1)
        return seeds


def _finish(net: ir.Model, job: Job, forward: bool) -> None:
    """Name the results, list them as outputs, drop what is no longer needed."""
    graph, op = net.graph, job.op
    if not forward:
        graph.outputs.clear()
    names = {}
    taken = set(graph.outputs)
    for name, g in job.gradients.items():
        out = names[name] = op.names.suffixed(name, "_grad")
        value = g.value
        if value in taken or value not in op.emitted:
            value = ir.node("Identity", [value], name=op.names.fresh(f"{out}/Identity")).outputs[0]
            value.type, value.shape = g.value.type, g.value.shape
            graph.append(value.producer())
        value.name = out
        graph.outputs.append(value)
        taken.add(value)
    net.metadata_props[GRADIENTS] = json.dumps(names)
    net.metadata_props[OGRADS] = json.dumps({n: v.name for n, v in job.seeds.items()})
    optimise(net)


def _names(net: ir.Model, spec: Any) -> list[str]:
    """Names for one name or several; a list that is one position in the net counts as one."""
    if isinstance(spec, str):
        return [resolve(net, spec)]
    if not isinstance(spec, Sequence) or not spec:
        raise ArgumentError(f"a name or a sequence of names is needed, not {spec!r}")
    return list(dict.fromkeys(resolve(net, s) for s in spec))


def _float_inputs(net: ir.Model) -> list[str]:
    return [
        v.name for v in net.graph.inputs if is_float(v) and v.name not in net.graph.initializers
    ]


def _floats_of(net: ir.Model, of: Spec | None) -> list[str]:
    if of is not None:
        return _names(net, of)
    names = [v.name for v in net.graph.outputs if is_float(v) or v.type is None]
    if not names:
        raise ArgumentError("the model has no floating-point output; name a tensor in of")
    return names


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    values = {v.name: v for v in graph.inputs} | dict(graph.initializers)
    for node in graph:
        values.update({v.name: v for v in node.outputs if v.name})
    return values


def _float_value(values: dict[str, ir.Value], name: str, argument: str) -> ir.Value:
    value = values.get(name)
    if value is None:
        raise UnknownNameError(f"{argument}: no tensor {name!r} in the net.{nearest(name, values)}")
    if not is_float(value):
        kind = value.dtype.name if value.dtype is not None else "a value of unknown type"
        raise ArgumentError(
            f"{argument}: {name!r} is {kind}; only floating-point tensors have a gradient"
        )
    return value


def _structural(value: ir.Value) -> bool:
    """Whether a parameter only steers operators, as Resize's scales do: no weight to learn."""
    uses = [edge(node, index) for node, index in value.uses()]
    return bool(uses) and all(e.state == "none" for e in uses)


def _unreachable(graph: ir.Graph, value: ir.Value, targets: list[ir.Value]) -> UnreachableError:
    to = ", ".join(repr(t.name) for t in targets)
    flow = Flow.of(graph, [value], targets)
    fix = "Choose other names, or pass unreachable='zeros'."
    if flow.blocked:
        first, op = flow.blocked[0], flow.blocked[0].node.op_type
        where = "; ".join(
            dict.fromkeys(f"{describe(e.node)} ({e.reason})" for e in flow.blocked[:4])
        )
        if _same_type(first):
            fix += (
                f" For a straight-through gradient declare one: onnxgrad.forget({op!r}), then "
                f"onnxgrad.elementwise({op!r}, lambda: 1)."
            )
        return UnreachableError(
            f"every path from {value.name!r} to {to} passes an operator of zero derivative: "
            f"{where}. {fix}"
        )
    return UnreachableError(
        f"{to} does not depend on {value.name!r}: {_dead_end(graph, value)}. {fix}"
    )


def _same_type(e: Edge) -> bool:
    source = e.node.inputs[e.index]
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
