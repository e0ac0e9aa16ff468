"""Rematerialisation: less memory for more time, by checkpoints.

Residuals are the values of the forward pass that rules read. Those that are checkpoints are kept,
the others are computed anew in the backward pass: a rule reads a copy of its node, which is
computed from the checkpoints before it. No node is copied twice, so that all copies together cost
one forward pass at most.
T. Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.order import delayed
from onnxgrad.emit.subgraphs import copy_node
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import Flow
from onnxgrad.graph.constants import draws
from onnxgrad.graph.facts import is_float, subgraphs


def can_be_copied(node: ir.Node) -> bool:
    """Whether a node can be computed again: it draws no random numbers and holds no graphs."""
    return not draws(node) and not any(subgraphs(node))


def last_uses(nodes: Sequence[ir.Node]) -> dict[ir.Value, int]:
    """The place of the last node that reads a value, for values of these nodes."""
    own, last = set(nodes), dict[ir.Value, int]()
    for k, node in enumerate(nodes):
        last.update({v: k for v in node.inputs if v is not None and v.producer() in own})
    return last


def choose_checkpoints(flow: Flow) -> set[ir.Value]:
    """Checkpoints that cut n nodes into about √n parts, each where the fewest tensors cross."""
    nodes = flow.nodes
    place = {node: k for k, node in enumerate(nodes)}
    last = last_uses(nodes)
    crossing: list[int] = [0] * (len(nodes) + 1)  # the change in front of each node, then the sum
    for v, k in last.items():
        crossing[place[v.producer()] + 1] += 1  # type: ignore[index]
        crossing[k + 1] -= 1
    for k in range(len(nodes)):
        crossing[k + 1] += crossing[k]
    parts = math.isqrt(len(nodes)) or 1
    size = len(nodes) / parts
    cuts = set()
    for p in range(1, parts):
        around = range(max(1, round((p - 0.5) * size)), min(len(nodes), round((p + 0.5) * size)))
        if around:
            cuts.add(min(around, key=lambda k: (crossing[k], abs(k - p * size))))
    return {
        v
        for v, k in last.items()
        if any(place[v.producer()] < cut <= k for cut in cuts)  # type: ignore[index]
    }


class Rematerialisation:
    """Copies of forward nodes, for the backward pass: see `reverse.Rematerialise`.

    Nodes that draw random numbers or hold graphs are not copied; their outputs are kept.

    Args:
        op: Emits the copies.
        flow: Has the nodes that can be copied.
        checkpoints: The values that are kept.
        first_kept: The place of the first node of which all values are kept, as of those after it.
    """

    def __init__(
        self,
        op: Builder,
        flow: Flow,
        checkpoints: Iterable[ir.Value],
        first_kept: int | None = None,
    ) -> None:
        self._op = op
        self._checkpoints = set(checkpoints)
        self._place = {
            node: k for k, node in enumerate(flow.nodes[:first_kept]) if can_be_copied(node)
        }
        self._copies: dict[ir.Node, ir.Node] = {}
        self._delayed: dict[ir.Value, ir.Value] = {}

    def __call__(self, node: ir.Node, after: Tensor) -> ir.Node:
        """A copy of `node` that cannot run before the cotangent `after` is computed."""
        if node not in self._place:
            return node
        needed: dict[ir.Node, None] = {}
        stack = [node]
        while stack:
            n = stack.pop()
            if n not in self._copies and n not in needed:
                needed[n] = None
                stack += [p for v in n.inputs if (p := self._copied_producer(v)) is not None]
        for n in sorted(needed, key=self._place.__getitem__):
            self._copies[n] = self._copy(n, after)
        return self._copies[node]

    def _copied_producer(self, v: ir.Value | None) -> ir.Node | None:
        """The node that computes `v`, if a copy of it has to; None where `v` itself is kept."""
        if v is None or v in self._checkpoints or not is_float(v):
            return None
        producer = v.producer()
        return producer if producer in self._place else None

    def _copy(self, node: ir.Node, after: Tensor) -> ir.Node:
        operands = ((v, self._operand(v, after)) for v in node.inputs if v is not None)
        stands = {v: self._op.tensor(w) for v, w in operands}
        copy = copy_node(self._op, node, stands, "again")
        self._op.emitted.update(copy.outputs)
        return copy

    def _operand(self, v: ir.Value, after: Tensor) -> ir.Value:
        """What a copy reads in the place of `v`: the output of a copy, or a delayed checkpoint."""
        if not is_float(v) or v.is_initializer():
            return v
        producer = self._copied_producer(v)
        if producer is not None:
            return self._copies[producer].outputs[producer.outputs.index(v)]
        if v not in self._delayed:
            self._delayed[v] = delayed(self._op.tensor(v), after).value
        return self._delayed[v]
