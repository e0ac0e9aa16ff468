"""A net as a differentiable function of other frameworks, a module each, imported when it is used.

from onnxgrad import bridges
layer = bridges.torch.layer("model.onnx")
"""

from __future__ import annotations

import importlib
from typing import Any

# By the name of a bridge, the extra that brings its framework.
EXTRAS = {
    "art": "art",
    "jax": "jax",
    "pytensor": "pytensor",
    "saliency": "saliency",
    "scipy": "scipy",
    "torch": "torch",
}


def __dir__() -> list[str]:
    return sorted(EXTRAS)


def __getattr__(name: str) -> Any:
    """The bridge of a name, which imports its framework."""
    if name in EXTRAS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
