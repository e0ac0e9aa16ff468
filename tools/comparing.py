"""Whether contenders compute the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from processes import Process

# Two right answers in float32 differ by less than this, over a hundred layers of kinks.
TOLERANCE = 1e-2


class Disagreement(Exception):
    """A contender computes something else than the others."""


@dataclass
class Result:
    """What one contender did in one cell; times in seconds, by number of threads; sizes in MB."""

    error: str = ""
    difference: float | None = None
    times: dict[str, float] = field(default_factory=dict)
    forward: dict[str, float] = field(default_factory=dict)  # onnxruntime's, in the same run
    facts: dict[str, float] = field(default_factory=dict)  # build, nodes, file, peak, ...


def compare(
    running: dict[str, Process],
    results: dict[str, Result],
    folder: Path,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise where one contender's gradients are not those of the others.

    Each is compared with all others, and the median counts: who is alone in his opinion is wrong.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for label, process in running.items():
        path = str(folder / f"{label}.npz")
        answer = process.ask("gradients", path=path)
        if "error" in answer:
            raise Disagreement(f"{label}: {answer['error']}")
        if answer["names"]:
            found[label] = dict(np.load(path))
    for label, one in found.items():
        others = [difference(one, other) for name, other in found.items() if name != label]
        if others:
            results[label].difference = float(np.median(others))
    wrong = {k: r.difference for k, r in results.items() if (r.difference or 0) > tolerance}
    if wrong:
        said = ", ".join(f"{label} by {value:.2g}" for label, value in wrong.items())
        raise Disagreement(f"results differ from the others': {said}")


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest relative difference of a tensor, in the Euclidean norm.

    Not element by element: among millions of activations a few are so close to a kink that rounding
    puts them on either side. A gradient that is zero in theory is measured by the whole's size.
    """
    if set(one) != set(other):
        return float("inf")
    sizes = {name: float(np.linalg.norm(value)) for name, value in other.items()}
    least, worst = 1e-3 * max(sizes.values()), 0.0
    for name, value in other.items():
        if one[name].shape != value.shape or not np.isfinite(one[name]).all():
            return float("inf")
        worst = max(worst, float(np.linalg.norm(one[name] - value)) / max(sizes[name], least))
    return worst
