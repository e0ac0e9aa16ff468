"""Explanations that follow the net along a straight path, from a baseline to its input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import operands
from onnxgrad.explain.baselines import Reference, baselines_of
from onnxgrad.explain.method import Explaining, Explanation, MovedExplanation, method
from onnxgrad.explain.points import Elsewhere, column, weighted_sum
from onnxgrad.explain.quadrature import Rule, places
from onnxgrad.graph.counts import counted
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.names import resolve_all
from onnxgrad.transforms.asked import float_inputs
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.options import Inputs, TensorSpecs, Wrt

# `method` is an argument too.
_method = method
# The end of any axis.
_END = 2**63 - 1


@_method
def integrated_gradients(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    baselines: Any = None,
    n_steps: int = 50,
    method: Rule = "gausslegendre",
    multiply_by_inputs: bool = True,
    internal_batch_size: int | None = None,
    convergence_delta: bool = False,
    batched: Inputs | None = None,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives its inputs' integrated gradients.

    They are the difference to a baseline times the mean gradient of the score on the straight path
    between both. Their sum is the difference of both scores. Sundararajan et al. 2017, "Axiomatic
    Attribution for Deep Networks"; captum's IntegratedGradients.

    Args:
        model, wrt, of, ...: As for `saliency`. The class of "argmax" is that of the input on all of
            the path.
        baselines: Where paths begin: a number, or an array that broadcasts to the input, so one
            example or the batch; "input" for a new input `<x>_baseline`; a tuple of these, one for
            each tensor of `wrt`, or a dict by their names. None for zeros.
        n_steps: The number of points on a path.
        method: The rule by which the integral becomes a sum.
        multiply_by_inputs: Multiply by the difference. If not, they are the mean gradient.
        internal_batch_size: The most rows, points times examples, that are computed at a time, at
            least one point. None for all points as one batch. A few, such as 4, bound the memory
            and are mostly as fast (docs/performance.md).
        convergence_delta: Add an output "convergence_delta", [N]: by how much the sum of an
            example's attributions exceeds the difference of the scores. It is one number, of all,
            where nothing proves that examples do not influence each other.
        batched: The graph inputs whose first axis is the batch, where you know that examples do not
            influence each other. None for a proof of that, node by node. Without one, as for a net
            that has its batch on another axis or insists on its size, and for [], points are
            computed one after the other, which is slower and always right.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`. Its size does not
        depend on `n_steps`.

    Raises:
        OnnxGradError: As for `saliency`.
        ArgumentError: A baseline does not fit, or there is no such rule.

    Example:
        >>> model = og.explain.integrated_gradients("models/mlp.onnx", target=2)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    at = MovedExplanation(net, wrt, **options)
    start = baselines_of(at.op, at.job.wrt, baselines)
    reference = Reference(at.job, at.op, start) if convergence_delta else None
    path = Path(at, n_steps, method, internal_batch_size, batched)
    found = path.integral(start, multiply_by_inputs)
    at.finish(found, path.delta(found, reference))


@_method
def layer_integrated_gradients(
    net: ir.Model,
    layer: TensorSpecs,
    *,
    baselines: Any = None,
    n_steps: int = 50,
    method: Rule = "gausslegendre",
    multiply_by_inputs: bool = True,
    internal_batch_size: int | None = None,
    convergence_delta: bool = False,
    batched: Inputs | None = None,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives integrated gradients of inner tensors, such as embeddings of tokens.

    A path leads from the tensor's value at the baseline of the net's inputs to its value at the
    inputs. captum's LayerIntegratedGradients.

    Args:
        model, of, ...: As for `saliency`.
        layer: Name or names of the tensors, none of which depends on another.
        baselines: Those of the graph inputs, integers too, as for `integrated_gradients`: in a
            dict by name those of the inputs that differ from x there. Otherwise of all inputs that
            the tensors depend on.
        n_steps, method, multiply_by_inputs, ...: As for `integrated_gradients`.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `integrated_gradients`.

    Example:
        >>> model = og.explain.layer_integrated_gradients("models/mlp.onnx", "v_Relu_3")
        >>> [y.name for y in model.graph.output]
        ['logits', 'v_Relu_3_attribution']
    """
    at = MovedExplanation(net, layer, **options)
    reference = Reference(at.job, at.op, _start(at, baselines))
    path = Path(at, n_steps, method, internal_batch_size, batched)
    found = path.integral({h: reference.at(h) for h in at.job.wrt}, multiply_by_inputs)
    at.finish(found, path.delta(found, reference if convergence_delta else None))


