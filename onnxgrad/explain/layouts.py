"""What the axes of an array are, in letters.

N examples, C channels or features; H and W the rows and columns of an image; T the times of a
signal, F and T the frequencies and times of a spectrogram; S the tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array

Kind: TypeAlias = Literal["image", "signal", "spectrogram", "text"]

# The axes that make the kind, in the order in which they are drawn.
_KINDS: dict[Kind, str] = {"image": "HW", "spectrogram": "FT", "signal": "T", "text": "S"}

# How many channels an image has, and a signal at most.
_CHANNELS, _FEW = (1, 3, 4), 8


def kind_of(layout: str) -> Kind:
    """What an array of a layout is.

    Raises:
        ArgumentError: It is no layout.
    """
    for kind, axes in _KINDS.items():
        if sorted(layout.replace("N", "", 1).replace("C", "", 1)) == sorted(axes):
            return kind
    raise ArgumentError(
        f"{layout!r} is no layout: it names each axis by a letter, as NCHW, NHWC or HW for an "
        "image, NCT or NT for a signal, NFT for a spectrogram, NSC or NS for tokens"
    )


def image_layout(shape: Sequence[Any]) -> str | None:
    """The layout of an input of a shape, if it takes images; a size may be a name or None."""
    if len(shape) == 4:
        first, last = shape[1], shape[3]
        if last in _CHANNELS and first not in _CHANNELS:
            return "NHWC"
        if first in _CHANNELS or not isinstance(first, int):
            return "NCHW"
        return None if isinstance(last, int) else "NHWC"
    if len(shape) == 3:
        if shape[0] in _CHANNELS:
            return "CHW"
        if shape[2] in _CHANNELS:
            return "HWC"
        return None if isinstance(shape[0], int) else "NHW"
    return None


def layout_of(shape: Sequence[int]) -> str:
    """The most likely layout of an array.

    Raises:
        ArgumentError: It has no axis, or more than four.
    """
    if not 1 <= len(shape) <= 4:
        raise ArgumentError(f"an array of shape {tuple(shape)} is none that can be drawn")
    if len(shape) == 4:
        return image_layout(shape) or "NCHW"
    *_, rows, columns = (1, *shape)
    if len(shape) == 1:
        return "T"
    many = max(rows, columns) > _FEW
    if len(shape) == 2:
        if rows == 1 or columns == 1:
            return "NT" if rows == 1 else "TC"
        return "CT" if rows <= _FEW and many else "TC" if columns <= _FEW and many else "HW"
    if shape[0] in (3, 4) and rows > _FEW and columns > _FEW:
        return "CHW"
    if columns in _CHANNELS and rows > _FEW and shape[0] > _FEW:
        return "HWC"
    if many and min(rows, columns) <= _FEW:
        return "NCT" if rows <= columns else "NTC"
    return "NFT" if columns >= 3 * rows else "NHW"


def map_layout(kind: Kind, rank: int) -> str:
    """The layout of the attributions of a layer, of whose places the data are of a kind.

    Raises:
        ArgumentError: They do not have as many axes.
    """
    axes = _KINDS[kind]
    layouts = {len(axes): axes, len(axes) + 1: f"N{axes}", len(axes) + 2: f"NC{axes}"}
    if rank not in layouts:
        raise ArgumentError(
            f"an attribution with {rank} axes does not belong to {axes} of the {kind}"
        )
    return layouts[rank]


def arranged(array: Array, layout: str, example: int = 0) -> Array:
    """One example, channels first: [C, H, W], [C, F, T], [C, T] or [C, S].

    Raises:
        ArgumentError: The array has other axes, or there is no such example.
    """
    if array.ndim != len(layout):
        raise ArgumentError(f"an array of shape {array.shape} has not the layout {layout!r}")
    if "N" in layout:
        examples = array.shape[layout.index("N")]
        if not -examples <= example < examples:
            raise ArgumentError(f"there is no example {example}: there are {examples}")
        array = array.take(example, layout.index("N"))
        layout = layout.replace("N", "")
    if "C" not in layout:
        array, layout = array[None], f"C{layout}"
    order = "C" + _KINDS[kind_of(layout)]
    return np.transpose(array, [layout.index(axis) for axis in order])
