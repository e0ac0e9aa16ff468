"""The two sides of a check, each on the runtime and in the precision that suits it best."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.subgraphs import captures
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError, ModelError, OnnxGradError, RuleError
from onnxgrad.graph.facts import all_nodes, is_float
from onnxgrad.passes.inference import infer
from onnxgrad.passes.precision import promote
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.metadata import GRADIENTS, OGRADS, VALUES, table
from onnxgrad.verify.differences import STEPS
from onnxgrad.verify.moved import MovedNet, hold, move, value_of

Precision = Literal["auto", "float64", "float32"]

# What an output element costs on onnx's reference evaluator, in multiplications of a Conv there.
_REFERENCE_COST = {"ConvTranspose": 200, "AveragePool": 6000, "MaxPool": 2000, "Resize": 20000}
_REFERENCE_LIMIT = 3e9  # for one run, then about six seconds
_PATIENCE = 60.0  # seconds for all runs on the reference, if onnxruntime can do it otherwise
# Where gradients are calculated, the best first.
_WAYS = [
    ("float64", "onnxruntime"),
    ("float32", "onnxruntime"),
    ("float64", "reference"),  # the last: a transposed convolution takes it seconds
]


@dataclass(frozen=True)
class Case:
    """What is checked.

    Attributes:
        runtimes: By name: "onnxruntime", "reference".
        net: The net, with its constants in initializers.
        wrt: The tensors whose gradients are checked.
        of: Those that are differentiated.
        held: Those that keep their values.
        values: The feeds.
        precision: That of the differences, or "auto".
    """

    runtimes: Mapping[str, Runtime]
    net: ir.Model
    wrt: list[str]
    of: list[str]
    held: list[str]
    values: dict[str, Any]
    precision: Precision


def moved_net(case: Case) -> MovedNet:
    """The net for differences, in double precision if possible.

    Raises:
        ModelError: No runtime takes it.
        ArgumentError: It is random, or not finite.
    """
    refusals = []
    forced = case.precision == "float64" or "onnxruntime" not in case.runtimes
    for precision, name in _ways_of_differences(case):
        runtime = case.runtimes[name]
        slow = name != "onnxruntime" and not forced
        if slow and _reference_work(case.net, case.values) > _REFERENCE_LIMIT:
            continue
        # The reference calculates in whatever precision it is fed.
        model, complete = _in_precision(case.net, precision, strict=name == "onnxruntime")
        if not complete:
            where = f"{runtime.title} in {precision}"
            refusals.append(f"{where}: the standard has an operator in float32.")
            continue
        feeds = _feeds(model, case.values)
        try:
            hold(runtime, model, case.held, feeds)
            still = move(model, case.wrt, case.of)
            before = time.monotonic()
            session = runtime.load(model)
            moved = MovedNet(session, feeds, case.of, still, precision, runtime.title)
            if slow and (time.monotonic() - before) * 16 * len(case.wrt) > _PATIENCE:
                continue
            _require_sense(case, moved)
            return moved
        except (ModelError, FeedError) as error:
            refusals.append(f"{runtime.title} in {precision}: {error}")
    raise ModelError(f"The net cannot be run for differences. {' '.join(refusals)}")


def _ways_of_differences(case: Case) -> Iterator[tuple[str, str]]:
    for precision in STEPS:
        if case.precision in ("auto", precision):
            for name in case.runtimes:
                yield precision, name


@dataclass(frozen=True)
class Gradients:
    """The side of the gradients.

    Attributes:
        gradients: By name of the tensors of `wrt`.
        values: By name of the tensors that were asked for.
        precision, runtime: In what they were calculated, and the title of the runtime.
    """

    gradients: dict[str, Array]
    values: dict[str, Array]
    precision: str
    runtime: str


def gradients(case: Case, seeds: Mapping[str, Array], values: Sequence[str] = ()) -> Gradients:
    """The gradients of the tensors of `case.wrt`.

    Args:
        case: What is checked.
        seeds: What is imposed at tensors of `case.of`; nothing for the sum of all elements.
        values: Tensors whose values are given too.

    Raises:
        ModelError: No runtime takes the gradient.
    """
    refusals = []
    ways = [way for way in _WAYS if way[1] in case.runtimes]
    if case.precision == "float64":
        ways.sort(key=lambda way: way[0] != case.precision)
    for precision, name in ways:
        runtime = case.runtimes[name]
        try:
            promoted, _ = _in_precision(case.net, precision)
            model = gradient(
                promoted,
                case.wrt,
                of=case.of,
                ograd=list(seeds) or False,
                forward=False,
                unreachable="zeros",
                constant=case.held,
                example=_feeds(promoted, case.values),
                values=list(values) or None,
            )
            inputs = table(model, OGRADS)
            imposed = {inputs[name]: seed for name, seed in seeds.items()}
            feeds = _feeds(model, case.values | imposed)
            outputs = [v.name or "" for v in model.graph.outputs]
            found = dict(zip(outputs, runtime.load(model).run(feeds), strict=True))
            given, read = (
                {name: found[output] for name, output in table(model, key).items()}
                for key in (GRADIENTS, VALUES)
            )
            return Gradients(given, read, precision, runtime.title)
        except (ModelError, FeedError, RuleError) as error:
            refusals.append(f"{runtime.title} in {precision}: {error}")
    raise ModelError(f"The gradient cannot be run. {' '.join(refusals)}")


def inner_terms(case: Case, seeds: Mapping[str, Array]) -> float:
    """The size of the terms that the rounding of inner tensors is relative to.

    An error of an element v of an inner tensor, relative to v, changes the scalar by that error
    times v g, where g is the gradient of v: to first order, and as far as the rules are right.
    """
    moved = {value_of(case.net, name) for name in case.wrt}
    inner = []
    for node in case.net.graph:
        if not moved.isdisjoint((*node.inputs, *captures(node))):
            moved.update(node.outputs)
            inner += [v.name for v in node.outputs if v.name and is_float(v)]
    try:
        found = gradients(replace(case, wrt=inner), seeds, inner)
    except OnnxGradError:
        return 0.0  # of some of them there is none
    total = 0.0
    with np.errstate(over="ignore"):
        for name, g in found.gradients.items():
            v, g = (np.asarray(a, np.float64) for a in (found.values[name], g))
            total += float(np.sum(np.square(v[g != 0] * g[g != 0])))
    return math.sqrt(total)


def _require_sense(case: Case, moved: MovedNet) -> None:
    """Refuse a net without derivatives here, and a precision in which it is another net."""
    for name, y in zip(moved.of, moved.outputs, strict=True):
        if not np.all(np.isfinite(y)):
            raise ArgumentError(f"{name!r} is not finite on this input: there is no derivative.")
    if not all(map(_close, moved.at({}), moved.outputs)):
        raise ArgumentError("The net gives other values when run again: it is random.")
    if "onnxruntime" not in case.runtimes:
        return  # there is nothing to compare with
    plain, _ = _in_precision(case.net, "float32")
    plain.graph.outputs[:] = [value_of(plain, name) for name in moved.of]
    feeds = _feeds(plain, case.values)
    try:
        expected = case.runtimes["onnxruntime"].load(plain).run(feeds, moved.of)
    except (ModelError, FeedError):
        return  # nor here
    if not all(map(_close, expected, moved.outputs)):
        raise ModelError("the values differ from onnxruntime's in single precision.")


def _close(a: Array, b: Array) -> bool:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and float(np.linalg.norm(a - b)) <= 1e-2 * float(np.linalg.norm(b))


def _in_precision(net: ir.Model, precision: str, strict: bool = True) -> tuple[ir.Model, bool]:
    """The net in a precision, and whether all of it is."""
    model = io.load(net)
    dtype = ir.DataType.DOUBLE if precision == "float64" else ir.DataType.FLOAT
    return model, promote(model, dtype, strict)


def _feeds(model: ir.Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` in the dtypes of the model's inputs."""
    ports = {value.name: Port.of(value) for value in model.graph.inputs}
    return {
        name: value if ports[name].dtype is None else np.asarray(value).astype(ports[name].dtype)
        for name, value in values.items()
    }


def _reference_work(net: ir.Model, values: dict[str, Any]) -> float:
    """About how many multiplications a run takes on onnx's reference evaluator."""
    model = io.load(net)
    for value in model.graph.inputs:
        if value.name in values:
            value.shape = ir.Shape(np.shape(values[value.name]))
    infer(model)
    work = 0.0
    for node in all_nodes(model.graph):
        each = float(_REFERENCE_COST.get(node.op_type, 1))
        if node.op_type in ("Conv", "ConvTranspose"):
            each *= _elements(node.inputs[1], 1e4, first=1)
        work += each * _elements(node.outputs[0], 1e6)
    return work


def _elements(value: ir.Value | None, unknown: float, first: int = 0) -> float:
    """The product of the dimensions from the one at `first` on."""
    dims = None if value is None or value.shape is None else value.shape[first:]
    if dims is None or not all(isinstance(d, int) for d in dims):
        return unknown
    return float(math.prod(d for d in dims if isinstance(d, int)))
