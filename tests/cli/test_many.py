"""Folders, patterns and large arrays: a file of results each, and what was cut off goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import onnxgrad as og
from tests.cli.test_cli import Run, caller

MODELS = Path(__file__).parents[2] / "models"
MLP = str(MODELS / "mlp.onnx")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch, capsys)


def times(folder: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).glob("*.npz")}


def test_a_folder_is_run_file_by_file_and_goes_on(run: Run) -> None:
    """What is there stays, what has a newer input is run again, nothing of others is mixed."""
    Path("arrays").mkdir()
    for k in range(3):
        np.save(f"arrays/x{k}.npy", np.full((2, 4), k, np.float32))
    np.save("arrays/x3.npy", np.zeros((2, 5), np.float32))
    options = ["--grad", "input", "-o", "out/{}.npz"]
    stopped = run("run", MLP, "arrays", *options)
    assert stopped.code == 1 and "x3: 'input' has the shape" in stopped.err
    before = times("out")
    assert sorted(before) == ["x0.npz", "x1.npz", "x2.npz"]
    want = og.Net(MLP).gradient(np.full((2, 4), 2, np.float32))
    np.testing.assert_allclose(np.load("out/x2.npz")["input_grad"], want, rtol=1e-5)
    for name in ("x0", "x3"):
        np.save(f"arrays/{name}.npy", np.ones((2, 4), np.float32))
    assert "Wrote 2 files; 2 were there already." in run("run", MLP, "arrays/x*.npy", *options).out
    after = times("out")
    assert len(after) == 4 and [n for n in before if before[n] != after[n]] == ["x0.npz"]
    for wrong, message in (
        (["arrays", "-o", "out/{}.npz"], "other options"),
        (["arrays", "-o", "arrays/{}.npz"], "another folder"),
        (["arrays", "-o", "out/all.npz"], "{} in its name"),
        (["arrays/y*.npy", *options], "stands for no file"),
        (["arrays/x*.npy", "--rows", "2", *options], "--rows: give one file for each input"),
    ):
        refused = run("run", MLP, *wrong)
        assert refused.code == 1 and message in refused.err
    assert times("out") == after


def test_a_large_array_is_run_in_parts(run: Run) -> None:
    x = np.random.default_rng(0).standard_normal((11, 4)).astype(np.float32)
    np.save("x.npy", x)
    assert run("run", MLP, "x.npy", "--rows", "4", "-o", "out/{}.npz").code == 0
    assert sorted(times("out")) == ["00.npz", "04.npz", "08.npz"]
    parts = [np.load(f"out/{name}")["logits"] for name in sorted(times("out"))]
    np.testing.assert_allclose(np.concatenate(parts), og.Net(MLP)(x), rtol=1e-5)


def test_a_folder_is_explained(run: Run) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    Path("digits").mkdir()
    for name in "ab":
        shutil.copy(MODELS / "digit.npy", f"digits/{name}.npy")
    assert run("explain", str(MODELS / "digits.onnx"), "digits", "-o", "why/{}.png").code == 0
    pictures = sorted(Path("why").glob("*.png"))
    assert [path.name for path in pictures] == ["a.png", "b.png"]
    assert pictures[0].read_bytes()[1:4] == b"PNG"
