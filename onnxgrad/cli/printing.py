"""What the commands print: lines to the standard output, one line for a refusal or a warning."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from onnxgrad.graph.errors import printable

_out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(what: str | Table) -> None:
    """Print lines or a table, in characters that a terminal shows."""
    lines = what.split("\n") if isinstance(what, str) else []
    _out.print("\n".join(map(printable, lines)) if lines else what)


def fail(message: str) -> NoReturn:
    """Print why a command failed, in one line, and end with the exit status 1."""
    _err.print(f"onnxgrad: {printable(' '.join(message.split()))}")
    sys.exit(1)


def warn(*warning: Any, **_: Any) -> None:
    """Print a warning in one line, in the place of `warnings.showwarning`."""
    _err.print(f"onnxgrad: {printable(in_options(str(warning[0])))}")


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show what takes time, and for how long it has, while it does; nothing where nobody looks."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Say nothing meanwhile."""
    _out.quiet = True
    try:
        yield
    finally:
        _out.quiet = False


def in_options(message: str) -> str:
    """A transform's advice in the words of its command."""

    def option(name: str) -> Callable[[re.Match[str]], str]:
        def given(found: re.Match[str]) -> str:
            return "give " + " ".join(f"{name} {one}" for one in re.findall(r"'(.*?)'", found[1]))

        return given

    message = message.replace("pass unreachable='zeros'", "give --zeros")
    message = message.replace("with ograd.", "with --ograd.")
    message = message.replace("wrt: ALL is", "wrt: 'all' is").replace(
        "leave it out of `of`", "leave it out of --of"
    )
    message = re.sub(r"\bin wrt or of\b", "in --wrt or --of", message)
    message = re.sub(r"\b(in|among) (wrt|of|constant)\b", r"\1 --\2", message)
    message = re.sub(r"^(wrt|of|constant|batched): ", r"--\1: ", message)
    message = re.sub(r"^target is", "--class is", message)
    message = re.sub(r"^ograd names", "--ograd-at names", message)
    message = message.replace("max_bytes", "--max-bytes")
    message = message.replace("feeds in example=", "files of inputs in --example")
    message = message.replace("straight_through=True", "--straight-through all")
    message = message.replace("target='portable'", "--target portable")
    message = re.sub(r"pass of=\[?('.*')\]?(?=,)", option("--of"), message)
    return re.sub(r"pass straight_through=\[(.*?)\]", option("--straight-through"), message)
