"""The backward pass of Loop and Scan, which are steps that carry states, read and write slices.

A step computes s', y = step(s, x, c) of its states s, the slices x that it reads and the captures
c; y is what it writes. With dv the cotangent of v, a step backward is

    ds  = (∂s'/∂s)ᵀ ds' + (∂y/∂s)ᵀ dy
    dx  = (∂s'/∂x)ᵀ ds' + (∂y/∂x)ᵀ dy
    dc += (∂s'/∂c)ᵀ ds' + (∂y/∂c)ᵀ dy

from the last step to the first. So the backward pass is a Scan that carries ds, sums dc, reads s, x
and dy, and writes dx. Its body computes the step again, and the walk over that gives the products.
The forward node is made to give out the states before each step as further scan outputs.

A Scan carries no sequences, and neither it nor a scan output allows for shapes that change from
step to step. Where a Loop has those its backward pass is a Loop, and a copy of it collects its
states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import dim, dims, reshape, same_dim
from onnxgrad.emit.subgraphs import (
    close,
    copy_into,
    list_of,
    merged,
    new_input,
    total,
    zeros_like,
)
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import draws
from onnxgrad.graph.facts import all_nodes, carries, common_shape, dims_of, is_float, is_sequence

Pull = Callable[..., dict[ir.Value, Tensor]]
Matters = Callable[..., set[ir.Value]]


@dataclass(frozen=True)
class _Roles:
    """What the backward pass carries, sums, reads and writes, by position.

    Attributes:
        carried: The states whose cotangents it carries.
        summed: The captures whose cotangents it sums.
        written: The scan inputs whose cotangents it writes, a slice at each step.
        g_states: The cotangents of the final states, which are those of `carried` to begin with.
        g_scans: The cotangents of the scan outputs, of which it reads a slice at each step.
    """

    carried: Sequence[int]
    summed: Sequence[int]
    written: Sequence[int]
    g_states: Sequence[Tensor | None]
    g_scans: Sequence[Tensor | None]


@dataclass(frozen=True)
class _Body:
    """The graph of one step backward.

    Attributes:
        op: Has emitted it. Its inputs are what is carried, what is summed, and what may be read.
        formal: Its inputs that stand for those of the forward body.
        g_slices: Its inputs for the cotangents of the scan outputs; None for absent ones.
    """

    op: Builder
    formal: dict[ir.Value, Tensor]
    g_slices: Sequence[Tensor | None]


class _Read(NamedTuple):
    """A tensor that the steps backward read slices of, along an axis."""

    tensor: Tensor
    axis: int
    direction: int


@dataclass(frozen=True)
class Steps:
    """A Loop or a Scan as what both are: steps that carry states, read slices and write slices.

    Attributes:
        operand: The variadic operand that holds the initial states, then the scan inputs.
        states: The body's input and output of each state.
    """

    op: Builder
    node: ir.Node
    body: ir.Graph
    operand: str
    operands: list[Tensor]
    captures: list[Tensor]
    states: list[tuple[ir.Value, ir.Value]]
    scan_in: Sequence[ir.Value] = ()
    scan_out: Sequence[ir.Value] = ()
    in_axes: Sequence[int] | None = None
    in_directions: Sequence[int] | None = None
    out_axes: Sequence[int] | None = None
    out_directions: Sequence[int] | None = None

    def backward(
        self, wanted: set, pull: Pull, matters: Matters, gs: Sequence[Tensor | None]
    ) -> dict[tuple[str, int], Tensor]:
        """The cotangents of the wanted operands and captures.

        Args:
            wanted: The operands, as pairs of name and position.
            pull: The backward pass of a graph.
            matters: The values of a graph on the way from some values to others.
            gs: The cotangents of the outputs.
        """
        roles = self._roles(wanted, matters, gs)
        if not (roles.carried or roles.summed or roles.written):
            return {}
        body = self._step_back(roles, pull)
        reads = self._reads(body, roles)
        initial = self._initial(roles)
        emit = self._loop if self._needs_loop(roles, initial, reads) else self._scan
        values = emit(roles, body, initial, reads)
        n = len(self.states)
        keys = [(self.operand, k) for k in roles.carried]
        keys += [("captures", k) for k in roles.summed]
        keys += [(self.operand, n + k) for k in roles.written]
        return dict(zip(keys, values, strict=True))

    # -- planned ----------------------------------------------------------------------------------

    def _roles(self, wanted: set, matters: Matters, gs: Sequence[Tensor | None]) -> _Roles:
        """What the cotangents `gs` reach of what is wanted."""
        n = len(self.states)
        g_states, g_scans = gs[:n], gs[n:]
        carried, live = self._what_matters(wanted, matters, g_states, g_scans)
        summed = [
            k for k, c in enumerate(self.captures) if c.value in live and ("captures", k) in wanted
        ]
        written = [k for k, v in enumerate(self.scan_in) if v in live]
        return _Roles(carried, summed, written, g_states, g_scans)

    def _what_matters(
        self,
        wanted: set,
        matters: Matters,
        g_states: Sequence[Tensor | None],
        g_scans: Sequence[Tensor | None],
    ) -> tuple[list[int], set[ir.Value]]:
        """The states whose cotangents are carried, and the values of the body that matter.

        A state that influences a carried one is carried too: its cotangent comes a step later.
        """
        floating = [k for k, (v, _) in enumerate(self.states) if carries(v)]
        carried = {k for k in floating if g_states[k] is not None}
        scans = [v for v, g in zip(self.scan_out, g_scans, strict=True) if g is not None]
        n = len(self.states)
        sources = [self.states[k][0] for k in floating]
        sources += [v for k, v in enumerate(self.scan_in) if (self.operand, n + k) in wanted]
        sources += [c.value for k, c in enumerate(self.captures) if ("captures", k) in wanted]
        while True:
            live = matters(self.body, sources, [*(self.states[k][1] for k in carried), *scans])
            more = carried | {k for k in floating if self.states[k][0] in live}
            if more == carried:
                for k in carried:
                    if not (is_float(v := self.states[k][0]) or is_sequence(v)):
                        self.op.refuse(f"its state {v.name!r} is neither a tensor nor a sequence")
                return sorted(carried), live
            carried = more

    def _varies(self, state: tuple[ir.Value, ir.Value]) -> bool:
        """Whether the shape of a state may change from step to step; its rank may not."""
        before, after = map(dims_of, state)
        if is_sequence(state[0]) or self.scan_in:
            return False
        if before is None or after is None:
            return True
        if len(before) != len(after) or any(
            isinstance(a, int) and isinstance(b, int) and a != b
            for a, b in zip(before, after, strict=True)
        ):
            self.op.refuse(
                f"its state {state[0].name!r} of the shape {list(before)} becomes one of the shape "
                f"{list(after)}: declare the sizes that change as unknown"
            )
        return not all(map(same_dim, before, after))

    def _needs_loop(self, roles: _Roles, initial: Sequence[Tensor], reads: Sequence[_Read]) -> bool:
        """Whether there are sequences or changing shapes, which a Scan does not allow."""
        return any(is_sequence(t.value) for t in [*initial, *(r.tensor for r in reads)]) or any(
            self._varies(self.states[k]) for k in roles.carried
        )

    # -- one step backward ------------------------------------------------------------------------

    def _step_back(self, roles: _Roles, pull: Pull) -> _Body:
        """The graph of one step backward; some of what it may read is not used."""
        inner, n = self.op.child("step_back"), len(self.states)
        carry = [self._carried(inner, k) for k in roles.carried]
        totals = [new_input(inner, "g_sum", self.captures[k].value) for k in roles.summed]
        formal = {v: self._formal(inner, v) for v in self.body.inputs}
        g_slices = [
            None if g is None else new_input(inner, "g_slice", self.scan_out[k])
            for k, g in enumerate(roles.g_scans)
        ]
        _, outputs = copy_into(inner, self.body, list(formal.values()))
        outputs = outputs[len(outputs) - n - len(self.scan_out) :]  # not a Loop's condition
        after = [(outputs[k], g) for k, g in zip(roles.carried, carry, strict=True)]
        seeds = merged(inner, [*after, *zip(outputs[n:], g_slices, strict=True)])
        before = [formal[self.states[k][0]] for k in roles.carried]
        slices = [formal[self.scan_in[k]] for k in roles.written]
        captured = [self.captures[k].value for k in roles.summed]
        found = pull(inner, seeds, [*(t.value for t in before + slices), *captured])
        sums = [
            total(inner, [t, found[v]]) if v in found else t
            for t, v in zip(totals, captured, strict=True)
        ]
        g_before, g_slices_in = (
            [found.get(t.value) or zeros_like(t) for t in ts] for ts in (before, slices)
        )
        close_recomputed(self.op, inner, [*g_before, *sums, *g_slices_in])
        return _Body(inner, formal, g_slices)

    def _carried(self, inner: Builder, k: int) -> Tensor:
        """The input for the cotangent of a state."""
        t = new_input(inner, "g_state", self.states[k][0])
        if self._varies(self.states[k]):
            t.value.shape = common_shape(*(v.shape for v in self.states[k]))
        return t

    def _formal(self, inner: Builder, value: ir.Value) -> Tensor:
        """What stands for one input of the forward body."""
        is_loops_own = value not in [*self.scan_in, *(v for v, _ in self.states)]
        if is_loops_own and value.dtype == ir.DataType.BOOL:  # the condition: true in each step
            return inner.const(np.array(True), dtype=np.bool_)
        return new_input(inner, "before", value)

    # -- what is read -----------------------------------------------------------------------------

    def _reads(self, body: _Body, roles: _Roles) -> list[_Read]:
        """What the steps read; inputs of the body that nothing uses are removed from it."""
        graph, n = body.op.graph, len(self.states)
        used = {v for v, t in body.formal.items() if t.value.uses() or t.value in graph.outputs}
        collected = self._collect([v for v, w in self.states if v in used and self._varies((v, w))])
        if not self.scan_in:  # something has to tell the number of steps
            used.add(self.body.inputs[0])
        elif not used and all(t is None for t in body.g_slices):
            used.add(self.scan_in[0])
        reads = []
        for value, t in body.formal.items():
            if t.value not in graph.inputs:
                continue
            if value not in used:
                graph.inputs.remove(t.value)
            elif value in self.scan_in:
                k = list(self.scan_in).index(value)
                axis, direction = _entry(self.in_axes, k), 1 - _entry(self.in_directions, k)
                reads.append(_Read(self.operands[n + k], axis, direction))
            else:
                history = collected.get(value) or self._history(value)
                if self.op.target.reshaped_steps and not (
                    self.scan_in or is_sequence(history.value)
                ):
                    history = self._stacked(history, value, reads[0].tensor if reads else history)
                reads.append(_Read(history, 0, 1))
        for k, g in enumerate(roles.g_scans):
            if g is not None:
                axis, direction = _entry(self.out_axes, k), 1 - _entry(self.out_directions, k)
                reads.append(_Read(g, axis, direction))
        return reads

    def _history(self, value: ir.Value) -> Tensor:
        """All that an input of the body was, step by step, as a scan output of the forward node."""
        if is_sequence(value):  # its last value stands for it
            k = [before for before, _ in self.states].index(value)
            return self.op.tensor(_named(self.op, self.node, k))
        for k, out in enumerate(self.body.outputs):
            made = out.producer()
            if made is not None and made.op_type == "Identity" and made.inputs[0] is value:
                k -= len(self.body.outputs) - len(self.node.outputs)
                axes = self.out_axes or self.out_directions
                if k >= len(self.states) and axes is None:
                    return self.op.tensor(_named(self.op, self.node, k))
        return self._scan_output(value)

    def _scan_output(self, value: ir.Value) -> Tensor:
        """An input of the body as a new scan output of the forward node."""
        op, body, node = self.op, self.body, self.node
        copy = ir.node("Identity", [value], name=op.names.fresh("history"))
        out = copy.outputs[0]
        out.name, out.type, out.shape = op.names.fresh(f"{value.name}_out"), value.type, value.shape
        body.append(copy)
        body.outputs.append(out)
        k = len(node.outputs)
        node.resize_outputs(k + 1)
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in node.attributes:
                now = [*node.attributes[name].as_ints(), 0]
                node.attributes[name] = ir.AttrInt64s(name, now)
        history = _named(op, node, k)
        history.type = value.type
        if value.shape is not None:
            history.shape = ir.Shape([None, *value.shape])
        return op.tensor(history)

    def _stacked(self, history: Tensor, value: ir.Value, numbers: Tensor) -> Tensor:
        """A history with its steps on an axis of their own: a runtime may have joined them."""
        before = [v for v, _ in self.states]
        if value in before:
            sizes = dims(self.operands[before.index(value)])
        else:  # the number of the step, which some files declare as a vector of one
            sizes = [1] * len(value.shape or ())
        return reshape(history, [dim(numbers, 0), *sizes])

    def _collect(self, values: list[ir.Value]) -> dict[ir.Value, Tensor]:
        """All that states of changing shapes were, as sequences, by a copy of the Loop."""
        if not values:
            return {}
        given = self.node.inputs[:2]
        trips, condition = (None if v is None else self.op.tensor(v) for v in given)
        found = self._recomputed(self.op, trips, condition, values)
        return dict(zip(values, found[len(self.states) :], strict=True))

    def _recomputed(
        self, op: Builder, trips: Tensor | None, condition: Tensor | None, values: list[ir.Value]
    ) -> tuple[Tensor, ...]:
        """A copy of the Loop: its final states, and sequences of what `values` were."""
        n = len(self.states)
        inner = op.child("steps_again")
        formal = [new_input(inner, v.name or "input", v) for v in self.body.inputs]
        lists = [list_of(v) for v in values]
        before = [new_input(inner, "before", v) for v in lists]
        _, outputs = copy_into(inner, self.body, formal)
        now = dict(zip(self.body.inputs, formal, strict=True))
        after = [inner.SequenceInsert(s, now[v]) for s, v in zip(before, values, strict=True)]
        close_recomputed(self.op, inner, [*outputs[: n + 1], *after])
        empty = [op.SequenceEmpty(dtype=int(s.dtype)) for s in before]
        return op.node(
            "Loop",
            [trips, condition, *self.operands, *empty],
            n + len(values),
            {"body": inner.graph},
            like=[*(op.tensor(v) for v in self.node.outputs[:n]), *map(op.tensor, lists)],
        )

    # -- emitted ----------------------------------------------------------------------------------

    def _initial(self, roles: _Roles) -> list[Tensor]:
        """The cotangents of the final states that are carried, and sums of nothing yet."""
        finals = [self.op.tensor(_named(self.op, self.node, k)) for k in roles.carried]
        initial = [
            roles.g_states[k] or zeros_like(t) for k, t in zip(roles.carried, finals, strict=True)
        ]
        return initial + [zeros_like(self.captures[k]) for k in roles.summed]

    def _loop(
        self, roles: _Roles, body: _Body, initial: list[Tensor], reads: list[_Read]
    ) -> tuple[Tensor, ...]:
        """The backward pass as a Loop, for what a Scan does not allow."""
        op, inner, graph = self.op, body.op, body.op.graph
        if self.scan_in:
            op.refuse("it captures a sequence: write the Scan as a Loop")
        like = [self.operands[k] for k in roles.carried]
        like += [self.captures[k] for k in roles.summed]
        steps = op.Size(reads[0].tensor)  # the first that a Loop reads are the numbers of its steps
        formal = list(graph.inputs)
        true = op.const(True, dtype=np.bool_)
        # These have no axes; those of the forward body may be declared to have one.
        step, go = (new_input(inner, "step", steps.value), new_input(inner, "go", true.value))
        place = inner.Sub(steps - 1, step)
        for v, (t, _, _) in zip(formal[len(initial) :], reads, strict=True):
            if is_sequence(v):  # there is no sequence of sequences: all steps up to here again
                k = self.node.outputs.index(t.value)
                read = self._recomputed(inner, place, true, [])[k]
            else:
                read = (inner.SequenceAt if is_sequence(t.value) else inner.Gather)(t, place)
            v.replace_all_uses_with(inner.typed(read, inner.tensor(v)).value)
        del graph.inputs[:]
        graph.inputs.extend([step.value, go.value, *formal[: len(initial)]])
        graph.outputs.insert(0, inner.Identity(go).value)
        graph.sort()
        return op.node("Loop", [steps, true, *initial], len(like), {"body": graph}, like=like)

    def _scan(
        self, roles: _Roles, body: _Body, initial: list[Tensor], reads: list[_Read]
    ) -> tuple[Tensor, ...]:
        """The backward pass as a Scan."""
        n = len(self.states)
        out_axes = [_entry(self.in_axes, k) for k in roles.written]
        out_directions = [1 - _entry(self.in_directions, k) for k in roles.written]
        attributes = {
            "body": body.op.graph,
            "num_scan_inputs": len(reads),
            "scan_input_axes": [r.axis for r in reads],
            "scan_input_directions": [r.direction for r in reads],
            "scan_output_axes": out_axes or None,
            "scan_output_directions": out_directions or None,
        }
        like = [*initial, *(self.operands[n + k] for k in roles.written)]
        operands = [*initial, *(r.tensor for r in reads)]

        def emit(op: Builder) -> tuple[Tensor, ...]:
            bound = [op.tensor(t.value) for t in operands]
            return op.node("Scan", bound, len(like), attributes, like=like)

        if self.scan_in:
            return emit(self.op)
        # A Loop may have run no step; the results are the initial values then, by an If, since
        # onnxruntime refuses a Scan of no step.
        op = self.op
        some, none = op.child("steps"), op.child("no_steps")
        steps = op.Squeeze(op.Shape(reads[0].tensor, start=0, end=1), op.const([0]))
        close(some, list(emit(some)))
        close(none, [none.tensor(t.value) for t in initial])
        branches = {"then_branch": some.graph, "else_branch": none.graph}
        return op.node("If", [steps > 0], len(like), branches, like=like)


def _entry(attribute: Sequence[int] | None, k: int) -> int:
    """An element of an attribute that stands for zeros where it is absent."""
    return attribute[k] if attribute else 0


def _named(op: Builder, node: ir.Node, k: int) -> ir.Value:
    """An output of the forward node, which may have had no name because nothing used it."""
    out = node.outputs[k]
    if not out.name:
        out.name = op.names.fresh(f"{node.name}_out")
    return out


def close_recomputed(op: Builder, inner: Builder, results: Sequence[Tensor]) -> None:
    """Close a graph that computes values of the forward pass again."""
    close(inner, results)
    for node in all_nodes(inner.graph):
        if draws(node):
            op.refuse(
                f"its operator {node.op_type} draws at random, and the backward pass computes it "
                "again and would draw other numbers: draw outside and let the graph capture them"
            )
