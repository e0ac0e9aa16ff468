"""What is fastest depends on what runs the result: the one place that chooses formulations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from onnxgrad.graph.errors import ArgumentError

TargetName = Literal["cpu", "cuda", "portable"]


@dataclass(frozen=True)
class Target:
    """Which of several equal formulations to emit.

    Attributes:
        turned_filters: The cotangent of a Conv's input at stride 1 as a Conv with the filters
            turned round, which the runtime turns when it loads the file; else as a ConvTranspose.
        product_masks: A mask as a product with zeros and ones where that is safe; else as a Where.
        turned_rows: The sum over a batch of aᵀg with `a` turned round by a node of its own; else in
            the product itself.
        searched_window: The elements of MaxPool's windows up to which these, where they do not
            overlap, are searched for their maximum by pooling parts of them; else by its Indices.
        product_sums: A sum over rows as a product with ones; else as a ReduceSum.
        stepped_from: The batch, if it is known, from which on the forward pass of an LSTM or GRU
            becomes a Scan that keeps the arguments of its gates; else the operator stays, and they
            are computed again.
    """

    turned_filters: bool
    product_masks: bool
    turned_rows: bool
    searched_window: int
    product_sums: bool
    stepped_from: float


_PLAIN = Target(
    turned_filters=False,
    product_masks=False,
    turned_rows=False,
    searched_window=0,
    product_sums=False,
    stepped_from=math.inf,
)
# cpu: measured on onnxruntime's CPU provider. cuda: ConvTranspose is the library's own backward
# kernel, products transpose their operands for free, a Where is one kernel and a product mask two;
# not tuned by measurement. portable: asks least of a runtime, such as that it folds constants.
_TARGETS: dict[str, Target] = {
    "cpu": Target(
        turned_filters=True,
        product_masks=True,
        turned_rows=True,
        searched_window=4,
        product_sums=True,
        stepped_from=8,
    ),
    "cuda": _PLAIN,
    "portable": _PLAIN,
}


def target_of(name: str) -> Target:
    """The formulations for a target.

    Raises:
        ArgumentError: There is no such target.
    """
    if name not in _TARGETS:
        raise ArgumentError(f"target is one of {', '.join(map(repr, _TARGETS))}, not {name!r}")
    return _TARGETS[name]
