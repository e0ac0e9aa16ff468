"""Checks of the numbers that a training is made with."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import ml_dtypes
import numpy as np

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array


def require_number(name: str, value: Any, *, above: bool = False) -> None:
    """Check that a number is finite and not negative.

    Args:
        name: Whose it is.
        value: The number.
        above: It may not be 0 either.

    Raises:
        ArgumentError: It is not.
    """
    known = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not known or value < 0 or (above and value == 0):
        bound = "above 0" if above else "from 0 on"
        raise ArgumentError(f"{name} is a finite number {bound}, not {value!r}")


def numbers(name: str, value: Any) -> Array:
    """An entry of a state as an array.

    Raises:
        ArgumentError: It is none of real numbers.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ArgumentError(f"{name!r} of the state is no array: {error}") from error
    dtype = array.dtype
    if dtype.kind not in "biuf" and not hasattr(ml_dtypes, dtype.name):
        raise ArgumentError(f"{name!r} of the state holds {dtype.name}, not real numbers")
    return array
