"""Attacks: the input near x for which a loss is largest, or for a target smallest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.adversarial.ball import Ball, Norm, Number
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.subgraphs import copy_graph, loop
from onnxgrad.emit.targets import TargetName
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Head, Input, Place, input_of
from onnxgrad.heads.targets import logits
from onnxgrad.losses import cross_entropy
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.metadata import ADVERSARIALS, VALUES, describe
from onnxgrad.transforms.options import Of, Options, Traced, transform


class Attacked(Traced, total=False):
    """The options of an attack that it shares with other transforms."""

    forward: bool
    values: Of
    target: TargetName


@transform
def fgsm(
    net: ir.Model,
    x: Place = None,
    *,
    of: Place = None,
    loss: Head | Place = None,
    eps: Number,
    norm: Norm = "Linf",
    targeted: bool = False,
    clip_min: Number | None = None,
    clip_max: Number | None = None,
    **options: Unpack[Attacked],
) -> None:
    """A model that moves an input by one step up its loss: the fast gradient sign method.

    It is ``x + eps * sign(gradient)`` (Goodfellow et al. 2015), and in L2 ``x + eps * gradient /
    norm(gradient)`` for each example; where the gradient is zero, x stays. The result is clipped
    to the bounds of the data.

    Args:
        model, forward, values, straight_through, constant, example, target: As for `gradient`.
        x: The graph input to move, its first axis the batch; None for the one floating-point input.
        of: The scores before a Softmax that the default loss is of; where it is the result of one
            over the classes, its operand is taken. None for the model's one output.
        loss: A loss, a head or the name of a tensor that is one, of which the sum over the examples
            is differentiated; None for the cross-entropy of `of` with the new int64 input "labels".
        eps: How far: of each element in L-inf, of each example in L2. A number; in L-inf also
            numbers that broadcast to an example, as for channels that are scaled differently; or
            "input" for a new scalar input "eps" of the dtype of `x`, for half precision float32,
            or "input:NAME" for one of that name.
        norm: "Linf" or "L2".
        targeted: Whether the loss is made smaller, the labels being those that are wanted.
        clip_min: The lower bound of the data, given as `eps` is; None for none.
        clip_max: The upper bound likewise.

    Returns:
        A model of the same kind with one more output `<x>_adv` of the shape and dtype of `x`. In
        L-inf no element is farther from `x` than `eps` after rounding, in half precision too; in L2
        no example is but for the rounding of its norm. Where `x` itself lies outside the bounds of
        the data, these prevail. The metadata property "onnxgrad.adversarials" maps, in JSON, the
        name of `x` to that of the output.

    Raises:
        ArgumentError: An argument is none of these. Else as for `gradient`.

    Example:
        >>> model = og.adversarial.fgsm("models/digits.onnx", eps=0.1, clip_min=0, clip_max=1)
        >>> [x.name for x in model.graph.input], [y.name for y in model.graph.output]
        (['image', 'labels'], ['logits', 'image_adv'])
    """
    job = _job(net, x, of, loss, Options(**options))
    ball = Ball(job.op.tensor(job.wrt[0]), norm, eps, clip_min, clip_max)
    g = job.pull(job.seeds()[0])[job.wrt[0]]
    _finish(job, ball, ball.step(job.op, ball.x, g, ball.eps, targeted))


@transform
def pgd(
    net: ir.Model,
    x: Place = None,
    *,
    of: Place = None,
    loss: Head | Place = None,
    eps: Number,
    alpha: Number | None = None,
    steps: int | str = 10,
    norm: Norm = "Linf",
    random_start: bool | Literal["input"] = False,
    seed: int = 0,
    targeted: bool = False,
    clip_min: Number | None = None,
    clip_max: Number | None = None,
    **options: Unpack[Attacked],
) -> None:
    """A model that moves an input by several steps up its loss: projected gradient descent.

    Each step is one of `fgsm`, of length `alpha`, and then the nearest point of the ball of radius
    `eps` around x, and of the bounds of the data, is taken (Madry et al. 2018). The steps are a
    Loop, so the size of the file does not depend on their number.

    Args:
        model, x, of, loss, norm, targeted, clip_min, clip_max, ...: As for `fgsm`.
        eps: The radius of the ball: a number; in L-inf also numbers that broadcast to an example;
            or "input", as for `fgsm`.
        alpha: The length of a step, given as `eps` is; None for ``2.5 * eps / steps``.
        steps: Their number, or "input" for a new int64 scalar input "steps", or "input:NAME".
        random_start: Whether the first step starts at a random point of the ball: in L-inf a
            uniform one, in L2 in a uniform direction at a uniform distance. It is drawn by the
            runtime, whose numbers are its own, and may differ from run to run. "input" starts at
            ``x + eps * x_noise``, projected, for a new input `<x>_noise` of the shape and dtype of
            `x`: the same everywhere.
        seed: Of the numbers that the runtime draws.

    Returns:
        As for `fgsm`.

    Raises:
        ArgumentError: An argument is none of these. Else as for `gradient`.

    Example:
        >>> model = og.adversarial.pgd("models/digits.onnx", eps=0.1, clip_min=0, clip_max=1)
        >>> [y.name for y in model.graph.output], any(n.op_type == "Loop" for n in model.graph.node)
        (['logits', 'image_adv'], True)
    """
    job = _job(net, x, of, loss, Options(**options))
    op, source = job.op, job.op.tensor(job.wrt[0])
    ball = Ball(source, norm, eps, clip_min, clip_max)
    count = _count(op, steps)
    start = ball.x
    if random_start:
        start = ball.project(op, start + _noise(job, ball, random_start, seed) * ball.eps)
    if alpha is None:
        length = ball.eps * 2.5 / shapes.as_float(count, like=ball.eps)
    else:
        length = ball.number("alpha", alpha)

    def step(inner: Builder, at: Tensor) -> list[Tensor]:
        moved = inner.cast(at, source.dtype)
        return [ball.step(inner, at, _gradient_at(inner, job, moved), length, targeted)]

    _finish(job, ball, loop(op, count, step, [start])[0])


def _job(net: ir.Model, x: Place, of: Place, loss: Head | Place, options: Options) -> Job:
    """The job of an attack, whose scalar is the sum of its loss.

    Raises:
        ArgumentError: `x` is no graph input, or there are several; both `of` and `loss` are given.
        UnreachableError, NoRuleError: No gradient flows from the loss to `x`.
    """
    if loss is not None and of is not None:
        raise ArgumentError("of: the loss says itself what it is of; leave one of both out")
    cost = _cross_entropy(of) if loss is None else loss
    of_cost = cost if isinstance(cost, Head) else [cost]
    job = Job(net, None if x is None else [x], replace(options, of=of_cost))
    if len(job.wrt) > 1:
        raise ArgumentError(
            f"the net has several floating-point inputs, {', '.join(map(repr, job.wrt_names))}: "
            "name the one to move in x"
        )
    if not job.wrt[0].is_graph_input():
        raise ArgumentError(f"x: {job.wrt[0].name!r} is no graph input, so it cannot be moved")
    job.trace(job.of, job.wrt)
    return job


def _cross_entropy(of: Place) -> Head:
    """The cross-entropy of scores; where they are the result of a Softmax, of its operand."""
    head = cross_entropy(of, reduction="sum")
    labels = Input("labels", "loss=onnxgrad.losses.cross_entropy(labels='NAME')")
    given = tuple((key, labels if key == "labels" else value) for key, value in head.options)

    def formula(op: Builder, y: Tensor, **options: Any) -> Tensor:
        return head.formula(op, logits(y), **options)

    return replace(head, formula=formula, options=given)


def _gradient_at(inner: Builder, job: Job, at: Tensor) -> Tensor:
    """The gradient of the loss at another point, by a copy of the net in an inner graph."""
    source, loss = job.wrt[0], job.of[0]
    nodes, copies = copy_graph(inner, job.net.graph, {source: at})
    seeds = {copies[loss].value: shapes.full_like(copies[loss], 1)}
    return pull(inner, seeds, [at.value], nodes).get(at.value) or shapes.full_like(at, 0)


def _count(op: Builder, steps: int | str) -> Size:
    """The number of steps.

    Raises:
        ArgumentError: It is none.
    """
    if given := input_of(steps, "steps"):
        return op.Unsqueeze(given.added(op, [], np.int64), op.const([0]))
    return counted("steps", steps, 1, ", or 'input'")


def _noise(job: Job, ball: Ball, start: bool | str, seed: int) -> Tensor:
    """Where in a ball of radius 1 the first step starts.

    Raises:
        ArgumentError: It is said in another way.
    """
    seed = counted("seed", seed)
    if start is True:
        return ball.drawn(seed)
    if start != "input":
        raise ArgumentError(f"random_start is True, False or 'input', not {start!r}")
    op, x = job.op, job.wrt[0]
    return op.promoted(job.add_input(f"{x.name}_noise", x))


def _finish(job: Job, ball: Ball, reached: Tensor) -> None:
    """List what the attack has reached, and say so in the model's metadata."""
    name = job.wrt_names[0]
    job.finish({f"{name}_adv": ball.finished(reached)})
    describe(job.net, {ADVERSARIALS: {name: job.results[0]}, VALUES: job.given})
