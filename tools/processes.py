"""Processes of contenders, which a benchmark asks in turns."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent


class Process:
    """A worker: the interpreter `python` at a script that answers commands."""

    def __init__(
        self, python: str, threads: int, limit: float, script: str = "contenders.py"
    ) -> None:
        self.limit = limit
        count = str(threads)
        # Thread pools of libraries that are not told otherwise, BLAS among them.
        limits = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count
        )
        self.process = subprocess.Popen(
            [python, str(TOOLS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            env=os.environ | limits,
        )
        if self.process.stderr is not None:
            drain = self.process.stderr
            self.tail: list[str] = []
            self.pool = ThreadPoolExecutor(1)
            self.pool.submit(lambda: self.tail.extend(list(drain)[-5:]))

    def ask(self, do: str, **command: Any) -> dict[str, Any]:
        """The worker's answer to a command; its key "error" says why there is no other."""
        assert self.process.stdin is not None and self.process.stdout is not None
        late = threading.Event()
        timer = threading.Timer(self.limit, lambda: (late.set(), self.process.kill()))
        timer.start()
        try:
            print(json.dumps({"do": do, **command}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if line:
            return json.loads(line)
        ended = f"it ended with {self.process.wait()}"
        return {"error": f"{do}: over {self.limit:g} s" if late.is_set() else ended}

    def close(self) -> None:
        """End the worker."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
