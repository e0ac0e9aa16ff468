"""The public functions have types that a user's mypy can rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("calls", ["typed_calls.py", "typed_calls_of_net.py"])
def test_calls_have_the_types_that_are_promised(calls: str) -> None:
    """`mypy --strict` over calls, some of which it must refuse."""
    pytest.importorskip("mypy")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", f"tests/project/{calls}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
