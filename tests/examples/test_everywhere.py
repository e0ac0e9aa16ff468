"""One folder of artifacts trains on onnxruntime, on onnx's reference evaluator, in C++ and in a
browser, to the same losses: the latter two where `make cpp` and `make browser` have been run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from examples import write_files
from tests.examples.places import ROOT, SITE, Arrays, browse, call, in_browser, in_cpp, run, served

EPOCHS, BATCH, RATE = 2, 64, 0.003
EXAMPLES = 250  # the last batch is smaller


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    write_files.digits(folder)
    few = {name: t[:EXAMPLES] for name, t in write_files.data()["training"].items()}
    onnx.save(write_files.giving(few), folder / "training.onnx")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[float]:
    losses = on_onnxruntime(folder)
    assert losses[-1] < 0.8 * losses[0]
    return losses


def learn(folder: Path, step: Callable[[Arrays], Arrays]) -> list[float]:
    """The loss of each epoch, where a runtime runs the step."""
    properties = onnx.load(folder / "step.onnx").metadata_props
    (following,) = (json.loads(p.value) for p in properties if p.key == "onnxgrad.state")
    state, training = run(folder / "init.onnx", {}), run(folder / "training.onnx", {})
    losses = []
    for _ in range(EPOCHS):
        loss = 0.0
        for first in range(0, EXAMPLES, BATCH):
            batch = {name: t[first : first + BATCH] for name, t in training.items()}
            results = step({**batch, **state, "learning_rate": np.array(RATE, np.float32)})
            loss += float(results["loss"]) * len(batch["labels"]) / EXAMPLES
            state = {name: results[following[name]] for name in state}
        losses.append(loss)
    return losses


def on_onnxruntime(folder: Path) -> list[float]:
    session = onnxruntime.InferenceSession(folder / "step.onnx")
    names = [o.name for o in session.get_outputs()]
    return learn(folder, lambda feeds: dict(zip(names, session.run(None, feeds), strict=True)))


def on_the_reference(folder: Path) -> list[float]:
    step = ReferenceEvaluator(str(folder / "step.onnx"))
    names = step.output_names
    return learn(folder, lambda feeds: dict(zip(names, step.run(None, feeds), strict=True)))


def in_a_program(folder: Path) -> list[float]:
    source = ROOT / "examples" / "cpp" / "train.cpp"
    made = call(
        f'g++ -std=c++17 -o train "{source}" -I"$ORT/include" -L"$ORT/lib" -lonnxruntime'
        f' -Wl,-rpath,"$ORT/lib" && ./train . {EPOCHS} {BATCH} {RATE}',
        folder,
    )
    assert made.returncode == 0, made.stderr
    return [float(loss) for loss in re.findall(r"loss (\S+),", made.stdout)]


def in_a_page(folder: Path) -> list[float]:
    site = folder / "site"
    site.mkdir()
    for path in SITE.iterdir():
        (site / path.name).symlink_to(folder if path.name == "files" else path)
    with served(site) as address:
        losses: list[float] = browse("learn.mjs", address, EPOCHS, BATCH, RATE)
    return losses


@pytest.mark.parametrize(
    "learnt",
    [
        on_the_reference,
        pytest.param(in_a_program, marks=in_cpp),
        pytest.param(in_a_page, marks=in_browser),
    ],
)
def test_losses(learnt: Callable[[Path], list[float]], folder: Path, expected: list[float]) -> None:
    np.testing.assert_allclose(learnt(folder), expected, rtol=1e-4)
