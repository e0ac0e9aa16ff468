"""Notes on a net and on its values and nodes, while it is differentiated.

Every note is declared here, with its content and with what bears it. No other module looks into
the `meta` of a value or a node.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir

T = TypeVar("T")
Noted = ir.Value | ir.Node | ir.Model


class Note(Generic[T]):
    """A note of one kind, which a value or a node may bear.

    It is looked up in the dictionary inside of `meta`, which is several times as fast.
    """

    def __init__(self, name: str) -> None:
        self._key = f"onnxgrad.{name}"

    def on(self, noted: Noted) -> bool:
        """Whether the value or node bears this note."""
        return self._key in noted.meta.data

    def of(self, noted: Noted) -> T | None:
        """The content of the note; None where there is no note."""
        return noted.meta.data.get(self._key)

    def set(self, noted: Noted, content: T) -> T:
        """Note the content, and return it."""
        noted.meta[self._key] = content
        return content

    def drop(self, noted: Noted) -> None:
        """Remove this note, if there is one."""
        noted.meta.data.pop(self._key, None)


class Contents(NamedTuple):
    """The elements of a tensor; objects, a `Dim` each, where the tensor is known only in part."""

    array: np.ndarray
    whole: bool = True


# On a model: the opset of the standard that the file has which it was read from, 0 for none.
READ_AS: Note[int] = Note("read_as")

# On a rounded number that a straight-through gradient takes for the number itself: the dtype of
# its cotangents.
ROUNDED: Note[ir.DataType | None] = Note("rounded")

# On a node: a straight-through gradient of it was asked for.
STRAIGHT: Note[bool] = Note("straight_through")

# On a value: no cotangent is to flow through it.
STOPPED: Note[bool] = Note("stopped")

# On an output of the net: the shape that the file declares, which may be wrong.
DECLARED: Note[ir.Shape | None] = Note("declared")

# On a copy of a tensor that stands for one of any elements: what is known of its own is not used.
STAND_IN: Note[bool] = Note("stand_in")

# On a value: its contents, as far as they are known when the graph is built.
CONTENTS: Note[Contents | None] = Note("contents")

# On a sequence whose elements are known one by one: the list of `Tensor`s that its expansion has
# returned.
ITEMS: Note[list[Any]] = Note("items")

# On a node: why it could not be replaced although its operator has an expansion.
NOT_EXPANDED: Note[str] = Note("not_expanded")


def copy_notes(source: Noted, target: Noted) -> None:
    """Copy all notes of `source` to `target`."""
    target.meta.update(source.meta)
