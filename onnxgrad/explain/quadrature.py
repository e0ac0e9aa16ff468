"""Integrals from 0 to 1 as sums: at which places, with which weights."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError

Rule = Literal[
    "gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid"
]


def places(method: Rule, n_steps: int, ends: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The places in 0..1 and the weights of a rule, as captum 0.9 has them.

    The weights of its trapezoids are 1/n, and half of it at both ends.

    Args:
        n_steps: How many places there are.
        ends: How many there are more.

    Raises:
        ArgumentError: There is no such rule, or it has fewer steps.
    """
    least = 1 if method == "gausslegendre" else 2
    n = counted("n_steps", n_steps, least) + ends
    weights = np.full(n, 1 / n)
    match method:
        case "gausslegendre":
            at, weights = np.polynomial.legendre.leggauss(n)
            return (1 + at) / 2, weights / 2
        case "riemann_left":
            return np.linspace(0, 1 - 1 / n, n), weights
        case "riemann_right":
            return np.linspace(1 / n, 1, n), weights
        case "riemann_middle":
            return np.linspace(1 / (2 * n), 1 - 1 / (2 * n), n), weights
        case "riemann_trapezoid":
            weights[[0, -1]] /= 2
            return np.linspace(0, 1, n), weights
    raise ArgumentError(f"method is one of {', '.join(get_args(Rule))}, not {method!r}")
