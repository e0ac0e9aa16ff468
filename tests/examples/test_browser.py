"""The page of examples/browser, used in headless Chromium: `make browser`.

What onnxruntime-web computes there is what onnxruntime computes here, of the same files.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out"
SITE = OUT / "browser"
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and (SITE / "files").exists() and (OUT / "node_modules").exists()),
        reason="there is no page yet: make browser",
    ),
    # Workers would each open a browser.
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="make browser runs these"),
]
Arrays = dict[str, np.ndarray]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def seen(address: str, pictures: Path) -> Any:
    """What the page showed and computed."""
    command = ["node", str(Path(__file__).with_name("drive.mjs")), str(CHROMIUM), address]
    run = subprocess.run(
        [*command, str(pictures)],
        cwd=OUT,
        env=os.environ | {"NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


def run(name: str, feeds: Arrays) -> Arrays:
    session = onnxruntime.InferenceSession(SITE / "files" / f"{name}.onnx")
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name: feeds[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(None, wanted), strict=True))


@pytest.fixture(scope="module")
def expected() -> tuple[list[float], Arrays, Arrays]:
    """The losses of ten steps, the state behind them, and an explanation with it."""
    state, training = run("init", {}), run("training", {})
    losses = []
    for first in range(0, 640, 64):
        batch = {name: t[first : first + 64] for name, t in training.items()}
        results = run("step", {**batch, **state, "learning_rate": np.array(0.003, np.float32)})
        losses.append(float(results["loss"]))
        state = {name: results[f"{name}_next"] for name in state}
    digits = {name: t[:3] for name, t in run("held_back", {}).items()}
    return losses, state, run("explained_digit", {**digits, **state})


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
