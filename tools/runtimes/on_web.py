"""onnxruntime-web in Chromium: `on_web.py FOLDER WANTED OUTPUT PROVIDER CHROMIUM ORT VERSION`.

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


def main(
    folder: Path, wanted: str, output: Path, provider: str, chromium: str, ort: Path, version: str
) -> None:
    files = judge.files(folder, wanted)
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "files").symlink_to(folder.resolve())
        (Path(root) / "ort").symlink_to(ort.resolve())
        feeds = {name: [run["feeds"] for run in runs] for name, runs in files.items()}
        (Path(root) / "feeds.json").write_text(json.dumps(feeds))
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
    judged = {}
    for name, seen in json.loads(done.stdout).items():

        def outcome(k: int, seen: dict = seen) -> list[np.ndarray]:
            if "refused" in seen:
                raise RuntimeError(seen["refused"])
            return [judge.array(written) for written in seen["outputs"][k]]

        judged[name] = judge.judged(outcome, files[name])
    judge.write(output, version, judged)


if __name__ == "__main__":
    folder, wanted, output, provider, chromium, ort, version = sys.argv[1:]
    main(Path(folder), wanted, Path(output), provider, chromium, Path(ort), version)
