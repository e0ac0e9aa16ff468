"""Explanations of many inputs drawn at random around one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.baselines import distributions_of
from onnxgrad.explain.method import (
    Explaining,
    Explanation,
    MovedExplanation,
    called,
    explained,
    method,
)
from onnxgrad.explain.paths import gradients_of, rows_at_once
from onnxgrad.explain.points import Elsewhere, weighted_sum
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import by_name
from onnxgrad.transforms.metadata import ATTRIBUTIONS, table
from onnxgrad.transforms.options import Inputs, Wrt

NoiseType = Literal["smoothgrad", "smoothgrad_sq", "vargrad"]
# A number from which all is drawn, "input" for random numbers as graph inputs, None for others each
# time.
Seed = int | Literal["input"] | None
Stdevs = float | Sequence[float] | Mapping[str, float]
# `method` is an argument too.
_method = method


@_method
def noise_tunnel(
    net: ir.Model,
    method: Callable[..., Any],
    wrt: Wrt = None,
    *,
    nt_type: NoiseType = "smoothgrad",
    nt_samples: int = 5,
    nt_samples_batch_size: int | None = None,
    stdevs: Stdevs = 1.0,
    draw_baseline_from_distrib: bool = False,
    seed: Seed = None,
    batched: Inputs | None = None,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives the mean of an explanation over noisy inputs, or its variance.

    Smilkov et al. 2017, "SmoothGrad"; Adebayo et al. 2018, "Local Explanation Methods for Deep
    Neural Networks Lack Sensitivity to Parameter Values" (VarGrad); captum's NoiseTunnel.

    Args:
        model, of, ...: As for `saliency`. The class of "argmax" is that of the input without noise.
        method: What is repeated: a function of `onnxgrad.explain`, or a `functools.partial` of it
            with arguments of its own.
        wrt: The inputs that get noise, as for `saliency`; `method` explains them, or its `layer`.
        nt_type: "smoothgrad" for the mean; "smoothgrad_sq" for the mean square; "vargrad" for the
            mean square less the squared mean.
        nt_samples: How many noisy inputs are drawn for each example.
        nt_samples_batch_size: How many of them are computed at a time; None for all.
        stdevs: The standard deviation of the noise: a number, one for each tensor of `wrt`, or a
            dict by their names.
        draw_baseline_from_distrib: Draw a baseline for each noisy input out of those of `method`,
            which are then as for `deep_lift_shap`.
        seed: A number from which the noise is drawn: a new session then gives the same results
            again. "input" for random numbers of a standard normal distribution as new inputs
            `<x>_noise` of shape [nt_samples, *x.shape], which are multiplied by `stdevs`, and for
            baselines `<x>_choices`, int64 [nt_samples, N]. None for other noise each time.
        batched: As for `integrated_gradients`.

    Returns:
        A model of the same kind, with outputs and metadata as `method` gives them.

    Raises:
        OnnxGradError: As for `method`.
        ArgumentError: An argument has a value that it cannot have.

    Example:
        >>> model = og.explain.noise_tunnel("models/mlp.onnx", og.explain.saliency, stdevs=0.1)
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    if nt_type not in get_args(NoiseType):
        raise ArgumentError(f"nt_type is one of {', '.join(get_args(NoiseType))}, not {nt_type!r}")
    at = MovedExplanation(net, wrt, **options)
    count, at_once = counted("nt_samples", nt_samples, 1), nt_samples_batch_size
    at_once = None if at_once is None else counted("nt_samples_batch_size", at_once, 1)
    draws, given = Draws(at, count, seed), _stdevs_of(at, stdevs)
    tunnel = _Tunnel(at, method, draw_baseline_from_distrib)
    there = tunnel.elsewhere(count, at_once, batched)
    moments = tunnel.moments(there, draws, given, nt_type != "smoothgrad")
    results = []
    for mean, square in moments:
        y = square if nt_type == "smoothgrad_sq" else mean
        results.append(square - mean * mean if nt_type == "vargrad" else y)
    tunnel.finish(there, results)


@_method
def gradient_shap(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    baselines: Any,
    n_samples: int = 5,
    stdevs: Stdevs = 0.0,
    multiply_by_inputs: bool = True,
    seed: Seed = None,
    internal_batch_size: int | None = None,
    batched: Inputs | None = None,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives expected gradients, an approximation of SHAP values.

    The mean of the gradient at a point drawn between a noisy input and a baseline drawn out of
    many, times their difference. Lundberg and Lee 2017, "A Unified Approach to Interpreting Model
    Predictions"; captum's GradientShap.

    Args:
        model, wrt, of, ...: As for `saliency`.
        baselines: M of them, as for `deep_lift_shap`.
        n_samples: How many points are drawn for each example.
        stdevs: The standard deviation of the noise, as for `noise_tunnel`.
        multiply_by_inputs: Multiply by the difference.
        seed: As for `noise_tunnel`. With "input" there is also an input "coefficients" of shape
            [n_samples, N]: how far from the baseline, in 0..1, each point lies.
        internal_batch_size, batched: As for `integrated_gradients`.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.
        ArgumentError: The baselines do not fit, or an argument has a value that it cannot have.

    Example:
        >>> model = og.explain.gradient_shap("models/mlp.onnx", baselines=np.zeros([1, 4]))
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_attribution']
    """
    at = MovedExplanation(net, wrt, **options)
    count = counted("n_samples", n_samples, 1)
    draws, given = Draws(at, count, seed), _stdevs_of(at, stdevs)
    pool = distributions_of(at.op, at.job.wrt, baselines)
    explain = functools.partial(gradients_of, names=at.job.wrt_names)
    at_once = rows_at_once(internal_batch_size)
    there = Elsewhere(at, explain, at.job.wrt, count, batched, at_once)
    at.finish(_expected_gradients(there, draws, given, pool, multiply_by_inputs))


