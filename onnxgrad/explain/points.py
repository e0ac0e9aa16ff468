"""The net at other points than its inputs: many points as one batch, or part by part in a Scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.models import copy_model
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.subgraphs import scan
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.examples import Examples
from onnxgrad.explain.method import MovedExplanation
from onnxgrad.graph.errors import ArgumentError, OnnxGradError
from onnxgrad.graph.facts import Dim, by_name, dims_of, shown, without_invented
from onnxgrad.graph.fresh import Names
from onnxgrad.heads.head import Head, parted
from onnxgrad.heads.scores import class_of, with_classes
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.examples import new_dim
from onnxgrad.transforms.metadata import ATTRIBUTIONS, GRADIENTS, table
from onnxgrad.transforms.options import Inputs

# ``explain(net, **options)`` gives the model whose outputs, in their order, are asked for.
Explain = Callable[..., ir.Model]
# ``points(op, *slices)`` gives tensors [P, *x.shape] by the names of the tensors that are moved.
PointsAt = Callable[..., Mapping[str, Tensor]]
# ``step(op, states, results, *slices)`` gives the states after the results [P, ...] of P points. As
# numbers, states are zeros.
Step = Callable[..., Sequence[Tensor]]


class Elsewhere:
    """A copy of the net that is explained at other points.

    The classes are found once, at the net's inputs, not at each point. Where the examples of a
    batch do not influence each other, several points are one batch; else it is run for one at a
    time.

    Args:
        at: The explanation of the net at its inputs.
        explain: Explains the copy.
        moved: The tensors that the points are of. An inner one is an input of the copy.
        drawn: The names of inputs that `explain` adds and that the points are of too.
        count: The number of points.
        batched: The inputs whose first axis is the batch; None for those that are proven to.
        at_once: How many points one run takes, given the size of the batch; None for all.

    Attributes:
        examples: Whether and where the net has examples that do not influence each other.
        by_example: Whether scores and what is explained have the examples on their first axis.
        in_rows: Whether several points are one batch.
        size: The size of the batch.
        per_run: How many points one run takes.
        rows: The size of the copy's batch, or its name.
        model: The explained copy.

    Raises:
        OnnxGradError: The copy cannot be explained.
    """

    def __init__(
        self,
        at: MovedExplanation,
        explain: Explain,
        moved: Sequence[ir.Value],
        count: int,
        batched: Inputs | None = None,
        at_once: Callable[[Size], Size] | None = None,
        drawn: Sequence[str] = (),
    ) -> None:
        self._drawn = drawn
        self.at, self.moved, self.count = at, moved, count
        self._explain = explain
        self.size: Size = 1
        self.per_run: Size = 1
        self.rows: Dim = None
        self._classes: dict[str, Tensor] = {}
        # By the name of a result of the copy: the tensor that it belongs to.
        self._tensors: dict[str, str] = {}
        self._heads: dict[Head, list[str]] = {}
        self._of = self._with_classes()
        self.examples = Examples.of(at, self._heads, self._classes, moved, batched)
        self.by_example, self.in_rows = self.examples.counted, self.examples.apart
        model = None
        if self.in_rows:
            first = by_name(at.op.graph)[self.examples.first]
            self.size = shapes.dim(at.op.tensor(first), self.examples.axes[self.examples.first])
            self.per_run = _fitting(at.op, self.size, count, at_once)
            model = self._model_of_rows()
        if model is None:
            self.in_rows, self.per_run, model = False, 1, self._model(None)
        self.model = model
        self._given = self._shared()

    @property
    def whole(self) -> bool:
        """Whether one run takes all points."""
        return isinstance(self.per_run, int) and self.per_run == self.count

    def over(
        self,
        weights: np.ndarray,
        slices: Sequence[Tensor],
        points: PointsAt,
        step: Step,
        like: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """The states after all points.

        Args:
            weights: A number for each point. What fills the last run has the weight 0.
            slices: What `points` and `step` read, [count, ...]: of the points of one run [P, ...].
            points: Emits the points.
            step: Emits the states after a run.
            like: Tensors of the dtypes and shapes of the states.
        """
        op = self.at.op
        double = any(x.dtype == ir.DataType.DOUBLE for x in self.moved)
        w = op.const(weights, dtype=np.float64 if double else np.float32)
        if self.whole:
            return list(step(op, [0] * len(like), self(op, points(op, *slices)), w, *slices))

        def run(inner: Builder, *tensors: Tensor) -> tuple[Sequence[Tensor], list[Tensor]]:
            states, (w, *read) = tensors[: len(like)], tensors[len(like) :]
            return step(inner, states, self(inner, points(inner, *read)), w, *read), []

        zeros = [shapes.full_like(t, 0) for t in like]
        parts = [self._parts(w, live=True), *(self._parts(t) for t in slices)]
        return scan(op, run, zeros, parts, hoists=True)[0]

    def __call__(self, op: Builder, points: Mapping[str, Tensor]) -> list[Tensor]:
        """The copy's outputs, [P, ...], at P points of the tensors that are moved, [P, ...]."""
        rows = {name: self._rows(t) for name, t in points.items()}
        given = self._given if op is self.at.op else self._given | self._filters(op)
        found = copy_model(op, self.model.graph, {**given, **rows})
        return [self._by_point(t) for t in found.values()]

    def result_like(self, value: ir.Value) -> Tensor:
        """A tensor of the dtype and shape of the copy's result for one point.

        Raises:
            ArgumentError: Its shape is not known.
        """
        op, dims = self.at.op, list(without_invented(dims_of(value) or (None,)))
        own = by_name(op.graph).get(self._tensors.get(value.name or "", ""))
        mine = list(() if own is None else without_invented(dims_of(own) or ()))
        known = None not in mine[1:] or own in self.moved
        if own is not None and len(dims) == len(mine) and dims[1:] == mine[1:] and known:
            return op.tensor(own)
        sizes = [self.size if self.in_rows else dims[0], *dims[1:]]
        if any(d is None or isinstance(d, str) for d in sizes):
            raise ArgumentError(
                f"the size of {shown(value)} is not known when the graph is built, and points are "
                "computed one after the other: name the inputs that have a batch in batched, so "
                "that all points are one batch"
            )
        example = op.const(0, dtype=value.dtype.numpy() if value.dtype else np.float32)
        return shapes.full(example, sizes, 0)  # type: ignore[arg-type]

    # -- the copy ----------------------------------------------------------------------------------

    def _with_classes(self) -> list[Any]:
        """What is explained, its classes being inputs of the copy."""
        at, op = self.at, self.at.op
        values = by_name(op.graph)
        specs, heads = parted(at.of)
        fixed: list[Any] = [specs] if isinstance(specs, str) else list(specs or ())
        for head in heads:
            read = list(at.job.read[head])
            classes = class_of(op, head, op.tensor(values[read[0]]))
            if classes is not None:
                name = op.names.fresh("classes")
                self._classes[name] = classes
                head = with_classes(head, name)
            self._heads[head] = read
            fixed.append(head)
        return fixed

    def _model_of_rows(self) -> ir.Model | None:
        """The copy for several points; None where there can be none."""
        graph, total = self.at.op.graph, shapes.product([self.size, self.per_run])
        self.rows = new_dim(graph, "points") if isinstance(total, Tensor) else total
        try:
            model = self._model(self.rows)
            if all(map(self.examples.leads, self._tensors.values())):
                return model
        except OnnxGradError:  # of the sizes; or one that comes again for one point
            pass
        return None

    def _model(self, rows: Dim) -> ir.Model:
        """The explained copy, for so many rows; None for the batch as it is."""
        at, net = self.at, self.at.spare.clone()
        options = at.options
        if options.example is not None:
            names = [n for head in at.job.read.values() for n in head]
            names += [v.name or "" for v in [*self.moved, *at.job.of]]
            normalise(net, names, options.straight_through, options.example)
        for v in net.graph.inputs:
            axis = self.examples.axes.get(v.name or "")
            if rows is not None and axis is not None and v.shape is not None:
                v.shape = ir.Shape([*v.shape[:axis], rows, *v.shape[axis + 1 :]])
        for v in self.moved:
            _cut(net.graph, v, rows)
        model = self._explain(
            net,
            of=self._of or None,
            target=None,
            forward=False,
            unreachable=options.unreachable,
            straight_through=options.straight_through,
            constant=at.job.constant or None,
            runs_on=options.runs_on,
        )
        given = {**table(model, GRADIENTS), **table(model, ATTRIBUTIONS)}
        self._tensors = {f"{y}/at_points": x for x, y in given.items()}
        for y in model.graph.outputs:  # its name is that of a result of the net
            y.name = f"{y.name}/at_points"
        return model

    def _shared(self) -> dict[str, Tensor]:
        """What the copy takes from the net: its weights, and the inputs that are not moved."""
        op, given = self.at.op, {}
        values = by_name(op.graph)
        for name, w in self.model.graph.initializers.items():
            mine = values.get(name)
            if mine is not None and mine.is_initializer() and _equal(mine, w):
                given[name] = op.tensor(mine)
        pointed = {*self._drawn, *(v.name for v in self.moved)}
        known = self._classes | {v.name or "": op.tensor(v) for v in op.graph.inputs}
        for v in self.model.graph.inputs:
            name = v.name or ""
            if name not in pointed and name not in given:
                t = known.get(name) or self._added(v)
                axis = self._axis(v)
                given[name] = t if axis is None else self._repeated(t, axis)
        return given

    def _axis(self, value: ir.Value) -> int | None:
        """Along which axis an input of the copy has several points; None if it has one."""
        dims = dims_of(value)
        if not self.in_rows or self.per_run == 1:
            return None
        if (axis := self.examples.axes.get(value.name or "")) is not None:
            return axis
        own = {v.name for v in (*self.at.spare.graph.inputs, *self.at.op.graph.inputs)}
        added = value.name not in own  # by `explain`
        return 0 if added and dims and dims[0] == self.rows else None

    def _added(self, value: ir.Value) -> Tensor:
        """An input that `explain` has added, as an input of the net: of one point."""
        dims = dims_of(value)
        if self.in_rows and dims and dims[0] == self.rows:
            dims = (self.examples.size_of(self.at.op.graph), *dims[1:])
        return self.at.op.input(value.name or "", dims, value.dtype)

    def _filters(self, op: Builder) -> dict[str, Tensor]:
        """The filters of convolutions, as constants of the inner graph that `op` emits to."""
        if not op.target.inner_filters:
            return {}
        convolved = [n for n in self.model.graph if n.op_type == "Conv" and not n.domain]
        read = {v.name or "" for n in convolved for v in n.inputs[1:] if v is not None}
        hoists, op.hoists = op.hoists, False
        found = {
            name: op.Reshape(t, op.const(t.shape))
            for name, t in self._given.items()
            if name in read and t.value.is_initializer()
        }
        op.hoists = hoists
        return found

    # -- rows --------------------------------------------------------------------------------------

    def _repeated(self, t: Tensor, axis: int) -> Tensor:
        """What has the batch along an axis, again for each point of a run."""
        op, rest = t.op, t.rank - axis - 1
        counts = [*[1] * axis, self.per_run, *[1] * rest]
        again = op.Tile(t, shapes.vector(t, counts))
        if t.dim(axis) == self.examples.size_of(op.graph) is not None:
            return again
        sizes = shapes.dims(t)
        sizes[axis] = shapes.product([self.per_run, self.size])
        scope, op.scope = op.scope, f"{t.value.name} has the batch only if batched names it"
        again = shapes.reshape(again, sizes)  # fails where it has another size
        op.scope = scope
        return again

    def _rows(self, t: Tensor) -> Tensor:
        if not self.in_rows:
            return t.op.Squeeze(t, t.op.const([0]))
        sizes = [shapes.product([self.per_run, self.size]), *shapes.dims(t)[2:]]
        return shapes.reshape(t, sizes)

    def _by_point(self, t: Tensor) -> Tensor:
        if not self.in_rows:
            return t.op.Unsqueeze(t, t.op.const([0]))
        return shapes.reshape(t, [self.per_run, self.size, *shapes.dims(t)[1:]])

    def _parts(self, t: Tensor, live: bool = False) -> Tensor:
        """Slices [count, ...] by run, [runs, P, ...], the last run filled with the last of them.

        Args:
            live: Fill it with zeros instead.
        """
        op, runs = t.op, _divided(self.count, self.per_run)
        padded = shapes.product([runs, self.per_run])
        if isinstance(padded, Tensor) or padded != self.count:
            places = shapes.arange(op, padded)
            t = op.Gather(t, op.Min(places, op.const(self.count - 1)), axis=0)
            t = t * op.Cast(places < self.count, to=t.dtype) if live else t
        return shapes.reshape(t, [runs, self.per_run, *shapes.dims(t)[1:]])


