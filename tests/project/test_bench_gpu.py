"""The benchmark on a GPU: tried on the CPU with the same code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tools"))

from gpu import measure, ours, plan, report, wheels  # noqa: E402


def test_quick_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of everything: a net, its peer, a profile, and the end of the time."""
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "--cuda", "--device", "cpu"]
    choice = ["--quick", "--nets", "bert", "--waves", "1", "--rounds", "1", "--seconds", "0"]
    run = subprocess.run([*command, *choice], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    kept = report.Report.load(measure.KEPT.with_stem("gpu-quick"))
    (row,) = kept.cells.values()
    assert all(row[name]["ms"] > 0 for name in ("forward", "onnxgrad", "torch"))
    assert row["onnxgrad"]["difference"] < 1e-5
    assert row["onnxgrad"]["profile"]["cpu"]["Softmax"] == 2
    assert "bert, batch 2, parameters, tf32" in run.stdout


def test_a_run_without_time_measures_nothing_and_ends() -> None:
    given = ["--device", "cpu", "--quick", "--budget", str(measure.RESERVE)]
    with pytest.raises(SystemExit, match=report.LATE):
        measure.main(given)


def test_the_plan_has_every_cell_once_and_the_telling_ones_first() -> None:
    jobs = [job for wave in plan.waves(plan.NETS, (1, 32), 3) for job in wave]
    assert len(set(jobs)) == len(jobs)
    found = {job.cell for job in jobs if plan.TORCH in job.ways}
    nets = [net for net in plan.NETS if net != "gpt2"]
    kinds = [*((net, kind) for net in nets for kind in ("input", "parameters")),
             ("gpt2", "parameters")]  # fmt: skip
    assert found == {
        plan.Cell(net, batch, kind, precision)
        for net, kind in kinds
        for batch in (1, 32)
        for precision in plan.PRECISIONS
    }
    assert found == {job.cell for job in jobs if plan.COMPILED in job.ways}
    tried = {way for job in jobs for way in job.ways}
    assert tried == set(plan.WAYS.values())
    order = [job.cell.precision for job in jobs if plan.TORCH in job.ways]
    assert order[0] == "tf32" and order.index("float16") < order.index("float32")


def test_a_gradient_that_is_wrong_is_not_timed(tmp_path: Path) -> None:
    right = {"x": np.arange(1.0, 5.0)}
    ways, scales = (plan.OURS, plan.TORCH, plan.COMPILED), (1.1, 1.01, 0.5)
    paths = {way: str(tmp_path / f"{way.name}.npz") for way in ways}
    for way, scale in zip(ways, scales, strict=True):
        np.savez(paths[way], x=right["x"] * scale)
    np.savez(tmp_path / "reference.npz", **right)
    row: report.Answers = {way.name: {} for way in ways}
    kept = measure.checked(ways, paths, str(tmp_path / "reference.npz"), row)
    assert kept == [plan.TORCH]  # its own error is 1 %, so 8 % would be allowed
    assert "0.1" in row["onnxgrad"]["error"] and "0.5" in row["torch.compile"]["error"]
    assert measure.checked([plan.OURS], paths, "nowhere.npz", row) == []


def test_a_profile_tells_what_is_on_the_cpu_and_copied() -> None:
    cuda = "CUDAExecutionProvider"
    nodes = [("Conv", cuda, 80), ("MemcpyToHost", cuda, 0), ("Gather", ours.CPU, 20)]
    event = [{"cat": "Node", "dur": dur, "args": {"op_name": op, "provider": provider}}
             for op, provider, dur in nodes]  # fmt: skip
    told = ours.fallbacks([*event, *event, {"cat": "Session", "dur": 9}])
    assert told == {
        "nodes": {cuda: 2, ours.CPU: 1},
        "cpu": {"Gather": 1},
        "copies": {"MemcpyToHost": 1},
        "share": 0.2,
    }


def test_wheels_are_joined_from_their_pieces(tmp_path: Path) -> None:
    whole = tmp_path / "whole.whl"
    with zipfile.ZipFile(whole, "w") as wheel:
        wheel.writestr("onnxruntime/__init__.py", "x = 1")
    data, carried = whole.read_bytes(), tmp_path / "carried"
    carried.mkdir()
    for k in range(3):
        part = data[k * len(data) // 3 : (k + 1) * len(data) // 3]
        (carried / f"onnxruntime_gpu-1-py3.whl.{k:02}").write_bytes(part)
    assert wheels.unpack(carried, tmp_path / "site") == ["onnxruntime_gpu-1-py3.whl"]
    assert (tmp_path / "site" / "onnxruntime" / "__init__.py").read_text() == "x = 1"
    (carried / "onnxruntime_gpu-1-py3.whl.02").unlink()
    with pytest.raises(SystemExit, match="2 pieces are no whole wheel"):
        wheels.unpack(carried, tmp_path / "site")


def test_the_page_says_what_is_measured_on_a_gpu() -> None:
    section = report.SECTION.apart(measure.TABLE.read_text())[1]
    assert report.COMMAND in section and report.TEXT in section
    assert (report.NOTHING in section) != ("| gradient | forward, ms |" in section)


def test_the_report_has_a_line_for_each_cell(tmp_path: Path) -> None:
    cell = plan.Cell("unet", 1, "input", "tf32")
    row: report.Answers = {
        "forward": {"ms": 1.0},
        "onnxgrad": {"ms": 3.0, "difference": 1e-3},
        "torch": {"ms": 4.0, "difference": 2e-3},
        "NHWC": {"ms": 6.0, "of_ours": 2.0},
        "CUDA graph": {"error": "Shape is on the CPU"},
        "TensorRT": {"error": report.ABSENT},
    }
    report.Report("a GPU", ["command"], {cell: row}).save(tmp_path / "gpu.json")
    text = report.Report.load(tmp_path / "gpu.json").section()
    assert f"| {cell} | 1 | 3 | 4 | - | 0.75 | 1e-03 | 2e-03 |" in text
    assert "| NHWC | 2.00 |" in text
    assert f"- CUDA graph, {cell}: Shape is on the CPU" in text and "TensorRT," not in text
