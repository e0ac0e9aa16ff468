"""The benchmark runs, and times nothing whose numbers are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))

import bench  # noqa: E402


def test_quick_run() -> None:
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "--quick", "--nets", "mlp"]
    choice = ["--threads", "1", "--batch", "1", "--peers", "onnxgrad"]
    run = subprocess.run([*command, *choice], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "mlp, batch 1, input" in run.stdout and "mlp, batch 1, parameters" in run.stdout


def test_a_worker_that_takes_too_long_is_ended() -> None:
    process = bench.Process(sys.executable, threads=1, limit=0.05)
    answer = process.ask("figure", name="building", quick=True)
    assert answer == {"error": "figure: over 0.05 s"}
    process.close()


class Fake:
    """A running contender that answers with given gradients."""

    def __init__(self, **gradients: np.ndarray) -> None:
        self.gradients = gradients

    def ask(self, do: str, path: str) -> dict[str, list[str]]:
        np.savez(path, **self.gradients)
        return {"names": list(self.gradients)}


def compared(tmp_path: Path, *gradients: dict[str, np.ndarray]) -> list[float | None]:
    running = {str(k): Fake(**g) for k, g in enumerate(gradients)}
    results = {label: bench.Result() for label in running}
    bench.compare(running, results, tmp_path)  # type: ignore[arg-type]
    return [result.difference for result in results.values()]


def test_the_numbers_are_compared(tmp_path: Path) -> None:
    right = {"x": np.arange(12.0).reshape(3, 4), "w": np.ones(5)}
    near = {name: value * (1 + 1e-6) for name, value in right.items()}
    assert all(0 <= d < 1e-5 for d in compared(tmp_path, right, near, right) if d is not None)
    with pytest.raises(bench.Disagreement, match="1 by"):
        compared(tmp_path, right, right | {"x": right["x"] * 1.05}, right)
    for wrong in (
        {"x": right["x"]},  # one is missing
        right | {"w": np.ones((5, 1))},  # of another shape
        right | {"w": np.full(5, np.nan)},
        right | {"x": -right["x"]},
    ):
        with pytest.raises(bench.Disagreement):
            compared(tmp_path, right, wrong)


def test_a_result_of_zero_in_theory_is_measured_by_the_whole(tmp_path: Path) -> None:
    one = {"x": np.full(3, 100.0), "bias": np.full(3, 1e-7)}
    other = {"x": np.full(3, 100.0), "bias": np.full(3, -1e-7)}
    assert max(d or 0 for d in compared(tmp_path, one, other)) < 1e-5
