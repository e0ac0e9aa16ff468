"""The docstrings of what trains are complete, and their examples run."""

from __future__ import annotations

import doctest
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgrad as og
from onnxgrad import train

ROOT = Path(__file__).parents[2]
PUBLIC: dict[str, Any] = {
    "accuracy": train.accuracy,
    "artifacts": train.artifacts,
    "export": train.export,
    "linear": train.schedules.linear,
    "one_cycle": train.schedules.one_cycle,
    "schedules.step": train.schedules.step,
    "sequence": train.schedules.sequence,
    "step": train.step,
    "Trainer": train.Trainer,
}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    names = {"og": og, "np": np, "os": os}
    test = next(
        t
        for t in doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, False, globs=names)
        if t.examples
    )
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted and not result.failed, "".join(report)


@pytest.mark.parametrize(
    "name",
    [*PUBLIC, "EarlyStopping", *(f"Trainer.{n}" for n in ("fit", "evaluate", "predict"))],
)
def test_the_docstring_is_complete(name: str) -> None:
    found: Any = train
    for part in name.split("."):
        found = getattr(found, part, None) or getattr(train.schedules, part)
    text = inspect.getdoc(found) or ""
    for section in ("Args:", "Raises:"):
        assert f"\n{section}\n" in text, section