def _expected_gradients(
    there: Elsewhere,
    draws: Draws,
    stdevs: Mapping[ir.Value, float],
    pool: Mapping[ir.Value, Tensor],
    multiply: bool,
) -> dict[ir.Value, Tensor]:
    """The mean gradients between noisy inputs and baselines, times their difference if asked."""
    op, xs = there.at.op, list(pool)
    slices = [draws.coefficients(xs[0]), *(draws.noisy(x, stdevs[x]) for x in xs)]
    slices += [draws.choices(x, pool[x]) for x in xs]

    def ends(op: Builder, read: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """A noisy input and a baseline for each tensor."""
        pairs = zip(xs, read[: len(xs)], read[len(xs) :], strict=True)
        return [(t, op.Gather(op.tensor(pool[x].value), k, axis=0)) for x, t, k in pairs]

    def points(op: Builder, coefficients: Tensor, *read: Tensor) -> dict[str, Tensor]:
        found = {}
        for x, (t, b) in zip(xs, ends(op, read), strict=True):
            c = op.cast(coefficients, t.dtype)
            c = op.Unsqueeze(c, op.const(range(2, t.rank))) if t.rank > 2 else c
            found[x.name or ""] = c * t + (1 - c) * b
        return found

    def step(
        op: Builder, states: Sequence[Any], found: Sequence[Tensor], w: Tensor, *read: Tensor
    ) -> list[Tensor]:
        pairs = zip(found, ends(op, read[1:]), strict=True)
        terms = [g * (t - b) if multiply else g for g, (t, b) in pairs]
        return [weighted_sum(w, y) + s for s, y in zip(states, terms, strict=True)]

    like = [op.promoted(op.tensor(x)) for x in xs]
    weights = np.full(there.count, 1 / there.count)
    means = zip(xs, there.over(weights, slices, points, step, like), strict=True)
    return {x: op.typed(op.cast(t, op.tensor(x).dtype), op.tensor(x)) for x, t in means}


class _Tunnel:
    """An explanation of many noisy inputs.

    Args:
        at: The explanation around it.
        method: What is repeated, as for `noise_tunnel`.
        draws_baselines: Whether each noisy input has a baseline of its own.

    Raises:
        ArgumentError: It is no explanation, or has an argument that it cannot have.
    """

    def __init__(self, at: MovedExplanation, method: Any, draws_baselines: bool) -> None:
        self._at, self._call = at, called(method)
        keywords = dict(self._call.keywords)
        if "convergence_delta" in keywords:
            raise ArgumentError(
                "convergence_delta is no argument of what is repeated: leave it out"
            )
        self._pool: dict[ir.Value, Tensor] = {}
        if draws_baselines:
            self._pool = distributions_of(at.op, at.job.wrt, keywords.get("baselines"))
            self._call = functools.partial(self._call.func, **keywords | {"baselines": "input"})
        self._drawn = {f"{x.name}_baseline": x for x in self._pool}

    def elsewhere(self, count: int, at_once: int | None, batched: Inputs | None) -> Elsewhere:
        """The copy of the net that is explained, at `at_once` noisy inputs at a time."""
        per_run = None if at_once is None else lambda _: at_once
        xs = self._at.job.wrt
        return Elsewhere(self._at, self._explain, xs, count, batched, per_run, list(self._drawn))

    def _explain(self, net: ir.Model, **options: Any) -> ir.Model:
        return explained(self._call, net, self._at.job.wrt_names, options)

    def finish(self, there: Elsewhere, results: Sequence[Tensor]) -> None:
        """List the results as the method's own."""
        op, values = self._at.op, by_name(self._at.op.graph)
        own = [values[name] for name in table(there.model, ATTRIBUTIONS)]
        typed = [op.cast(t, op.tensor(v).dtype) for t, v in zip(results, own, strict=False)]
        if len(results) < len(own):
            self._at.finish_joint(own, *typed)
        else:
            self._at.finish(dict(zip(own, typed, strict=True)))

    def moments(
        self,
        there: Elsewhere,
        draws: Draws,
        stdevs: Mapping[ir.Value, float],
        squares: bool,
    ) -> list[tuple[Tensor, Tensor]]:
        """The mean of each result, and the mean of its square, where it is asked for."""
        op, outputs = there.at.op, list(there.model.graph.outputs)
        slices = [draws.noisy(x, s) for x, s in stdevs.items()]
        slices += [draws.choices(x, pool) for x, pool in self._pool.items()]
        shown = [] if there.whole else outputs  # if it is all one run, no sum has to start at 0
        like = [op.promoted(there.result_like(y)) for y in shown] * (2 if squares else 1)

        def points(op: Builder, *read: Tensor) -> dict[str, Tensor]:
            found = {x.name or "": t for x, t in zip(stdevs, read, strict=False)}
            for (name, x), choice in zip(self._drawn.items(), read[len(stdevs) :], strict=True):
                found[name] = op.Gather(op.tensor(self._pool[x].value), choice, axis=0)
            return found

        def step(
            op: Builder, states: Sequence[Any], found: Sequence[Tensor], w: Tensor, *_: Tensor
        ) -> list[Tensor]:
            terms = list(map(op.promoted, found))
            terms += [t * t for t in terms] if squares else []
            sums = [weighted_sum(w, t) for t in terms]
            return [t + s for t, s in zip(sums, states, strict=True)] if states else sums

        found = there.over(np.full(there.count, 1 / there.count), slices, points, step, like)
        return list(zip(found[: len(outputs)], found[-len(outputs) :], strict=True))


class Draws:
    """What is drawn at random, `count` times: from a seed, by new inputs, or anew each time.

    Raises:
        ArgumentError: There is no such seed.
    """

    def __init__(self, at: Explanation, count: int, seed: Seed) -> None:
        if seed is not None and not (isinstance(seed, str) and seed == "input"):
            seed = counted("seed", seed, 0, ", 'input' or None")
        self._op, self._count, self._seed = at.op, count, seed
        self._drawn = 0

    def noisy(self, x: ir.Value, stdev: float) -> Tensor:
        """An input with noise, [count, *x.shape]."""
        op, t = self._op, self._op.tensor(x)
        copies = shapes.expand(t, [self._count, *shapes.dims(t)])
        if not stdev:
            return copies
        if self._seed == "input":
            noise = op.input(f"{x.name}_noise", [self._count, *(t.shape or ())], x.dtype)
        else:
            noise = op.cast(self._random("RandomNormalLike", copies), t.dtype)
        return copies + noise * stdev

    def coefficients(self, x: ir.Value) -> Tensor:
        """Numbers in 0..1 for the examples of a tensor, [count, N]."""
        op, t = self._op, self._op.promoted(self._op.tensor(x))
        if self._seed == "input":
            return op.input("coefficients", [self._count, t.dim(0)], t.dtype)
        return self._uniform(t)

    def choices(self, x: ir.Value, pool: Tensor) -> Tensor:
        """Places in a pool, [M, ...], for the examples of a tensor: int64 [count, N]."""
        op, t = self._op, self._op.promoted(self._op.tensor(x))
        if self._seed == "input":
            return op.input(f"{x.name}_choices", [self._count, t.dim(0)], np.int64)
        size = shapes.dim(pool, 0)
        place = op.Floor(self._uniform(t) * shapes.as_float(size, t))
        last = op.const([size - 1]) if isinstance(size, int) else size - 1
        return op.Min(op.Cast(place, to=ir.DataType.INT64), last)

    def _uniform(self, t: Tensor) -> Tensor:
        places = shapes.full(t, [self._count, shapes.dim(t, 0)], 0)
        return self._random("RandomUniformLike", places)

    def _random(self, op_type: str, like: Tensor) -> Tensor:
        """Numbers in the shape of a tensor, of at least float32; no two draws are the same."""
        self._drawn += 1
        dtype = ir.DataType.DOUBLE if like.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
        seed = None
        if isinstance(self._seed, int):  # half precision apart, floats hold all numbers of 24 bits
            seed = float(np.random.default_rng([self._seed, self._drawn]).integers(2**24))
        own = self._op.tensor(self._op.copied(like, "draw"))  # equal nodes are emitted once
        drawn: Tensor = getattr(self._op, op_type)(own, dtype=int(dtype), seed=seed)
        return drawn


def _stdevs_of(at: Explanation, stdevs: Any) -> dict[ir.Value, float]:
    """The standard deviation of the noise of each tensor.

    Raises:
        ArgumentError: There are not as many as tensors, or one is no number from 0 on.
    """
    xs, names = at.job.wrt, at.job.wrt_names
    if isinstance(stdevs, Mapping):
        if unknown := set(stdevs) - set(names):
            raise ArgumentError(f"stdevs: {min(unknown)!r} is not among wrt")
        given = [stdevs.get(name, 0.0) for name in names]
    elif isinstance(stdevs, list | tuple):
        given = list(stdevs)
    else:
        given = [stdevs] * len(xs)
    fit = all(
        isinstance(s, int | float | np.integer | np.floating)
        and not isinstance(s, bool)
        and 0 <= s < np.inf
        for s in given
    )
    if not fit or len(given) != len(xs):
        raise ArgumentError(
            f"stdevs is a number from 0 on, one for each of {len(xs)} tensors, or a dict by their "
            f"names, not {stdevs!r}"
        )
    return dict(zip(xs, map(float, given), strict=True))
