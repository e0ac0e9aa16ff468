"""What `check` found: a table with a row for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "wrong", "kink", "noise"]

_MEANING = {
    "ok": "ok",
    "wrong": "WRONG",
    "kink": "at a kink or an edge: the two sides differ",
    "noise": "not resolved: rounding hides the slope",
}


@dataclass(frozen=True)
class TensorRow:
    """What was found for one tensor, along the worse of the directions.

    Attributes:
        name: The tensor.
        analytic: The slope that the gradient predicts.
        numeric: The slope that central differences find.
        error: Their difference, relative to the slope.
        tolerance: The error up to which they agree; it follows from the scatter of the differences.
        verdict: "ok" or "wrong"; or, where finite differences cannot tell, "kink" (the slopes of
            the two sides differ, or one side has no values or others in number) or "noise"
            (rounding hides the slope).
    """

    name: str
    analytic: float
    numeric: float
    error: float
    tolerance: float
    verdict: Verdict

    @property
    def ok(self) -> bool:
        """Whether the gradient is confirmed."""
        return self.verdict == "ok"


@dataclass(frozen=True)
class CheckReport:
    """The result of `check`: one row for each tensor. True where `ok`; `str` gives a table.

    Attributes:
        rows: One for each tensor.
        method: In what precision and on which runtimes the two sides were calculated.
    """

    rows: tuple[TensorRow, ...]
    method: str

    @property
    def ok(self) -> bool:
        """Whether no gradient is wrong and at least one is confirmed."""
        return any(r.ok for r in self.rows) and all(r.verdict != "wrong" for r in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max(6, *(len(row.name) for row in self.rows))
        lines = [
            f"{'tensor':{width}}  {'gradient':>13}  {'differences':>13}  {'error':>8}  verdict"
        ]
        lines += [
            f"{r.name:{width}}  {r.analytic:13.6g}  {r.numeric:13.6g}  {r.error:8.1e}  "
            f"{_MEANING[r.verdict]}"
            for r in self.rows
        ]
        return "\n".join([*lines, f"({self.method})"])
