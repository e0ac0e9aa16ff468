"""The page of clusters: each part runs where its library is installed, in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.project.test_docs import PARALLEL, blocks, folder, run_groups

__all__ = ["folder"]

PARTS = dict(part.split("\n", 1) for part in PARALLEL.read_text().split("\n## ")[1:])
# By a library, the parts that import it, which run in one process.
NEEDS = {
    "ray": ["Ray: gradients and attributions for many rows", "Ray: a training shared by workers"],
    "pyspark": ["Spark"],
    "dask": ["Dask"],
    "apache_beam": ["Beam"],
    "onnxgrad": ["Triton"],
}


def part_of(title: str, folder: Path) -> list[tuple[str, str | None]]:
    page = folder / "part.md"
    page.write_text(PARTS[title])
    return blocks(page, "python")


def test_each_part_has_its_test() -> None:
    assert set(PARTS) == {*itertools.chain(*NEEDS.values()), "KServe"}


@pytest.mark.parametrize("library", NEEDS)
def test_the_page_runs(library: str, folder: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: make ray")
    if library == "pyspark" and shutil.which("java") is None:
        pytest.skip("Java is not installed: apt-get install default-jre-headless")
    run_groups([part_of(title, folder) for title in NEEDS[library]], folder)


def test_the_function_of_spark_runs_outside_of_it(folder: Path) -> None:
    """Without Java too: what Spark calls in a worker."""
    ((code, _),) = part_of("Spark", folder)
    start = code.index("def gradients")
    space: dict[str, object] = {"og": og}
    exec(code[start : code.index("os.environ")], space)
    x = np.ones((2, 4), np.float32)
    expected = og.Net("models/mlp.onnx")(x, og.NetPortGradient("input"))
    np.testing.assert_array_equal(space["gradients"]()(x), expected)


def test_the_explainer_of_kserve_explains(folder: Path, tmp_path, monkeypatch) -> None:
    """With a stand-in for the server, and the service's description read as YAML."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: make test")
    page = folder / "part.md"
    page.write_text(PARTS["KServe"])
    ((text, _),) = blocks(page, "yaml")
    spec = yaml.safe_load(text)["spec"]
    assert spec["predictor"]["model"]["modelFormat"] == {"name": "triton"}
    assert [c["name"] for c in spec["explainer"]["containers"]] == ["kserve-container"]
    stand_in = types.ModuleType("kserve")
    stand_in.Model = type("Model", (), {"__init__": lambda self, name: None})
    monkeypatch.setitem(sys.modules, "kserve", stand_in)
    ((code, _),) = blocks(page, "python")
    space: dict[str, object] = {"__name__": "page"}
    exec(code, space)
    path = tmp_path / "why.onnx"
    onnx.save(og.explain.saliency("models/digits.onnx", target="argmax"), path)
    explainer = space["Explainer"]("digits")
    assert explainer.load(path)
    x = np.ones((2, 1, 8, 8), np.float32)
    found = asyncio.run(explainer.explain({"instances": x.tolist()}))
    expected = og.Net(path)(x)["image_attribution"]
    np.testing.assert_allclose(np.array(found["explanations"], np.float32), expected, rtol=1e-6)
