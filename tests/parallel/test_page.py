"""The page of clusters, each part where its library is installed, and the tutorial of Triton.

Each runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import re
import shutil
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxgrad as og
from tests.project.test_docs import PARALLEL, ROOT, blocks, folder, run_groups

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


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[str]:
    """A stand-in for Triton: the JSON of its protocol, and what config.pbtxt says."""

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name = re.fullmatch(r"/v2/models/(\w+)/infer", self.path)[1]
            config = (repository / name / "config.pbtxt").read_text()
            file = re.search(r'default_model_filename: "(.*)"', config)[1]
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            feeds = {}
            for x in given:
                port = f'input [ {{ name: "{x["name"]}" data_type: TYPE_{x["datatype"]} '
                assert f"{port}dims: {x['shape'][1:]} }} ]" in config
                feeds[x["name"]] = np.reshape(np.array(x["data"], np.float32), x["shape"])
            session = onnxruntime.InferenceSession(repository / name / "1" / file)
            names = [y.name for y in session.get_outputs()]
            outputs = [
                {"name": name, "shape": y.shape, "datatype": "FP32", "data": y.ravel().tolist()}
                for name, y in zip(names, session.run(None, feeds), strict=True)
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_name": name, "outputs": outputs}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_tutorial_of_triton_runs(folder: Path) -> None:
    """Its client asks a stand-in for the server, which reads the repository that it has written."""
    here, page = "http://localhost:8000", ROOT / "docs" / "tutorials" / "triton.md"
    with serving(folder / "0" / "repository") as there:
        group = [(code.replace(here, there), text) for code, text in blocks(page, "python")]
        run_groups([group], folder)
