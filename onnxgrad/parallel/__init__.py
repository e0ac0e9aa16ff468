"""Nets on several machines, a module an engine, which is imported when it is used.

from onnxgrad import parallel
attributions = parallel.ray.map("explain.onnx", "images/", workers=8)
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("ray", "triton")


def __dir__() -> list[str]:
    return sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """The module of an engine."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
