"""Sweep onnx's own backend node tests through the gradient builder and finite differences.

    python tools/sweep.py                   all of them; the defects, and exit code 1 if any
    python tools/sweep.py --write           the same, and the table into docs/operators.md
    python tools/sweep.py --only conv -v    those with "conv" in the name, and every reason

Each test with a floating-point input and output is differentiated with respect to every such input,
once as it is and once with shape-like operands as constants. Central differences along two
directions, in float64 on onnxruntime or onnx's reference evaluator, say what is right. A runtime is
taken only where its forward values are those that the test expects. The outcomes:

    correct     agrees with the differences
    zero        said to have no derivative other than zero, and does not change when moved
    kink        not smooth at the test's own values; correct right beside them
    refused     an error when the gradient is built, with the reason
    skipped     no runtime gives the values that the test expects, or none of them is finite
    noise       neither confirmed nor refuted
    wrong, not finite, crashed, not runnable    defects
"""

from __future__ import annotations

import argparse
import concurrent.futures as futures
import functools
import json
import multiprocessing
import platform
import re
import signal
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxgrad as og
from onnxgrad.graph import io
from onnxgrad.runtimes.onnxruntime import OnnxRuntime
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.runtimes.reference import Reference
from onnxgrad.transforms.metadata import OGRADS
from onnxgrad.verify.check import check_on
from tools.operators import PAGE, between

OUTCOMES = ["correct", "zero", "kink", "refused", "skipped", "noise"]
DEFECTS = ["wrong", "not finite", "crashed", "not runnable"]
BEGIN, END = "<!-- sweep: made by tools/sweep.py -->", "<!-- /sweep -->"

INTRODUCTION = """\
Each test counts once for each input, and once more where shape-like inputs are constants."""

ORT, REFERENCE = "onnxruntime", "reference"
RUNTIMES: Mapping[str, Runtime] = {
    ORT: OnnxRuntime(["CPUExecutionProvider"]),
    REFERENCE: Reference(),
}
# The most precise first. An operator that onnxruntime has in float32 alone is noise to the first.
WAYS = [(ORT, "float64"), (REFERENCE, "float64"), (ORT, "float32")]

_TYPES = onnx.TensorProto
FLOATS = {_TYPES.FLOAT, _TYPES.DOUBLE, _TYPES.FLOAT16, _TYPES.BFLOAT16}
# Floating-point operands that say how large an output is.
SHAPE_LIKE = {"scales", "roi"}


@dataclass(frozen=True)
class Net:
    """A backend test: a model and what to feed it.

    Attributes:
        name: The test's.
        operator: The one that the test is about.
        model: Of opset, dtypes and shapes as the test has them.
        feeds: By input name.
        of: The floating-point outputs with finite values.
        expected: The floating-point outputs' values.
        trusted: The runtimes that give them.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    feeds: dict[str, Any]
    of: list[str]
    expected: dict[str, np.ndarray]
    trusted: tuple[str, ...] = ()

    def floating(self) -> list[str]:
        """The floating-point inputs that are fed something."""
        return [
            i.name
            for i in self.model.graph.input
            if i.type.tensor_type.elem_type in FLOATS and np.size(self.feeds[i.name])
        ]


@dataclass(frozen=True)
class Result:
    """What became of the gradient of one test with respect to one input."""

    operator: str
    name: str
    outcome: str
    reason: str


@functools.cache
def node_tests() -> dict[str, Any]:
    """The backend node tests of the installed onnx by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return {case.name: case for case in sorted(found, key=lambda case: case.name)}


def net_of(case: Any) -> Net | None:
    """A test as a net; None where it has no floating-point input or output."""
    graph = case.model.graph
    if not case.data_sets or len(case.data_sets[0][0]) != len(graph.input):
        return None
    given, results = case.data_sets[0]
    feeds = {i.name: _value(v) for i, v in zip(graph.input, given, strict=True)}
    expected = {
        o.name: np.asarray(_value(v), np.float64)
        for o, v in zip(graph.output, results, strict=False)
        if o.type.tensor_type.elem_type in FLOATS
    }
    net = Net(case.name, operator_of(case), case.model, feeds, [], expected)
    if not expected or not net.floating():
        return None
    net = replace(net, trusted=tuple(r for r in RUNTIMES if _gives(r, net)))
    of = [name for name, y in expected.items() if np.isfinite(y).all()]
    if of or not net.trusted:
        return replace(net, of=of)
    # What is not finite comes from what is fed.
    feeds = {name: _finite(x) if name in net.floating() else x for name, x in feeds.items()}
    net = replace(net, feeds=feeds, of=list(expected))
    values = _forward(net, feeds)
    return net if all(np.isfinite(y).all() for y in values) else replace(net, of=[])