@_method
def layer_conductance(
    net: ir.Model,
    layer: TensorSpecs,
    *,
    wrt: Wrt = None,
    baselines: Any = None,
    n_steps: int = 50,
    method: Rule = "gausslegendre",
    internal_batch_size: int | None = None,
    convergence_delta: bool = False,
    batched: Inputs | None = None,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives the conductance of inner tensors.

    It is what flows through a tensor of its inputs' integrated gradients. Dhamdhere et al. 2018,
    "How Important Is a Neuron?"; captum's LayerConductance.

    Args:
        model, of, ...: As for `saliency`.
        layer: Name or names of the tensors.
        wrt: The inputs that move from their baselines; None for every floating-point graph input.
        baselines, n_steps, method, ...: As for `integrated_gradients`.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `integrated_gradients`.

    Example:
        >>> model = og.explain.layer_conductance("models/mlp.onnx", "v_Relu_3", target=0)
        >>> [y.name for y in model.graph.output]
        ['logits', 'v_Relu_3_attribution']
    """
    at = MovedExplanation(net, layer, **options)
    start = baselines_of(at.op, _moved(at, wrt), baselines)
    reference = Reference(at.job, at.op, start) if convergence_delta else None
    path = Path(at, n_steps, method, internal_batch_size, batched, ends=1)
    found = path.conductance(start)
    at.finish(found, path.delta(found, reference))


class Path:
    """The net on straight paths, whose points stand for an integral.

    Args:
        at: The explanation of the net at the paths' ends.
        n_steps: The number of points.
        rule: Where they lie.
        internal_batch_size, batched: As for `integrated_gradients`.
        ends: How many points there are more, as differences between points need.

    Raises:
        ArgumentError: There is no such rule, or no such number.
    """

    def __init__(
        self,
        at: MovedExplanation,
        n_steps: int,
        rule: Rule,
        internal_batch_size: int | None,
        batched: Inputs | None,
        ends: int = 0,
    ) -> None:
        n_steps = counted("n_steps", n_steps, 1)
        self._at, self._count, self._batched = at, n_steps + ends, batched
        self._alphas, self._weights = places(rule, n_steps, ends)
        self._at_once = rows_at_once(internal_batch_size)
        self._by_example = True

    def integral(self, start: Mapping[ir.Value, Tensor], multiply: bool) -> dict[ir.Value, Tensor]:
        """The mean gradients of `wrt` on the paths from `start`, times the paths if asked."""
        at, op = self._at, self._at.op
        xs = at.job.wrt
        explain = functools.partial(gradients_of, names=at.job.wrt_names)
        there = self._there(explain, xs)
        alphas, points = self._line(start)

        def step(
            _: Builder, states: Sequence[Any], found: Sequence[Tensor], w: Tensor, *__: Tensor
        ) -> list[Tensor]:
            return [weighted_sum(w, g) + s for s, g in zip(states, found, strict=True)]

        like = [op.promoted(op.tensor(x)) for x in xs]
        means = there.over(self._weights, [alphas], points, step, like)
        found = {}
        for x, mean in zip(xs, means, strict=True):
            t = op.promoted(op.tensor(x))
            mean = mean * (t - op.promoted(start[x])) if multiply else mean
            found[x] = op.typed(op.cast(mean, op.tensor(x).dtype), op.tensor(x))
        return found

    def conductance(self, start: Mapping[ir.Value, Tensor]) -> dict[ir.Value, Tensor]:
        """The sums of gradients of `wrt` times the change to the next point."""
        at, op = self._at, self._at.op
        layers = at.job.wrt
        n = len(layers)
        explain = functools.partial(gradients_of, names=at.job.wrt_names, values=True)
        there = self._there(explain, list(start))
        alphas, points = self._line(start)

        def step(
            op: Builder, states: Sequence[Any], found: Sequence[Tensor], *_: Tensor
        ) -> list[Tensor]:
            """Sums, and the values and gradients at the last point of the run before."""
            after: list[list[Tensor]] = []
            for k in range(n):
                total, y, g = states[k], op.promoted(found[k]), op.promoted(found[n + k])
                if isinstance(total, Tensor):
                    y = op.Concat(states[n + k], y, axis=0)
                    g = op.Concat(states[2 * n + k], g, axis=0)
                changes = shapes.part(y, 1, _END) - shapes.part(y, 0, -1)
                terms = shapes.part(g, 0, -1) * changes
                last = [shapes.part(t, -1, _END) for t in (y, g)]
                after.append([shapes.reduce_sum(terms, [0]) + total, *last])
            return [t for column in zip(*after, strict=True) for t in column]

        like = [op.promoted(op.tensor(h)) for h in layers]
        ends = [op.Unsqueeze(t, op.const([0])) for t in like]
        sums = there.over(self._weights, [alphas], points, step, [*like, *ends, *ends])
        return {
            h: op.typed(op.cast(t, op.tensor(h).dtype), op.tensor(h))
            for h, t in zip(layers, sums[:n], strict=True)
        }

    def delta(
        self, attributions: Mapping[ir.Value, Tensor], reference: Reference | None
    ) -> Tensor | None:
        """By how much the attributions of an example exceed the difference of the scores.

        Args:
            attributions: By tensor.
            reference: The net where the paths begin; None if nobody asks.
        """
        if reference is None:
            return None
        op, of = self._at.op, self._at.job.of
        sums = [self._sum(t) for t in (*attributions.values(), *map(reference.at, of))]
        return op.sum(sums) - op.sum([self._sum(op.tensor(y)) for y in of])

    def _there(self, explain: Callable[..., ir.Model], moved: Sequence[ir.Value]) -> Elsewhere:
        there = Elsewhere(self._at, explain, moved, self._count, self._batched, self._at_once)
        self._by_example = there.by_example
        return there

    def _line(
        self, start: Mapping[ir.Value, Tensor]
    ) -> tuple[Tensor, Callable[..., dict[str, Tensor]]]:
        """The places of the points, and what emits them."""
        op = self._at.op
        ends = {x: op.promoted(op.tensor(x)) for x in start}
        double = any(t.dtype == ir.DataType.DOUBLE for t in ends.values())

        def points(op: Builder, alphas: Tensor) -> dict[str, Tensor]:
            found = {}
            for x, end in ends.items():
                first = op.tensor(op.promoted(op.tensor(start[x].value)).value)
                line = first + column(alphas, end) * (op.tensor(end.value) - first)
                found[x.name or ""] = op.cast(line, op.tensor(x).dtype)
            return found

        return op.const(self._alphas, dtype=np.float64 if double else np.float32), points

    def _sum(self, t: Tensor) -> Tensor:
        """The sum over all axes but the batch."""
        t = t.op.promoted(t)
        return shapes.reduce_sum(t, shapes.axes_from(t, 1 if self._by_example else 0))


def gradients_of(
    net: ir.Model, names: list[str], values: bool = False, runs_on: Any = "cpu", **options: Any
) -> ir.Model:
    """A model that gives the gradients of tensors, before them, if asked, the tensors.

    Args:
        options: Those of an explanation, whose classes are in `of`.
    """
    del options["target"]
    return gradient(net, names, values=names if values else None, target=runs_on, **options)


def rows_at_once(internal_batch_size: int | None) -> Callable[[Size], Size] | None:
    """How many points make no more rows than a number, given the size of the batch.

    Raises:
        ArgumentError: It is no such number.
    """
    if internal_batch_size is None:
        return None
    most = counted("internal_batch_size", internal_batch_size, 1)

    def at_once(size: Size) -> Size:
        size = shapes.at_least(size, 1)
        return most // size if isinstance(size, int) else size.op.Div(size.op.const([most]), size)

    return at_once


def _moved(at: MovedExplanation, wrt: Wrt) -> list[ir.Value]:
    """The inputs that move, by default those of the net that are of floating point."""
    values = by_name(at.op.graph)
    names = float_inputs(at.spare) if wrt is None else resolve_all(at.spare, wrt)
    return [values[name] for name in names]


def _start(at: Explanation, baselines: Any) -> dict[ir.Value, Tensor]:
    """The baselines of the graph inputs that `wrt` depends on; of a dict only of those named."""
    graph = at.op.graph
    needed = set(at.job.wrt)
    for node in reversed(graph):
        if not needed.isdisjoint(node.outputs):
            needed.update(v for v in operands(node) if v is not None)
    inputs = [v for v in graph.inputs if v in needed and not v.is_initializer()]
    if isinstance(baselines, Mapping):
        inputs = [v for v in inputs if v.name in baselines]
    return baselines_of(at.op, inputs, baselines)
