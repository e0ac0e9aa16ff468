"""A training step as a model: weights, state and a batch in, loss and the next state out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.names import ALL, resolve_all
from onnxgrad.passes.normalise import normalise
from onnxgrad.train.adapters import adapter_names
from onnxgrad.train.optimizers import Optimizer, State, known
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt, uncollected

STATE = "onnxgrad.state"


@dataclass(frozen=True)
class Group:
    """Weights that are trained in their own way, as a parameter group of torch.optim.

    Args:
        params: A pattern of names, as "encoder.*", or several.
        lr_scale: A factor of the learning rate.
        weight_decay: In the place of the optimizer's; None for the optimizer's.
        frozen: They are not trained.
    """

    params: str | Sequence[str]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False

    def holds(self, name: str) -> bool:
        """Whether a weight is of this group."""
        patterns = [self.params] if isinstance(self.params, str) else self.params
        return any(fnmatchcase(name, pattern) for pattern in patterns)


def step(
    model: Any,
    loss: Any,
    optimizer: Optimizer,
    wrt: Wrt = None,
    *,
    groups: Sequence[Group] = (),
    clip_grad_norm: float | None = None,
    clip_grad_value: float | None = None,
    forward: bool = False,
    grad_norm: bool = False,
    straight_through: StraightThrough = False,
    constant: TensorSpecs | None = None,
    example: Any = None,
) -> Any:
    """A model that computes one training step.

    What runs it, in any language, feeds a batch, the learning rate and the state, and copies each
    next state to its input::

        while training:
            run; for input, output in state: input = output

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        loss: A loss of `losses`, another head, or the name of an output or a tensor. What is
            minimised is the sum of its elements.
        optimizer: One of this package, such as ``Adam()``.
        wrt: The weights to train: names or positions; None for its adapters, where
            `lora` has added some, else for those that are trainable.
        groups: Weights that are trained in another way. A weight is of the first group whose
            pattern fits its name, if any.
        clip_grad_norm: The largest norm of all gradients together, as of
            torch.nn.utils.clip_grad_norm_.
        clip_grad_value: The largest absolute value of an element of a gradient.
        forward: Give the model's own outputs too, first.
        grad_norm: Give the norm of all gradients together too, before it is clipped.
        straight_through, constant, example: As for `onnxgrad.gradient`.

    Returns:
        A model of the same kind (for a path a `ModelProto`). Its inputs are those of the model, the
        labels of the loss, "learning_rate" (a float32 scalar), "step" (an int64 scalar, 0 at
        first), the weights under their names, and their states, such as "fc1.weight.exp_avg". Its
        outputs are "loss", the sum that is minimised, a scalar, and the next value of each piece of
        state, "<name>_next". The metadata property "onnxgrad.state" maps, in JSON, the names of
        these inputs to those of these outputs.

    Raises:
        OnnxGradError: As for `onnxgrad.gradient`.
        ArgumentError: There is nothing to train, or an argument makes no sense.

    Example:
        >>> model = og.train.step("models/mlp.onnx", og.losses.mse("logits"), og.train.SGD())
        >>> [x.name for x in model.graph.input][:5]
        ['input', 'fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """
    with uncollected():
        net = io.load(model)
        names = release(net, wrt, groups, constant, straight_through, example)
        options = Options(
            of=loss,
            forward=forward,
            unreachable="zeros",
            straight_through=straight_through,
            constant=constant,
            example=example,
        )
        job = Job(net, names, options)
        seeds, _ = job.seeds()
        gradients = job.pull(seeds)
        op = job.op
        norm, clipped = _clipped(op, gradients, clip_grad_norm, clip_grad_value, grad_norm)
        outputs = {"loss": op.sum([_total(op.tensor(y)) for y in job.of])}
        if grad_norm and norm is not None:
            outputs["grad_norm"] = norm
        state = _updates(op, clipped, known(optimizer), groups)
        _finish(job, outputs, state)
        return io.like(net, model)


def release(
    net: ir.Model,
    wrt: Wrt,
    groups: Sequence[Group],
    constant: TensorSpecs | None,
    straight_through: StraightThrough,
    example: Any,
) -> list[str]:
    """Make inputs of the weights to train, which are no longer known when the graph is built.

    The net is normalised.

    Raises:
        ArgumentError: There are none, or one of them is no weight.
    """
    asked = (adapter_names(net) or ALL) if wrt is None else wrt
    job = Job(net.clone(), asked, Options(constant=constant, example=example))
    names = [
        v.name or ""
        for v in job.wrt
        if v.is_initializer()
        and not next((g.frozen for g in groups if g.holds(v.name or "")), False)
    ]
    if wrt is not None and (others := [n for n in job.wrt_names if n not in names]):
        raise ArgumentError(f"wrt: {', '.join(map(repr, others))} is no weight, or it is frozen")
    if not names:
        raise ArgumentError("the model has no weight to train; name weights in wrt")
    kept = resolve_all(net, constant) if constant else []
    normalise(net, [*names, *kept], straight_through, example, True)
    for name in names:
        weight = net.graph.initializers.pop(name)
        weight.const_value = None
        if weight not in net.graph.inputs:
            net.graph.inputs.append(weight)
    return names


def _total(y: Tensor) -> Tensor:
    return shapes.reduce_sum(y, range(y.rank))


def _clipped(
    op: Builder,
    gradients: Mapping[ir.Value, Tensor],
    largest_norm: float | None,
    largest: float | None,
    wanted: bool,
) -> tuple[Tensor | None, dict[ir.Value, Tensor]]:
    """The norm of all gradients, where something asks for it, and the gradients, clipped."""
    found, norm = dict(gradients), None
    if largest is not None:
        found = {
            w: op.Clip(g, op.const(-largest, like=g), op.const(largest, like=g))
            for w, g in found.items()
        }
    if wanted or largest_norm is not None:
        squares = [
            op.cast(_total(op.promoted(g) * op.promoted(g)), ir.DataType.FLOAT)
            for g in found.values()
        ]
        norm = op.Sqrt(op.sum(squares))
    if largest_norm is not None and norm is not None:
        factor = op.Min(op.const(largest_norm, like=norm) / (norm + 1e-6), op.const(1, like=norm))
        found = {w: g * op.cast(factor, g.dtype) for w, g in found.items()}
    return norm, found


def _updates(
    op: Builder,
    gradients: Mapping[ir.Value, Tensor],
    optimizer: Optimizer,
    groups: Sequence[Group],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Each piece of state by its name: as it is, and the next one."""
    rate = op.Cast(op.input("learning_rate", [], np.float32), to=ir.DataType.DOUBLE)
    count = op.input("step", [], np.int64)
    following = count + 1
    t = op.Cast(following, to=ir.DataType.DOUBLE)
    state = {"step": (count, following)}
    for value, g in gradients.items():
        name, w = value.name or "", op.tensor(value)
        own, scale = _of_group(optimizer, groups, name)
        now = _inputs(op, own, name, w)
        following_state = dict(now)
        state[name] = (w, own(w, g, rate * scale if scale != 1 else rate, t, following_state))
        for key, tensor in now.items():
            state[f"{name}.{key}"] = (tensor, following_state[key])
    return state


def _inputs(op: Builder, optimizer: Optimizer, name: str, w: Tensor) -> State:
    """The inputs of the state of a weight."""
    return {
        key: op.input(f"{name}.{key}", [] if key in optimizer.scalars else w.shape, w.dtype)
        for key in optimizer.state()
    }


def _group(groups: Sequence[Group], name: str) -> Group | None:
    return next((group for group in groups if group.holds(name)), None)


def _of_group(optimizer: Optimizer, groups: Sequence[Group], name: str) -> tuple[Optimizer, float]:
    """The optimizer of a weight, and the factor of its rate."""
    group = _group(groups, name)
    if group is None:
        return optimizer, 1.0
    decay = optimizer.weight_decay if group.weight_decay is None else group.weight_decay
    return replace(optimizer, weight_decay=decay), group.lr_scale


def _finish(
    job: Job, outputs: Mapping[str, Tensor], state: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """List the results, and say in the metadata which output is the next value of which input."""
    results = {**outputs, **{f"{name}_next": following for name, (_, following) in state.items()}}
    values = by_name(job.net.graph)
    for name in results:
        if name in values:  # of the head, or of the net
            _rename(job, values[name])
    job.finish(results)
    names = dict(zip(state, job.results[len(outputs) :], strict=True))
    job.net.metadata_props[STATE] = json.dumps(names)


def _rename(job: Job, value: ir.Value) -> None:
    """Take its name from a tensor that is no port.

    Raises:
        ArgumentError: It is one.
    """
    if value.is_graph_input() or (value.is_graph_output() and job.options.forward):
        raise ArgumentError(
            f"the model has {value.name!r} already: rename it, or leave forward=False"
        )
    name = value.name or ""
    value.name = job.op.names.fresh(f"{name}_of_elements")
    job.op.names.taken.discard(name)
