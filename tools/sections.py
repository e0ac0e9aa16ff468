"""Sections of docs/performance.md of their own: each stays as it is where it was not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """A section with a table.

    Attributes:
        sizes, quick: By net, what it is made with; the latter for a quick run.
        head: The names of the columns.
    """

    title: str
    text: str
    head: list[str]
    sizes: dict[str, dict[str, Any]]
    quick: dict[str, dict[str, Any]]

    def write(
        self, commands: Sequence[str], machine: str, table: str, notes: Sequence[str] = ()
    ) -> str:
        """The section in Markdown; `notes` become a list behind the table."""
        ran = "```sh\n" + "\n".join(commands) + "\n```"
        parts = [self.title, self.text, machine, ran, table]
        parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
        return "\n\n".join(parts) + "\n"

    def apart(self, page: str) -> tuple[str, str]:
        """A page without the section, and the section."""
        before, title, rest = page.partition(self.title)
        if not title:
            return page, ""
        inside, following, after = rest.partition("\n## ")
        others = before + following.removeprefix("\n") + after
        return others, title + inside.rstrip("\n") + "\n"
