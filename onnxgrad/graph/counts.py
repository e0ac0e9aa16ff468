"""Whole numbers that callers give."""

from __future__ import annotations

from numbers import Integral
from typing import Any


def is_count(given: Any, least: int = 0) -> bool:
    """Whether something is a whole number from `least` on, of Python or numpy; no bool is one."""
    return isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= least
