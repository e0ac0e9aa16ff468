"""A training step as a model: weights, state and a batch in, loss and the next state out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import by_name, inner_graphs
from onnxgrad.graph.guard import guarded
from onnxgrad.passes.normalise import normalise
from onnxgrad.passes.recompute import recompute
from onnxgrad.train.gradients import Treatment
from onnxgrad.train.groups import Group, listed
from onnxgrad.train.modes import Mode, Modes, move_statistics
from onnxgrad.train.optimizers import Optimizer, known
from onnxgrad.train.privacy import DPSGD
from onnxgrad.train.release import Released, losses, release
from onnxgrad.train.states import States
from onnxgrad.train.update import Update
from onnxgrad.transforms.asked import Asked
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt, uncollected


@guarded
def step(
    model: Any,
    loss: Any,
    optimizer: Optimizer,
    wrt: Wrt = None,
    *,
    of: TensorSpecs | None = None,
    groups: Group | Sequence[Group] = (),
    clip_grad_norm: float | None = None,
    clip_grad_value: float | None = None,
    accumulate: int = 1,
    loss_scale: float | Literal["dynamic"] | None = None,
    batch_norm: Mode = "frozen",
    dropout: Mode = "frozen",
    seed: int | None = None,
    privacy: DPSGD | None = None,
    forward: bool = False,
    grad_norm: bool = False,
    finite: bool = False,
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
        loss: What is minimised: a loss of `losses`, another head, the name of an output or a
            tensor, a formula as `attach` takes it that gives one tensor, or a list of losses,
            heads and names. It is the sum of all elements.
        optimizer: One of this package, such as ``Adam()``.
        wrt: The weights to train: names or positions; None for its adapters, where `lora` has
            added some, else for those that are trainable and that the loss depends on.
        of: The tensors that a formula takes, and those of a loss that names none; None for the
            model's outputs.
        groups: Weights that are trained in another way: a `Group` or several. A weight is of the
            first group whose pattern fits its name, if any.
        clip_grad_norm: The largest norm of all gradients together, as of
            torch.nn.utils.clip_grad_norm_.
        clip_grad_value: The largest absolute value of an element of a gradient.
        accumulate: The number of runs, each with a batch, of which one update is made: of the mean
            of their gradients, as PyTorch does where each loss is divided by that number. The other
            runs leave the weights as they are.
        loss_scale: For nets of half precision: what the loss is multiplied with while it is
            differentiated; "dynamic" for that of torch.amp.GradScaler, with its defaults. A step
            whose gradients are not finite is left out.
        batch_norm: "frozen" leaves each BatchNormalization as it is in the file, "train" lets it
            standardise by the batch, and moves its running statistics as PyTorch does.
        dropout: "frozen" leaves each Dropout as it is in the file, "train" lets it drop.
        seed: Of what Dropout drops, the same whenever the file is loaded; None for the file's.
        privacy: For gradients by example that are clipped and noised.
        forward: Give the model's own outputs too, first, as they are before the update.
        grad_norm: Give the norm of all gradients together too, before it is clipped.
        finite: Give whether the whole next state is finite too, a bool scalar, so that what runs
            the step can stay at the state before.
        straight_through, constant, example: As for `onnxgrad.gradient`.

    Returns:
        A model of the same kind (for a path a `ModelProto`). Its inputs are those of the model, the
        labels of the loss, "learning_rate" (a float32 scalar), and the state: "step" (an int64
        scalar, the number of updates), the weights under their names, and their states, such as
        "fc1.weight.exp_avg". Weights of half precision are inputs of float32, and so are their
        states: the net casts them. Its outputs are "loss", the sum that is minimised, a scalar, and
        the next value of each piece of state, "<name>_next". The metadata property "onnxgrad.state"
        maps, in JSON, the names of these inputs to those of these outputs; "onnxgrad.initial" maps
        those that are no tensor of the model to the number that they are filled with at first.

        More state is there for some options: `accumulate` adds the count "accumulated" and
        "<weight>.grad", a dynamic loss scale "loss_scale" and "growth_tracker", and `batch_norm`
        the running statistics.

    Raises:
        OnnxGradError: As for `onnxgrad.gradient`.
        ArgumentError: There is nothing to train, an argument makes no sense, or the model has a
            tensor with a name of the step.

    Example:
        >>> model = og.train.step("models/mlp.onnx", og.losses.mse("logits"), og.train.SGD())
        >>> [x.name for x in model.graph.input][:5]
        ['input', 'fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    """
    treatment = Treatment(clip_grad_norm, clip_grad_value, accumulate, loss_scale)
    several = listed(groups)
    update = Update(known(optimizer), several, treatment, privacy, grad_norm)
    modes = Modes(batch_norm, dropout, seed)
    _require_private(update, modes)
    with uncollected():
        net = io.load(model)
        inputs = [v.name or "" for v in net.graph.inputs if not v.is_initializer()]
        options = Options(
            of=losses(net, loss, of),
            forward=forward,
            unreachable="zeros",
            straight_through=straight_through,
            constant=constant,
            example=example,
        )
        released = release(net, wrt, several, options, modes.statistics)
        _emit(net, inputs, released, update, modes, finite)
        return io.like(net, model)


