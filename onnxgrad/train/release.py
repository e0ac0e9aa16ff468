"""Weights become inputs, so that nothing of the graph knows what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError, ModelError
from onnxgrad.graph.facts import HALVES, by_name, inner_graphs
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.names import ALL, All, resolve_all
from onnxgrad.heads.head import Head, parted
from onnxgrad.passes.normalise import inline_functions, part_constants_from_inputs
from onnxgrad.train.adapters import adapter_names
from onnxgrad.train.groups import Group, group_of, require_found
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt

# Inputs and outputs that a step has beside those of the net.
_OWN = {
    "accumulated",
    "finite",
    "grad_norm",
    "growth_tracker",
    "learning_rate",
    "loss_scale",
    "step",
}


@dataclass(frozen=True)
class Released:
    """What is no longer known when the graph is built, by name, and the options as names.

    Attributes:
        weights: Those to train.
        statistics: The running means and variances that the net's BatchNormalizations move.
    """

    weights: list[str]
    statistics: list[str]
    options: Options


def release(
    net: ir.Model,
    wrt: Wrt,
    groups: Sequence[Group],
    options: Options,
    statistics: Callable[[ir.Graph], list[str]],
) -> Released:
    """Make inputs of the weights to train, before anything looks at what they hold.

    A weight of half precision is an input of float32, which the net casts.

    Args:
        net: The model as the caller has it, which is changed.
        wrt, groups: As for `step`.
        options: Those of the differentiation, with the loss in `of`.
        statistics: Finds the statistics in a normalised graph that are released too.

    Raises:
        ArgumentError: There is no weight, one of those in `wrt` is none, a group has none, or a
            statistic is that of several BatchNormalizations.
        UnreachableError: The loss does not depend on one of those in `wrt`.
    """
    chosen = None if wrt is None or isinstance(wrt, All) else resolve_all(net, wrt)
    constant = resolve_all(net, options.constant) if options.constant else None
    options = replace(options, constant=constant)
    _expose(net, options)
    _make_room(net, options)
    asked = (adapter_names(net) or ALL) if chosen is None else chosen
    job = Job(net.clone(), asked, options)
    require_found(groups, [v.name for v in _weights(net.graph) if v.name])
    frozen = {name for name in job.wrt_names if group_of(groups, name).frozen}
    weights = [v for v in job.wrt if v.is_initializer() and v.name not in frozen]
    if chosen is not None:
        names = [v.name for v in weights]
        if others := [n for n in job.wrt_names if n not in names]:
            listed = ", ".join(map(repr, others))
            raise ArgumentError(f"wrt: {listed} is no weight, or it is frozen")
        job.zeros = False
    flow = job.trace(job.of, weights) if weights else None
    released = _once(net, [v.name or "" for v in weights if flow and flow.matters(v)])
    if not released:
        raise ArgumentError("the loss depends on no weight to train; name weights in wrt")
    moved = statistics(job.op.graph)
    if shared := sorted(set(moved).difference(_once(net, moved))):
        raise ArgumentError(
            f"batch_norm='train': calls of one function share the running statistic {shared[0]!r}; "
            "leave batch_norm='frozen'"
        )
    options = replace(options, example=with_weights(net, (*released, *moved), options.example))
    free(net, (*released, *moved))
    return Released(released, moved, options)


def losses(net: ir.Model, loss: Any, of: TensorSpecs | None) -> list[Any]:
    """What is minimised: names, and heads of names.

    Args:
        net: The model as the caller has it, whose nodes a position counts.
        loss: As for `step`.
        of: The tensors of a formula, and of a loss that names none.

    Raises:
        ArgumentError: It is none of what `step` takes.
    """
    outputs = outputs_of(net) if of is None else resolve_all(net, of)
    if callable(loss) and not isinstance(loss, Head):
        return [Head("loss", tuple(outputs), _single(loss))]
    specs, heads = parted(loss)
    if loss is None or not (specs or heads):
        raise ArgumentError(
            "loss is one of onnxgrad.losses, as og.losses.mse(), a tensor's name, a list of these "
            f"or a formula, not {loss!r}"
        )
    named = [replace(head, of=tuple(head.resolve(net, outputs))) for head in heads]
    return [*(resolve_all(net, specs) if specs else []), *named]


def _single(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """A formula as `attach` takes it, as that of a head."""

    def formula(op: Builder, *tensors: Tensor) -> Tensor:
        found = function(op, *tensors)
        values = list(found.values()) if isinstance(found, Mapping) else [found]
        if len(values) != 1 or not isinstance(values[0], Tensor):
            raise ArgumentError(f"the formula of a loss gives one tensor, not {found!r}")
        return values[0]

    return formula


def _expose(net: ir.Model, options: Options) -> None:
    """Let each weight be found in the graph by its name, those of functions and branches too."""
    part_constants_from_inputs(net)
    try:
        if net.functions:
            inline_functions(net, options.straight_through)
    except (ir.passes.PassError, ValueError, RuntimeError) as error:
        raise ModelError(f"the model cannot be normalised: {error}") from error
    names, seen = Names(net.graph), set[str | None]()
    for value in _weights(net.graph):
        if value.name in seen:  # in another branch
            value.name = names.fresh(value.name or "")
        seen.add(value.name)


def _make_room(net: ir.Model, options: Options) -> None:
    """Rename inner tensors that have a name of the step's own inputs and outputs.

    Raises:
        ArgumentError: One is an input of the model, or an output that the step has too.
    """
    values, names = by_name(net.graph), Names(net.graph)
    for name in sorted(_OWN & values.keys()):
        value = values[name]
        if value.is_graph_input() or (value.is_graph_output() and options.forward):
            raise ArgumentError(
                f"the model has {name!r}, the name of an input or output of a step: rename it"
            )
        if not value.is_graph_output():
            value.name = names.fresh(f"{name}_of_the_net")


def _once(net: ir.Model, names: Sequence[str]) -> list[str]:
    """The names of weights, of those that calls of one function share the first."""
    weights = _weights(net.graph)
    known = {v.name: v for v in weights}
    found, seen = [], set[str | None]()
    for name in names:
        if name not in seen:
            found.append(name)
            seen.update(v.name for v in _shared(weights, known[name]))
    return found


def _shared(weights: Iterable[ir.Value], value: ir.Value) -> list[ir.Value]:
    """A weight, and what is one with it: the same Constant of a function in its other calls."""
    if value.is_initializer():
        return [value]
    tensor = ir.convenience.get_const_tensor(value)
    others = (v for v in weights if not v.is_initializer() and v is not value)
    return [value, *(v for v in others if ir.convenience.get_const_tensor(v) is tensor)]


def free(net: ir.Model, names: Iterable[str]) -> None:
    """Make inputs of some weights, wherever they are kept."""
    weights, fresh = _weights(net.graph), Names(net.graph)
    known = {v.name: v for v in weights}
    for name in names:
        _free(net, known[name], _shared(weights, known[name]), fresh)


def _free(net: ir.Model, value: ir.Value, values: Sequence[ir.Value], names: Names) -> None:
    """Make an input of a weight, of all that are one with it.

    Args:
        names: Of the whole net.
    """
    tensor = ir.convenience.get_const_tensor(value)
    name = value.name
    assert tensor is not None and name is not None
    dtype = ir.DataType.FLOAT if tensor.dtype in HALVES else tensor.dtype
    given = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(tensor.numpy().shape))
    source = given
    if dtype != tensor.dtype:
        cast = ir.node("Cast", [given], {"to": tensor.dtype}, name=names.fresh(f"{name}/Cast"))
        source = cast.outputs[0]
        source.name = names.fresh(f"{name}_{tensor.dtype.name.lower()}")
        source.type, source.shape = ir.TensorType(tensor.dtype), given.shape
        net.graph.insert_before(net.graph[0], cast)
    for one in values:
        one.replace_all_uses_with(source, replace_graph_outputs=True)
        node = one.producer()
        if node is not None and node.graph is not None:
            node.graph.remove(node)
    if value.is_initializer() and value.graph is not None:
        if value in value.graph.inputs:
            value.graph.inputs.remove(value)
        value.graph.initializers.pop(name)
    net.graph.inputs.append(given)


def _weights(graph: ir.Graph) -> list[ir.Value]:
    """The initializers and the outputs of Constant nodes, those of inner graphs too."""
    graphs = (graph, *inner_graphs(graph))
    found = [v for each in graphs for v in each.initializers.values()]
    return found + [n.outputs[0] for each in graphs for n in each if n.op_type == "Constant"]


def known_weights(net: ir.Model, options: Options) -> dict[str, ir.Value]:
    """The weights of a model by the names that a step knows them under; functions are inlined."""
    _expose(net, options)
    _make_room(net, options)
    return {v.name: v for v in _weights(net.graph) if v.name}


def with_weights(net: ir.Model, names: Iterable[str], example: Any) -> Any:
    """An example, if there is one, with the contents of the weights that become inputs."""
    if example is None:
        return None
    own = [v.name for v in net.graph.inputs if not v.is_initializer()]
    given = (
        dict(example) if isinstance(example, Mapping) else dict(zip(own, [example], strict=True))
    )
    known = {v.name: ir.convenience.get_const_tensor(v) for v in _weights(net.graph)}
    for name in names:
        tensor = known[name]
        assert tensor is not None
        content = tensor.numpy()
        given[name] = content.astype(np.float32) if tensor.dtype in HALVES else content
    return given
