"""The programs of examples/cpp, as docs/deploy.md compiles and runs them: `make cpp`.

What they compute is what the same files compute here.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import onnxgrad as og
from tests.examples.places import ROOT, call, in_cpp, run

PAGE = ROOT / "docs" / "deploy.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = in_cpp


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all commands of the page have been run; what they printed has been compared."""
    folder = tmp_path_factory.mktemp("a folder") / "of examples"
    folder.mkdir()
    for name in ("examples", "models"):
        (folder / name).symlink_to(ROOT / name)
    blocks = BLOCK.findall(PAGE.read_text())
    for (language, command), (following, text) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "bash":
            called = call(command, folder)
            assert called.returncode == 0, command + called.stdout + called.stderr
            if following == "text":
                same_text(called.stdout, text)
    return folder


def same_text(found: str, expected: str) -> None:
    """The same words, and numbers that differ by rounding at most."""
    number = r"\d+\.\d+"
    assert re.sub(number, "#", found) == re.sub(number, "#", expected)
    a, b = ([float(n) for n in re.findall(number, text)] for text in (found, expected))
    np.testing.assert_allclose(a, b, rtol=1e-2)


def test_explain(folder: Path) -> None:
    photo = np.asarray(Image.open(folder / "files" / "cat.ppm"), np.float32)
    image = ((photo - 127) / 128).transpose(2, 0, 1)[None]
    logits, expected = run(folder / "files" / "explained.onnx", {"image": image}).values()
    printed = call("./explain files/explained.onnx files/cat.ppm map.pgm 127 128", folder).stdout
    seen, score = re.fullmatch(r"class (\d+), score (.*)\n", printed).groups()  # type: ignore[union-attr]
    assert int(seen) == logits.argmax()
    assert float(score) == pytest.approx(logits.max(), rel=1e-5)
    found = np.asarray(Image.open(folder / "map.pgm"))
    assert found.shape == (224, 224) and found.max() == 255
    assert np.abs(found - 255 * expected[0] / expected.max()).max() < 0.501


def test_train(folder: Path) -> None:
    files = folder / "files"
    step = onnxruntime.InferenceSession(files / "step.onnx")
    names = [o.name for o in step.get_outputs()]
    state, training = run(files / "init.onnx", {}), run(files / "training.onnx", {})
    losses = []
    for first in [*range(0, len(training["labels"]), 64)] * 3:
        batch = {name: t[first : first + 64] for name, t in training.items()}
        feeds = {**batch, **state, "learning_rate": np.array(0.003, np.float32)}
        results = dict(zip(names, step.run(None, feeds), strict=True))
        losses.append(float(results["loss"]))
        state = {name: results[f"{name}_next"] for name in state}
    assert losses[-1] < 0.2 < losses[0]
    trained = {p.stem: np.load(p) for p in (files / "trained").glob("*.npy")}
    assert trained.keys() == state.keys() and trained["step"] == len(losses)
    for name, expected in state.items():
        assert trained[name].dtype == expected.dtype and trained[name].shape == expected.shape
        scale = np.abs(expected).max()
        np.testing.assert_allclose(trained[name], expected, rtol=0, atol=1e-5 * scale)


def test_gradient(folder: Path) -> None:
    og.save(og.gradient(folder / "models" / "mlp.onnx"), folder / "mlp_gradient.onnx")
    size = onnxruntime.InferenceSession(folder / "mlp_gradient.onnx").get_inputs()[0].shape[1]
    expected = run(folder / "mlp_gradient.onnx", {"input": np.ones((2, size), np.float32)})
    printed = call(f"./gradient mlp_gradient.onnx input_grad 2 {size}", folder).stdout
    found = np.array(printed.split(), float)
    np.testing.assert_allclose(found, expected["input_grad"].ravel(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("./explain", "usage: explain"),
        ("./explain files/none.onnx files/cat.ppm map.pgm", "files/none.onnx"),
        ("./explain files/explained.onnx files/step.onnx map.pgm", "no binary PPM of 224 x 224"),
        ("./explain files/infer.onnx files/cat.ppm map.pgm", "takes no photos"),
        ("head -c 999 files/cat.ppm > cut.ppm && ./explain files/explained.onnx cut.ppm map.pgm",
         "cut.ppm ends too early"),
        ("./gradient", "usage: gradient"),
        ("./train", "usage: train"),
        ("./train nowhere 1 64 0.003", "nowhere/step.onnx"),
    ],
)  # fmt: skip
def test_mistakes(folder: Path, command: str, says: str) -> None:
    called = call(command, folder)
    assert called.returncode in (1, 2) and says in called.stderr
