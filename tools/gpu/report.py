"""What was measured on a GPU, as a file that a later run goes on with, and as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sections import Section
from tables import markdown_table, number

from gpu.plan import FORWARD, OURS, PEERS, TORCH, WAYS, Cell

HEAD = ["gradient", "forward, ms", "onnxgrad, ms", *(f"{way.name}, ms" for way in PEERS),
        "of best peer", "error", "error of torch"]  # fmt: skip
COMMAND = "python tools/bench.py --cuda --markdown"

TEXT = """\
Gradients on the device, beside PyTorch on the same device in the same run: wall clock of a call
that waits for its results, with inputs, weights and results in the device's memory. Errors are
those of the gradients to PyTorch's in float32 without TF32, which are compared before anything is
timed: the largest of a tensor, relative, in the Euclidean norm. One that is over three times
PyTorch's own and a twentieth is not timed. "tf32" is float32 with TF32, as onnxruntime has it by
default, "float32" is without. Both sides search for their fastest convolutions.

The second table has what one change makes of the time of the way "onnxgrad": how the session runs
it, and what the file is made of (the fields of `onnxgrad/emit/targets.py`). The list tells which
nodes run on the CPU and what is copied, and what failed. The GPU's kernels that take most are in
out/gpu.json.

The command ends by itself within 8 minutes, with the cells that it has measured; with `--keep` the
next one goes on. On a machine without a network it takes onnxruntime-gpu as wheels, or as pieces of
them: `--wheels FOLDER`. `--device cpu --quick` tries all of it without a GPU."""

SECTION = Section("## On a GPU", TEXT, HEAD, {}, {})
NOTHING = f"No GPU has been measured yet. The command is:\n\n```sh\n{COMMAND}\n```"

# Errors that are none of a way's.
ABSENT, LATE = "needs CUDA", "no time was left"

Answers = dict[str, dict[str, Any]]  # by the name of the way


@dataclass
class Report:
    """Results by cell and way: `ms` or `error`, and what else a worker told."""

    device: str = ""
    commands: list[str] = field(default_factory=list)
    cells: dict[Cell, Answers] = field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> Report:
        """What an earlier run left, if it did."""
        if not path.exists():
            return Report()
        data = json.loads(path.read_text())
        cells = {Cell(**cell): answers for cell, answers in data["cells"]}
        return Report(data["device"], data["commands"], cells)

    def save(self, path: Path) -> None:
        """For `load`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = [(asdict(cell), answers) for cell, answers in self.cells.items()]
        data = {"device": self.device, "commands": self.commands, "cells": cells}
        path.write_text(json.dumps(data, indent=1))

    def section(self) -> str:
        """The section of docs/performance.md."""
        tables = [markdown_table(HEAD, list(self.compared()))]
        head, rows = self.tried()
        tables += [markdown_table(head, rows)] if rows else []
        return SECTION.write(self.commands, f"{self.device}.", "\n\n".join(tables), self.notes())

    def compared(self) -> Iterator[list[str]]:
        """The lines of the first table: the package beside its peers."""
        for cell, row in self.cells.items():
            peers = [row.get(way.name, {}).get("ms") for way in PEERS]
            if not any(peers):
                continue
            ours, best = row.get(OURS.name, {}), min(ms for ms in peers if ms)
            ratio = ours["ms"] / best if "ms" in ours else None
            times = [row.get(FORWARD.name, {}).get("ms"), ours.get("ms"), *peers]
            errors = [row.get(way.name, {}).get("difference") for way in (OURS, TORCH)]
            shown = ["-" if error is None else f"{error:.0e}" for error in errors]
            yield [str(cell), *(number(ms, 3) for ms in times), number(ratio), *shown]

    def tried(self) -> tuple[list[str], list[list[str]]]:
        """The second table: by variant, its time over that of the way "onnxgrad"."""
        cells = [
            cell for cell, row in self.cells.items() if any("of_ours" in a for a in row.values())
        ]
        lines = []
        for name in WAYS:
            factors = [self.cells[cell].get(name, {}).get("of_ours") for cell in cells]
            if any(factors):
                lines.append([name, *map(number, factors)])
        return ["changed", *map(str, cells)], lines

    def notes(self) -> list[str]:
        """What ran on the CPU or was copied, and what failed, each once."""
        found: dict[str, None] = {}
        for cell, row in self.cells.items():
            for label, answer in row.items():
                if (told := answer.get("profile")) and told.get("error") != LATE:
                    found[f"{cell}: {_profile(told)}"] = None
                error = answer.get("error")
                if error and error not in (ABSENT, LATE):
                    found[f"{label}, {cell}: {error}"] = None
        return list(found)


def _profile(told: dict[str, Any]) -> str:
    if "error" in told:
        return f"no profile: {told['error']}"
    nodes = ", ".join(f"{count} on {name}" for name, count in told["nodes"].items())
    parts = [f"nodes: {nodes}"]
    for what, counts in (("on the CPU", told["cpu"]), ("copies", told["copies"])):
        if counts:
            parts.append(f"{what}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    return "; ".join(parts)
