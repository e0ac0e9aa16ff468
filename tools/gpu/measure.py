"""The command: prepares contenders together, measures them one by one, and ends in time."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell as Authored
from cells import author
from comparing import difference
from processes import TOOLS, Process
from tables import console, number

from gpu.plan import BATCHES, NETS, OURS, PEERS, QUICK, QUICK_BATCHES, TORCH, Cell, Job, Way, waves
from gpu.report import ABSENT, LATE, SECTION, Answers, Report
from gpu.wheels import unpack

KEPT = TOOLS.parent / "out" / "gpu.json"
TABLE = TOOLS.parent / "docs" / "performance.md"
# What is left of the budget for the report.
RESERVE = 10.0
# A device with less memory, in GB, gets half of the nets at a time.
LARGE_MEMORY = 100
# Rounding puts an activation on the other side of a kink: in a small tensor that is so much.
TOLERANCE = 5e-2
# Seeds are as small as those of a mean, or gradients overflow in float16.
SEED = 1 / 8


class Machine:
    """The workers, one for each net and library, and how much time is left.

    Args:
        args: The command line.
        folder: For the files between the workers.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.end = time.monotonic() + args.budget - RESERVE
        self.workers: dict[tuple[str, str], Process] = {}

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def ask(self, net: str, library: str, do: str, /, **command: Any) -> dict[str, Any]:
        """What a worker answers; one that takes too long is ended, and the next one is new."""
        limit = min(self.args.limit, self.left)
        if limit <= 0:
            return {"error": LATE}
        worker = self.workers.get((net, library))
        if worker is None or worker.process.poll() is not None:
            worker = Process(sys.executable, self.args.threads, limit, "gpu/worker.py")
            self.workers[net, library] = worker
        worker.limit = limit
        answer = worker.ask(do, **command)
        if "error" in answer:
            answer["error"] = answer["error"].strip().splitlines()[0][:200]
        return answer

    def task(self, cell: Cell) -> dict[str, Any]:
        """What the workers are told of a cell."""
        options = QUICK[cell.net] if self.args.quick else {}
        named = Authored(cell.net, cell.batch, cell.kind)
        task = author(named, self.folder, seed=SEED / cell.batch, **options)
        device = {"device": self.args.device, "folder": str(self.folder)}
        return task | device | {"precision": cell.precision, "threads": self.args.threads}

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.process.kill()
            worker.close()


def prepare(machine: Machine, job: Job, report: Report) -> list[Way]:
    """Open a job's ways, side by side where their libraries differ; those that give the gradient.

    What failed is in the report.
    """
    row = report.cells.setdefault(job.cell, {})
    net = job.cell.net
    reference = f"{machine.folder}/float32-{net}-{job.cell.batch}-{job.cell.kind}.npz"
    task = machine.task(job.cell) | {"reference": ""}
    paths = {way: f"{machine.folder}/{net}-{way.name}.npz" for way in job.ways}

    def opened(library: str) -> dict[Way, dict[str, Any]]:
        found = {}
        for way in (way for way in job.ways if way.library == library):
            own = {"label": way.name, "path": paths[way]}
            if way is TORCH and not Path(reference).exists():
                own |= {"reference": reference}
            needs = way.cuda and machine.args.device != "cuda"
            found[way] = (
                {"error": ABSENT} if needs else machine.ask(net, library, "open", **(task | own))
            )
        return found

    libraries = list(dict.fromkeys(way.library for way in job.ways))
    answers: dict[Way, dict[str, Any]] = {}
    with ThreadPoolExecutor(len(libraries)) as pool:
        for found in pool.map(opened, libraries):
            answers |= found
    for way in job.ways:
        if way is not OURS or OURS.name not in row or "error" in row[OURS.name]:
            row[way.name] = answers[way]
    there = [way for way in job.ways if "error" not in answers[way]]
    return checked(there, paths, reference, row)


def checked(ways: Iterable[Way], paths: dict[Way, str], reference: str, row: Answers) -> list[Way]:
    """Those ways whose gradients are those of the reference; of the others the error is noted."""
    right, allowed = [], TOLERANCE
    wanted = dict(np.load(reference)) if Path(reference).exists() else None
    # PyTorch's own error comes first: float16 has one that no one can help.
    for way in sorted(ways, key=lambda way: way.library == "onnxgrad"):
        found = dict(np.load(paths[way]))
        if not found:
            right.append(way)  # the net's own forward pass
            continue
        if wanted is None:
            row[way.name]["error"] = "not timed: PyTorch gave no gradient to compare with"
            continue
        error = row[way.name]["difference"] = difference(found, wanted)
        theirs = row.get(TORCH.name, {}).get("difference", 0.0)
        allowed = TOLERANCE + 3 * (theirs if np.isfinite(theirs) else 0.0)
        if error <= allowed or (way is TORCH and np.isfinite(error)):
            right.append(way)
        else:
            row[way.name]["error"] = f"not timed: its gradient is off by {error:.2g}"
    return right