def weighted_sum(weights: Tensor, t: Tensor) -> Tensor:
    """The sum over the first axis, [P, ...], with a weight [P] for each slice."""
    op = t.op
    t = op.promoted(t)
    row = op.Unsqueeze(op.cast(weights, t.dtype), op.const([0]))
    total = op.MatMul(row, shapes.reshape(t, [shapes.dim(t, 0), -1]))
    return shapes.reshape(total, shapes.dims(t)[1:])


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers [P] that broadcast to tensors [P, *like.shape], of the dtype of `like`."""
    op = numbers.op
    return op.Reshape(op.cast(numbers, like.dtype), op.const([-1, *[1] * like.rank]))


def _divided(count: int, by: Size) -> Size:
    """How many parts of a size there are, the last one with less."""
    return -(-count // by) if isinstance(by, int) else (by + (count - 1)) // by


def _fitting(op: Builder, size: Size, count: int, at_once: Callable[[Size], Size] | None) -> Size:
    """How many points one run takes, from 1 to `count`: no more than needed for as many runs."""
    most = count if at_once is None else at_once(size)
    most = shapes.clamp(op, most, 1, count)
    return _divided(count, _divided(count, most))


def _cut(graph: ir.Graph, moved: ir.Value, rows: Dim) -> None:
    """Make a tensor an input of the graph, instead of what the graph computes."""
    name = moved.name or ""
    there = by_name(graph).get(name)
    if there is None:
        raise ArgumentError(f"{name!r} is not a tensor of the file itself: name another one")
    if there.is_graph_input() and not there.is_initializer():
        return
    shape = moved.shape
    if rows is not None and shape is not None:
        shape = ir.Shape([rows, *shape[1:]])
    given = ir.Value(name=name, type=moved.type, shape=shape)
    there.replace_all_uses_with(given, replace_graph_outputs=True)
    if there.is_initializer():
        del graph.initializers[name]
        if there in graph.inputs:
            graph.inputs.remove(there)
    there.name = Names(graph).fresh(f"{name}/computed")
    graph.inputs.append(given)


def _equal(a: ir.Value, b: ir.Value) -> bool:
    """Whether two weights hold the same numbers."""
    x, y = a.const_value, b.const_value
    if x is None or y is None or x.dtype != y.dtype or tuple(x.shape) != tuple(y.shape):
        return False
    return x is y or x.tobytes() == y.tobytes()
