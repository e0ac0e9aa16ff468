"""Tables of results, on the terminal and in Markdown."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# A pipe has no width of its own.
console = Console(width=None if sys.stdout.isatty() else 160)


def number(value: Any, digits: int = 2) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.{digits}g}" if digits > 2 else f"{value:.2f}"


def print_table(title: str, head: list[str], rows: list[list[str]], skip: int = 0) -> None:
    """A table on the terminal, without its first columns if they all say the same."""
    table = Table(title=title, title_justify="left")
    for name in head[skip:]:
        table.add_column(name, justify="left" if name in ("", "contender") else "right")
    for row in rows:
        table.add_row(*row[skip:])
    console.print(table)


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """The same in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(entry.replace("|", "/") for entry in line) + " |" for line in lines
    )


def machine() -> str:
    """The machine in a line."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        cpu = next(x.split(":")[1].strip() for x in text.splitlines() if x.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
