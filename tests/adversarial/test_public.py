"""The public functions: their docstrings, and their commands."""

from __future__ import annotations

import doctest
import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad as og
from onnxgrad import cli

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", og.adversarial.__all__)
def test_docstrings_are_complete_and_their_examples_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    function = getattr(og.adversarial, name)
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in (inspect.getdoc(function) or ""), section
    (test,) = doctest.DocTestFinder().find(function, name, module=False, globs={"og": og})
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted and not result.failed, "".join(report)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxgrad", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
        raise SystemExit(0)
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["fgsm", "--eps", "0.1"], {"eps": 0.1}),
        (
            ["pgd", "--eps", "0.1", "--alpha", "0.03", "--steps", "4", "--norm", "L2"],
            {"eps": 0.1, "alpha": 0.03, "steps": 4, "norm": "L2"},
        ),
        (
            ["pgd", "--eps", "[[[0.1]]]", "--clip-min", "0", "--clip-max", "1", "--targeted"],
            {"eps": 0.1, "clip_min": 0, "clip_max": 1, "targeted": True},
        ),
        (
            ["fgsm", "--eps", "0.1", "--loss", "cross_entropy", "--loss-of", "logits"],
            {"eps": 0.1, "loss": og.losses.cross_entropy("logits")},
        ),
        (["fgsm", "--eps", "0.1", "--x", "image", "--of", "logits"], {"eps": 0.1}),
    ],
)
def test_commands_write_what_the_functions_give(
    words: list[str], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    name, *rest = words
    out = tmp_path / "attack.onnx"
    assert command(monkeypatch, name, "models/digits.onnx", "-o", str(out), *rest) == 0
    want = getattr(og.adversarial, name)("models/digits.onnx", **options)
    feeds = {"image": np.load("models/digit.npy"), "labels": np.array([3])}
    found = [
        ort.InferenceSession(m.SerializeToString()).run(["image_adv"], feeds)[0]
        for m in (onnx.load(out), want)
    ]
    assert np.array_equal(*found) and not np.array_equal(found[0], feeds["image"])


def test_a_command_makes_inputs_and_refuses_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    out = str(tmp_path / "attack.onnx")
    given = ["--eps", "input", "--steps", "input:count", "--random-start", "input"]
    assert command(monkeypatch, "pgd", "models/digits.onnx", "-o", out, *given) == 0
    names = [v.name for v in onnx.load(out).graph.input]
    assert names == ["image", "labels", "eps", "count", "image_noise"]
    for words in (["--eps", "much"], ["--eps", "1", "--random-start", "yes"]):
        assert command(monkeypatch, "pgd", "models/digits.onnx", "-o", out, *words) == 1
        assert "'input'" in capsys.readouterr().err
