"""The page, the tutorials and the docstrings of the bridges, which run where a framework is."""

from __future__ import annotations

import contextlib
import doctest
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgrad as og
from tests.project.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "bridges.md"


def run_part(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks under a heading of the page one after the other; compare what is printed."""
    parts = dict(part.split("\n", 1) for part in PAGE.read_text().split("\n## ")[1:])
    written = folder / "part.md"
    written.write_text(parts[title])
    run_page(written, folder, monkeypatch)


def run_tutorial(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a tutorial in the same way."""
    run_page(ROOT / "docs" / "tutorials" / f"{name}.md", folder, monkeypatch)


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page in a folder with the nets; compare what is printed."""
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("*.py"))
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {"__name__": "page"}
    for code, text in blocks(page, "python"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, code, "exec"), namespace)
        if text is not None:
            assert printed.getvalue().strip() == text.strip(), code


def run_example(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the example of a docstring."""
    monkeypatch.chdir(ROOT)
    (test,) = doctest.DocTestFinder(recurse=False).find(
        function, function.__name__, module=False, globs={"og": og, "np": np}
    )
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted and not result.failed, "".join(report)
