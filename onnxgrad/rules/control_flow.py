"""If, Loop and Scan: the backward pass of a node with graphs is a node with graphs.

An inner graph is recomputed inside its backward graph, from the values that it had: a branch from
what it captures, a step of a loop from its states before the step (`control_flow_steps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import reshape_like
from onnxgrad.emit.subgraphs import copy_into, merged, total, zeros_like
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import VIEWS, is_float, subgraphs
from onnxgrad.graph.marks import STOPPED
from onnxgrad.rules.control_flow_steps import Pull, Steps, close_recomputed


@rule("If")
def _(op, cond, then_branch, else_branch, captures, wanted, pull, g_outputs):
    sources = {c.value: k for k, c in enumerate(captures) if ("captures", k) in wanted}
    parts: dict[ir.Value, list[Tensor]] = {v: [] for v in sources}
    rest = list(g_outputs)
    for place, g in enumerate(g_outputs):
        shown = {_shown(b.outputs[place], b) for b in (then_branch, else_branch)}
        v = shown.pop() if len(shown) == 1 else None
        if g is not None and v is not None and v in sources:
            parts[v].append(reshape_like(g, op.tensor(v)))
            rest[place] = None
    if any(g is not None for g in rest):
        for v, g in _by_branches(op, cond, then_branch, else_branch, list(sources), pull, rest):
            parts[v].append(g)
    return {("captures", k): total(op, parts[v]) for v, k in sources.items() if parts[v]}


def _shown(value: ir.Value | None, branch: ir.Graph) -> ir.Value | None:
    """The outer value whose elements an output of a branch shows, in order and in any shape.

    So exporters write a Squeeze of an axis that may be longer than 1. Its cotangent needs no If.
    """
    while value is not None and value.graph is branch:
        node = value.producer()
        if node is None or node.domain or STOPPED.on(value):
            return None
        if node.op_type in VIEWS:
            value = node.inputs[0]
        elif node.op_type == "If":
            place = value.index()
            found = {_shown(b.outputs[place], b) for b in subgraphs(node)}  # type: ignore[index]
            value = found.pop() if len(found) == 1 else None
        else:
            return None
    return value


def _by_branches(
    op: Builder,
    cond: Tensor,
    then_branch: ir.Graph,
    else_branch: ir.Graph,
    sources: Sequence[ir.Value],
    pull: Pull,
    g_outputs: Sequence[Tensor | None],
) -> Iterable[tuple[ir.Value, Tensor]]:
    """The cotangents of captured values, by an If whose branches are the backward passes."""
    branches = []
    for branch in (then_branch, else_branch):
        inner = op.child("branch_back")
        _, outputs = copy_into(inner, branch, [])
        seeds = merged(
            inner,
            [(y, g and _of_rank(y, g)) for y, g in zip(outputs, g_outputs, strict=True)],
        )
        branches.append((inner, pull(inner, seeds, sources)))
    live = [op.tensor(v) for v in sources if any(v in found for _, found in branches)]
    if not live:
        return []
    for inner, found in branches:
        close_recomputed(
            op, inner, [found.get(c.value) or zeros_like(inner.tensor(c.value)) for c in live]
        )
    then_back, else_back = (inner.graph for inner, _ in branches)
    graphs = {"then_branch": then_back, "else_branch": else_back}
    gs = op.node("If", [cond], len(live), graphs, like=live)
    return zip((c.value for c in live), gs, strict=True)


def _of_rank(y: Tensor, g: Tensor) -> Tensor:
    """`g` in the shape of `y`, the output of a branch that never runs if it has another.

    A value of the branch's own, as what holds of it there need not hold outside.
    """
    g = y.op.tensor(g.value)
    if y.shape is None or y.shape == g.shape or not is_float(y.value):
        return g
    if g.shape is None or len(y.shape) != len(g.shape):
        return reshape_like(g, y)
    return y.op.typed(y.op.tensor(y.op.copied(g, "seed")), y)


@rule("Loop")
def _(op, node, v_initial, body, captures, wanted, pull, matters, g_v_final_and_scan_outputs):
    n = len(v_initial)
    steps = Steps(
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
    steps = Steps(
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
