"""Frameworks that may lack: the error then names the extra that brings one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from onnxgrad.graph.errors import RuntimeMissingError


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around the import of a framework: what to install where it fails.

    with needs("torch"):
        import torch

    Raises:
        RuntimeMissingError: The framework is not installed, or cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise RuntimeMissingError(
            f"This bridge needs the extra {extra!r}: pip install 'onnxgrad[{extra}]'. ({error})"
        ) from error
