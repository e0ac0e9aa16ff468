"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnxgrad.graph.errors import printable


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table, whose columns start below each other.

    Args:
        rows: The cells, of as many columns each.
        right: The columns that end below each other.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
