"""Where the examples run: in C++ and in a browser, which `make cpp` and `make browser` lay out."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out"
ORT = OUT / "onnxruntime"
SITE = ROOT / "docs" / "demo"
CHROMIUM = shutil.which("chromium")

Arrays = dict[str, np.ndarray]

in_cpp = [
    pytest.mark.skipif(
        not (shutil.which("g++") and (ORT / "include" / "onnxruntime_cxx_api.h").exists()),
        reason="there are no headers of onnxruntime yet: make cpp",
    ),
    # Workers would each compile.
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="make cpp runs these"),
]
in_browser = [
    pytest.mark.skipif(
        not (
            CHROMIUM
            and (SITE / "ort" / "ort.wasm.min.mjs").exists()
            and (OUT / "node_modules").exists()
        ),
        reason="there is no page yet: make browser",
    ),
    # Workers would each open a browser.
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="make browser runs these"),
]


def run(file: Path, feeds: Arrays) -> Arrays:
    """What onnxruntime gives here, fed with those of the arrays that the file takes."""
    session = onnxruntime.InferenceSession(file)
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name: feeds[i.name] for i in session.get_inputs()}
    return dict(zip(names, session.run(None, wanted), strict=True))


def call(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of a shell, to which ORT is the folder of onnxruntime for C++."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=os.environ | {"ORT": str(ORT), "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def browse(script: str, *arguments: Any) -> Any:
    """What a script here prints, which uses Chromium."""
    run = subprocess.run(
        ["node", str(Path(__file__).with_name(script)), str(CHROMIUM), *map(str, arguments)],
        cwd=OUT,
        env=os.environ | {"NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)
