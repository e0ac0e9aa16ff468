"""The memory that a transform may take for values of the forward pass."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from onnxgrad.engine.budget import Budget, Plan
from onnxgrad.engine.flow import Flow
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of
from onnxgrad.passes import example as examples


class Memory:
    """A budget, and the sizes of the net's tensors.

    Args:
        net: The normalised net.
        budget: Its bytes; None for none.
        example: Feeds whose sizes count where the file has none; None for none.

    Raises:
        FeedError: The net cannot be run on the example.
    """

    def __init__(self, net: ir.Model, budget: int | None, example: Any) -> None:
        self._budget = budget
        self._learnt: dict[ir.Value, tuple[int, ...]] = {}
        self._named: dict[Any, int] = {}
        if budget is not None and example is not None:
            self._learnt = examples.sizes(net, example)
            for v, shape in self._learnt.items():
                self._named.update(zip(dims_of(v) or (), shape, strict=False))

    def plan(self, flow: Flow) -> Plan | None:
        """What is kept of a flow's values; None without a budget.

        Raises:
            ArgumentError: A size is not known, or the budget is too small.
        """
        if self._budget is None:
            return None
        budget = Budget(flow, self._bytes)
        plan = budget.plan(self._budget)
        if plan is None:
            raise ArgumentError(
                f"checkpoints: with a budget of {self._budget:,} bytes not even the checkpoints "
                f"and the part that is computed again between two of them fit. The smallest budget "
                f"is {budget.smallest():,} bytes; to keep everything takes {budget.everything:,}."
            )
        return plan

    def _bytes(self, value: ir.Value) -> int:
        dims = self._learnt.get(value, dims_of(value))
        sizes = [d if isinstance(d, int) else self._named.get(d, -1) for d in dims or ()]
        if value.dtype is None or dims is None or -1 in sizes:
            text = "unknown" if dims is None else str(value.shape)
            raise ArgumentError(
                f"checkpoints: a budget needs sizes, and the shape of {value.name!r} is {text}. "
                "Pass example=..., feeds of the sizes that the budget is for; or names of tensors "
                "to keep, or True, in checkpoints."
            )
        return math.ceil(math.prod(sizes) * value.dtype.itemsize)
