"""The slope of a net along a direction by central differences, and what it says of a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onnxgrad.graph.errors import ModelError
from onnxgrad.runtimes.ports import Array
from onnxgrad.verify.check_report import TensorRow, Verdict
from onnxgrad.verify.moved import MovedNet

# A gradient counts as confirmed only where an error of this relative size would have been seen.
_RESOLUTION = 5e-4
# By precision, steps relative to the size of the tensor that is moved.
STEPS = {
    "float64": (1e-4, 1e-5, 1e-6, 1e-7),
    "float32": (4e-2, 2e-2, 1e-2, 5e-3, 2e-3, 5e-4, 1e-4, 2e-5, 4e-6),
}
_EPSILON = {"float64": 2.3e-16, "float32": 1.2e-7}
_TOLERANCE = {"float64": 1e-5, "float32": 2e-4}


def compare(
    name: str,
    gradient: Array,
    precision: str,
    net: MovedNet,
    rng: np.random.Generator,
    inner_terms: Callable[[], float],
) -> TensorRow:
    """Compare a gradient, calculated in a precision, along two directions.

    The result is that of the worse one.

    Args:
        inner_terms: Finds what the rounding inside of the net is relative to. It is asked before a
            gradient is said to be wrong.
    """
    gradient = np.asarray(gradient, np.float64)
    if gradient.shape != np.shape(net.values[name]):
        raise ModelError(
            f"the gradient of {name!r} has the shape {gradient.shape}, and {name!r} itself "
            f"{np.shape(net.values[name])}: sizes in the net do not fit the feeds"
        )
    tolerance = max(_TOLERANCE[precision], _TOLERANCE[net.precision])
    if not np.all(np.isfinite(gradient)):
        return TensorRow(name, math.nan, math.nan, math.inf, tolerance, "wrong")
    # What is infinite, as a mask often is in part, cannot be moved.
    finite = np.isfinite(net.values[name])
    directions = [d * finite for d in (rng.standard_normal(gradient.shape), gradient)]
    rows = [
        _along(name, d / _rms(d), gradient, net, tolerance, _EPSILON[precision], inner_terms)
        for d in directions
        if np.any(d)
    ]
    worst = ("ok", "noise", "kink", "wrong")
    return max(
        rows,
        key=lambda row: (worst.index(row.verdict), row.error),
        default=TensorRow(name, 0.0, 0.0, 0.0, tolerance, "ok"),  # a tensor without elements
    )


def _along(
    name: str,
    d: Array,
    gradient: Array,
    net: MovedNet,
    tolerance: float,
    epsilon: float,
    inner_terms: Callable[[], float],
) -> TensorRow:
    """Compare the slopes along `d`, whose elements are about 1.

    `epsilon` is the rounding error of the gradient's precision.
    """
    # A step is relative to the tensor's size; around zero to one.
    size = _rms(net.values[name][np.isfinite(net.values[name])]) or 1.0
    analytic = size * float(np.sum(gradient * d))
    scale = max(abs(analytic), size * float(np.linalg.norm(gradient)))
    found = _differences(net, name, size * d, scale, tolerance)
    if not math.isfinite(found.slope):
        return TensorRow(name, analytic, found.slope, math.nan, tolerance, "kink")
    # A slope far below the terms of the scalar is not told from zero.
    scale = max(scale, abs(found.slope), 1e-6 * found.terms)
    distance = abs(analytic - found.slope)
    error = distance / scale if scale else 0.0
    allowed = max(tolerance, 3 * found.doubt / scale) if scale else tolerance
    verdict: Verdict = "noise"
    if error <= allowed:
        verdict = "ok" if allowed <= _RESOLUTION else "noise"
    elif found.bend > max(distance / 4, tolerance * scale):
        verdict = "kink"
    elif distance > epsilon * found.terms and found.contradicts(analytic, distance):
        inner = 2 * _EPSILON[net.precision] * inner_terms()
        verdict = "wrong" if found.contradicts(analytic, distance, inner) else "noise"
    return TensorRow(name, analytic, found.slope, error, allowed, verdict)


@dataclass
class _Slope:
    """What central differences find."""

    slope: float = math.nan
    doubt: float = math.inf  # by how much two steps disagree, with the rounding
    terms: float = 0.0  # the size of the scalar's terms
    bend: float = 0.0  # by how much the slopes of the two sides differ as the step goes to zero
    agreed: bool = False  # whether two steps agree far within the tolerance
    # Each step, its slope and the rounding of that.
    steps: list[tuple[float, float, float]] = field(default_factory=list)

    def contradicts(self, analytic: float, distance: float, inner: float = 0.0) -> bool:
        """Whether the steps agree on a distance from `analytic`.

        The distance of a right gradient shrinks with the step, or changes at random where a
        step crosses kinks. That of a wrong one stays.

        Args:
            analytic, distance: The slope that the gradient predicts, and how far off it is.
            inner: The rounding of a difference inside of the net.
        """
        sharp = [
            analytic - slope
            for step, slope, rounding in self.steps[1:]
            if 5 * max(rounding, inner / step) <= distance
        ][-3:]
        low, high = min(map(abs, sharp), default=0.0), max(map(abs, sharp), default=0.0)
        one_sided = all(d > 0 for d in sharp) or all(d < 0 for d in sharp)
        enough = len(sharp) >= (1 if self.agreed else 3)
        return enough and one_sided and low >= 0.85 * high


def _differences(net: MovedNet, name: str, move: Array, scale: float, tolerance: float) -> _Slope:
    """Try smaller and smaller steps, until two agree well; the two that agree best decide."""
    found = _Slope()
    before: tuple[float, float, float] | None = None  # step, slope and bend of the step before
    for step in STEPS[net.precision]:
        ahead, behind = net.terms(name, step * move), net.terms(name, -step * move)
        slope = float(np.sum(ahead - behind)) / (2 * step)
        if not math.isfinite(slope):
            continue  # over the edge of the domain, or where an output gets another shape
        bend = float(np.sum(np.abs(ahead + behind))) / step
        terms = net.size((ahead != 0) | (behind != 0))
        found.terms = max(found.terms, terms)
        scale = max(scale, 1e-6 * found.terms)
        rounding = 2 * _EPSILON[net.precision] * terms / step
        if before is not None:
            ratio = before[0] / step
            scatter = abs(slope - before[1]) + rounding
            if scatter <= found.doubt:
                found.doubt = scatter
                found.slope = slope + (slope - before[1]) / (ratio**2 - 1)
                # A curve's bend shrinks with the step, a kink's does not.
                found.bend = max(0.0, (ratio * bend - before[2]) / (ratio - 1) - 10 * rounding)
        found.steps.append((step, slope, rounding))
        before = step, slope, bend
        found.agreed = 10 * found.doubt <= tolerance * scale
        if found.agreed:
            break
    return found


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0
