"""A bar that shows how far a training is, its loss, and how many examples it sees in a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from onnxgrad.graph.errors import RuntimeMissingError


@contextlib.contextmanager
def progress_bar(
    title: str, total: int | None, done: int, show: bool | None
) -> Iterator[Callable[[int, float], None]]:
    """A function to call after each batch, with its number of examples and the mean loss so far.

    Args:
        title: What is shown before the bar.
        total: The number of batches, None if it is not known.
        done: How many of them have been done before.
        show: Whether to show it; None where the standard error is a terminal and rich is installed.

    Raises:
        RuntimeMissingError: It is to be shown, and rich, which draws it, is not installed.
    """
    try:
        from rich import progress as bars
        from rich.console import Console
    except ImportError as error:
        if show:
            raise RuntimeMissingError(
                f"A bar of progress needs rich. Install onnxgrad[cli]. ({error})"
            ) from error
        yield lambda examples, loss: None
        return
    console = Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda examples, loss: None
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("loss {task.fields[loss]}"),
        bars.TextColumn("{task.fields[rate]} examples/s"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, loss="", rate="")
        seen = 0

        def advance(examples: int, loss: float) -> None:
            nonlocal seen
            seen += examples
            elapsed = progress.tasks[task].elapsed or 0
            rate = f"{seen / elapsed:.0f}" if elapsed else ""
            progress.update(task, advance=1, loss=f"{loss:.4g}", rate=rate)

        yield advance
