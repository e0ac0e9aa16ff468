"""How much a small file may ask for, which can be more than any machine holds.

A limit is changed here, as in ``onnxgrad.graph.limits.NODES = 10**7``, or before the start by the
variable of the environment that it names.
"""

from __future__ import annotations

import os

from onnxgrad.graph.errors import ArgumentError


def _of(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise ArgumentError(f"the variable {variable} of the environment is a number, not {text!r}")
    return int(text)


NODES = _of("ONNXGRAD_MAX_NODES", 10**6)
"""The nodes of a model once its functions are written out (ONNXGRAD_MAX_NODES)."""

UNPACKED_BYTES = _of("ONNXGRAD_MAX_UNPACKED_BYTES", 2**31)
"""The bytes of arrays that are packed in a smaller .npz file (ONNXGRAD_MAX_UNPACKED_BYTES)."""
