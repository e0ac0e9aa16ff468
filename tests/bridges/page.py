"""The page of the bridges: each part of it runs where its framework is installed."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from tests.project.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "bridges.md"


def run_part(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks under a heading of the page one after the other; compare what is printed."""
    parts = dict(part.split("\n", 1) for part in PAGE.read_text().split("\n## ")[1:])
    written = folder / "part.md"
    written.write_text(parts[title])
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("*.py"))
    monkeypatch.chdir(folder)
    namespace: dict[str, object] = {"__name__": "page"}
    for code, text in blocks(written, "python"):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, code, "exec"), namespace)
        if text is not None:
            assert printed.getvalue().strip() == text.strip(), code