def _value(value: Any) -> Any:
    """An array; a sequence stays a list."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value if value is None or isinstance(value, list) else np.asarray(value)


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x.astype(np.float64)), x, 1).astype(x.dtype)


def operator_of(case: Any) -> str:
    """The operator that a test is about: of several, the one that its name begins with."""
    base = node_tests().get(case.name.split("_expanded")[0], case)
    nodes = base.model.graph.node
    if len(nodes) == 1:
        return str(nodes[0].op_type)
    stem = base.name.removeprefix("test_").replace("_", "").lower()
    fitting = [s.name for s in onnx.defs.get_all_schemas() if stem.startswith(s.name.lower())]
    return max(fitting, key=len, default=str(nodes[0].op_type))


def run(
    runtime: str, model: onnx.ModelProto, feeds: Mapping[str, Any], outputs: list[str]
) -> list[Any]:
    """The outputs' values.

    Raises:
        ModelError, FeedError: The runtime cannot run the model, or not on these values.
    """
    return RUNTIMES[runtime].load(io.load(model)).run(feeds, outputs)


def why_not(net: Net) -> str:
    """Why no runtime gives the values that the test expects."""
    errors = []
    for runtime in RUNTIMES:
        try:
            once, again = (run(runtime, net.model, net.feeds, list(net.expected)) for _ in "12")
        except og.OnnxGradError as e:
            errors.append(str(e))
            continue
        if not all(map(np.array_equal, once, again)):
            return "the forward net is random, and its values are other ones in every run"
        errors.append(f"{RUNTIMES[runtime].title} gives other values than the test expects")
    return "; ".join(errors)


def _gives(runtime: str, net: Net) -> bool:
    """Whether a runtime gives the values that the test expects."""
    try:
        values = run(runtime, net.model, net.feeds, list(net.expected))
    except og.OnnxGradError:
        return False
    pairs = zip(values, net.expected.values(), strict=True)
    # Half precision rounds by some thousandths.
    return all(
        np.shape(y) == e.shape and np.allclose(np.asarray(y, np.float64), e, 1e-2, 1e-3, True)
        for y, e in pairs
    )


def variants(net: Net) -> Iterator[tuple[str, Net]]:
    """The test as it is, and with the shape-like of its inputs as constants."""
    yield "fed", net
    fixed = {
        i.name
        for i in net.model.graph.input
        if i.name in SHAPE_LIKE or i.type.tensor_type.elem_type not in FLOATS
    }
    if not fixed or any(isinstance(net.feeds[name], list) for name in fixed):
        return
    model = onnx.ModelProto.FromString(net.model.SerializeToString())
    kept = [i for i in model.graph.input if i.name not in fixed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in fixed:
        model.graph.initializer.append(onnx.numpy_helper.from_array(net.feeds[name], name))
    feeds = {name: x for name, x in net.feeds.items() if name not in fixed}
    constant = replace(net, model=model, feeds=feeds)
    yield "constant", replace(constant, trusted=tuple(r for r in RUNTIMES if _gives(r, constant)))


def judge(net: Net, name: str) -> tuple[str, str]:
    """What becomes of the gradient with respect to one input: the outcome and its reason."""
    if not net.trusted:
        return "skipped", why_not(net)
    if not net.of:
        return "skipped", "no output has finite values"
    try:
        gradient = og.gradient(net.model, name, of=net.of, ograd=True, forward=False)
    except og.UnreachableError as e:
        return ("zero" if is_still(net, name) else "wrong"), str(e)
    except (og.NoRuleError, og.ModelError) as e:
        return "refused", str(e)
    except Exception as e:
        return "crashed", f"{type(e).__name__}: {e}"
    try:
        onnx.checker.check_model(gradient, full_check=True)
        finite = runs_to_finite(net, gradient)
    except Exception as e:
        return "not runnable", f"{type(e).__name__}: {e}"
    outcome, reason = confirm(net, name)
    if outcome in ("correct", "wrong", "not runnable") and finite:
        return outcome, reason
    confirmed = any(confirm(near, name)[0] == "correct" for near in beside(net, name))
    if confirmed and (finite or is_endless(net, gradient, name)):
        return "kink", reason
    return ("noise" if finite else "not finite"), reason


def runs_to_finite(net: Net, gradient: onnx.ModelProto) -> bool:
    """Whether the gradient, in the test's own precision, has finite values; it has to run."""
    (value,) = run_gradient(net, gradient)
    return bool(np.isfinite(np.asarray(value, np.float64)).all())


