"""A budget of bytes for values of the forward pass: which are kept, which are computed anew.

The nodes on the paths are parted in two. The values of the later ones are kept: the backward pass
reads them first, so they are gone when others are computed again. The earlier ones are cut further.
What crosses a cut is kept; the rest of a part is computed again when the backward pass comes to it.
No more nodes are among the earlier ones than the budget asks for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxgrad.declare.registry import is_moving
from onnxgrad.engine.flow import Edge, Flow, operand_name
from onnxgrad.engine.rematerialise import can_be_copied, last_uses
from onnxgrad.engine.straight_through import entry_of
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import is_float

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 2 ** (10 * k) for k, unit in enumerate("KMGT", start=1)}
_BUDGET = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?I?)B\s*", re.IGNORECASE)


def in_bytes(given: Any) -> int | None:
    """The bytes of a budget, such as 512 * 10**6, "512MB" or "0.5 GiB"; None for anything else.

    Raises:
        ArgumentError: It is no positive number.
    """
    if isinstance(given, bool):
        return None
    if isinstance(given, str) and (found := _BUDGET.fullmatch(given)):
        if found[2].upper() not in _UNITS:
            return None
        given = int(float(found[1]) * _UNITS[found[2].upper()])
    if not isinstance(given, int):
        return None
    if given <= 0:
        raise ArgumentError(f"checkpoints: a budget is a positive number of bytes, not {given}")
    return given


@dataclass(frozen=True)
class Plan:
    """What is kept of the forward pass.

    Attributes:
        checkpoints: The values of the earlier nodes that are kept.
        first_kept: The place, among the nodes, of the first one whose values are all kept.
    """

    checkpoints: set[ir.Value]
    first_kept: int


class Budget:
    """Plans for the values that the rules on a flow read.

    Args:
        flow: The nodes whose values are kept or computed again.
        size: The bytes of a value.
    """

    def __init__(self, flow: Flow, size: Callable[[ir.Value], int]) -> None:
        self._nodes = flow.nodes
        self._place = {node: k for k, node in enumerate(self._nodes)}
        self._last = last_uses(self._nodes)
        read = dict.fromkeys(v for node, edges in flow.steps for v in _residuals(node, edges))
        made: list[list[ir.Value]] = [[] for _ in self._nodes]
        always: list[ir.Value] = []  # kept whatever the plan
        for v in read | self._last:
            if v.is_initializer() or v.is_graph_input() or (node := v.producer()) is None:
                continue
            if node in self._place and can_be_copied(node):
                made[self._place[node]].append(v)
            elif v in read:
                always.append(v)
        self._size = {v: size(v) for v in itertools.chain(always, *made)}
        self._always = sum(self._size[v] for v in always)
        self._made = made
        held = (sum(self._size[v] for v in some if v in read) for some in made)
        self._held = [0, *itertools.accumulate(held)]  # by what the nodes before a place give

    @property
    def everything(self) -> int:
        """The bytes of all that the rules read."""
        return self._always + self._held[-1]

    def plan(self, budget: int) -> Plan | None:
        """The plan that computes the least again within a budget; None where there is none."""
        if self.everything <= budget:
            return Plan(set(), 0)
        kept, start, cuts = self._always, 0, list[int]()
        while True:
            ends: list[tuple[int, int]] = []  # of a part: the bytes that cross it, and the place
            for end, crossing in self._crossings(start):
                if kept + self._held[end] - self._held[start] > budget:
                    break
                if kept + crossing + self._held[-1] - self._held[end] <= budget:
                    return Plan(self._crossing([*cuts, end]), end)
                ends.append((crossing, end))
            if not ends:
                return None
            crossing, start = min(ends[len(ends) // 2 :], key=lambda one: (one[0], -one[1]))
            kept += crossing
            cuts.append(start)

    def smallest(self) -> int:
        """The smallest budget that there is a plan for."""
        low, high = 0, self.everything
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.plan(middle) else (middle, high)
        return high

    def _crossings(self, start: int) -> Iterable[tuple[int, int]]:
        """Each end of a part that starts at a place, and the bytes of the part that cross it."""
        crossing, ending = 0, dict[int, int]()
        for k in range(start, len(self._nodes)):
            for v in self._made[k]:
                if (last := self._last.get(v, k)) > k:
                    crossing += self._size[v]
                    ending[last] = ending.get(last, 0) + self._size[v]
            crossing -= ending.pop(k, 0)
            yield k + 1, crossing

    def _crossing(self, cuts: Sequence[int]) -> set[ir.Value]:
        """The values that cross one of the cuts."""
        return {
            v
            for k, some in enumerate(self._made)
            for v in some
            if any(k < cut <= self._last.get(v, k) for cut in cuts)
        }


def _residuals(node: ir.Node, edges: Sequence[Edge]) -> list[ir.Value]:
    """The values that the rules of a node may read; of a node without rules all."""
    entry = entry_of(node)
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and is_float(v)]
    if entry is None:
        return values
    rules = (entry.functions.get(operand_name(node, e.index, entry)) for e in edges)
    names = {name for rule in rules for name in (rule or entry.functions[""])[1]}
    if "node" in names:
        return values
    formal = entry.schema.outputs
    if is_moving(node.domain, node.op_type) and names.isdisjoint(formal):
        return []  # moving back needs the sizes of the operands alone
    roles = [(v, operand_name(node, k, entry)) for k, v in enumerate(node.inputs)]
    roles += [(v, formal[min(k, len(formal) - 1)]) for k, v in enumerate(node.outputs)]
    return [v for v, role in roles if role in names and v in values]
