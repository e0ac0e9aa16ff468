"""Writes docs/runtimes.md from the verdicts of all runtimes: `python -m tools.runtimes.page`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from onnxgrad.verify.limits import RUNTIMES, obstacles
from tools.runtimes.nets import GRADIENTS, TARGETS
from tools.tables import markdown_table

ROOT = Path(__file__).parents[2]
FILES = ROOT / "out" / "runtimes"
PAGE = ROOT / "docs" / "runtimes.md"
BEGIN, END = "<!-- made by tools/runtimes/page.py -->", "<!-- /made -->"
VERDICTS = ("right", "wrong", "refused")
MARKS = {"right": "✓", "wrong": "wrong", "refused": "–"}


@dataclass(frozen=True)
class Judged:
    """A runtime that was measured.

    Attributes:
        title: Its name, before its version.
        least: How many of the files for the targets portable and cpu are right at least.
        limits: The key of what is known to stop it; None if nothing does.
    """

    title: str
    least: tuple[int, int]
    limits: str | None = None


JUDGED = {
    "onnxruntime": Judged("onnxruntime", (50, 50)),
    "onnxruntime-1.15": Judged("onnxruntime", (50, 50)),
    "onnxruntime-1.16": Judged("onnxruntime", (50, 50)),
    "onnxruntime-1.17": Judged("onnxruntime", (50, 50)),
    "web-wasm": Judged("onnxruntime-web, wasm", (50, 50)),
    "reference": Judged("ReferenceEvaluator of onnx", (50, 40), "reference"),
    "openvino": Judged("OpenVINO, CPU", (50, 16), "openvino"),
    "tract": Judged("tract, fixed sizes", (46, 24), "tract"),
    "web-webgpu": Judged("onnxruntime-web, WebGPU", (48, 19), "webgpu"),
}
"""The runtimes that are measured, by the names of their results."""

Files = dict[str, tuple[str, str]]


def results() -> dict[str, tuple[str, Files]]:
    """The version and the verdicts of all runtimes that have been measured."""
    found = {}
    for name in JUDGED:
        path = FILES / "results" / f"{name}.json"
        if path.exists():
            read = json.loads(path.read_text())
            found[name] = read["version"], {k: tuple(v) for k, v in read["files"].items()}
    return found


def counted(files: Files, target: str) -> list[int]:
    """How many files of a target have which verdict."""
    of = [verdict for name, (verdict, _) in files.items() if name.endswith(f"-{target}")]
    return [of.count(verdict) for verdict in VERDICTS]


def matrix(measured: dict[str, tuple[str, Files]]) -> str:
    """The verdicts by runtime, of both targets."""
    head = ["runtime", "portable: right", "wrong", "refused", "cpu: right", "wrong", "refused"]
    rows = []
    for name, (version, files) in measured.items():
        numbers = [*counted(files, "portable"), *counted(files, "cpu")]
        rows.append([f"{JUDGED[name].title} {version}", *map(str, numbers)])
    return markdown_table(head, rows)


def by_gradient(measured: dict[str, tuple[str, Files]]) -> str:
    """The verdicts on the two files for the target portable, of runtimes that do not take all."""
    some = [name for name in measured if any(counted(measured[name][1], "portable")[1:])]
    rows = []
    for gradient in GRADIENTS:
        end = f"/{gradient.name}-portable"
        marks = (
            " ".join(MARKS[v] for file, (v, _) in measured[name][1].items() if file.endswith(end))
            for name in some
        )
        rows.append([gradient.name, *marks])
    return markdown_table(["gradient", *(JUDGED[name].title for name in some)], rows)


def reasons(measured: dict[str, tuple[str, Files]]) -> str:
    """What stops files, by runtime, as `inspect --runs-on` says it."""
    rows = []
    for name, judged in JUDGED.items():
        if name not in measured or judged.limits is None:
            continue
        counts: dict[tuple[str, str], dict[str, int]] = {}
        for file, (verdict, _) in measured[name][1].items():
            if verdict != "right":
                for o in obstacles(FILES / f"{file}.onnx", judged.limits):
                    by_target = counts.setdefault((o.what, o.effect), dict.fromkeys(TARGETS, 0))
                    by_target[file.rsplit("-", 1)[1]] += 1
        for (what, effect), by_target in counts.items():
            rows.append([judged.title, what, effect, *(str(by_target[t]) for t in TARGETS[::-1])])
    return markdown_table(["runtime", "what", "effect", *TARGETS[::-1]], rows)


def listed() -> str:
    """What stops the files for the target portable on runtimes that were not measured."""
    rows = []
    for runtime in ("tensorrt", "directml", "coreml"):
        for limit in RUNTIMES[runtime]:
            files, operators = 0, set()
            for gradient in GRADIENTS:
                path = FILES / "fixed" / f"{gradient.name}-portable.onnx"
                found = [o for o in obstacles(path, runtime) if o.what == limit.what]
                files += bool(found)
                operators |= {w.split(" (")[-1].rstrip(")") for o in found for w in o.where}
            if files:
                names = "" if "sizes" in limit.what else ", ".join(sorted(operators))
                rows.append([runtime, limit.what, limit.effect, str(files), names])
    return markdown_table(["runtime", "what", "effect", "files", "operators"], rows)


def main() -> None:
    """Put the tables into the page, where it says so."""
    measured = results()
    made = [matrix(measured), by_gradient(measured), reasons(measured), listed()]
    text = PAGE.read_text()
    pieces = text.split(BEGIN)
    assert len(pieces) == len(made) + 1
    new = pieces[0] + "".join(
        f"{BEGIN}\n\n{part}\n\n{END}{piece.split(END)[1]}"
        for part, piece in zip(made, pieces[1:], strict=True)
    )
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