def run_gradient(net: Net, gradient: onnx.ModelProto) -> list[Any]:
    """The gradient model's outputs, of random output gradients, on the runtime of the forward net.

    Where onnxruntime has no kernel for a dtype other than float32, the reference does.
    """
    rng = np.random.default_rng(0)
    types = {i.name: i.type.tensor_type.elem_type for i in gradient.graph.input}
    feeds = dict(net.feeds)
    properties = {p.key: json.loads(p.value) for p in gradient.metadata_props}
    for y, ograd in properties[OGRADS].items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(types[ograd])
        feeds[ograd] = rng.standard_normal(net.expected[y].shape).astype(dtype)
    outputs = [o.name for o in gradient.graph.output]
    try:
        return run(net.trusted[0], gradient, feeds, outputs)
    except og.ModelError as e:
        other = {i.type.tensor_type.elem_type for i in net.model.graph.input} & FLOATS
        if "NOT_IMPLEMENTED" in str(e) and other != {_TYPES.FLOAT}:
            return run(REFERENCE, gradient, feeds, outputs)
        raise


def confirm(net: Net, name: str) -> tuple[str, str]:
    """Compare with central differences, in the first of the ways that can tell."""
    outcome, reason = "not runnable", ""
    for runtime, precision in WAYS:
        if runtime not in net.trusted:
            continue
        way = {runtime: RUNTIMES[runtime]}
        try:
            report = check_on(way, net.model, net.feeds, name, of=net.of, precision=precision)
        except og.OnnxGradError as e:
            reason += f" {RUNTIMES[runtime].title} in {precision}: {e}"
            continue
        (row,) = report.rows
        if np.isfinite(row.analytic):
            outcome = {"ok": "correct"}.get(row.verdict, row.verdict)
            reason = f"{row.analytic:.6g} against {row.numeric:.6g}; {report.method}"
        else:
            outcome, reason = "not finite", report.method
        if outcome in ("correct", "wrong"):
            break
    return outcome, reason.strip()


def beside(net: Net, name: str) -> Iterator[Net]:
    """The net with other values of an input, about 1 % away: a kink does not follow."""
    x = net.feeds[name]
    finite = np.isfinite(x.astype(np.float64))
    size = np.sqrt(np.mean(np.square(x[finite].astype(np.float64)))) or 1.0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        move = 0.01 * size * rng.uniform(0.5, 1.5, x.shape) * rng.choice([-1, 1], x.shape)
        feeds = net.feeds | {name: np.asarray(np.where(finite, x + move, x), x.dtype)}
        values = _forward(net, feeds)
        if values and all(np.isfinite(y).all() for y in values):
            expected = dict(zip(net.of, values, strict=True))
            yield replace(net, feeds=feeds, expected=net.expected | expected)


def _forward(net: Net, feeds: Mapping[str, Any]) -> list[np.ndarray]:
    """The floating-point outputs; none where the net does not run on these values."""
    try:
        found = run(net.trusted[0], net.model, feeds, net.of)
    except og.OnnxGradError:
        return []
    return [np.asarray(y, np.float64) for y in found]


