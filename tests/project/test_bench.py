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
import bridges  # noqa: E402
import contenders  # noqa: E402
import explanations  # noqa: E402
import steps  # noqa: E402
import training  # noqa: E402


def test_quick_run() -> None:
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "--quick", "--nets", "mlp"]
    choice = ["--threads", "1", "--batch", "1", "--peers", "onnxgrad"]
    run = subprocess.run([*command, *choice], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "mlp, batch 1, input" in run.stdout and "mlp, batch 1, parameters" in run.stdout


def test_quick_run_of_explanations() -> None:
    pytest.importorskip("captum", reason="Captum is not installed: make explainers")
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "--quick", "--figures", "explain"]
    choice = ["--threads", "1", "--nets", "bert", "--batch", "none"]
    run = subprocess.run([*command, *choice], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    for cell in bench.explained_cells(["bert"]):
        assert f" {cell} " in run.stdout


def test_the_table_of_bridges() -> None:
    run = bench.Run(bridges={"torch": {"forward": [30.0, 20.0]}}, ran={"bridges": ["command"]})
    page = run.page("# Performance\n")
    assert "| torch | forward | 30 | 20 | +10 | 1.50 |" in page and page.startswith("# Perf")
    with pytest.raises(AssertionError, match="forward"):
        bridges.compare("forward", [1.0], [1.01])


def measured() -> bench.Rows:
    """Explanations of all nets with made-up times."""
    found: bench.Rows = {}
    for cell in bench.explained_cells(list(explanations.SIZES)):
        for threads in (1, 2):
            found[cell, threads] = {
                label: bench.Result("", 1e-6, {str(threads): t}, {}, {"peak": 500.0, "load": 3.0})
                for label, t in (("onnxgrad", 0.5), ("captum", 2.0))
            }
    return found


def test_the_table_of_explanations() -> None:
    head, lines = bench.explained_table(measured())
    assert all(len(line) == len(head) for line in lines)
    assert dict(zip(head, lines[0], strict=True)) == {
        "explanation": "resnet50, batch 1, integrated gradients",
        "threads": "1",
        "onnxgrad, ms": "500",
        "captum, ms": "2000",
        "of captum": "0.25",
        "onnxgrad, MB": "500",
        "captum, MB": "500",
        "difference": "1e-06",
        "load": "3",
    }


def test_a_contender_of_explanations_that_is_absent_is_a_line() -> None:
    found = measured()
    first = next(iter(found.values()))
    first["captum"] = bench.Result("captum is not installed")
    head, lines = bench.explained_table(found)
    assert "captum is not installed" in lines[0] and len(lines[0]) == len(head)


def test_sections_that_were_not_measured_stay_on_the_page() -> None:
    old = bench.TABLE.read_text()
    others, section = explanations.SECTION.apart(old)
    assert explanations.TITLE in section and explanations.TITLE not in others
    explained = bench.Run(topics={"explain": measured()}, ran={"explain": ["command"]}).page(old)
    new_others, new_section = explanations.SECTION.apart(explained)
    assert new_others.strip() == others.strip()
    assert new_section != section and "0.25" in new_section
    rest = bench.Run(figures={"A figure": {"a": 1.0}}).page(old)
    assert explanations.SECTION.apart(rest)[1].strip() == section.strip() and "A figure" in rest
    assert bench.Run().page(old).strip() == old.strip()


def test_the_page_has_what_the_tool_writes_of_explanations() -> None:
    """Its words, its columns and its lines, and numbers that hold what is promised."""
    section = explanations.SECTION.apart(bench.TABLE.read_text())[1]
    assert explanations.TEXT in section
    head, lines = bench.explained_table(measured())
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    assert table[0] == head
    found = [row[:2] for row in table[2:]]
    wanted = [line[:2] for line in lines]
    # Two threads say little on a busy machine, so not all of them need be there.
    assert [row for row in wanted if row[1] == "1"] == [row for row in found if row[1] == "1"]
    assert all(row in wanted for row in found)
    ratios = [float(row[head.index("of captum")]) for row in table[2:] if row[1] == "1"]
    assert ratios and max(ratios) <= 1


def test_explanations_have_contenders_of_their_own() -> None:
    assert contenders.contender_of("onnxgrad", "input") is contenders.OnnxGrad
    assert contenders.contender_of("onnxgrad", "Grad-CAM") is contenders.Explained


def test_quick_run_of_training() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "--quick", "--figures", "training"]
    choice = ["--threads", "1", "--nets", "mlp", "--batch", "1", "--peers", "torch"]
    run = subprocess.run([*command, *choice], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "mlp, batch 1, training" in run.stdout and "difference" in run.stdout


def trained() -> bench.Rows:
    """Steps of all nets with made-up times; one peer refuses."""
    found: bench.Rows = {}
    times = {"onnxgrad": 0.5, "gradient": 0.4, "torch": 1.0, "torch.compile": 0.25}
    for cell in bench.training_cells(list(training.SIZES)):
        found[cell, 1] = {
            label: bench.Result("", 1e-6, {"1": t}, {}, {"peak": 100 * t, "load": 3.0})
            for label, t in times.items()
        }
        found[cell, 1]["onnxsim"] = bench.Result("UnsupportedOpError: no gradient of X")
    return found


def test_the_table_of_training() -> None:
    head, lines = bench.training_table(trained())
    assert all(len(line) == len(head) for line in lines) and len(lines) == 6
    assert dict(zip(head, lines[0], strict=True)) == {
        "step": "mlp, batch 1, training",
        "threads": "1",
        "onnxgrad, ms": "500",
        "torch, ms": "1000",
        "torch.compile, ms": "250",
        "onnxruntime-training, ms": "-",
        "onnxsim, ms": "-",
        "of best peer": "2.00",
        "optimizer, %": "20",
        "onnxgrad, MB": "50",
        "torch, MB": "100",
        "torch.compile, MB": "25",
        "onnxruntime-training, MB": "-",
        "onnxsim, MB": "-",
        "difference": "1e-06",
        "load": "3.00",
    }


def test_what_a_peer_refuses_is_said_on_the_page() -> None:
    run = bench.Run(topics={"training": trained()}, ran={"training": ["command"]})
    section = training.SECTION.apart(run.page(""))[1]
    assert "- onnxsim, mlp, batch 1, training: UnsupportedOpError: no gradient of X" in section


def test_the_page_has_what_the_tool_writes_of_training() -> None:
    """Its words, its columns and its lines, and at batch 1 no more memory than torch's."""
    section = training.SECTION.apart(bench.TABLE.read_text())[1]
    assert training.TEXT in section
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"]
    assert table[0] == training.HEAD
    wanted = [str(cell) for cell in bench.training_cells(list(training.SIZES))]
    found = [row[0] for row in table[2:] if row[1] == "1"]
    assert found == [cell for cell in wanted if cell in found]
    assert {cell.split(",")[0] for cell in found} == set(training.SIZES)
    ours, theirs = (training.HEAD.index(f"{label}, MB") for label in ("onnxgrad", "torch"))
    small = [row for row in table[2:] if ", batch 1," in row[0]]
    assert all(float(row[ours]) <= float(row[theirs]) for row in small)


def test_training_has_contenders_of_its_own() -> None:
    assert contenders.contender_of("torch", "training") is steps.TorchStep


def test_losses_of_steps_are_compared_more_strictly(tmp_path: Path) -> None:
    losses = {"losses": np.array([2.3, 2.2, 2.1])}
    untrained = {"losses": np.array([2.3, 2.3, 2.3])}
    assert max(compared(tmp_path, losses, losses, tolerance=training.TOLERANCE)) == 0
    with pytest.raises(bench.Disagreement):
        compared(tmp_path, losses, losses, untrained, tolerance=training.TOLERANCE)


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


def compared(
    tmp_path: Path, *gradients: dict[str, np.ndarray], tolerance: float = bench.TOLERANCE
) -> list[float | None]:
    running = {str(k): Fake(**g) for k, g in enumerate(gradients)}
    results = {label: bench.Result() for label in running}
    bench.compare(running, results, tmp_path, tolerance)  # type: ignore[arg-type]
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


def test_the_table_of_real_files() -> None:
    found: bench.Rows = {}
    for name, mine, peer in (("a", 4.0, 8.0), ("b", 2.0, None), ("c", 3.0, 3.0)):
        times = {"forward": 1.0, "onnxgrad": mine, "onnx2torch": peer}
        found[bench.Cell(name, 1, "real"), 1] = {
            label: bench.Result("", 1e-6, {"1": t} if t else {}, {}, {"load": 3.0})
            for label, t in times.items()
        }
    head, lines = bench.real_table(found)
    assert all(len(line) == len(head) for line in lines)
    of_forward, of_peer = head.index("of forward"), head.index("of onnx2torch")
    assert [line[of_forward] for line in lines] == ["4.00", "2.00", "3.00", "3.00", "3.50"]
    assert [line[of_peer] for line in lines] == ["0.50", "-", "1.00", "", "0.75"]
