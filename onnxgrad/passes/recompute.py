"""Less memory: the backward pass computes anew what is cheap, of what it would keep."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.order import delayed
from onnxgrad.emit.subgraphs import copy_node
from onnxgrad.graph.facts import is_float

# Element by element, and as fast as a pass over a tensor.
_CHEAP = {("", name) for name in ("Add", "Sub", "Mul", "Div", "Neg", "Erf", "Sigmoid", "Tanh")}
# The most nodes for one value: those of a GELU that is written out.
_MOST = 5


def recompute(op: Builder, forward: Collection[ir.Node]) -> None:
    """Let the backward pass compute anew what follows element by element from what it keeps anyway.

    Whatever it reads of the forward pass is kept until then. Of a GELU that is written out these
    are four tensors, of which three follow from the first.

    Args:
        op: Has emitted the backward pass behind the forward pass.
        forward: The nodes of the forward pass.
    """
    graph = op.graph
    place: dict[ir.Node | None, int] = {node: k for k, node in enumerate(graph)}
    read: dict[ir.Value, list[ir.Node]] = {}
    for node in (n for n in graph if n not in forward):
        for v in node.inputs:
            if v is not None and (v.producer() in forward or v.is_graph_input()):
                read.setdefault(v, []).append(node)
    kept = {v for v, nodes in read.items() if any(n.op_type != "Shape" for n in nodes)}
    chains = {}
    for v in sorted(kept, key=lambda v: place.get(v.producer(), -1)):
        apart = all(user in place for user, _ in v.uses())  # no inner graph reads it
        if apart and (chain := _chain(v, kept, forward)):
            chains[v] = chain
            kept.discard(v)
    emitter = _Emitter(op, place, forward)
    for v, chain in sorted(chains.items(), key=lambda item: place[read[item[0]][0]]):
        emitter.emit(v, chain, read[v])


def _chain(
    v: ir.Value, kept: Collection[ir.Value], forward: Collection[ir.Node]
) -> list[ir.Node] | None:
    """The cheap nodes that compute a value of what is kept, in order; None if others are needed."""
    found: dict[ir.Node, None] = {}

    def visit(x: ir.Value | None, depth: int) -> bool:
        if x is None or x.is_initializer() or (depth and (x in kept or x.is_graph_input())):
            return True
        node = x.producer()
        if node is None or node not in forward or (node.domain, node.op_type) not in _CHEAP:
            return False
        if depth == _MOST or not is_float(x):
            return False
        if not all(visit(operand, depth + 1) for operand in node.inputs):
            return False
        found[node] = None
        return len(found) <= _MOST

    return list(found) if visit(v, 0) else None


class _Emitter:
    """Emits the copies of nodes of the forward pass, in front of those that read them.

    Args:
        op: Has emitted the nodes.
        place: The place of each in the graph.
        forward: Those of the forward pass.
    """

    def __init__(
        self, op: Builder, place: Mapping[ir.Node | None, int], forward: Collection[ir.Node]
    ) -> None:
        self._graph, self._place, self._forward = op.graph, place, forward
        self._op = Builder(op.graph)  # which finds no node that comes later
        self._op.names = op.names
        self._copies: dict[ir.Value, ir.Value] = {}

    def emit(self, v: ir.Value, chain: list[ir.Node], readers: list[ir.Node]) -> None:
        """Let `readers`, in their order, read a copy of `v`; not where it could be made at once."""
        first = readers[0]
        after = next(self._awaited(v, first), None)
        if after is None:
            return
        end = len(self._graph)
        for node in chain:
            if node.outputs[0] not in self._copies:
                self._copy(node, after)
        new = list(itertools.islice(reversed(self._graph), len(self._graph) - end))[::-1]
        self._graph.remove(new)
        self._graph.insert_before(first, new)
        for reader in readers:
            for k, operand in enumerate(reader.inputs):
                if operand is v:
                    reader.replace_input_with(k, self._copies[v])

    def _copy(self, node: ir.Node, after: ir.Value) -> None:
        op = self._op
        for x in node.inputs:
            if x is not None and x not in self._copies and not x.is_initializer():
                self._copies[x] = delayed(op.tensor(x), op.tensor(after)).value
        stands = {x: op.tensor(self._copies[x]) for x in node.inputs if x in self._copies}
        self._copies |= dict(
            zip(node.outputs, copy_node(op, node, stands, "again").outputs, strict=True)
        )

    def _awaited(self, v: ir.Value, reader: ir.Node) -> Iterator[ir.Value]:
        """What the backward pass has computed before, and needs together with `v`."""
        last, seen = self._place[reader], v
        node: ir.Node | None = reader
        while node is not None:
            for x in node.inputs:
                if x is None or x is seen or x.producer() in self._forward:
                    continue
                if self._place.get(x.producer(), last) < last:
                    yield x
            seen = node.outputs[0]
            node = min(
                (n for n, _ in seen.uses() if n in self._place),
                key=self._place.__getitem__,
                default=None,
            )
