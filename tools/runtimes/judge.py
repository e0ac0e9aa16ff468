"""What a runtime makes of the files: right, wrong, or refused and why. Needs numpy alone.

A script of a runtime calls `main` with a function that loads a file. Every file has a process of
its own, so that one that crashes or hangs is refused, and the others go on.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], Sequence[np.ndarray]]
"""What a loaded file computes of feeds: its outputs in their order."""
SECONDS = 100  # for one file
# The runs of a file, by its kind.
RUNS = {"open": slice(2), "fixed": slice(1), "other": slice(1, 2)}
ROUNDING = {"float16": 2e-2}  # of the largest element, and for other dtypes:
USUAL = 1e-3


def array(written: dict[str, Any]) -> np.ndarray:
    """An array as JSON has it."""
    return np.array(written["data"], written["dtype"]).reshape(written["shape"])


def read(arrays: dict[str, Any]) -> Arrays:
    """Arrays as JSON has them."""
    return {name: array(written) for name, written in arrays.items()}


def difference(found: Sequence[np.ndarray], expected: Arrays) -> str:
    """The first output that is not as expected, in words; empty if all are."""
    for (name, right), got in zip(expected.items(), found, strict=True):
        if got.shape != right.shape:
            return f"{name} has shape {list(got.shape)}, not {list(right.shape)}"
        scale = max(np.abs(right.astype(float)).max(initial=0), 1e-6)
        error = np.abs(got.astype(float) - right.astype(float)).max(initial=0) / scale
        if not error < ROUNDING.get(str(right.dtype), USUAL):
            return f"{name} is off by {error:.2g} of its largest element"
    return ""


def reason(error: BaseException) -> str:
    """An error in one line, without places in memory or of this machine."""
    text = " ".join(re.sub(r"(?s)Stack backtrace.*", "", str(error)).split())
    text = re.sub(r"0x[0-9a-f]+|(?<![\w/])/[\w./+-]*/", "", text)
    return f"{type(error).__name__}: {text}"[:400]


def judged(
    outcome: Callable[[int], Sequence[np.ndarray]], runs: list[dict[str, Any]]
) -> tuple[str, str]:
    """The verdict on a file, of which `outcome` gives the outputs of a run."""
    for k, run in enumerate(runs):
        try:
            found = [np.asarray(output) for output in outcome(k)]
        except BaseException as e:  # of a runtime anything may come
            return "refused", reason(e)
        if said := difference(found, read(run["outputs"])):
            return "wrong", f"{said}, in run {k + 1}"
    return "right", ""


def _one(load: Callable[[Path], Run], path: Path, runs: list[dict[str, Any]], pipe: Any) -> None:
    loaded: list[Run] = []

    def outcome(k: int) -> Sequence[np.ndarray]:
        if not loaded:
            loaded.append(load(path))
        return loaded[0](read(runs[k]["feeds"]))

    pipe.send(judged(outcome, runs))


def _apart(load: Callable[[Path], Run], path: Path, runs: list[dict[str, Any]]) -> tuple[str, str]:
    """The verdict on a file, by a process of its own."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_one, args=(load, path, runs, there))
    process.start()
    there.close()
    try:
        if here.poll(SECONDS):
            return here.recv()
        return "refused", f"not done after {SECONDS} s"
    except EOFError:
        process.join()
        return "refused", f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def write(output: Path, version: str, files: dict[str, tuple[str, str]]) -> None:
    """Write the verdicts of a runtime, and print how many there are of each."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"version": version, "files": files}, indent=1))
    count = {v: sum(f[0] == v for f in files.values()) for v in ("right", "wrong", "refused")}
    print(f"{output.stem} {version}: {count}", flush=True)


def files(folder: Path, wanted: str) -> dict[str, list[dict[str, Any]]]:
    """The files of a folder as KIND/NAME-TARGET, each with its runs.

    `wanted` is a list as in "open-portable,fixed-portable,open-cpu".
    """
    values = json.loads((folder / "values.json").read_text())
    pairs = [one.split("-") for one in wanted.split(",")]
    return {
        f"{kind}/{name}-{target}": runs[RUNS[kind]]
        for kind, target in pairs
        for name, runs in values.items()
    }


def main(version: str, load: Callable[[Path], Run]) -> None:
    """Judge files of a folder: `python on_RUNTIME.py FOLDER WANTED OUTPUT`."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[3])
    judged = {
        name: _apart(load, folder / f"{name}.onnx", runs)
        for name, runs in files(folder, sys.argv[2]).items()
    }
    write(output, version, judged)
