"""The page of docs/demo, used in headless Chromium: `make browser`.

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
BATCH, OWN, RATE = 64, 16, 0.003
STROKES = np.array([[0.25, 0.12], [0.75, 0.12], [0.45, 0.9]])  # of the seven that is drawn

pytestmark = in_browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def seen(pictures: Path) -> Any:
    """What the page showed and computed, served below a path as a part of a site is."""
    with served(SITE.parent) as address:
        return browse("drive.mjs", f"{address}{SITE.name}/", pictures)


def lesson(state: Arrays, steps: int, taught: Arrays | None = None) -> tuple[list[float], Arrays]:
    """The losses of a few steps of training over the digits and what is taught, and the state."""
    training = run(FILES / "training.onnx", {})
    losses = []
    for first in range(0, steps * BATCH, BATCH):
        first %= BATCH * -(-len(training["labels"]) // BATCH)
        batch = {name: t[first : first + BATCH] for name, t in training.items()}
        if taught is not None:
            batch = {n: np.concatenate([t, *[taught[n]] * OWN]) for n, t in batch.items()}
        rate = np.array(RATE, np.float32)
        results = run(FILES / "step.onnx", {**batch, **state, "learning_rate": rate})
        losses.append(float(results["loss"]))
        state = {name: results[f"{name}_next"] for name in state}
    return losses, state


def close(found: list[float], expected: np.ndarray, rtol: float = 1e-4) -> None:
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=rtol * scale)


def share(text: str) -> float:
    return float(re.findall(r"([\d.]+)\s%", text)[0])


def drawn(shown: Any) -> np.ndarray:
    """The drawing as the net saw it."""
    return np.array(shown["cells"], np.float32).reshape(1, 1, 8, 8)


def numbers_agree(shown: Any, state: Arrays, target: int) -> Arrays:
    """Whether the page shows what Python computes of the same drawing; all that it computes."""
    feeds = {**state, "image": drawn(shown), "target": np.array([target])}
    results = run(FILES / "explained_digit.onnx", feeds)
    powers = np.exp(results["logits"][0] - results["logits"].max())
    chances = [share(text) for text in shown["chances"]]
    np.testing.assert_allclose(chances, 100 * powers / powers.sum(), atol=0.06)
    (cam,) = (results[name] for name in results if name.endswith("_cam"))
    ink = results["image_ink"]
    close(shown["ink"], ink / np.abs(ink).max(), 1e-3)
    close(shown["cam"], cam, 1e-3)
    return results


def test_a_drawing_is_explained_and_taught(seen: Any) -> None:
    state = {**run(FILES / "init.onnx", {}), **run(FILES / "trained.onnx", {})}
    numbers_agree(seen["example"], state, 3)
    results = numbers_agree(seen["drawn"], state, 2)
    paper = run(FILES / "infer.onnx", {**state, "image": np.zeros_like(drawn(seen["drawn"]))})
    rise = results["logits"][0, 2] - paper["logits"][0, 2]
    assert results["image_ink"].sum() == pytest.approx(rise, rel=0.05)
    numbers_agree(seen["chosen"], state, 7)

    taught = {"image": drawn(seen["drawn"]), "labels": np.array([7])}
    losses, state = lesson(state, int(seen["taught"]["steps"]), taught)
    assert losses[0] > 0.3 and losses[-1] < 0.1 * losses[0]
    assert float(seen["taught"]["loss"]) == pytest.approx(losses[-1], abs=2e-3)
    numbers_agree(seen["taught"], state, 7)


def test_modules_compute_what_python_does(seen: Any) -> None:
    numbers = seen["numbers"]
    losses, state = lesson(run(FILES / "init.onnx", {}), 10)
    digits = {name: t[:3] for name, t in run(FILES / "held_back.onnx", {}).items()}
    target = np.array([1, 2, 3])
    explained = run(FILES / "explained_digit.onnx", {**digits, **state, "target": target})
    np.testing.assert_allclose(numbers["losses"], losses, rtol=1e-4)
    assert losses[-1] < 0.6 * losses[0]
    assert numbers["explained"].keys() == explained.keys() and len(explained) == 3
    assert numbers["state"].keys() == state.keys() and len(state) > 20
    for name, values in explained.items():
        close(numbers["explained"][name], values)
    for name, values in state.items():
        close(numbers["state"][name], values)


def test_the_map_follows_the_strokes(seen: Any) -> None:
    begun, whole, chosen = seen["begun"], seen["drawn"], seen["chosen"]
    assert seen["example"]["ink"] != begun["ink"] != whole["ink"] != chosen["ink"]
    assert begun["reading"] == seen["example"]["reading"]  # read out when the stroke is done
    assert re.match(r"Read as 2 with .*Most speaks for 2 .*, most against it ", whole["reading"])
    assert "and as 7 with" in chosen["reading"] and "read as 2" in chosen["label"]
    painted = whole["painted"]
    assert painted["orange"] > 1000 and painted["blue"] > 1000
    ends = np.linspace(STROKES[:-1], STROKES[1:], 200).reshape(-1, 2)
    places = np.array(painted["places"])[::7]
    apart = np.linalg.norm(places[:, None] - ends, axis=2)
    assert apart.min(axis=1).max() < 0.055  # all colour is on the ink, 0.09 wide,
    assert apart.min(axis=0).max() < 0.02  # and all of the ink is there


def test_what_is_taught_is_read(seen: Any) -> None:
    before, after, again = seen["chosen"], seen["taught"], seen["again"]
    assert before["now"].startswith("2") and after["now"].startswith("7")
    assert share(after["now"]) > 95 and share(after["accuracy"]) > 95
    assert "7" in before["learn"] and "Finished" in after["progress"]
    assert share(after["progress"]) == share(after["accuracy"])
    for name in ("now", "accuracy", "steps", "loss", "chances", "ink"):  # nothing of it is left
        assert again[name] == before[name]


def test_the_net_learns_from_random_weights(seen: Any) -> None:
    before, paused, after = seen["random"], seen["paused"], seen["learnt"]
    assert before["steps"] == "0" and "random" in before["status"]
    assert share(before["accuracy"]) < 30 and share(after["accuracy"]) > 95
    assert 20 <= int(paused["steps"]) < int(after["steps"])
    assert float(after["loss"]) < float(paused["loss"]) and float(after["loss"]) < 0.3
    assert "Finished" in after["progress"] and after["now"].startswith("3")
    assert seen["restarted"]["accuracy"] == before["accuracy"]


def test_the_keyboard_draws(seen: Any) -> None:
    assert seen["focused"] == ["learn", "3px"]
    assert seen["empty"]["label"] == "Drawing area, empty" and not any(seen["empty"]["ink"])
    assert re.match(r"Read as 1 with", seen["keyed"]["reading"])
    assert "read as 1" in seen["keyed"]["label"]


def test_what_lacks_is_said(seen: Any) -> None:
    words = {
        "runtime": "“make page” puts it there",
        "wasm": "ort/ort-wasm-simd-threaded.wasm",
        "net": "files/step.onnx cannot be loaded",
        "script": "A script of this page could not be loaded",
        "webassembly": "has no WebAssembly",
    }
    assert seen["words"].keys() == words.keys()
    for name, expected in words.items():
        assert expected in seen["words"][name]


def test_nothing_is_wrong_with_the_page(seen: Any, pictures: Path) -> None:
    assert seen["errors"] == [] and seen["barriers"] == []  # the latter by axe
    assert seen["motion"] == 0  # where none is wanted
    assert not any(seen[size]["overflow"] for size in ("example", "small"))
    assert all(seen[moment]["shift"] < 0.01 for moment in ("example", "taught", "learnt"))
    assert {p.name for p in pictures.iterdir()} == {"light.png", "dark.png", "small.png"}
