"""Gradients against finite differences: `check`, for any net and any rule.

Along a direction d the gradient g of a scalar f says how fast f changes, <g, d>. Central
differences say it too, without any rule. Two directions are tried for each tensor: a random one,
which sees any wrong element, and the gradient itself, along which f changes fastest. Both sides run
in double precision where a runtime can, so that an error of 0.1 % stands out of the rounding.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.declare.registry import declared
from onnxgrad.graph import io
from onnxgrad.graph.errors import (
    ArgumentError,
    FeedError,
    ModelError,
    RuleError,
    RuntimeMissingError,
)
from onnxgrad.graph.names import All, resolve, resolve_all
from onnxgrad.passes.normalise import infer, inline_holders
from onnxgrad.passes.opsets import inline
from onnxgrad.passes.precision import widen
from onnxgrad.runtimes.onnxruntime import on_onnxruntime, onnxruntime
from onnxgrad.runtimes.ports import Array, Port, Run, arrays
from onnxgrad.runtimes.reference import on_reference
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.notes import GRADIENTS, OGRADS
from onnxgrad.transforms.options import Spec

Verdict = Literal["ok", "wrong", "kink", "noise"]
Precision = Literal["auto", "float64", "float32"]
Start = Callable[[ir.Model], Run]

# A gradient counts as confirmed only where an error of this relative size would have been seen.
_RESOLUTION = 5e-4
# Steps relative to the size of the tensor that is moved.
_STEPS = {
    "float64": (1e-4, 1e-5, 1e-6, 1e-7),
    "float32": (4e-2, 2e-2, 1e-2, 5e-3, 2e-3, 5e-4, 1e-4, 2e-5, 4e-6),
}
_EPSILON = {"float64": 2.3e-16, "float32": 1.2e-7}
_TOLERANCE = {"float64": 1e-5, "float32": 2e-4}
# What an output element costs on onnx's reference evaluator, in multiplications of a Conv there.
_REFERENCE_COST = {"ConvTranspose": 200, "AveragePool": 6000, "MaxPool": 2000, "Resize": 20000}
_REFERENCE_LIMIT = 3e9  # for one run, then about six seconds
_PATIENCE = 60.0  # seconds for all runs on the reference, if onnxruntime can do it otherwise
# Suffixes of what is added to the net.
_MOVE, _MOVED, _TARGET, _COMPUTED = "/move", "/moved", "/target", "/computed"
_MEANING = {
    "ok": "ok",
    "wrong": "WRONG",
    "kink": "at a kink or an edge: the two sides differ",
    "noise": "not resolved: rounding hides the slope",
}


@dataclass(frozen=True)
class Row:
    """What was found for one tensor, along the worse of the directions.

    Attributes:
        name: The tensor.
        analytic: The slope that the gradient predicts.
        numeric: The slope that central differences find.
        error: Their difference, relative to the slope.
        tolerance: The error up to which they agree; it follows from the scatter of the differences.
        verdict: "ok" or "wrong"; or, where finite differences cannot tell, "kink" (the slopes of
            the two sides differ, or one side has no values or others in number) or "noise"
            (rounding hides the slope).
    """

    name: str
    analytic: float
    numeric: float
    error: float
    tolerance: float
    verdict: Verdict

    @property
    def ok(self) -> bool:
        """Whether the gradient is confirmed."""
        return self.verdict == "ok"


@dataclass(frozen=True)
class Report:
    """The result of `check`: one row for each tensor. True where `ok`; `str` gives a table.

    Attributes:
        rows: One for each tensor.
        method: In what precision and on which runtimes the two sides were calculated.
    """

    rows: tuple[Row, ...]
    method: str

    @property
    def ok(self) -> bool:
        """Whether no gradient is wrong and at least one is confirmed."""
        return any(r.ok for r in self.rows) and all(r.verdict != "wrong" for r in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max(6, *(len(row.name) for row in self.rows))
        lines = [
            f"{'tensor':{width}}  {'gradient':>13}  {'differences':>13}  {'error':>8}  verdict"
        ]
        lines += [
            f"{r.name:{width}}  {r.analytic:13.6g}  {r.numeric:13.6g}  {r.error:8.1e}  "
            f"{_MEANING[r.verdict]}"
            for r in self.rows
        ]
        return "\n".join([*lines, f"({self.method})"])


def check(
    model: io.ModelLike,
    feeds: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    ograd: bool | Mapping[str, Any] = True,
    constant: Spec | None = None,
    precision: Precision = "auto",
    seed: int = 0,
) -> Report:
    """Compare gradients with central finite differences along two directions per tensor.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        feeds: The input's value where there is one, else a dict by input name, of the inputs'
            dtypes and shapes.
        wrt: As for `gradient`: the tensors to check, `ALL`, or None for the floating-point inputs.
        of: As for `gradient`: the tensors to differentiate; None for all floating-point outputs.
        ograd: True to impose a random gradient on each tensor of `of`, which sees more than their
            sum (a softmax always adds up to one). False for the sum of all elements, or a dict of
            the arrays to impose, by tensor name.
        constant: As for `gradient`: tensors that keep their values while others are moved.
        precision: "auto" takes double precision where onnxruntime has the kernels, or else the
            net is small enough for onnx's reference evaluator, and float32 otherwise. The other
            two force the differences; "float64" lets the gradients take the reference before
            float32, however long that takes.
        seed: Seeds the random directions.

    Returns:
        A report that is true if no gradient is wrong and at least one is confirmed.

    Raises:
        ModelError, ArgumentError, UnknownNameError, UnreachableError, NoRuleError: As `gradient`.
        FeedError: An input of a wrong name, dtype or shape, or none given.
        ArgumentError: The net is random, so that differences mean nothing.
    """
    return check_on(
        RUNTIMES,
        model,
        feeds,
        wrt,
        of=of,
        ograd=ograd,
        constant=constant,
        precision=precision,
        seed=seed,
    )


def check_on(
    runtimes: Mapping[str, Start],
    model: io.ModelLike,
    feeds: Any,
    wrt: Spec | All | None = None,
    *,
    of: Spec | None = None,
    ograd: bool | Mapping[str, Any] = True,
    constant: Spec | None = None,
    precision: Precision = "auto",
    seed: int = 0,
) -> Report:
    """`check` on some of `RUNTIMES`, or on others in their place, by the same names."""
    if precision not in ("auto", *_STEPS):
        raise ArgumentError(f"precision is 'auto', 'float64' or 'float32', not {precision!r}.")
    net = io.load(model)
    graph = net.graph
    ports = {value.name or "": Port.of(value) for value in graph.inputs}
    values = arrays(ports, [name for name in ports if name not in graph.initializers], feeds)
    given = {resolve(net, k): v for k, v in ograd.items()} if isinstance(ograd, Mapping) else {}
    # Refusals come from the net as it is. This one is only asked what it differentiates.
    ograds = list(given) or True
    built = gradient(
        net, wrt, of=of, ograd=ograds, forward=False, constant=constant, example=values
    )
    names = list(json.loads(built.metadata_props[GRADIENTS]))
    targets = list(json.loads(built.metadata_props[OGRADS]))
    held = resolve_all(net, constant) if constant else []
    _prepare(net)
    numeric = _moving(runtimes, net, names, targets, held, values, precision)
    rng = np.random.default_rng(seed)
    for name, y in zip(targets, numeric.outputs, strict=True):
        if name in given and np.shape(given[name]) != y.shape:
            raise FeedError(f"ograd {name!r} has the shape {np.shape(given[name])}, not {y.shape}.")
        chosen = given.get(name, rng.standard_normal(y.shape) if ograd else np.ones(y.shape))
        # Both sides see the same seed, which the gradient may take in single precision.
        numeric.seeds.append(np.asarray(chosen, np.float32).astype(np.float64))
    seeds = dict(zip(targets, numeric.seeds, strict=True)) if ograd else {}
    gradients, analytic, runtime = _gradients(
        runtimes, net, names, targets, held, values, seeds, precision
    )
    rows = [_row(name, gradients[name], analytic, numeric, rng) for name in names]
    return Report(
        tuple(rows),
        f"gradients in {analytic} on {runtime}, "
        f"differences in {numeric.precision} on {numeric.runtime}",
    )


@dataclass
class _Moving:
    """The net with tensors moved off their values, on a runtime, in a precision."""

    run: Run
    feeds: dict[str, Any]
    targets: list[str]
    still: dict[str, Array]  # by tensor: the move of no length
    precision: str
    runtime: str
    seeds: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        moved = [f"{name}{_MOVED}" for name in self.still]
        found = self.run(self._inputs({}), [*self._fetched(), *moved])
        self.outputs = [np.asarray(y, np.float64) for y in found[: len(self.targets)]]
        tensors = zip(self.still, found[len(self.targets) :], strict=True)
        self.values = {name: np.asarray(v, np.float64) for name, v in tensors}

    def _inputs(self, moves: Mapping[str, Array]) -> dict[str, Any]:
        moves = self.still | dict(moves)
        return self.feeds | {f"{name}{_MOVE}": move for name, move in moves.items()}

    def at(self, moves: Mapping[str, Array]) -> list[Array]:
        """The targets with some tensors moved."""
        return self.run(self._inputs(moves), self._fetched())

    def _fetched(self) -> list[str]:
        return [f"{name}{_TARGET}" for name in self.targets]

    def terms(self, name: str, move: Array) -> Array:
        """By how much each term of the scalar changes when a tensor moves; NaN if not in value."""
        found = self.at({name: np.asarray(move, self.still[name].dtype)})
        if any(np.shape(y) != before.shape for y, before in zip(found, self.outputs, strict=True)):
            return np.full(sum(y.size for y in self.outputs), np.nan)
        return np.concatenate(
            [
                ((np.asarray(y, np.float64) - before) * seed).ravel()
                for y, before, seed in zip(found, self.outputs, self.seeds, strict=True)
            ]
        )

    def size(self, changed: Array) -> float:
        """The size of the terms that change, which is what their rounding is relative to."""
        all_terms = [(y * g).ravel() for y, g in zip(self.outputs, self.seeds, strict=True)]
        return float(np.linalg.norm(np.concatenate(all_terms)[changed]))


def _row(name: str, gradient: Array, precision: str, net: _Moving, rng: Any) -> Row:
    gradient = np.asarray(gradient, np.float64)
    tolerance = max(_TOLERANCE[precision], _TOLERANCE[net.precision])
    if not np.all(np.isfinite(gradient)):
        return Row(name, math.nan, math.nan, math.inf, tolerance, "wrong")
    # What is infinite, as a mask often is in part, cannot be moved.
    finite = np.isfinite(net.values[name])
    directions = [d * finite for d in (rng.standard_normal(gradient.shape), gradient)]
    rows = [
        _along(name, d / _rms(d), gradient, net, tolerance, _EPSILON[precision])
        for d in directions
        if np.any(d)
    ]
    worst = ("ok", "noise", "kink", "wrong")
    return max(
        rows,
        key=lambda row: (worst.index(row.verdict), row.error),
        default=Row(name, 0.0, 0.0, 0.0, tolerance, "ok"),  # a tensor without elements
    )


def _along(
    name: str, d: Array, gradient: Array, net: _Moving, tolerance: float, epsilon: float
) -> Row:
    """Compare the slopes along `d`, whose elements are about 1.

    `epsilon` is the rounding error of the gradient's precision.
    """
    # A step is relative to the tensor's size; around zero to one.
    size = _rms(net.values[name][np.isfinite(net.values[name])]) or 1.0
    analytic = size * float(np.sum(gradient * d))
    scale = max(abs(analytic), size * float(np.linalg.norm(gradient)))
    found = _differences(net, name, size * d, scale, tolerance)
    if not math.isfinite(found.slope):
        return Row(name, analytic, found.slope, math.nan, tolerance, "kink")
    # A slope far below the terms of the scalar is not told from zero.
    scale = max(scale, abs(found.slope), 1e-6 * found.terms)
    distance = abs(analytic - found.slope)
    error = distance / scale if scale else 0.0
    allowed = max(tolerance, 3 * found.doubt / scale) if scale else tolerance
    verdict: Verdict = "noise"
    if error <= allowed:
        verdict = "ok" if allowed <= _RESOLUTION else "noise"
    elif found.bend > max(distance / 4, tolerance * scale):
        verdict = "kink"
    elif distance > epsilon * found.terms and found.contradicts(analytic, distance):
        verdict = "wrong"
    return Row(name, analytic, found.slope, error, allowed, verdict)


@dataclass
class _Slope:
    """What central differences find."""

    slope: float = math.nan
    doubt: float = math.inf  # by how much two steps disagree, with the rounding
    terms: float = 0.0  # the size of the scalar's terms
    bend: float = 0.0  # by how much the slopes of the two sides differ as the step goes to zero
    agreed: bool = False  # whether two steps agree far within the tolerance
    steps: list[tuple[float, float]] = field(default_factory=list)  # slope, its rounding

    def contradicts(self, analytic: float, distance: float) -> bool:
        """Whether the steps agree on a distance from `analytic`.

        The distance of a right gradient shrinks with the step, or changes at random where a
        step crosses kinks. That of a wrong one stays.
        """
        sharp = [analytic - s for s, rounding in self.steps[1:] if 5 * rounding <= distance][-3:]
        low, high = min(map(abs, sharp), default=0.0), max(map(abs, sharp), default=0.0)
        one_sided = all(d > 0 for d in sharp) or all(d < 0 for d in sharp)
        return (self.agreed or len(sharp) == 3) and one_sided and low >= 0.85 * high


def _differences(net: _Moving, name: str, move: Array, scale: float, tolerance: float) -> _Slope:
    """Try smaller and smaller steps, until two agree well; the two that agree best decide."""
    found = _Slope()
    before: tuple[float, float, float] | None = None  # step, slope and bend of the step before
    for step in _STEPS[net.precision]:
        ahead, behind = net.terms(name, step * move), net.terms(name, -step * move)
        slope = float(np.sum(ahead - behind)) / (2 * step)
        if not math.isfinite(slope):
            continue  # over the edge of the domain, or where an output gets another shape
        bend = float(np.sum(np.abs(ahead + behind))) / step
        terms = net.size((ahead != 0) | (behind != 0))
        found.terms = max(found.terms, terms)
        scale = max(scale, 1e-6 * found.terms)
        rounding = 2 * _EPSILON[net.precision] * terms / step
        if before is not None:
            ratio = before[0] / step
            scatter = abs(slope - before[1]) + rounding
            if scatter <= found.doubt:
                found.doubt = scatter
                found.slope = slope + (slope - before[1]) / (ratio**2 - 1)
                # A curve's bend shrinks with the step, a kink's does not.
                found.bend = max(0.0, (ratio * bend - before[2]) / (ratio - 1) - 10 * rounding)
        found.steps.append((slope, rounding))
        before = step, slope, bend
        found.agreed = 10 * found.doubt <= tolerance * scale
        if found.agreed:
            break
    return found


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0


def _moving(
    runtimes: Mapping[str, Start],
    net: ir.Model,
    names: list[str],
    targets: list[str],
    held: list[str],
    values: dict[str, Any],
    precision: str,
) -> _Moving:
    """The net for differences, in double precision if possible."""
    refusals = []
    for wide in _STEPS:
        if precision not in ("auto", wide):
            continue
        forced = precision == "float64" or not _has_onnxruntime()
        for runtime, start in runtimes.items():
            slow = runtime != "onnxruntime" and not forced
            if slow and _reference_work(net, values) > _REFERENCE_LIMIT:
                continue
            # The reference calculates in whatever precision it is fed.
            model, complete = _in_precision(net, wide, strict=runtime == "onnxruntime")
            if not complete:
                refusals.append(f"{runtime} in {wide}: the standard has an operator in float32.")
                continue
            feeds = _feeds(model, values)
            try:
                _hold(start, model, held, feeds)
                still = _move(model, names, targets)
                before = time.monotonic()
                moving = _Moving(start(model), feeds, targets, still, wide, runtime)
                if slow and (time.monotonic() - before) * 16 * len(names) > _PATIENCE:
                    continue
                _require_sense(runtimes, net, moving, values)
                return moving
            except (ModelError, FeedError, RuntimeMissingError) as error:
                refusals.append(f"{runtime} in {wide}: {error}")
    raise ModelError(f"The net cannot be run for differences. {' '.join(refusals)}")


def _gradients(
    runtimes: Mapping[str, Start],
    net: ir.Model,
    names: list[str],
    targets: list[str],
    held: list[str],
    values: dict[str, Any],
    seeds: Mapping[str, Array],
    forced: str,
) -> tuple[dict[str, Array], str, str]:
    """The gradients by tensor name, their precision and the runtime."""
    refusals = []
    ways = [
        ("float64", "onnxruntime"),
        ("float32", "onnxruntime"),
        ("float64", "onnx's reference"),  # the last: a transposed convolution takes it seconds
    ]
    if forced == "float64":
        ways.sort(key=lambda way: way[0] != forced)
    for precision, runtime in ways:
        if runtime not in runtimes:
            continue
        try:
            wide, _ = _in_precision(net, precision)
            model = gradient(
                wide,
                names,
                of=targets,
                ograd=list(seeds) or False,
                forward=False,
                unreachable="zeros",
                constant=held,
                example=_feeds(wide, values),
            )
            inputs = json.loads(model.metadata_props[OGRADS])
            feeds = values | {inputs[name]: seed for name, seed in seeds.items()}
            outputs = [value.name or "" for value in model.graph.outputs]
            found = runtimes[runtime](model)(_feeds(model, feeds), outputs)
            return dict(zip(names, found, strict=True)), precision, runtime
        except (ModelError, FeedError, RuleError, RuntimeMissingError) as error:
            refusals.append(f"{runtime} in {precision}: {error}")
    raise ModelError(f"The gradient cannot be run. {' '.join(refusals)}")


def _require_sense(
    runtimes: Mapping[str, Start], net: ir.Model, moving: _Moving, values: dict[str, Any]
) -> None:
    """Refuse a net without derivatives here, and a precision in which it is another net."""
    for name, y in zip(moving.targets, moving.outputs, strict=True):
        if not np.all(np.isfinite(y)):
            raise ArgumentError(f"{name!r} is not finite on this input: there is no derivative.")
    if not all(map(_close, moving.at({}), moving.outputs)):
        raise ArgumentError("The net gives other values when run again: it is random.")
    plain, _ = _in_precision(net, "float32")
    plain.graph.outputs[:] = [_value(plain, name) for name in moving.targets]
    try:
        expected = runtimes["onnxruntime"](plain)(_feeds(plain, values), moving.targets)
    except (KeyError, ModelError, FeedError, RuntimeMissingError):
        return  # there is nothing to compare with
    if not all(map(_close, expected, moving.outputs)):
        raise ModelError("the values differ from onnxruntime's in single precision.")


def _close(a: Array, b: Array) -> bool:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and float(np.linalg.norm(a - b)) <= 1e-2 * float(np.linalg.norm(b))


def _prepare(net: ir.Model) -> None:
    """Functions inlined, constants where they can be moved, dtypes known; else the net as it is."""
    inline(net, lambda f: declared(f.domain, f.name))
    inline_holders(net)
    common.LiftConstantsToInitializersPass(lift_all_constants=True)(net)
    common.LiftSubgraphInitializersToMainGraphPass()(net)
    infer(net)


def _in_precision(net: ir.Model, precision: str, strict: bool = True) -> tuple[ir.Model, bool]:
    """The net in a precision, and whether all of it is."""
    model = io.load(net)
    dtype = ir.DataType.DOUBLE if precision == "float64" else ir.DataType.FLOAT
    return model, widen(model, dtype, strict)


def _feeds(model: ir.Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` in the dtypes of the model's inputs."""
    ports = {value.name: Port.of(value) for value in model.graph.inputs}
    return {
        name: value if ports[name].dtype is None else np.asarray(value).astype(ports[name].dtype)
        for name, value in values.items()
    }


