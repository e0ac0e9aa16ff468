"""A bar that shows how far a training is, its loss, and how many examples it sees in a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)


@contextlib.contextmanager
def progress_bar(
    title: str, total: int | None, done: int, show: bool | None
) -> Iterator[Callable[[int, float], None]]:
    """A function to call after each batch, with its number of examples and the mean loss so far.

    Args:
        title: What is shown before the bar.
        total: The number of batches, None if it is not known.
        done: How many of them have been done before.
        show: Whether to show it; None where the standard error is a terminal.
    """
    console = Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda examples, loss: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]} examples/s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, loss="", rate="")
        seen = 0

        def advance(examples: int, loss: float) -> None:
            nonlocal seen
            seen += examples
            elapsed = progress.tasks[task].elapsed or 0
            rate = f"{seen / elapsed:.0f}" if elapsed else ""
            progress.update(task, advance=1, loss=f"{loss:.4g}", rate=rate)

        yield advance
