"""The docstrings of what is public in folders are complete, and their examples run."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgrad as og

ROOT = Path(__file__).parents[2]
FUNCTIONS = [
    (folder, name)
    for folder in ("explain", "heads", "losses")
    for name in getattr(og, folder).__all__
    if inspect.isfunction(getattr(getattr(og, folder), name))
]


def function(folder: str, name: str) -> Any:
    return getattr(getattr(og, folder), name)


@pytest.mark.parametrize(("folder", "name"), FUNCTIONS)
def test_the_docstring_is_complete(folder: str, name: str) -> None:
    text = inspect.getdoc(function(folder, name)) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{section}\n" in text, section


@pytest.mark.parametrize(("folder", "name"), FUNCTIONS)
@pytest.mark.filterwarnings("error")
def test_the_example_runs(
    folder: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    names = {"og": og, "np": np}
    (test,) = doctest.DocTestFinder().find(function(folder, name), name, module=False, globs=names)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted and not result.failed, "".join(report)
