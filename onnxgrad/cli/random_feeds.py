"""Random feeds, for inputs that a check is given no file for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import typer

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array, Port


def sizes_of(texts: list[str], ports: Mapping[str, Port]) -> dict[str, int]:
    """The sizes that are given for symbolic dimensions, as N=4 each.

    Raises:
        ArgumentError: No input has a dimension of that name.
    """
    sizes = dict(_size(text) for text in texts)
    known = {d: None for port in ports.values() for d in port.shape or () if isinstance(d, str)}
    for name in sizes:
        if name not in known:
            raise ArgumentError(
                f"--dim: the inputs have no dimension {name!r}. "
                f"They have {', '.join(map(repr, known)) or 'none with a name'}."
            )
    return sizes


def random(port: Port, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """A random value for an input, whose other symbolic dimensions are of size 1.

    Raises:
        ArgumentError: The input has no shape, or takes no numbers that can be drawn.
    """
    if port.shape is None or port.dtype is None:
        raise ArgumentError(f"{port.name!r} has no declared shape: give a file for it.")
    shape = [d if isinstance(d, int) else sizes.get(d or "", 1) for d in port.shape]
    if port.dtype.kind == "f":
        return rng.standard_normal(shape).astype(port.dtype)
    if port.dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(port.dtype)
    raise ArgumentError(f"{port.name!r} is {port.dtype.name}: give a file for it.")


def _size(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal():
        raise typer.BadParameter(f"{text!r} is not of the form N=4", param_hint="--dim")
    return name, int(size)
