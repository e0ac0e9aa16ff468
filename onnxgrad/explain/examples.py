"""Which inputs hold the examples of a batch, and whether these do not influence each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxgrad.explain.method import MovedExplanation
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.graph.facts import Dim, by_name, dims_of
from onnxgrad.heads.head import Head, emit_heads
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.examples import batch_inputs, batch_of, new_dim
from onnxgrad.transforms.options import Inputs
from onnxgrad.transforms.row_sizes import Rows
from onnxgrad.transforms.rows import rows_of


@dataclass(frozen=True)
class Examples:
    """The examples of a batch, as far as they are proven, or told, to be apart.

    Args:
        axes: By the name of an input that has them, one of a head among them, their axis there.
        first: The name of the input that their number is read from.
        apart: Whether what is moved and what is explained has examples that do not influence each
            other.
        counted: Whether each has a number of its own in all scores and all attributions.
        rows: By the name of a tensor, where the examples are in it; None if that is only told.
    """

    axes: dict[str, int] = field(default_factory=dict)
    first: str = ""
    apart: bool = False
    counted: bool = False
    rows: Mapping[str, Rows] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        at: MovedExplanation,
        heads: Mapping[Head, Sequence[str]],
        classes: Iterable[str],
        moved: Sequence[ir.Value],
        batched: Inputs | None,
    ) -> Examples:
        """The examples of an explanation.

        Args:
            at: The explanation.
            heads: Those that it explains, with the tensors that each reads.
            classes: The inputs of these heads for classes.
            moved: The tensors that are moved.
            batched: The names of inputs whose first axis is told to be the batch; None for a proof.

        Raises:
            ArgumentError: A name is not that of an input.
        """
        if batched:
            return cls._told(at, classes, moved, batched)
        found = cls()
        for axes in _candidates(at, moved):
            try:
                found = cls._proven(at, heads, moved, axes)
            except OnnxGradError:  # its own sizes do not fit: some are fixed
                continue
            if found.apart:
                break
        if batched is None:
            return found
        return cls(counted=found.counted)

    def leads(self, name: str) -> bool:
        """Whether a tensor has the examples for its first axis."""
        if self.rows is None:
            return True
        place = self.rows.get(name)
        return place is not None and place.plain and not place.axis

    def size_of(self, graph: ir.Graph) -> Dim:
        """The number of examples, or its name, as the graph tells it."""
        dims = dims_of(by_name(graph)[self.first]) if self.first else None
        return dims[self.axes[self.first]] if dims else None

    @classmethod
    def _told(
        cls,
        at: MovedExplanation,
        classes: Iterable[str],
        moved: Sequence[ir.Value],
        batched: Inputs,
    ) -> Examples:
        graph = at.op.graph
        given = batch_inputs(graph, batched)
        own = {v.name for v in at.spare.graph.inputs}
        size = (dims_of(given[0]) or (None,))[0]
        added = [
            v
            for v in graph.inputs
            if v.name not in own and ((d := dims_of(v)) is None or d[:1] in ((size,), (None,)))
        ]
        batch = batch_of(graph, [*given, *added])
        needed = [*moved, *at.job.of, *at.job.wrt]
        apart = all(v in batch and dims_of(v) != () for v in needed)
        axes = dict.fromkeys([*(v.name or "" for v in (*given, *added)), *classes], 0)
        first = next((v for v in moved if v in given), given[0])
        return cls(axes, first.name or "", apart, apart)

    @classmethod
    def _proven(
        cls,
        at: MovedExplanation,
        heads: Mapping[Head, Sequence[str]],
        moved: Sequence[ir.Value],
        axes: Mapping[str, int],
    ) -> Examples:
        """What follows if inputs have the batch along these axes, and all others have it not."""
        net, options, batch = at.spare.clone(), at.options, new_dim(at.op.graph, "examples")
        _name_sizes(net.graph, at.op.graph, axes, batch)
        scores = [y.name or "" for y in at.job.of if y not in at.job.heads.values()]
        names = [v.name or "" for v in (*moved, *at.job.wrt)]
        read = [name for tensors in heads.values() for name in tensors]
        normalise(net, [*names, *scores, *read], options.straight_through, options.example)
        inputs = {v: axes[v.name or ""] for v in net.graph.inputs if v.name in axes}
        rows = rows_of(net.graph, inputs, batch)
        own, values = set(net.graph.inputs), by_name(net.graph)
        ys = [*emit_heads(net.graph, heads).values(), *(values[n] for n in scores)]
        leading = [values[n] for n in read if rows.get(values[n]) == Rows(0)]
        sizes = {(dims_of(v) or (None,))[0] for v in leading}
        for v in net.graph.inputs:
            if v not in own and (dims_of(v) or (None,))[0] in sizes:  # it is by example too
                inputs[v] = 0
        rows = rows_of(net.graph, inputs, batch)
        found = {v.name or "": axis for v, axis in inputs.items()}
        places = {v.name or "": place for v, place in rows.items()}
        one = cls(found, next(iter(axes)), False, False, places)
        apart = all(y in rows for y in ys) and all(one.leads(v.name or "") for v in moved)
        counted = [*(y.name or "" for y in ys), *(v.name or "" for v in at.job.wrt)]
        return cls(found, one.first, apart, apart and all(map(one.leads, counted)), places)


def _candidates(at: MovedExplanation, moved: Sequence[ir.Value]) -> list[dict[str, int]]:
    """Axes of inputs that may be the batch, the first input first: those of all, of that one."""
    own = {v.name for v in at.spare.graph.inputs}
    inputs = [
        v for v in at.op.graph.inputs if v.name in own and not v.is_initializer() and dims_of(v)
    ]
    asked = [v for v in (*moved, *at.job.wrt, *inputs) if v in inputs]
    if not asked:
        return []
    first = asked[0]
    size = (dims_of(first) or (None,))[0]
    found = {first.name or "": 0}
    for v in inputs:
        axis = _axis_of(size, dims_of(v) or ())
        if axis is not None:
            found.setdefault(v.name or "", axis)
    alone = {first.name or "": 0}
    return [found] if found == alone else [found, alone]


def _axis_of(size: Dim, dims: Sequence[Dim]) -> int | None:
    """The axis that may be of a size: by its name wherever it is, else the first one."""
    if isinstance(size, str) and dims.count(size) == 1:
        return dims.index(size)
    may_be = size is None or dims[0] is None or dims[0] == size
    return 0 if may_be else None


def _name_sizes(graph: ir.Graph, known: ir.Graph, axes: Mapping[str, int], batch: str) -> None:
    """Name the size of the batch, and each that has no name, so that all can be told apart."""
    here = {v.name: v for v in known.inputs}
    for v in graph.inputs:
        dims = dims_of(here[v.name])
        if dims is None or v.is_initializer():
            continue
        named = [d if d is not None else f"{v.name}:{k}" for k, d in enumerate(dims)]
        if (axis := axes.get(v.name or "")) is not None:
            named[axis] = batch
        v.shape = ir.Shape(named)
