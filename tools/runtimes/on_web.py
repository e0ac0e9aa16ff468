"""onnxruntime-web in headless Chromium: `on_web.py FOLDER wasm|webgpu OUTPUT CHROMIUM ORT VERSION`.

ORT is the folder of its files. Started where playwright-core lies.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import judge
import numpy as np


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that does not print."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(folder: Path, provider: str, output: Path, chromium: str, ort: Path, version: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "files").symlink_to(folder.resolve())
        (Path(root) / "ort").symlink_to(ort.resolve())
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        script = str(Path(__file__).with_suffix(".mjs").resolve())
        done = subprocess.run(
            ["node", script, chromium, address, provider],
            env=os.environ | {"NO_PROXY": "*"},
            stdout=subprocess.PIPE,
            check=True,
        )
        server.shutdown()
    files = {}
    values = json.loads((folder / "values.json").read_text())
    for name, seen in json.loads(done.stdout).items():

        def outcome(k: int, seen: dict = seen) -> list[np.ndarray]:
            if "refused" in seen:
                raise RuntimeError(seen["refused"])
            return [judge.array(written) for written in seen["outputs"][k]]

        files[name] = judge.judged(outcome, values[name])
    judge.write(output, version, files)


if __name__ == "__main__":
    folder, provider, output, chromium, ort, version = sys.argv[1:]
    main(Path(folder), provider, Path(output), chromium, Path(ort), version)
