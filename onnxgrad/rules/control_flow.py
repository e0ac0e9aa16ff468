"""If, Loop and Scan: the backward pass of a node with graphs is a node with graphs.

An inner graph is recomputed inside its backward graph, from the values that it had: a branch from
what it captures, a step of a loop from its states before the step, which the forward node is made
to give out as further scan outputs. The backward pass of Loop and Scan is a Scan over the steps,
last one first, that carries the cotangents of the states and the sums of those of the captures.

A Scan carries no sequences, and neither it nor a scan output allows for shapes that change from
step to step. Where a Loop has those its backward pass is a Loop, and a copy of it collects its
states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import reshape_like, same_dim
from onnxgrad.emit.subgraphs import (
    close,
    copy_into,
    list_of,
    merged,
    new_input,
    renamed_copy,
    total,
    zeros_like,
)
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import draws
from onnxgrad.graph.facts import carries, common_shape, dims_of, is_float, is_sequence


@rule("If")
def _(op, cond, then_branch, else_branch, captures, wanted, pull, g_outputs):
    sources = [(k, c) for k, c in enumerate(captures) if ("captures", k) in wanted]
    branches = []
    for branch in (then_branch, else_branch):
        inner = op.child("branch_back")
        _, outputs = copy_into(inner, branch, [])
        seeds = merged(
            inner,
            [(y, g and _of_rank(y, g)) for y, g in zip(outputs, g_outputs, strict=True)],
        )
        branches.append((inner, pull(inner, seeds, [c.value for _, c in sources])))
    live = [(k, c) for k, c in sources if any(c.value in found for _, found in branches)]
    if not live:
        return {}
    for inner, found in branches:
        _close(
            op, inner, [found.get(c.value) or zeros_like(inner.tensor(c.value)) for _, c in live]
        )
    then_back, else_back = (inner.graph for inner, _ in branches)
    gs = op.node(
        "If",
        [cond],
        len(live),
        {"then_branch": then_back, "else_branch": else_back},
        like=[c for _, c in live],
    )
    return {("captures", k): g for (k, _), g in zip(live, gs, strict=True)}


def _close(op: Builder, inner: Builder, results: Sequence[Tensor]) -> None:
    """Close a graph that computes values of the forward pass again."""
    close(inner, results)
    for node in inner.graph.all_nodes():
        if draws(node):
            op.refuse(
                f"its operator {node.op_type} draws at random, and the backward pass computes it "
                "again and would draw other numbers: draw outside and let the graph capture them"
            )


def _of_rank(y: Tensor, g: Tensor) -> Tensor:
    """`g` in the shape of `y`, the output of a branch that never runs if it has another.

    A value of the branch's own, as what holds of it there need not hold outside.
    """
    g = y.op.tensor(g.value)
    if y.shape is None or y.shape == g.shape or not is_float(y.value):
        return g
    if g.shape is None or len(y.shape) != len(g.shape):
        return reshape_like(g, y)
    return y.op.typed(y.op.tensor(renamed_copy(y.op, g, "seed")), y)


@rule("Loop")
def _(op, node, v_initial, body, captures, wanted, pull, matters, g_v_final_and_scan_outputs):
    n = len(v_initial)
    steps = _Steps(
        op, node, body, "v_initial", v_initial, captures,
        states=list(zip(body.inputs[2:], body.outputs[1:], strict=False)),
        scan_out=body.outputs[n + 1 :],
    )  # fmt: skip
    return steps.backward(wanted, pull, matters, g_v_final_and_scan_outputs)


@rule("Scan")
def _(
    op, node, initial_state_and_scan_inputs, body, captures, wanted, pull, matters,
    g_final_state_and_scan_outputs, num_scan_inputs, scan_input_axes, scan_input_directions,
    scan_output_axes, scan_output_directions,
):  # fmt: skip
    n = len(initial_state_and_scan_inputs) - num_scan_inputs
    steps = _Steps(
        op, node, body, "initial_state_and_scan_inputs", initial_state_and_scan_inputs, captures,
        states=list(zip(body.inputs[:n], body.outputs[:n], strict=True)),
        scan_in=body.inputs[n:],
        scan_out=body.outputs[n:],
        in_axes=scan_input_axes,
        in_directions=scan_input_directions,
        out_axes=scan_output_axes,
        out_directions=scan_output_directions,
    )  # fmt: skip
    return steps.backward(wanted, pull, matters, g_final_state_and_scan_outputs)


@dataclass
class _Steps:
    """A Loop or a Scan as what both are: steps that carry states, read slices and write slices."""

    op: Builder
    node: ir.Node
    body: ir.Graph
    operand: str  # the variadic operand that holds the initial states, then the scan inputs
    operands: list[Tensor]
    captures: list[Tensor]
    states: list[tuple[ir.Value, ir.Value]]  # the body's input and output of each
    scan_in: Sequence[ir.Value] = ()
    scan_out: Sequence[ir.Value] = ()
    in_axes: Sequence[int] | None = None
    in_directions: Sequence[int] | None = None
    out_axes: Sequence[int] | None = None
    out_directions: Sequence[int] | None = None

    def backward(
        self,
        wanted: set,
        pull: Callable[..., dict[ir.Value, Tensor]],
        matters: Callable[..., set[ir.Value]],
        gs: Sequence[Tensor | None],
    ) -> dict[tuple[str, int], Tensor]:
        """The cotangents of the wanted operands and captures."""
        op, n = self.op, len(self.states)
        g_states, g_scans = gs[:n], gs[n:]
        carried, live = self._what_matters(wanted, matters, g_states, g_scans)
        sums = [
            (k, c)
            for k, c in enumerate(self.captures)
            if c.value in live and ("captures", k) in wanted
        ]
        slices = [k for k, v in enumerate(self.scan_in) if v in live]
        if not carried and not sums and not slices:
            return {}

        # The backward body: what it carries, then what it reads at each step.
        inner = op.child("step_back")
        carry = [self._carried(inner, k) for k in carried]
        totals = [new_input(inner, "g_sum", c.value) for _, c in sums]
        before = [self._formal(inner, v) for v in self.body.inputs]
        g_slices = [
            None if g is None else new_input(inner, "g_slice", self.scan_out[k])
            for k, g in enumerate(g_scans)
        ]
        _, outputs = copy_into(inner, self.body, before)
        outputs = outputs[len(outputs) - n - len(self.scan_out) :]
        formal = dict(zip(self.body.inputs, before, strict=True))
        seeds = merged(
            inner,
            [
                *((outputs[k], g) for k, g in zip(carried, carry, strict=True)),
                *zip(outputs[n:], g_slices, strict=True),
            ],
        )
        sources = [formal[self.states[k][0]] for k in carried]
        sources += [formal[self.scan_in[k]] for k in slices]
        found = pull(inner, seeds, [t.value for t in sources + [c for _, c in sums]])
        stepped = [found.get(t.value) or zeros_like(t) for t in sources]
        added = [
            total(inner, [t, found[c.value]]) if c.value in found else t
            for t, (_, c) in zip(totals, sums, strict=True)
        ]
        m = len(carried)
        _close(op, inner, [*stepped[:m], *added, *stepped[m:]])

        reads = self._reads(inner, formal, list(zip(g_slices, g_scans, strict=True)))
        initial = [g_states[k] or zeros_like(op.tensor(_named(op, self.node, k))) for k in carried]
        initial += [zeros_like(c) for _, c in sums]
        if any(is_sequence(t.value) for t in [*initial, *(t for t, _, _ in reads)]) or any(
            self._varies(self.states[k]) for k in carried
        ):
            like = [*(self.operands[k] for k in carried), *(c for _, c in sums)]
            values = self._loop(inner, initial, reads, like)
        else:
            values = self._scan(inner, initial, reads, slices)
        keys = [(self.operand, k) for k in carried] + [("captures", k) for k, _ in sums]
        keys += [(self.operand, n + k) for k in slices]
        return dict(zip(keys, values, strict=True))

    def _what_matters(
        self,
        wanted: set,
        matters: Callable[..., set[ir.Value]],
        g_states: Sequence[Tensor | None],
        g_scans: Sequence[Tensor | None],
    ) -> tuple[list[int], set[ir.Value]]:
        """The states whose cotangents are carried, and the values of the body that matter.

        A state that influences one that matters does so too, a step earlier.
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
        """Whether the shape of a state, of which only the rank is certain, may change."""
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

    def _carried(self, inner: Builder, k: int) -> Tensor:
        """The cotangent of a state as the backward body takes it."""
        t = new_input(inner, "g_state", self.states[k][0])
        if self._varies(self.states[k]):
            t.value.shape = common_shape(*(v.shape for v in self.states[k]))
        return t

    def _formal(self, inner: Builder, value: ir.Value) -> Tensor:
        """The stand-in of one input of the body in the backward body."""
        if (
            value not in [v for v, _ in self.states]
            and value not in self.scan_in
            and (
                value.dtype == ir.DataType.BOOL  # Loop's condition, true whenever a step runs
            )
        ):
            return inner.const(np.array(True), dtype=np.bool_)
        return new_input(inner, "before", value)

    def _reads(
        self,
        inner: Builder,
        formal: dict[ir.Value, Tensor],
        g_slices: list[tuple[Tensor | None, Tensor | None]],
    ) -> list[tuple[Tensor, int, int]]:
        """What the Scan reads: tensor, axis and direction; inputs that nothing uses are removed."""
        results = inner.graph.outputs
        used = {v for v, t in formal.items() if t.value.uses() or t.value in results}
        collected = self._collect([v for v, w in self.states if v in used and self._varies((v, w))])
        if not self.scan_in:  # something has to tell the number of steps
            used.add(self.body.inputs[0])
        elif not used and all(t is None for t, _ in g_slices):
            used.add(self.scan_in[0])
        reads = []
        for value, t in formal.items():
            if t.value not in inner.graph.inputs:
                continue
            if value not in used:
                inner.graph.inputs.remove(t.value)
            elif value in self.scan_in:
                k = list(self.scan_in).index(value)
                direction = self.in_directions[k] if self.in_directions else 0
                axis = self.in_axes[k] if self.in_axes else 0
                reads.append((self.operands[len(self.states) + k], axis, 1 - direction))
            else:
                reads.append((collected.get(value) or self._history(value), 0, 1))
        for k, (_, g) in enumerate(g_slices):
            if g is not None:
                direction = self.out_directions[k] if self.out_directions else 0
                reads.append((g, self.out_axes[k] if self.out_axes else 0, 1 - direction))
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

    def _collect(self, values: list[ir.Value]) -> dict[ir.Value, Tensor]:
        """All that states of changing shapes were, as sequences, by a copy of the Loop."""
        if not values:
            return {}
        given = self.node.inputs[:2]
        trips, condition = (None if v is None else self.op.tensor(v) for v in given)
        found = self._again(self.op, trips, condition, values)
        return dict(zip(values, found[len(self.states) :], strict=True))

    def _again(
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
        _close(self.op, inner, [*outputs[: n + 1], *after])
        empty = [op.SequenceEmpty(dtype=int(s.dtype)) for s in before]
        return op.node(
            "Loop",
            [trips, condition, *self.operands, *empty],
            n + len(values),
            {"body": inner.graph},
            like=[*(op.tensor(v) for v in self.node.outputs[:n]), *map(op.tensor, lists)],
        )

    def _loop(
        self,
        inner: Builder,
        initial: list[Tensor],
        reads: list[tuple[Tensor, int, int]],
        like: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """The backward pass as a Loop, for what a Scan does not allow."""
        op, graph = self.op, inner.graph
        if self.scan_in:
            op.refuse("it captures a sequence: write the Scan as a Loop")
        steps = op.Size(reads[0][0])  # the first that a Loop reads are the numbers of its steps
        formal = list(graph.inputs)
        true = op.const(True, dtype=np.bool_)
        # Of no axes; those of the body may be declared to have one.
        step, go = (new_input(inner, "step", steps.value), new_input(inner, "go", true.value))
        place = inner.Sub(steps - 1, step)
        for v, (t, _, _) in zip(formal[len(initial) :], reads, strict=True):
            if is_sequence(v):  # there is no sequence of sequences: all steps up to here again
                k = self.node.outputs.index(t.value)
                read = self._again(inner, place, true, [])[k]
            else:
                read = (inner.SequenceAt if is_sequence(t.value) else inner.Gather)(t, place)
            v.replace_all_uses_with(inner.typed(read, inner.tensor(v)).value)
        del graph.inputs[:]
        graph.inputs.extend([step.value, go.value, *formal[: len(initial)]])
        graph.outputs.insert(0, inner.Identity(go).value)
        graph.sort()
        return op.node("Loop", [steps, true, *initial], len(like), {"body": graph}, like=like)

    def _scan(
        self,
        inner: Builder,
        initial: list[Tensor],
        reads: list[tuple[Tensor, int, int]],
        slices: list[int],
    ) -> tuple[Tensor, ...]:
        """The backward Scan; where a Loop may have run no step, the initial values instead."""
        in_axes, in_directions = self.in_axes, self.in_directions
        n = len(self.states)
        attributes = {
            "body": inner.graph,
            "num_scan_inputs": len(reads),
            "scan_input_axes": [axis for _, axis, _ in reads],
            "scan_input_directions": [direction for _, _, direction in reads],
            "scan_output_axes": [in_axes[k] if in_axes else 0 for k in slices] or None,
            "scan_output_directions": [
                1 - (in_directions[k] if in_directions else 0) for k in slices
            ]
            or None,
        }
        like = [*initial, *(self.operands[n + k] for k in slices)]
        operands = [*initial, *(t for t, _, _ in reads)]

        def emit(op: Builder) -> tuple[Tensor, ...]:
            bound = [op.tensor(t.value) for t in operands]
            return op.node("Scan", bound, len(like), attributes, like=like)

        if self.scan_in:
            return emit(self.op)
        # onnxruntime's Scan refuses to run no step at all.
        op = self.op
        some, none = op.child("steps"), op.child("no_steps")
        steps = op.Squeeze(op.Shape(reads[0][0], start=0, end=1), op.const([0]))
        close(some, list(emit(some)))
        close(none, [none.tensor(t.value) for t in initial])
        branches = {"then_branch": some.graph, "else_branch": none.graph}
        return op.node("If", [steps > 0], len(like), branches, like=like)


def _named(op: Builder, node: ir.Node, k: int) -> ir.Value:
    """An output of the forward node, which may have had no name because nothing used it."""
    out = node.outputs[k]
    if not out.name:
        out.name = op.names.fresh(f"{node.name}_out")
    return out
