"""What is fastest depends on what runs the result: the one place that chooses formulations.

A rule that knows several asks `op.target` which to emit. docs/bounds.md says what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import HALVES

TargetName = Literal["cpu", "cuda", "portable"]


@dataclass(frozen=True)
class Target:
    """Which of several equal formulations to emit; by default those that ask least of a runtime.

    Attributes:
        product_masks: A mask as a product with zeros and ones where that is safe; else as a Where.
        product_sums: The dtypes in which a sum over rows is a product with ones; else a ReduceSum.
        transposed_rows: The sum over a batch of aᵀg with a node of its own that transposes `a`;
            else the product itself transposes it.
        flipped_filters: The cotangent of a Conv's input at stride 1 as a Conv with flipped filters,
            which the runtime flips when it loads the file; else as a ConvTranspose.
        one_hot_taps: The elements of a filter up to which the cotangent of filters is a product
            with what each window sees, picked by a Conv with one-hot filters; else it is a Conv.
        windows_of_fewer: That product with what windows see of the operand with fewer channels,
            also where that is the cotangent; else always of the Conv's input.
        transposed_batch: That product over a batch with the batch inside, where its transposed
            operands have fewer elements than the products of all examples; else always a product
            for each example.
        searched_window: The elements of MaxPool's windows up to which these, where they do not
            overlap, are searched for their maximum by pooling parts of them; else by its Indices.
        searched_dtypes: The dtypes in which windows are searched.
        resized_axes: The spatial axes up to which a Resize repeats the cotangent for each element
            of windows that do not overlap; else it goes the way of windows that do.
        scan_from_batch: The batch, if it is known, from which on the forward pass of an LSTM or GRU
            becomes a Scan that keeps the arguments of its gates; else the operator stays, and they
            are computed again.
    """

    product_masks: bool = False
    product_sums: frozenset[ir.DataType] = frozenset()
    transposed_rows: bool = False
    flipped_filters: bool = False
    one_hot_taps: int = 32
    windows_of_fewer: bool = True
    transposed_batch: bool = True
    searched_window: int = 0
    searched_dtypes: frozenset[ir.DataType] = frozenset()
    resized_axes: int = 2
    scan_from_batch: float = math.inf


_PLAIN = Target()
_TARGETS: dict[str, Target] = {
    "cpu": Target(
        product_masks=True,
        product_sums=frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE}),
        transposed_rows=True,
        flipped_filters=True,
        searched_window=4,
        searched_dtypes=frozenset({ir.DataType.FLOAT, *HALVES}),
        scan_from_batch=8,
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
