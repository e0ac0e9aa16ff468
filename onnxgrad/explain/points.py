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
from onnxgrad.engine.flow import operands
from onnxgrad.explain.method import Explanation
from onnxgrad.graph.errors import ArgumentError, OnnxGradError
from onnxgrad.graph.facts import Dim, by_name, dims_of, elements_of, is_float
from onnxgrad.graph.fresh import Names
from onnxgrad.heads.head import parted
from onnxgrad.heads.scores import class_of, with_classes
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.examples import batch_inputs, batch_of, new_dim
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

    The classes are found once, at the net's inputs, not at each point. Where all that it needs has
    the batch for its first axis, several points are one batch; else it is run for one at a time.

    Args:
        at: The explanation of the net at its inputs.
        explain: Explains the copy.
        moved: The tensors that the points are of. An inner one is an input of the copy.
        drawn: The names of inputs that `explain` adds and that the points are of too.
        count: The number of points.
        batched: The inputs whose first axis is the batch; None for all that can have it.
        at_once: How many points one run takes, given the size of the batch; None for all.

    Attributes:
        by_example: Whether all that matters has the batch for its first axis.
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
        at: Explanation,
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
        self._batched, self._sizes = _batch(at, batched)
        self.size: Size = 1
        self.per_run: Size = 1
        self.rows: Dim = None
        self._classes: dict[str, Tensor] = {}
        # By the score of classes that the copy is given: the tensor of all scores.
        self._leading: dict[ir.Value, ir.Value] = {}
        self._of = self._with_classes()
        self.by_example = self.in_rows = self._can_have_rows()
        if self.in_rows:
            self.size = shapes.dim(at.op.tensor(self._first()), 0)
            self.per_run = _fitting(self.size, count, at_once)
            self.model = self._model_of_rows()
        if not self.in_rows:
            self.per_run, self.model = 1, self._model(None)
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
        op, dims = self.at.op, list(dims_of(value) or (None,))
        for x in self.moved:
            if len(dims) == len(dims_of(x) or ()) and dims[1:] == list(dims_of(x) or ())[1:]:
                return op.tensor(x)
        sizes = [self.size if self.in_rows else dims[0], *dims[1:]]
        if any(d is None or isinstance(d, str) for d in sizes):
            raise ArgumentError(
                f"the size of {value.name!r} {value.shape} is not known when the graph is built: "
                "take all points at once"
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
            (first, *_) = at.job.read[head]
            classes = class_of(op, head, op.tensor(values[first]))
            if classes is not None:
                name = op.names.fresh("classes")
                self._classes[name] = classes
                self._leading[at.job.heads[head]] = values[first]
                head = with_classes(head, name)
            fixed.append(head)
        return fixed

    def _can_have_rows(self) -> bool:
        """Whether all that matters has the batch for its first axis, as far as is known."""
        graph = self.at.op.graph
        batch = batch_of(graph, self._batched)
        needed = [*self.moved, *(self._leading.get(y, y) for y in self.at.job.of)]
        return bool(self._batched) and all(v in batch and self._may_lead(v) for v in needed)

    def _may_lead(self, value: ir.Value) -> bool:
        """Whether a tensor's first axis may be the batch."""
        dims = dims_of(value)
        if not dims:
            return dims is None
        elsewhere = {d for v in self.at.op.graph.inputs for d in (dims_of(v) or ())[1:]}
        known = isinstance(dims[0], int) or dims[0] in elsewhere
        return dims[0] in self._sizes or None in self._sizes or not known

    def _first(self) -> ir.Value:
        """The tensor that the size of the batch is read from."""
        inputs = set(self._batched)
        return next((v for v in self.moved if v in inputs), self._batched[0])

    def _model_of_rows(self) -> ir.Model:
        """The copy for several points; where it cannot be, for one."""
        graph, total = self.at.op.graph, shapes.product([self.size, self.per_run])
        if isinstance(total, Tensor):
            self.rows = new_dim(graph, "points")
            return self._model(self.rows)
        self.rows = total
        try:
            model = self._model(total)
            if self._grows(model.graph):
                return model
        except OnnxGradError:  # of the sizes; or one that comes again for one point
            pass
        self.in_rows = False
        return self.at.spare

    def _grows(self, graph: ir.Graph) -> bool:
        """Whether all that depends on the batch has as many more elements as there are points.

        It has not where a file insists on a batch of its size, as by a constant in a Concat or as
        the first state of an LSTM, and where examples are reduced to one.
        """
        file, here = by_name(self.at.spare.graph), by_name(self.at.op.graph)
        by_size = batch_of(self.at.op.graph, self._batched)
        batch = set(self._batched)
        for node in self.at.op.graph:
            if node.op_type not in ("Shape", "Size") and any(v in batch for v in operands(node)):
                batch.update(node.outputs)
            if node.op_type in ("LSTM", "GRU", "RNN"):
                states = [v for v in node.inputs[5:7] if v is not None]
                if any(v not in by_size for v in states):
                    return False
        for v in (v for node in graph for v in node.outputs):
            one = here.get(v.name or "")
            if v.name not in file or one not in by_size or not is_float(v):
                continue
            before, now = elements_of(one), elements_of(v)
            grown = now is not None and (one not in batch or now == (before or 0) * self.per_run)
            if before is not None and not grown:
                return False
        return True

    def _model(self, rows: Dim) -> ir.Model:
        """The explained copy, for so many rows; None for the batch as it is."""
        at, net = self.at, self.at.spare.clone()
        options = at.options
        if options.example is not None:
            names = [n for head in at.job.read.values() for n in head]
            names += [v.name or "" for v in [*self.moved, *at.job.of]]
            normalise(net, names, options.straight_through, options.example)
        batched = {v.name for v in self._batched}
        for v in net.graph.inputs:
            if rows is not None and v.name in batched and v.shape is not None:
                v.shape = ir.Shape([rows, *v.shape[1:]])
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
                given[name] = self._repeated(t) if self._has_rows(v) else t
        return given

    def _has_rows(self, value: ir.Value) -> bool:
        """Whether an input of the copy has several points for its first axis."""
        name, dims = value.name, dims_of(value)
        if not self.in_rows or self.per_run == 1 or dims == ():
            return False
        if name in {v.name for v in self.at.spare.graph.inputs}:
            return name in {v.name for v in self._batched}
        added = by_name(self.at.op.graph).get(name or "", value)  # by a head, or by `explain`
        return (
            name in self._classes or dims is None or dims[0] == self.rows or self._may_lead(added)
        )

    def _added(self, value: ir.Value) -> Tensor:
        """An input that `explain` has added, as an input of the net: of one point."""
        dims = dims_of(value)
        if self.in_rows and dims and dims[0] == self.rows:
            dims = ((dims_of(self._first()) or (None,))[0], *dims[1:])
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

    def _repeated(self, t: Tensor) -> Tensor:
        """What has the batch for its first axis, again for each point of a run."""
        return t.op.Tile(t, shapes.vector(t, [self.per_run, *[1] * (t.rank - 1)]))

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


def _fitting(size: Size, count: int, at_once: Callable[[Size], Size] | None) -> Size:
    """How many points one run takes, from 1 to `count`: no more than needed for as many runs."""
    most = count if at_once is None else at_once(size)
    if isinstance(most, int):
        most = min(max(most, 1), count)
    else:
        most = most.op.Min(shapes.at_least(most, 1), most.op.const([count]))
    return _divided(count, _divided(count, most))


def _batch(at: Explanation, batched: Inputs | None) -> tuple[list[ir.Value], set[Dim]]:
    """The inputs whose first axis is the batch, and its sizes or names there."""
    graph = at.op.graph
    if batched is not None:
        given = batch_inputs(graph, batched) if batched else []
    else:
        axes = [v for v in graph.inputs if not v.is_initializer() and dims_of(v)]
        first = next((v for v in axes if v in at.job.wrt), axes[0] if axes else None)
        given = [v for v in axes if _may_equal(dims_of(v), dims_of(first))] if first else []
    return given, {(dims_of(v) or (None,))[0] for v in given}


def _may_equal(a: tuple[Dim, ...] | None, b: tuple[Dim, ...] | None) -> bool:
    """Whether first sizes may be equal: a number is not the size that a name stands for."""
    if not a or not b or a[0] is None or b[0] is None:
        return True
    return a[0] == b[0] or not (isinstance(a[0], int) or isinstance(b[0], int))


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
