"""A bar that shows how far something is, and how much of it is done in a second."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

from onnxgrad.graph.errors import RuntimeMissingError

T = TypeVar("T")

# Whether to show a bar, None where the standard error is a terminal; or a function of how many are
# done and of how many there are, None where that is not known.
Progress: TypeAlias = bool | Callable[[int, int | None], None] | None


@contextlib.contextmanager
def progress_bar(
    title: str, total: int | None, done: int, show: bool | None, unit: str
) -> Iterator[Callable[..., None]]:
    """A function to call after each step, with how many units it had and what to say of it.

    Args:
        title: What is shown before the bar.
        total: The number of steps, None if it is not known.
        done: How many of them have been done before.
        show: Whether to show it; None where the standard error is a terminal and rich is installed.
        unit: What is counted in a second.

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
        yield lambda count=1, said="": None
        return
    console = Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda count=1, said="": None
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[said]}"),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, said="", rate="")
        seen = 0

        def advance(count: int = 1, said: str = "") -> None:
            nonlocal seen
            seen += count
            elapsed = progress.tasks[task].elapsed or 0
            rate = f"{seen / elapsed:.0f} {unit}/s" if elapsed else ""
            progress.update(task, advance=1, said=said, rate=rate)

        yield advance


def shown(title: str, results: Iterable[T], total: int | None, progress: Progress) -> Iterator[T]:
    """The results, and how many there are so far, by a bar or to a function.

    Args:
        title, total: As for `progress_bar`.

    Raises:
        RuntimeMissingError: As for `progress_bar`.
    """
    if callable(progress):
        for k, result in enumerate(results, 1):
            progress(k, total)
            yield result
        return
    with progress_bar(title, total, 0, progress, "items") as advance:
        for result in results:
            advance()
            yield result
