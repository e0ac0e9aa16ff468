"""Whole numbers that callers give."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from onnxgrad.graph.errors import ArgumentError


def counted(name: str, given: Any, least: int = 0, other: str = "") -> int:
    """A whole number of Python or numpy, as Python has it; no bool is one.

    Args:
        name: Whose it is, for the message.
        given: The number.
        least: The least that it may be.
        other: What may stand in its place, as ", or 'input'", for the message.

    Raises:
        ArgumentError: It is none, or less than the least.
    """
    if not isinstance(given, Integral) or isinstance(given, bool) or int(given) < least:
        raise ArgumentError(f"{name} is a whole number, {least} or more{other}, not {given!r}")
    return int(given)