def is_still(net: Net, name: str) -> bool:
    """Whether outputs do not change with an input, moved a little at some place beside its own.

    Those of a net that draws random numbers change by themselves.
    """
    again = [_forward(net, net.feeds) for _ in range(2)]
    if not _same(*again):
        return True
    places = [net, *beside(net, name)]
    for place in places:
        x = place.feeds[name]
        moved = np.asarray(x.astype(np.float64) * (1 + 1e-4), x.dtype)
        if _same(_forward(place, place.feeds), _forward(place, place.feeds | {name: moved})):
            return True
    return False


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def is_endless(net: Net, gradient: onnx.ModelProto, name: str) -> bool:
    """Whether each slope that the gradient says is infinite grows without end to one side.

    Moved to the other side, the net may have no value. Where the gradient is NaN, it is not.
    """
    (g,) = run_gradient(net, gradient)
    x = net.feeds[name]
    for place in np.argwhere(~np.isfinite(np.asarray(g, np.float64))):
        if np.isnan(g[tuple(place)]):
            return False
        slopes = []
        for step in (1e-1, 1e-3, 1e-5):
            changes = []
            for sign in (1, -1):
                moved = x.copy()
                moved[tuple(place)] += sign * step
                values = _forward(net, net.feeds | {name: moved})
                before = [net.expected[y] for y in net.of]
                pairs = zip(values, before, strict=False)
                changes += [np.abs(y - e).max() / step for y, e in pairs if y.shape == e.shape]
            slopes.append(max((c for c in changes if np.isfinite(c)), default=0.0))
        if not slopes[0] * 25 < slopes[1] * 5 < slopes[2]:
            return False
    return True


class _Late(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise _Late


def examine(test: str, seconds: int) -> list[Result]:
    """The outcomes of one test."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    net = net_of(node_tests()[test])
    if net is None:
        return []
    results = []
    for variant, fixed in variants(net):
        for name in fixed.floating():
            signal.signal(signal.SIGALRM, _alarm)
            signal.alarm(seconds)
            try:
                outcome, reason = judge(fixed, name)
            except _Late:
                outcome, reason = "skipped", f"took more than {seconds} s"
            finally:
                signal.alarm(0)
            results.append(Result(net.operator, f"{test}[{name}, {variant}]", outcome, reason))
    return results


def sweep(every: int = 1, only: str = "", jobs: int = 2, seconds: int = 60) -> list[Result]:
    """Examine the tests whose name holds `only`, or each `every`-th of them."""
    names = [n for n in node_tests() if only in n][::every]
    if jobs == 1:
        return [result for n in names for result in examine(n, seconds)]
    results: list[Result] = []
    # The workers inherit the tests, which take a while to make.
    context = multiprocessing.get_context("fork")
    with futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for found in pool.map(examine, names, [seconds] * len(names), chunksize=4):
            results += found
            if sys.stderr.isatty():
                print(f"\r{len(results)} cases", end="", file=sys.stderr)
    return results


def table(results: list[Result]) -> str:
    """Counts per operator as a Markdown table, the sum last."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        counts[result.operator][result.outcome] += 1
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
    lines.append(f"| **all {len(results)}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(results: list[Result]) -> str:
    """What docs/operators.md says of the sweep."""
    import onnxruntime

    meanings = (__doc__ or "").split("outcomes:\n\n")[1]
    notes = Counter(
        (r.outcome, r.operator, brief(r.reason))
        for r in results
        if r.outcome in ("refused", "skipped", "noise")
    )
    lines = [f"- {op}, {count} {outcome}: {why}" for (outcome, op, why), count in notes.items()]
    versions = f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    return (
        f"\n`make sweep` with {versions}, numpy {np.__version__}, Python "
        f"{platform.python_version()}. {INTRODUCTION}\n\n```text\n{meanings}```\n\n"
        f"{table(results)}\n\n" + "\n".join(sorted(lines)) + "\n"
    )


def brief(reason: str) -> str:
    """A reason without the names and the path of one net."""
    reason = re.sub(r"^operator .*?: ", "", reason).partition(" Path:")[0]
    return re.sub(r"(?<!\w)'[^']*'", "a tensor", reason).rstrip(".")


def main() -> int:
    """Print the table and every defect; exit code 1 if there is one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--every", type=int, default=1, help="only each N-th test")
    parser.add_argument("--only", default="", help="only tests whose name holds this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=60, help="at most, for one case")
    parser.add_argument("--write", action="store_true", help="the table into docs/operators.md")
    parser.add_argument("-v", "--verbose", action="store_true", help="give every reason")
    arguments = parser.parse_args()
    start = time.monotonic()
    results = sweep(arguments.every, arguments.only, arguments.jobs, arguments.seconds)
    print(table(results))
    for r in results:
        if r.outcome in DEFECTS or (arguments.verbose and r.outcome != "correct"):
            print(f"{r.outcome}: {r.name}: {r.reason[:400]}")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes, {arguments.jobs} processes")
    if arguments.write:
        PAGE.write_text(between(PAGE.read_text(), BEGIN, END, section(results)))
    return int(any(r.outcome in DEFECTS for r in results))


if __name__ == "__main__":
    sys.exit(main())