def _hold(start: Start, model: ir.Model, names: list[str], feeds: dict[str, Any]) -> None:
    """Let tensors keep the values that they have on these feeds, in place."""
    computed = [v for v in (_value(model, name) for name in names) if v.producer() is not None]
    if not computed:
        return
    outputs = list(model.graph.outputs)
    model.graph.outputs[:] = computed
    found = start(model)(feeds, [v.name or "" for v in computed])
    model.graph.outputs[:] = outputs
    for v, array in zip(computed, found, strict=True):
        held = ir.Value(name=v.name, type=v.type, const_value=ir.tensor(array, name=v.name))
        v.name = f"{v.name}{_COMPUTED}"
        v.replace_all_uses_with(held, replace_graph_outputs=True)
        model.graph.register_initializer(held)


def _move(model: ir.Model, names: list[str], targets: list[str]) -> dict[str, Array]:
    """Add a new input to each tensor of `names`, in place; moves of no length by tensor name."""
    graph = model.graph
    graph.outputs.clear()
    for name in targets:
        _output(model, f"{name}{_TARGET}", _value(model, name))
    still = {}
    for name in names:
        value = _value(model, name)
        assert value.dtype is not None
        # Without a shape: a single zero stands for all that are not moved.
        move = ir.Value(name=f"{name}{_MOVE}", type=ir.TensorType(value.dtype))
        add = ir.node("Add", [value, move])
        moved = add.outputs[0]
        moved.type, moved.shape = value.type, value.shape
        ir.convenience.replace_all_uses_with(value, moved, replace_graph_outputs=True)
        add.replace_input_with(0, value)
        producer = value.producer()
        if producer is not None:
            producer.append(add)
        elif len(graph):
            graph[0].prepend(add)
        else:
            graph.append(add)
        graph.inputs.append(move)
        _output(model, f"{name}{_MOVED}", moved)
        still[name] = np.zeros((), value.dtype.numpy())
    common.RemoveUnusedNodesPass()(model)  # such as have no kernel here
    return still


def _value(model: ir.Model, name: str) -> ir.Value:
    graph = model.graph
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.name == name:
            return value
    return next(v for node in graph for v in node.outputs if v.name == name)


def _output(model: ir.Model, name: str, value: ir.Value) -> None:
    node = ir.node("Identity", [value])
    output = node.outputs[0]
    output.name, output.type, output.shape = name, value.type, value.shape
    model.graph.append(node)
    model.graph.outputs.append(output)


def _reference_work(net: ir.Model, values: dict[str, Any]) -> float:
    """About how many multiplications a run takes on onnx's reference evaluator."""
    model = io.load(net)
    for value in model.graph.inputs:
        if value.name in values:
            value.shape = ir.Shape(np.shape(values[value.name]))
    infer(model)
    work = 0.0
    for node in model.graph.all_nodes():
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


def _has_onnxruntime() -> bool:
    try:
        onnxruntime()
    except RuntimeMissingError:
        return False
    return True


RUNTIMES: Mapping[str, Start] = {
    "onnxruntime": on_onnxruntime,
    "onnx's reference": on_reference,
}