def _emit(
    net: ir.Model,
    inputs: Sequence[str],
    released: Released,
    update: Update,
    modes: Modes,
    finite: bool,
) -> None:
    """Emit the step at the end of a net whose weights are inputs; `inputs` are its own."""
    _apply(modes, net, released)
    private = update.privacy
    single = net.clone() if private else net  # the job changes the net
    job = Job(net, released.weights, released.options)
    states = States(job.op)
    scale = update.treatment.scale(states)
    forward = set(net.graph)
    found = private.sums(job, single, inputs) if private else _pulled(job, scale)
    recompute(job.op, forward)
    outputs = _loss(job) | update.emit(job, states, *found)
    move_statistics(states, net.graph, released.statistics)
    if finite:
        outputs["finite"] = states.finite(sums=update.treatment.loss_scale is None)
    _finish(job, outputs, states)


def _require_private(update: Update, modes: Modes) -> None:
    """Refuse what promises no privacy.

    Raises:
        ArgumentError: It does not go together.
    """
    privacy, treatment = update.privacy, update.treatment
    if privacy is None:
        return
    if modes.batch_norm == "train":
        raise ArgumentError("privacy: batch_norm='train' lets examples influence each other")
    if treatment.loss_scale is not None:
        raise ArgumentError("privacy: the loss of an example is not scaled, leave loss_scale=None")
    if treatment.accumulate > 1 and privacy.expected_batch_size is None:
        raise ArgumentError("privacy: with accumulate it needs an expected_batch_size")


def _apply(modes: Modes, net: ir.Model, released: Released) -> None:
    """Let operators compute as in training; the net is normalised where they do."""
    if modes.change:
        options = released.options
        asked = Asked.resolve(net, released.weights, options)
        normalise(net, asked.names, options.straight_through, options.example, True)
        modes.apply(net.graph)


def _pulled(job: Job, scale: Tensor | None) -> tuple[dict[ir.Value, Tensor], Tensor | None]:
    """The gradients of the loss times `scale`, and the factor that undoes the scale."""
    seeds, _ = job.seeds()
    if scale is None:
        return job.pull(seeds), None
    op = job.op
    seeds = {y: g * op.cast(scale, g.dtype) for y, g in seeds.items()}
    wide = op.cast(scale, ir.DataType.DOUBLE)
    return job.pull(seeds), op.const(1, like=wide) / wide


def _loss(job: Job) -> dict[str, Tensor]:
    """The output of the loss, unless it is one of the model's that stays."""
    op, of = job.op, job.of
    own = job.net.graph.outputs if job.options.forward else ()
    if [(y.name, op.tensor(y).shape, y in own) for y in of] == [("loss", (), True)]:
        return {}
    totals = [shapes.reduce_sum(t, shapes.axes_from(t)) for t in map(op.tensor, of)]
    return {"loss": op.sum(totals)}


def _finish(job: Job, outputs: Mapping[str, Tensor], states: States) -> None:
    """List the results, and say in the metadata which output is the next value of which input."""
    results = {**outputs, **{f"{name}_next": states.next[name] for name in states.now}}
    for graph in (job.net.graph, *inner_graphs(job.net.graph)):
        for name, value in by_name(graph).items():
            if name in results:  # of the head, or of the net
                _rename(job, value)
    job.finish(results)
    states.note(job.net, dict(zip(states.now, job.results[len(outputs) :], strict=True)))


def _rename(job: Job, value: ir.Value) -> None:
    """Take its name from a tensor that is no port.

    Raises:
        ArgumentError: It is one.
    """
    graph = job.net.graph
    if value in graph.inputs:
        raise ArgumentError(
            f"the model has an input {value.name!r}, the name of an output of a step: rename it"
        )
    if value in graph.outputs and job.options.forward:
        raise ArgumentError(
            f"the model has {value.name!r} already: rename it, or leave forward=False"
        )
    name = value.name or ""
    value.name = job.op.names.fresh(f"{name}_of_elements")
    job.op.names.taken.discard(name)
