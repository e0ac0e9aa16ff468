"""Sweep onnx's own backend node tests through the gradient builder and finite differences.

    python tools/sweep.py [--every N] [--only TEXT] [--jobs N] [--seconds N]

Each test with a floating-point input and output is differentiated with respect to every such
input: once as it is, with integer and boolean operands fed, and once with those as constants. What
comes out is told per operator:

    correct     agrees with central differences, in float64 where a runtime can
    zero        no derivative other than zero, and said so
    kink        the test's values lie where the one-sided derivatives differ
    noise       rounding hides the slope: neither confirmed nor refuted
    refused     an operator without a rule, with the reason
    wrong, not finite, crashed, not runnable    defects
    skipped     the forward net does not run here, so there is nothing to compare with
"""

from __future__ import annotations

import argparse
import concurrent.futures as futures
import signal
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxgrad as og

OUTCOMES = ["correct", "zero", "kink", "noise", "refused", "skipped"]
DEFECTS = ["wrong", "not finite", "crashed", "not runnable"]
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}


def node_tests() -> list[Any]:
    """The backend node tests of the installed onnx, in the order of their names."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(collect_testcases(None), key=lambda case: case.name)


def prepare(case: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray], list[str]] | None:
    """Model, feeds and floating-point inputs of a test; None where there is nothing to check."""
    model = case.model
    if not case.data_sets:
        return None
    values = case.data_sets[0][0]
    if len(values) != len(model.graph.input):
        return None
    feeds = {}
    for info, value in zip(model.graph.input, values, strict=True):
        if not info.type.HasField("tensor_type"):
            return None
        if isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        feeds[info.name] = np.asarray(value)
    floating = [
        i.name
        for i in model.graph.input
        if i.type.tensor_type.elem_type in _FLOATS and feeds[i.name].size
    ]
    outputs = [o for o in model.graph.output if o.type.tensor_type.elem_type in _FLOATS]
    return (model, feeds, floating) if floating and outputs else None


def variants(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray]
) -> Iterator[tuple[str, onnx.ModelProto, dict[str, np.ndarray]]]:
    """The test as it is, and with what is not floating-point held as constants."""
    yield "fed", model, feeds
    fixed = [i.name for i in model.graph.input if i.type.tensor_type.elem_type not in _FLOATS]
    if not fixed:
        return
    constant = onnx.ModelProto.FromString(model.SerializeToString())
    kept = [i for i in constant.graph.input if i.name not in fixed]
    del constant.graph.input[:]
    constant.graph.input.extend(kept)
    for name in fixed:
        constant.graph.initializer.append(onnx.numpy_helper.from_array(feeds[name], name))
    yield "constant", constant, {k: v for k, v in feeds.items() if k not in fixed}


def judge(model: onnx.ModelProto, feeds: dict[str, np.ndarray], name: str) -> tuple[str, str]:
    """What becomes of the gradient with respect to one input: the outcome and its reason."""
    try:
        gradient = og.gradient(model, name, ograd=True)
    except og.UnreachableError as e:
        return "zero", str(e)
    except og.NoRuleError as e:
        return "refused", str(e)
    except og.ModelError as e:
        return "refused", str(e)
    except Exception as e:
        return "crashed", f"{type(e).__name__}: {e}"
    try:
        onnx.checker.check_model(gradient, full_check=True)
    except Exception as e:
        return "not runnable", f"checker: {e}"
    try:
        report = og.check(model, feeds, name)
    except Exception as e:
        if not runs(model, feeds):
            return "skipped", str(e)
        return "not runnable", f"{type(e).__name__}: {e}"
    row = report.rows[0]
    if not np.isfinite(row.analytic):
        return "not finite", str(row)
    if row.verdict == "ok":
        return "correct", ""
    return row.verdict, f"{row.analytic:.6g} against {row.numeric:.6g}; {report.method}"


def runs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    """Whether onnxruntime or the reference runs the forward net to a finite result."""
    import onnxruntime as ort
    from onnx.reference import ReferenceEvaluator

    options = ort.SessionOptions()
    options.log_severity_level = 4
    for run in (
        lambda: ort.InferenceSession(model.SerializeToString(), options).run(None, feeds),
        lambda: ReferenceEvaluator(model).run(None, feeds),
    ):
        try:
            results = run()
        except Exception:
            continue
        return all(
            np.isfinite(r).all()
            for r in results
            if isinstance(r, np.ndarray) and r.dtype.kind == "f"
        )
    return False


class _Late(Exception):
    pass


def _alarm(*_: object) -> None:
    raise _Late


def examine(case_name: str, seconds: int) -> list[tuple[str, str, str, str]]:
    """The outcomes of one test: operator, test and input, outcome, reason."""
    case = _CASES[case_name]
    prepared = prepare(case)
    if prepared is None:
        return []
    model, feeds, floating = prepared
    operator = _operator(case)
    found = []
    warnings.simplefilter("ignore")
    for variant, net, values in variants(model, feeds):
        for name in floating:
            signal.signal(signal.SIGALRM, _alarm)
            signal.alarm(seconds)
            try:
                outcome, reason = judge(net, values, name)
            except _Late:
                outcome, reason = "skipped", f"took more than {seconds} s"
            finally:
                signal.alarm(0)
            found.append((operator, f"{case_name}[{name}, {variant}]", outcome, reason))
    return found


def _operator(case: Any) -> str:
    """The operator that a test is about; an expanded one is named after what it was."""
    nodes = {n.op_type for n in case.model.graph.node}
    stem = case.name.removeprefix("test_").replace("_", "")
    names = {s.name for s in onnx.defs.get_all_schemas()}
    fitting = [n for n in names if stem.lower().startswith(n.lower())]
    return max(fitting, key=len) if fitting else sorted(nodes)[0]


_CASES: dict[str, Any] = {}


def _load() -> None:
    _CASES.update({case.name: case for case in node_tests()})


def sweep(
    every: int = 1, only: str = "", jobs: int = 2, seconds: int = 20
) -> list[tuple[str, str, str, str]]:
    """Examine the tests whose name holds `only`, or each `every`-th of them."""
    _load()
    names = [n for n in _CASES if only in n][::every]
    if jobs == 1:
        return [row for n in names for row in examine(n, seconds)]
    rows = []
    # The workers inherit the tests, which take a while to make.
    context = __import__("multiprocessing").get_context("fork")
    with futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for found in pool.map(examine, names, [seconds] * len(names), chunksize=4):
            rows += found
            if sys.stderr.isatty():
                print(f"\r{len(rows)} cases", end="", file=sys.stderr)
    return rows


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Counts per operator as a Markdown table, the sum last."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for operator, _, outcome, _ in rows:
        counts[operator][outcome] += 1
    total: Counter[str] = sum(counts.values(), Counter())
    columns = [c for c in OUTCOMES if total[c]] + DEFECTS
    lines = [
        "| operator | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for operator in sorted(counts):
        cells = (str(counts[operator][c] or "") for c in columns)
        lines.append(f"| {operator} | " + " | ".join(cells) + " |")
    cells = (f"**{total[c]}**" for c in columns)
    lines.append(f"| **all {len(rows)}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Print the table and every defect; exit code 1 if there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--every", type=int, default=1, help="only each N-th test")
    parser.add_argument("--only", default="", help="only tests whose name holds this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=20, help="at most, for one case")
    parser.add_argument("--verbose", action="store_true", help="give every reason")
    arguments = parser.parse_args()
    rows = sweep(arguments.every, arguments.only, arguments.jobs, arguments.seconds)
    print(table(rows))
    for _, name, outcome, reason in rows:
        if outcome in DEFECTS or (arguments.verbose and outcome != "correct"):
            print(f"{outcome}: {name}: {reason[:400]}")
    return int(any(outcome in DEFECTS for _, _, outcome, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
