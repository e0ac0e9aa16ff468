"""How fast gradients are: beside the peers, and over the floor that the hardware sets.

Every contender runs in a process of its own. They take turns, A B C A B C, and sleep in between.
Before anything is timed their gradients are compared. The floor is 2 times onnxruntime's own
forward time for an input's gradient, 3 times for those of all parameters.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import bridges  # noqa: E402
import contenders  # noqa: E402
import explanations  # noqa: E402
import nets  # noqa: E402
import real  # noqa: E402
import steps  # noqa: E402
import training  # noqa: E402
from cells import Cell, author, cells, explained_cells, real_cells, training_cells  # noqa: E402
from comparing import TOLERANCE, Disagreement, Result, compare  # noqa: E402
from figures import FIGURES  # noqa: E402
from gpu.report import SECTION as GPU  # noqa: E402
from processes import Process  # noqa: E402
from sections import Section  # noqa: E402
from tables import console, machine, markdown_table, number, print_table  # noqa: E402

KEPT = ROOT / "out" / "bench.json"
TABLE = ROOT / "docs" / "performance.md"

FLOOR = {"input": 2, "parameters": 3}
# Measured whatever the peers are.
OURS = ("forward", "onnxgrad", "Net", "gradient")

HEAD = """\
<!-- Written by tools/bench.py --markdown. -->
# Performance

The gradient of a net is timed beside what one would use instead. Every contender runs in a process
of its own; they take turns, and the idle ones sleep. Before anything is timed, their gradients are
compared. On one thread the figure is the CPU time of the process, on two the wall clock's.

Times are given over a floor: 2 times onnxruntime's own forward time for the gradient with respect
to the input, 3 times for all parameters; the column "of best peer" is this package's time over that
of the fastest other. torch and torch.compile run a twin of the net, written as one writes it there.
A net of symbolic sizes is fed those of batch 1; the peers in PyTorch know them beforehand. The
commands give the quantile of the times that is taken, and how busy the machine was: of a busy one
with fewer cores than processes that want to run, the times on two threads say little.

Peak memory is that of a process that loads a gradient's file and runs it, libraries too, with the
gradients of two calls; the file runs as docs/deploy.md says: without a memory pattern and without
reuse of buffers, memory that making the session has freed is given back, and large weights are not
packed for products of 512 rows or more. "Net" is a process that makes a `Net` of the net's own file
and asks it for the gradient.

The peers come with `pip install -e ".[bench]"`, `make training-runtime` and `make onnxsim`; one
that is not here is listed as absent. What bounds the times, and what was tried, is in
[bounds.md](bounds.md)."""


def python_of(contender: type[contenders.Contender]) -> str:
    own = ROOT / contender.environment / "bin" / "python"
    return str(own) if contender.environment else sys.executable


def absent(contender: type[contenders.Contender]) -> str:
    """Why a contender cannot run here; empty if it can."""
    if contender.environment:
        made_by = {".venv-training": "training-runtime", ".venv-onnxsim": "onnxsim"}
        target = made_by[contender.environment]
        there = Path(python_of(contender)).exists()
        return "" if there else f"no {contender.environment}: make {target}"
    package = contender.package
    return "" if importlib.util.find_spec(package) else f"{package} is not installed"


def measure(
    cell: Cell, labels: list[str], threads: int, args: argparse.Namespace, **options: Any
) -> dict[str, Result]:
    """Time a cell: build, open, compare, take turns.

    Args:
        options: What the net is made with, beside its batch.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    who = {label: contenders.contender_of(label, cell.kind) for label in labels}
    results = {label: Result(error=absent(who[label])) for label in labels}
    with tempfile.TemporaryDirectory(prefix="onnxgrad-bench-") as name, contextlib.ExitStack() as s:
        folder = Path(name)
        task = author(cell, folder, **options) | {"threads": threads}
        running: dict[str, Process] = {}
        for label, result in results.items():
            if result.error:
                continue
            own = task | {"label": label, "file": str(folder / f"{label}.onnx")}
            builder = Process(python_of(who[label]), threads, args.limit)
            answer = builder.ask("build", **own)
            builder.close()
            if not _noted(result, answer):
                continue
            process = Process(python_of(who[label]), threads, args.limit)
            s.callback(process.close)
            if _noted(result, process.ask("open", **own)):
                running[label] = process
        within = training.TOLERANCE if cell.kind == "training" else TOLERANCE
        compare(running, results, folder, within)
        for label, times in take_turns(running, threads, args.rounds, args.seconds).items():
            results[label].times[str(threads)] = float(np.quantile(times, args.quantile))
            results[label].forward = results["forward"].times if "forward" in results else {}
        for label, process in running.items():
            _noted(results[label], process.ask("memory"))
            results[label].facts["load"] = load
    return results


