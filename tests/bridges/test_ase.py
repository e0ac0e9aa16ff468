"""A file of energy, forces and stress in ASE, which has the same potential."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridges.page import run_part

pytest.importorskip("ase", reason="ASE is not installed: pip install ase")


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_part("Molecular dynamics", tmp_path, monkeypatch)