def take_turns(machine: Machine, job: Job, ways: list[Way], row: Answers) -> None:
    """Time the ways of a job, and note medians; of a variant also its part of ours in this run."""
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(machine.args.rounds):
        for way in ways:
            seconds = machine.args.seconds
            answer = machine.ask(job.cell.net, way.library, "time", label=way.name, seconds=seconds)
            times[way.name] += answer.get("times", [])
            if "error" in answer:
                row[way.name]["error"] = answer["error"]
    medians = {name: float(np.median(found)) * 1e3 for name, found in times.items() if found}
    for name, median in medians.items():
        row[name].setdefault("ms", median)
        if OURS.name in medians and not {way.name for way in job.ways} & {w.name for w in PEERS}:
            row[name]["of_ours"] = median / medians[OURS.name]


def look_inside(machine: Machine, job: Job, ways: list[Way], row: Answers) -> None:
    """Note where the nodes of a file ran, and on a GPU which kernels took most."""
    if TORCH not in job.ways or OURS not in ways:
        return
    row[OURS.name]["profile"] = machine.ask(job.cell.net, OURS.library, "profile", label=OURS.name)
    if machine.args.device == "cuda":
        for way in (OURS, TORCH):
            if way in ways:
                answer = machine.ask(job.cell.net, way.library, "kernels", label=way.name)
                row[way.name]["kernels"] = answer


def measure(machine: Machine, wave: Sequence[Job], report: Report) -> None:
    """Prepare the jobs of a wave at the same time, then time them one by one."""
    with ThreadPoolExecutor(len(wave)) as pool:
        ready = list(pool.map(lambda job: prepare(machine, job, report), wave))
        for job, ways in zip(wave, ready, strict=True):
            take_turns(machine, job, ways, report.cells[job.cell])
        for job, ways in zip(wave, ready, strict=True):
            look_inside(machine, job, ways, report.cells[job.cell])
        jobs = {(job.cell.net, way.library) for job in wave for way in job.ways}
        list(pool.map(lambda who: machine.ask(*who, "close"), jobs))
    for job in wave:
        answers = {way.name: report.cells[job.cell][way.name] for way in job.ways}
        said = [f"{name} {number(a.get('ms', a.get('error')), 3)}" for name, a in answers.items()]
        console.print(f"{job.cell}: {', '.join(said)}", markup=False, highlight=False)
    console.print(f"{machine.left:.0f} s left", highlight=False)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The command line behind --cuda."""
    parser = argparse.ArgumentParser("bench.py --cuda", description=__doc__)
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the command")
    add("--wheels", type=Path, help="a folder of wheels, or of their pieces (gpu/wheels.py)")
    add("--nets", nargs="*", choices=NETS, default=list(NETS))
    add("--budget", type=float, default=450, help="seconds in which it ends")
    add("--limit", type=float, default=90, help="seconds for one step, such as a compilation")
    add("--rounds", type=int, default=3, help="how often each way has its turn")
    add("--seconds", type=float, default=0.15, help="how long a turn takes at least")
    add("--waves", type=int, help="no more than so many groups of cells")
    add("--threads", type=int, default=4, help="threads of a worker on the CPU")
    add("--quick", action="store_true", help="small nets, for a try")
    add("--keep", action="store_true", help="go on with what an earlier run has not measured")
    add("--markdown", action="store_true", help="write the section of docs/performance.md")
    return parser.parse_args(given)


def pending(wave: Iterable[Job], report: Report) -> list[Job]:
    """The jobs of which a way has no result yet."""

    def lacks(job: Job, way: Way) -> bool:
        answer = report.cells.get(job.cell, {}).get(way.name, {"error": LATE})
        return answer.get("error") == LATE or not {"ms", "error"} & set(answer)

    return [job for job in wave if any(lacks(job, way) for way in job.ways)]


def main(given: Sequence[str]) -> None:
    """Measure what the time allows, write it, and end."""
    args = arguments(given)
    kept = KEPT.with_stem("gpu-quick") if args.quick or args.device == "cpu" else KEPT
    report = Report.load(kept) if args.keep else Report()
    report.commands.append(f"python tools/bench.py --cuda {shlex.join(given)}".rstrip())
    with tempfile.TemporaryDirectory(prefix="onnxgrad-gpu-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        machine = Machine(args, folder)
        s.callback(machine.close)
        if args.wheels:
            unpack(args.wheels, folder / "site")
            path = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
            os.environ["PYTHONPATH"] = os.pathsep.join(path)
        device = machine.ask(args.nets[0], OURS.library, "device", name=args.device)
        if "error" in device:
            sys.exit(f"nothing was measured: {device['error']}")
        known = ", ".join(f"{library} {v}" for library, v in device["versions"].items())
        report.device = f"{device['name']}. {known}"
        console.print(report.device, highlight=False)
        together = len(NETS) if device["memory"] > LARGE_MEMORY else len(NETS) // 2
        batches = QUICK_BATCHES if args.quick else BATCHES
        for wave in list(waves(args.nets, batches, together))[: args.waves]:
            if machine.left <= 0:
                break
            if jobs := pending(wave, report):
                measure(machine, jobs, report)
                report.save(kept)
    report.save(kept)
    console.print(report.section(), markup=False, highlight=False)
    if args.markdown:
        page = SECTION.apart(TABLE.read_text())[0]
        TABLE.write_text(page.rstrip("\n") + "\n\n" + report.section())