def _noted(result: Result, answer: dict[str, Any]) -> bool:
    """Whether a worker did what it was told; what it says is kept."""
    result.error = answer.pop("error", "").splitlines()[0][:100] if "error" in answer else ""
    result.facts.update(answer)
    return not result.error


def take_turns(
    running: dict[str, Process], threads: int, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Times of each contender's calls: of the process on one thread, else on the wall's clock."""
    clock = "cpu" if threads == 1 else "wall"
    times: dict[str, list[float]] = {label: [] for label in running}
    for _ in range(rounds):
        for label, process in running.items():
            answer = process.ask("time", seconds=seconds)
            times[label] += answer[clock]
            time.sleep(0.05)  # until the idle one's threads have stopped spinning
    return times


# -- the report ------------------------------------------------------------------------------------


def over_floor(cell: Cell, row: dict[str, Result], label: str, threads: str) -> float | None:
    """A contender's time over the floor."""
    result = row.get(label)
    if result is None or threads not in result.times:
        return None
    return result.times[threads] / (FLOOR[cell.kind] * result.forward[threads])


def best_peer(cell: Cell, row: dict[str, Result], threads: str) -> tuple[float, str] | None:
    """The fastest peer's time over the floor, and its name."""
    found = [
        (ratio, label)
        for label in row
        if label not in OURS and (ratio := over_floor(cell, row, label, threads)) is not None
    ]
    return min(found, default=None)


def speed_table(
    measured: dict[Cell, dict[str, Result]], threads: str
) -> tuple[list[str], list[list[str]]]:
    """Times over the floor: the names of the columns, and the lines."""
    peers = [label for label in contenders.CONTENDERS if label not in OURS]
    head = ["net", "forward, ms", "onnxgrad", "of best peer", *peers]
    lines = []
    for cell, row in measured.items():
        if "forward" not in row or threads not in row["forward"].times:
            continue
        ours, peer = over_floor(cell, row, "onnxgrad", threads), best_peer(cell, row, threads)
        of_best = number(ours / peer[0]) if ours and peer else "-"
        others = [number(over_floor(cell, row, label, threads)) for label in peers]
        forward = number(row["forward"].times[threads] * 1e3, 3)
        lines.append([str(cell), forward, number(ours), of_best, *others])
    return head, lines


FACTS = {
    "build": "build, s",
    "open": "open, s",
    "first": "first call, s",
    "nodes": "nodes",
    "file": "file, MB",
    "peak": "peak memory, MB",
    "running": "of it in a call, MB",
}


def fact_table(measured: dict[Cell, dict[str, Result]]) -> tuple[list[str], list[list[str]]]:
    """Everything but times: the names of the columns, and the lines."""
    head = ["net", "contender", *FACTS.values(), "difference, or why absent"]
    lines = []
    for cell, row in measured.items():
        for label, result in row.items():
            facts = [number(result.facts.get(key), 3) for key in FACTS]
            note = result.error or (f"{result.difference:.0e}" if result.difference else "")
            lines.append([str(cell), label, *facts, note])
    return head, lines


Rows = dict[tuple[Cell, int], dict[str, Result]]  # by cell and number of threads


def explained_table(measured: Rows) -> tuple[list[str], list[list[str]]]:
    """Time and memory of explanations: the names of the columns, and the lines."""
    lines = []
    for (cell, threads), row in measured.items():
        ours, theirs = row["onnxgrad"], row["captum"]
        if ours.error or theirs.error:
            lines.append([str(cell), str(threads), ours.error or theirs.error, *["-"] * 6])
            continue
        times = [result.times[str(threads)] for result in (ours, theirs)]
        entries = [*(number(t * 1e3, 3) for t in times), number(times[0] / times[1])]
        entries += [number(result.facts["peak"], 3) for result in (ours, theirs)]
        entries += [f"{ours.difference:.0e}", f"{ours.facts['load']:.0f}"]
        lines.append([str(cell), str(threads), *entries])
    return explanations.HEAD, lines


def training_table(measured: Rows) -> tuple[list[str], list[list[str]]]:
    """Time and memory of steps of training: the names of the columns, and the lines."""
    lines = []
    everyone = ("onnxgrad", *training.PEERS)
    for (cell, threads), row in measured.items():
        times = {label: result.times.get(str(threads)) for label, result in row.items()}
        ours, alone = times.get("onnxgrad"), times.get("gradient")
        best = min((times[label] for label in training.PEERS if times.get(label)), default=None)
        share = f"{100 * (1 - alone / ours):.0f}" if ours and alone else "-"
        peaks = [row[label].facts.get("peak") if label in row else None for label in everyone]
        mine = row.get("onnxgrad", Result())
        entries = [number(t and t * 1e3, 3) for t in map(times.get, everyone)]
        entries += [number(ours / best) if ours and best else "-", share]
        entries += [number(peak, 3) for peak in peaks]
        entries += [f"{mine.difference:.0e}" if mine.difference is not None else "-"]
        lines.append([str(cell), str(threads), *entries, number(mine.facts.get("load"), 1)])
    return training.HEAD, lines


def real_table(measured: Rows) -> tuple[list[str], list[list[str]]]:
    """Gradients of real models over forward passes, and their medians, of the peer's models too."""
    lines, ours, both = [], [], []
    for (cell, threads), row in measured.items():
        forward, mine, peer = (
            row.get(label, Result()).times.get(str(threads))
            for label in ("forward", "onnxgrad", real.PEER)
        )
        if forward is None or mine is None:
            continue
        ours.append(mine / forward)
        both += [(mine / forward, peer / forward)] if peer else []
        entries = [number(t * 1e3, 3) for t in (forward, mine)] + [number(mine / forward)]
        entries += [number(peer and peer / forward), number(peer and mine / peer)]
        difference = row["onnxgrad"].difference
        entries += ["-" if difference is None else f"{difference:.0e}"]
        load = f"{row['onnxgrad'].facts['load']:.0f}"
        lines.append([cell.net, str(threads), *entries, load])
    if len(lines) > 1:
        lines.append(["median", "", "", "", number(float(np.median(ours))), *[""] * 4])
    if len(both) > 1:
        median = [float(x) for x in np.median(both, axis=0)]
        of_peer = float(np.median([a / b for a, b in both]))
        figures = [number(x) for x in (*median, of_peer)]
        lines.append(["median where the peer runs", "", "", "", *figures, "", ""])
    return real.HEAD, lines


def absences(measured: Rows) -> list[str]:
    """Who did not do what, and why, each once."""
    found: dict[str, None] = {}
    for (cell, _), row in measured.items():
        for label, result in row.items():
            if result.error:
                found[f"{label}, {cell}: {result.error}"] = None
    return list(found)


@dataclass(frozen=True)
class Topic:
    """What has a section, contenders and a table of its own."""

    section: Section
    contenders: dict[str, type[contenders.Contender]]
    cells: Callable[[list[str], str], Iterator[Cell]]
    table: Callable[[Rows], tuple[list[str], list[list[str]]]]


TOPICS = {
    "explain": Topic(explanations.SECTION, contenders.EXPLAINERS, explained_cells, explained_table),
    "real": Topic(real.SECTION, real.READERS, real_cells, real_table),
    "training": Topic(training.SECTION, steps.STEPPERS, training_cells, training_table),
}


def versions() -> str:
    """The contenders that are here, and those that are not."""
    from importlib.metadata import PackageNotFoundError, version

    lines = []
    for package in ("onnx", "onnx-ir", "onnxruntime", "torch", "onnx-ad", "captum", "onnx2torch"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} absent")
    for peer, release in ((contenders.Training, "1.19.2"), (steps.OnnxSimStep, "0.8.1")):
        lines.append(f"{peer.label} {'absent' if absent(peer) else release}")
    return ", ".join(lines)


# -- what is kept between runs --------------------------------------------------------------------


@dataclass
class Run:
    """The cells and figures of one or several runs."""

    commands: list[str] = field(default_factory=list)
    measured: dict[Cell, dict[str, Result]] = field(default_factory=dict)
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    topics: dict[str, Rows] = field(default_factory=dict)
    ran: dict[str, list[str]] = field(default_factory=dict)  # the commands of each topic
    bridges: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    quick: bool = False

    @staticmethod
    def load() -> Run:
        """What the last runs left."""
        if not KEPT.exists():
            return Run()
        data = json.loads(KEPT.read_text())
        measured = {
            Cell(**cell): {label: Result(**result) for label, result in row.items()}
            for cell, row in data["measured"]
        }
        topics = {
            name: {
                (Cell(**cell), threads): {label: Result(**result) for label, result in row.items()}
                for cell, threads, row in rows
            }
            for name, rows in data["topics"].items()
        }
        return Run(
            data["commands"], measured, data["figures"], topics, data["ran"], data["bridges"]
        )

    def add(self, cell: Cell, row: dict[str, Result]) -> None:
        """A new measurement takes the old one's place, thread count by thread count."""
        old = self.measured.setdefault(cell, {})
        for label, result in row.items():
            if label in old:
                result.times = old[label].times | result.times
                result.forward = old[label].forward | result.forward
            old[label] = result

    def save(self) -> None:
        """For the next run; a quick one leaves what is kept alone."""
        if self.quick:
            return
        KEPT.parent.mkdir(exist_ok=True)
        measured = [
            (asdict(cell), {label: asdict(r) for label, r in row.items()})
            for cell, row in self.measured.items()
        ]
        topics = {
            name: [
                (asdict(cell), threads, {label: asdict(r) for label, r in row.items()})
                for (cell, threads), row in rows.items()
            ]
            for name, rows in self.topics.items()
        }
        data = {"commands": self.commands, "measured": measured, "figures": self.figures}
        data |= {"topics": topics, "ran": self.ran, "bridges": self.bridges}
        KEPT.write_text(json.dumps(data, indent=1))

    def page(self, old: str) -> str:
        """The page docs/performance.md, with the sections of the old one that were not measured."""
        others, gpu = GPU.apart(old)
        kept = []
        for name, topic in TOPICS.items():
            others, section = topic.section.apart(others)
            if rows := self.topics.get(name):
                table, about = markdown_table(*topic.table(rows)), f"{machine()}. {versions()}."
                section = topic.section.write(self.ran[name], about, table, absences(rows))
            kept.append(section)
        others, section = bridges.SECTION.apart(others)
        if self.bridges:
            lines = markdown_table(bridges.HEAD, bridges.table(self.bridges))
            section = bridges.SECTION.write(
                self.ran["bridges"], f"{machine()}. {versions()}.", lines
            )
        kept.append(section)
        if self.measured or self.figures:
            others = self.markdown()
        return "\n\n".join(part.rstrip("\n") for part in (others, *kept, gpu) if part) + "\n"

    def markdown(self) -> str:
        """All of that page but the sections of the topics."""
        commands = "```sh\n" + "\n".join(self.commands) + "\n```"
        parts = [HEAD, f"{machine()}. {versions()}.", commands]
        for threads, title in (
            ("1", "One thread: CPU time of the process"),
            ("2", "Two threads: wall clock"),
        ):
            head, rows = speed_table(self.measured, threads)
            parts += [f"## {title}", markdown_table(head, rows) if rows else "Not measured."]
        parts += ["## Building, files and memory", markdown_table(*fact_table(self.measured))]
        for title, values in self.figures.items():
            rows = [[name, number(value, 3)] for name, value in values.items()]
            parts += [f"## {title}", markdown_table(["", ""], rows)]
        return "\n\n".join(parts) + "\n"


def figures(names: list[str], quick: bool, limit: float) -> dict[str, dict[str, Any]]:
    """The figures that are no comparison, each in a process of its own."""
    found = {}
    for name in names:
        process = Process(sys.executable, 1, limit)
        console.print(f"[bold]{name}")
        answer = process.ask("figure", name=name, quick=quick)
        process.close()
        found[(FIGURES[name].__doc__ or name).splitlines()[0].rstrip(".")] = answer
    return found


def beside(name: str, run: Run, args: argparse.Namespace) -> bool:
    """Measure and print a topic; whether some cells were not timed, as their numbers differ."""
    failed, topic = False, TOPICS[name]
    sizes = topic.section.quick if args.quick else topic.section.sizes
    labels = [label for label in topic.contenders if label in args.peers or label in OURS]
    for cell in topic.cells(args.nets or list(sizes), args.batch):
        for threads in args.threads:
            try:
                row = measure(cell, labels, threads, args, **sizes[cell.net])
            except Disagreement as error:
                console.print(f"{cell}: not timed, {error}", style="red", highlight=False)
                failed = True
                continue
            run.topics.setdefault(name, {})[cell, threads] = row
            run.save()
            head, (line,) = topic.table({(cell, threads): row})
            print_table("", ["", ""], [list(pair) for pair in zip(head, line, strict=True)])
            for note in absences({(cell, threads): row}):
                console.print(note, highlight=False)
    return failed


def bridged(run: Run, args: argparse.Namespace) -> bool:
    """Measure and print the bridges; whether one could not be."""
    failed = False
    for name in bridges.BRIDGES:
        try:
            run.bridges[name] = bridges.measure(name, args.quick)
        except RuntimeError as error:
            console.print(str(error), style="red", highlight=False)
            failed = True
    run.save()
    print_table("", bridges.HEAD, bridges.table(run.bridges))
    return failed


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    known = [*nets.NETS, *real.SIZES]
    add("--nets", nargs="*", choices=known, help="of all; without --figures too: everything")
    add("--threads", nargs="*", type=int, default=[1, 2])
    add("--batch", default="all", help="1, large, all, a number, or none")
    add("--kinds", nargs="*", choices=FLOOR, default=list(FLOOR))
    everyone = (contenders.CONTENDERS, contenders.EXPLAINERS, steps.STEPPERS, real.READERS)
    peers = list(dict.fromkeys(label for some in everyone for label in some))
    add("--peers", nargs="*", choices=peers, default=peers)
    known = [*FIGURES, *TOPICS, "bridges"]
    beside = ", ".join(known[len(FIGURES) :])
    add("--figures", nargs="*", choices=known, help=f"besides {beside}: no comparison")
    add("--no-symbolic", dest="symbolic", action="store_false", help="static sizes only")
    add("--rounds", type=int, default=7, help="how often each contender has its turn")
    add("--seconds", type=float, default=0.5, help="how long a turn takes at least")
    add("--quantile", type=float, default=0.5, help="of the times; lower on a busy machine")
    add("--limit", type=float, default=300, help="seconds for one step, such as a compilation")
    add("--quick", action="store_true", help="two short rounds, and short figures")
    add("--markdown", action="store_true", help="write docs/performance.md")
    add("--keep", action="store_true", help="keep what earlier runs measured")
    add("--cuda", action="store_true", help="on a GPU, with options of its own: --cuda --help")
    return parser.parse_args()


def main() -> None:
    """Measure and print; with --markdown write docs/performance.md."""
    if "--cuda" in sys.argv:
        from gpu import measure as gpu

        return gpu.main([given for given in sys.argv[1:] if given != "--cuda"])
    args = arguments()
    everything = args.nets is None and args.figures is None
    if args.quick:
        args.rounds, args.seconds = 2, 0.05
    run = Run.load() if args.keep else Run()
    run.quick = args.quick
    load = f"  # load average {os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else ""
    wanted = [*FIGURES, *TOPICS, "bridges"] if everything else args.figures or []
    command = f"python tools/bench.py {shlex.join(sys.argv[1:])}{load}"
    topics = [name for name in (*TOPICS, "bridges") if name in wanted]
    for name in topics:
        run.ran.setdefault(name, []).append(command)
    only_topics = bool(topics) and wanted == topics  # whose nets are then those that are named
    names = list(nets.NETS) if everything else [] if only_topics else args.nets or []
    if not only_topics:
        run.commands.append(command)
    peers = [label for label in args.peers if label in contenders.CONTENDERS]
    labels = list(dict.fromkeys(["forward", "onnxgrad", "Net", *peers]))
    failed = False
    for cell in cells(names, args.batch, args.kinds, args.symbolic and not args.quick):
        for threads in args.threads:
            try:
                row = measure(cell, labels, threads, args)
            except Disagreement as error:
                console.print(f"{cell}: not timed, {error}", style="red", highlight=False)
                failed = True
                continue
            run.add(cell, row)
            run.save()
            title = f"{cell}, {threads} thread{'s' * (threads > 1)}"
            print_table(title, *speed_table({cell: row}, str(threads)), skip=1)
            print_table("", *fact_table({cell: row}), skip=1)
    for name in topics:
        failed |= bridged(run, args) if name == "bridges" else beside(name, run, args)
    run.figures |= figures([n for n in wanted if n in FIGURES], args.quick, args.limit)
    run.save()
    for title, values in run.figures.items():
        print_table(title, ["", ""], [[k, number(v)] for k, v in values.items()])
    if args.markdown:
        TABLE.write_text(run.page(TABLE.read_text()))
        console.print(f"written: {TABLE.relative_to(ROOT)}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
