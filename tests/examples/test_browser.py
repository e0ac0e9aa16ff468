"""The page of examples/browser, used in headless Chromium: `make browser`.

What onnxruntime-web computes there is what onnxruntime computes here, of the same files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.examples.places import SITE, Arrays, browse, in_browser, run, served

FILES = SITE / "files"

pytestmark = in_browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def seen(pictures: Path) -> Any:
    """What the page showed and computed."""
    with served(SITE) as address:
        return browse("drive.mjs", address, pictures)


@pytest.fixture(scope="module")
def expected() -> tuple[list[float], Arrays, Arrays]:
    """The losses of ten steps, the state behind them, and an explanation with it."""
    state, training = run(FILES / "init.onnx", {}), run(FILES / "training.onnx", {})
    losses, learning_rate = [], np.array(0.003, np.float32)
    for first in range(0, 640, 64):
        batch = {name: t[first : first + 64] for name, t in training.items()}
        results = run(FILES / "step.onnx", {**batch, **state, "learning_rate": learning_rate})
        losses.append(float(results["loss"]))
        state = {name: results[f"{name}_next"] for name in state}
    digits = {name: t[:3] for name, t in run(FILES / "held_back.onnx", {}).items()}
    return losses, state, run(FILES / "explained_digit.onnx", {**digits, **state})


def close(found: list[float], expected: np.ndarray) -> None:
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=1e-4 * scale)


def test_numbers_are_those_of_python(
    seen: Any, expected: tuple[list[float], Arrays, Arrays]
) -> None:
    losses, state, explained = expected
    numbers = seen["numbers"]
    np.testing.assert_allclose(numbers["losses"], losses, rtol=1e-4)
    assert losses[-1] < 0.6 * losses[0]
    assert numbers["explained"].keys() == explained.keys() and len(explained) == 3
    assert numbers["state"].keys() == state.keys() and len(state) > 20
    for name, values in explained.items():
        close(numbers["explained"][name], values)
    for name, values in state.items():
        close(numbers["state"][name], values)


def share(text: str) -> float:
    return float(re.findall(r"([\d.]+)\s%", text)[0])


def test_the_page_learns(seen: Any) -> None:
    before, paused, after = seen["before"], seen["paused"], seen["after"]
    assert before["steps"] == "0" and "random" in before["status"]
    assert share(before["accuracy"]) < 30 and share(after["accuracy"]) > 95
    assert 20 <= int(paused["steps"]) < int(after["steps"])
    assert float(after["loss"]) < float(paused["loss"]) and float(after["loss"]) < 0.3
    assert "Finished" in after["status"] and share(after["status"]) == share(after["accuracy"])
    assert re.search(r"is a (\d), read as \1 ", after["reading"])
    assert seen["again"]["steps"] == "0"
    assert seen["again"]["accuracy"] == before["accuracy"]  # nothing of the training is left


def test_the_page_explains(seen: Any) -> None:
    for moment in ("before", "after", "next"):
        for name in ("saliency", "cam"):
            values = seen[moment][name]
            assert len(values) == 64 and max(values) == 1 and min(values) >= 0
    for name in ("saliency", "cam"):
        assert seen["before"][name] != seen["after"][name] != seen["next"][name]
    assert seen["after"]["reading"] != seen["next"]["reading"]


def test_nothing_is_wrong_with_the_page(seen: Any, pictures: Path) -> None:
    assert seen["errors"] == []
    assert not any(seen[size]["overflow"] for size in ("before", "small"))
    assert {p.name for p in pictures.iterdir()} == {"light.png", "dark.png", "small.png"}
