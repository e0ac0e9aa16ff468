"""The structural operators on drawn shapes, axes and attributes, against central differences.

A row of `CASES` draws one node of an operator: sizes of 0 and 1, scalars, negative axes, every form
of broadcasting. One body checks it. For an operator that is linear or a product of up to four
factors the differences are exact but for rounding. CONTRIBUTING.md says how to draw far more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxgrad as og
from tests.oracle import close
from tests.rules import test_rules
from tests.rules.test_rules import (
    float_outputs,
    floats,
    runner_of,
    sample_model,
    validate,
    vjp_error,
)
from tests.samples import Array, Sample, ints

FUZZ = os.environ.get("FUZZ")  # how many cases of each operator, other ones every time
PROFILE = settings(
    max_examples=int(FUZZ or 30),
    derandomize=not FUZZ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

_MAX, _MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min


class Draw:
    """What cases are made of."""

    def __init__(self, draw: Callable[[st.SearchStrategy], Any]) -> None:
        self._draw = draw
        self._rng = np.random.default_rng(self.between(0, 99))

    def between(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def of(self, choices: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(choices))

    def flag(self) -> bool:
        return self._draw(st.booleans())

    def some(self, choices: Sequence[Any]) -> list[Any]:
        """Some of the choices or none, in any order."""
        return self.order(choices)[: self.between(0, len(choices))]

    def order(self, choices: Sequence[Any]) -> list[Any]:
        """All of the choices, in any order."""
        return self._draw(st.permutations(choices))

    def many(self, choices: Sequence[Any], low: int, high: int) -> list[Any]:
        """`low` to `high` of the choices, which can be equal."""
        return self._draw(st.lists(st.sampled_from(choices), min_size=low, max_size=high))

    def shape(self, low: int = 0, high: int = 4, least: int = 0) -> list[int]:
        """A shape of `low` to `high` axes, none smaller than `least`; one in three may be empty."""
        least = least or self.of([1, 1, 0])
        return self.many(range(least, 5), low, high)

    def axis(self, rank: int) -> int:
        """An axis, counted from the front or from the end."""
        return self.between(-rank, rank - 1)

    def axes(self, rank: int) -> list[int]:
        """Some axes, each counted from the front or from the end."""
        return [a - rank if self.flag() else a for a in self.some(range(rank))]

    def numbers(self, shape: Sequence[int]) -> Array:
        return self._rng.standard_normal(shape)

    def positive(self, shape: Sequence[int]) -> Array:
        return self._rng.uniform(0.5, 2, shape)

    def apart(self, *shapes: Sequence[int]) -> list[Array]:
        """Arrays whose numbers are all at least 0.05 apart from each other and from 0."""
        counts = [math.prod(s) for s in shapes]
        order = self._rng.permutation(sum(counts)) - sum(counts) // 2 + 0.5
        parts = np.split(order * 0.1, np.cumsum(counts)[:-1])
        return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]

    def places(self, shape: Sequence[int], size: int) -> Array:
        """Positions along an axis, counted from the front or from the end."""
        return np.asarray(self._rng.integers(-size, max(size, 1), shape))

    def broadcast(self, n: int) -> list[list[int]]:
        """Shapes that broadcast with each other."""
        full = self.shape()
        return [self.stretched(full) for _ in range(n)]

    def stretched(self, full: list[int]) -> list[int]:
        """A shape that broadcasts to another."""
        lead = self.between(0, len(full))
        return [1 if self.flag() else size for size in full[lead:]]

    def empty_or(self, array: Array) -> Array | None:
        """An optional operand."""
        return array if self.flag() else None


CASES: dict[str, Callable[[Draw, str], Sample]] = {}


def case(*names: str) -> Callable[[Callable[[Draw, str], Sample]], None]:
    """Enter a function that draws a case of the operators named."""

    def enter(function: Callable[[Draw, str], Sample]) -> None:
        CASES.update(dict.fromkeys(names, function))

    return enter


@st.composite
def samples(draw: Any, name: str) -> Sample:
    return CASES[name](Draw(draw), name)


# -- the table -----------------------------------------------------------------------------------


@case("Reshape")
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    target, left = [], math.prod(x)
    if not left:
        target = d.order([0, *d.shape(0, 3)])
        plain = all(x[k : k + 1] == [0] for k, n in enumerate(target) if not n)
        allowzero = {} if plain and d.flag() else {"allowzero": 1}
        return Sample(op, [d.numbers(x), ints(*target)], allowzero)
    while left > 1:
        target.append(d.of([k for k in range(1, left + 1) if left % k == 0]))
        left //= target[-1]
    target += [1] * d.between(0, 2)
    if target and d.flag():
        target[d.between(0, len(target) - 1)] = -1
    copied = [0 if x[k : k + 1] == [n] and d.flag() else n for k, n in enumerate(target)]
    return Sample(op, [d.numbers(x), ints(*copied)])


@case("Transpose")
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    return Sample(op, [d.numbers(x)], {"perm": d.order(range(len(x)))} if d.flag() and x else {})


@case("Concat")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x))
    parts = [[d.between(0, 3) if k == axis % len(x) else n for k, n in enumerate(x)] for _ in "abc"]
    return Sample(op, [d.numbers(p) for p in parts[: d.between(1, 3)]], {"axis": axis})


@case("Split")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x))
    if d.flag():
        n = d.between(1, 4)
        x[axis] = max(x[axis], 1)
        n = min(n, x[axis])
        n = -(-x[axis] // -(-x[axis] // n))  # so many chunks as it takes
        return Sample(op, [d.numbers(x)], {"axis": axis, "num_outputs": n}, outputs=n)
    parts = d.many(range(4), 1, 3)
    x[axis] = sum(parts)
    of = d.some(range(len(parts))) or None
    return Sample(op, [d.numbers(x), ints(*parts)], {"axis": axis}, outputs=len(parts), of=of)


@case("Slice")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1, 3)
    kind, axes = d.of([np.int64, np.int32]), d.axes(len(x)) or [0]
    named = d.of([None, axes])
    rows = []
    for a in axes if named else range(len(axes)):
        step = d.of([1, 2, 3, 1000, 2**30]) * d.of([-1, 1])
        rows.append([*_bounds(d, x[a], step, np.iinfo(kind)), step])
    starts, stops, steps = zip(*rows, strict=True)
    if not any(k != 1 for k in steps) and d.flag():
        steps = None
    given = [starts, stops, named, steps]
    return Sample(op, [d.numbers(x), *(n and np.array(n, kind) for n in given)])


def _bounds(d: Draw, size: int, step: int, limits: np.iinfo) -> tuple[int, int]:
    """Where a Slice starts and stops, mostly with something between."""
    # Runtimes differ on what it means to go backwards to INT_MAX. And onnx's inference crashes
    # where a start, or the sum of start and step, is beyond 32 bits.
    ends = [limits.min, limits.max, *range(-6, 7)]
    if not d.between(0, 3):
        start, stop = d.of(range(-6, 7)), d.of(ends)
        return start, limits.min if step < 0 and stop == limits.max else stop
    low, high = sorted((d.between(0, size), d.between(0, size)))
    start, stop = (low, high) if step > 0 else (high, low - 1)
    whole = limits.max if step > 0 else limits.min
    return start - size * d.flag(), d.of([stop if stop >= 0 else whole, stop - size, whole])


@case("Pad")
def _(d: Draw, op: str) -> Sample:
    mode = d.of(["constant", "constant", "reflect", "edge", "wrap"])
    copies = mode != "constant"
    x = d.shape(1, least=int(copies))
    axes = d.axes(len(x)) if d.flag() else None
    pads = []
    for a in range(len(x)) if axes is None else axes:
        cut = [0, 0]
        for side in d.some([0, 1]) if d.flag() else []:
            cut[side] = d.between(0, x[a] - sum(cut) - copies)
        left = x[a] - sum(cut)
        most = {"constant": 3, "reflect": left - 1, "edge": 3, "wrap": left}[mode]
        pads.append([-c if c else d.between(0, most) for c in cut])
    operands = [d.numbers(x), ints(*(p[0] for p in pads), *(p[1] for p in pads))]
    operands.append(None if copies else d.empty_or(d.numbers([])))
    operands += [] if axes is None else [ints(*axes)]
    return Sample(op, operands, {"mode": mode})


@case("Expand")
def _(d: Draw, op: str) -> Sample:
    x, target = d.broadcast(2)
    return Sample(op, [d.numbers(x), ints(*target)])


@case("Tile")
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    return Sample(op, [d.numbers(x), ints(*(d.between(0, 3) for _ in x))])


@case("Squeeze")
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    axes = d.axes(len(x))
    if not axes:
        return Sample(op, [d.numbers(x)], symbolic=False)  # only the sizes tell which axes go
    for a in axes:
        x[a] = 1
    return Sample(op, [d.numbers(x), ints(*axes)])


@case("Unsqueeze")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(high=3)
    n = d.between(0, 2)
    axes = d.order(range(len(x) + n))[:n]
    return Sample(op, [d.numbers(x), ints(*(a - len(x) - n if d.flag() else a for a in axes))])


@case("Flatten")
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    return Sample(op, [d.numbers(x)], {"axis": d.between(-len(x), len(x))})


@case("Gather")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x))
    indices = d.places(d.shape(0, 2) if x[axis] else [0, *d.shape(0, 1)], x[axis])
    return Sample(op, [d.numbers(x), indices.astype(d.of([np.int64, np.int32]))], {"axis": axis})


@case("GatherElements")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x))
    at = [size - d.between(0, size) // 2 for size in x]
    at[axis] = d.between(0, 5) if x[axis] else 0
    return Sample(op, [d.numbers(x), d.places(at, x[axis])], {"axis": axis})


def _tuples(d: Draw, lead: list[int], sizes: list[int]) -> Array:
    """Index tuples of shape [*lead, len(sizes)]; none where there is nothing to point at."""
    if not all(sizes):
        return np.zeros([0, *lead[1:], len(sizes)], np.int64)
    return np.stack([d.places(lead, n) for n in sizes], -1)


@case("GatherND")
def _(d: Draw, op: str) -> Sample:
    batch = d.between(0, 2)
    x = d.shape(batch + 1, least=bool(batch))  # onnxruntime drops an Expand of 1 to 0 of constants
    sizes = x[batch : d.between(batch + 1, len(x))]
    lead = d.shape(not all(sizes), 2, least=bool(batch))
    return Sample(op, [d.numbers(x), _tuples(d, x[:batch] + lead, sizes)], {"batch_dims": batch})


@case("ScatterElements")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x))
    reduction = d.of(["none", "add", "mul", "max", "min"])
    n = x[axis]
    at = [size - d.between(0, size) // 2 for size in x]
    if reduction == "none":  # a place that is written twice is undefined
        order = np.argsort(
            d.numbers([n if k == axis % len(x) else s for k, s in enumerate(at)]), axis
        )
        indices = np.take(order, range(at[axis]), axis) - (n if d.flag() else 0)
    else:
        indices = d.places(at, n)
    data, updates = d.apart(x, indices.shape)
    return Sample(op, [data, indices, updates], {"axis": axis, "reduction": reduction})


@case("ScatterND")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    reduction = d.of(["none", "add", "mul", "max", "min"])
    last = d.between(1, len(x))
    sizes = x[:last]
    if reduction == "none":
        cells = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), -1)
        cells = d._rng.permutation(cells)[: d.between(0, len(cells))]
        indices = cells - (np.array(sizes) if d.flag() else 0)
    else:
        lead = d.shape(0 if all(sizes) else 1, 2)
        indices = _tuples(d, lead, sizes)
    data, updates = d.apart(x, [*indices.shape[:-1], *x[last:]])
    return Sample(op, [data, indices.astype(np.int64), updates], {"reduction": reduction})


_REDUCTIONS = {
    "ReduceSum": Draw.numbers,
    "ReduceSumSquare": Draw.numbers,
    "ReduceL1": lambda d, shape: d.apart(shape)[0],
    "ReduceL2": Draw.positive,
    "ReduceProd": Draw.positive,
    # These are not defined for no elements.
    "ReduceMean": Draw.numbers,
    "ReduceLogSum": Draw.positive,
    "ReduceLogSumExp": Draw.numbers,
    "ReduceMax": lambda d, shape: d.apart(shape)[0],
    "ReduceMin": lambda d, shape: d.apart(shape)[0],
}


@case(*_REDUCTIONS)
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    axes = d.axes(len(x)) if d.flag() else None
    attributes = {"keepdims": d.between(0, 1), "noop_with_empty_axes": d.between(0, 1)}
    if list(_REDUCTIONS).index(op) > 4:
        for a in axes or range(len(x)):
            x[a] = max(x[a], 1)
    data = _REDUCTIONS[op](d, x)
    return Sample(op, [data] if axes is None else [data, ints(*axes)], attributes)


@case("CumSum")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = np.array(d.axis(len(x)), d.of([np.int64, np.int32]))
    return Sample(op, [d.numbers(x), axis], {k: d.between(0, 1) for k in ("exclusive", "reverse")})


@case("TopK")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x))
    attributes = {"axis": axis, "largest": d.between(0, 1)}
    k = x[axis] - d.between(0, x[axis])
    return Sample(op, [d.apart(x)[0], ints(k)], attributes, outputs=2)


@case("Where")
def _(d: Draw, op: str) -> Sample:
    condition, x, y = d.broadcast(3)
    return Sample(op, [np.asarray(d.numbers(condition) > 0), d.numbers(x), d.numbers(y)])


@case("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod")
def _(d: Draw, op: str) -> Sample:
    a, b = d.broadcast(2)
    if op in ("Max", "Min"):
        return Sample(op, d.apart(a, b))
    if op == "Mod":
        return Sample(op, [d.positive(a), np.asarray(d.positive(b) + 4)], {"fmod": 1})
    draw = d.positive if op in ("Div", "Pow") else d.numbers
    return Sample(op, [draw(a), draw(b)])


@case("Sum", "Mean")
def _(d: Draw, op: str) -> Sample:
    operands = [d.numbers(s) for s in d.broadcast(d.between(1, 4))]
    return Sample(op, operands, single=True, tolerance=1e-3)  # no kernels in double precision


@case("PRelu")
def _(d: Draw, op: str) -> Sample:
    x = d.shape()
    return Sample(op, [d.apart(x)[0], d.numbers(d.stretched(x))])


@case("Clip")
def _(d: Draw, op: str) -> Sample:
    x = d.apart(d.shape())[0]
    return Sample(op, [x, d.empty_or(np.array(-0.31)), d.empty_or(np.array(0.33))])


@case("MatMul")
def _(d: Draw, op: str) -> Sample:
    m, k, n = d.shape(3, 3)
    a, b = d.broadcast(2) if d.flag() else ([], [])
    a, b = a[-2:], b[-2:]
    left = [k] if not a and d.flag() else [*a, m, k]
    right = [k] if not b and d.flag() else [*b, k, n]
    return Sample(op, [d.numbers(left), d.numbers(right)])


@case("Gemm")
def _(d: Draw, op: str) -> Sample:
    m, k, n = d.shape(3, 3)
    attributes = {"transA": d.between(0, 1), "transB": d.between(0, 1), "alpha": 0.5, "beta": 1.5}
    a = [k, m] if attributes["transA"] else [m, k]
    b = [n, k] if attributes["transB"] else [k, n]
    c = [d.numbers(d.stretched([m, n]))] if d.flag() else []
    return Sample(op, [d.numbers(a), d.numbers(b), *c], attributes)


@case("Einsum")
def _(d: Draw, op: str) -> Sample:
    sizes = {label: d.between(1, 3) for label in "abcd"}
    free = d.shape(0, 2, least=1)
    terms = [d.many("abcd", 0, 3) for _ in range(d.between(1, 3))]
    result = d.some(sorted({a for term in terms for a in term}))
    dots = d.flag()
    shapes = []
    for k, term in enumerate(terms):
        shape = [sizes[a] for a in term]
        if dots and (not k or d.flag()):
            at = d.between(0, len(term))
            shape[at:at] = [1 if d.flag() else n for n in free]
            term[at:at] = ["..."]
        shapes.append(shape)
    if dots:
        result.insert(d.between(0, len(result)), "...")
    equation = ",".join(map("".join, terms))
    if d.flag():
        equation += "->" + "".join(result)
    return Sample(op, [d.numbers(s) for s in shapes], {"equation": equation})


@case("DepthToSpace", "SpaceToDepth")
def _(d: Draw, op: str) -> Sample:
    n, c, h, w = (d.between(0, 2), *(d.between(1, 3) for _ in "chw"))
    block = d.between(1, 3)
    if op == "SpaceToDepth":
        return Sample(op, [d.numbers([n, c, h * block, w * block])], {"blocksize": block})
    x = d.numbers([n, c * block**2, h, w])
    return Sample(op, [x], {"blocksize": block, "mode": d.of(["DCR", "CRD"])})


@case("OneHot")
def _(d: Draw, op: str) -> Sample:
    at, depth = d.shape(1, 3), d.between(1, 4)
    indices = d._rng.integers(-depth - 1, depth + 1, at)
    axis = {"axis": d.between(-len(at) - 1, len(at))}
    values = [np.asarray(indices), np.array(depth), d.numbers([2])]
    return Sample(op, values, axis, single=True, tolerance=1e-3)  # no kernel in double precision


@case("ReverseSequence")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(2)
    batch = d.between(0, 1)
    lens = ints(*(d.between(0, x[1 - batch]) for _ in range(x[batch])))
    return Sample(op, [d.numbers(x), lens], {"batch_axis": batch, "time_axis": 1 - batch})


@case("CenterCropPad")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1, least=1)
    axes = d.axes(len(x)) or None
    target = ints(*(d.between(1, 6) for _ in axes or x))
    return Sample(op, [d.numbers(x), target], {"axes": axes} if axes else {})


@case("Trilu")
def _(d: Draw, op: str) -> Sample:
    x = d.numbers(d.shape(2))
    return Sample(op, [x, d.empty_or(np.array(d.between(-5, 5)))], {"upper": d.between(0, 1)})


@case("Compress")
def _(d: Draw, op: str) -> Sample:
    x = d.shape(1)
    axis = d.axis(len(x)) if d.flag() else None
    length = d.between(0, math.prod(x) if axis is None else x[axis])
    condition = d.numbers([length]) > d.of([-1, 0])
    return Sample(op, [d.numbers(x), condition], {} if axis is None else {"axis": axis})


# -- the check -----------------------------------------------------------------------------------


def check(sample: Sample, symbolic: bool, fed: bool) -> None:
    model, feeds = sample_model(sample, symbolic, fed)
    backward = og.gradient(model, floats(sample), of=float_outputs(model, sample), ograd=True)
    validate(backward)
    rng = np.random.default_rng(0)
    analytic, numeric = vjp_error(model, backward, feeds, rng, runner_of(sample))
    assert close(analytic, numeric, sample.tolerance), (analytic, numeric)


@pytest.mark.parametrize("name", CASES)
def test_drawn(name: str) -> None:
    @PROFILE
    @given(samples(name), *[st.booleans()] * 3)
    def body(sample: Sample, symbolic: bool, fed: bool, second: bool) -> None:
        symbolic &= sample.symbolic
        check(sample, symbolic, fed)
        if second:
            test_rules.test_second_order(sample, symbolic, fed)

    body()
