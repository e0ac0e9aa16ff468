"""Targets: the one place that chooses among equal formulations, by what runs the result.

A rule that knows several asks `op.target` which to emit. docs/bounds.md has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxgrad.graph.constants import SMALL
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import HALVES

TargetName = Literal["cpu", "cuda", "portable"]


@dataclass(frozen=True)
class Target:
    """Which of several equal formulations to emit; by default those that ask least of a runtime.

    Attributes:
        product_masks: Whether a mask is a product with zeros and ones, where that is safe; else it
            is a Where.
        steep_masks: The dtypes in which the zeros and ones of such a product are a steep
            HardSigmoid of what is compared; in others a comparison is cast.
        product_sums: The dtypes in which a sum over rows is a product with ones; in others it is a
            ReduceSum.
        transposed_rows: Whether a Transpose of its own transposes `a` in the sum over a batch of
            aᵀg; else the Gemm does.
        flipped_filters: The least number of channels of a Conv's input from which its cotangent at
            stride 1 is a Conv with flipped filters, which the runtime flips when it loads the file,
            as it is in several groups; with fewer channels, of filters of twice as many at least,
            it is a ConvTranspose.
        spread_steps: The most steps, of all axes multiplied, with which the cotangent of the input
            of a depthwise Conv is a Conv too, of what has zeros between its elements; with more,
            or where there is no blocked layout, it is a ConvTranspose.
        long_steps: The least step with which the cotangent of the one channel of a 1-D Conv, as of
            a spectrum, is a product of matrices whose rows are added where windows overlap; with
            shorter steps, or where the filter is no multiple of them, it is a ConvTranspose.
        one_hot_taps: The largest filter, in elements, whose cotangent is a product with the columns
            that a Conv with one-hot filters picks; that of a larger filter is a Conv.
        sliced_taps: The largest window, in elements, that Slices take apart, one for each element:
            for the cotangent of a filter, in the place of a Conv, and for that of a MaxPool, in the
            place of its Indices.
        summed_taps: The least number of products, and the most elements of the Conv's input, with
            which the cotangent of a depthwise filter at stride 1 is a sum of g times a Slice for
            each element of the filter; None for never.
        windows_of_fewer: Whether the columns of that product are those of the cotangent, where
            these move fewer elements than those of the Conv's input; else they are always of this.
        transposed_batch: Whether that product sums over the batch as well, of transposed operands,
            where these have fewer elements than the products of all examples; else there is
            always a product for each example.
        searched_dtypes: The dtypes in which the windows of a MaxPool are searched for their maximum
            by pooling parts of them; in others it gives its Indices.
        searched_window: The largest window, in elements, that is searched as a whole, where windows
            do not overlap; others are searched along one axis after the other.
        inner_filters: Whether an inner graph that runs several times has the filters of its
            convolutions from nodes of its own, which the runtime computes when it loads the file:
            only then does it convolve in a blocked layout there.
        resized_axes: The most spatial axes for which a Resize repeats the cotangent of windows that
            do not overlap; for more axes it is computed as for windows that do.
        filled_constants: The largest tensor of one number, in elements, that is a constant; larger
            ones are made by a ConstantOfShape.
        unit_rows: The largest matrix of unit seeds, in elements, whose rows the Scan of a Jacobian
            reads; where it would be larger, each step makes its seed of the number of the step.
        axes_at_run_time: Whether the axes of a sum may be found at run time, where only a run tells
            which axes were broadcast; else the sum is over parts of axes, which takes longer.
        reshaped_steps: Whether a Reshape gives its shape to what a Loop gives in steps: onnx's
            reference evaluator joins the steps where it should stack them.
        whole_graph: Whether what is asked of a runtime is lessened once the model is complete: see
            `passes.portable`.
        scan_from_batch: The least batch with which the forward pass of an LSTM or GRU becomes a
            Scan that keeps the values of its gates. With a smaller or unknown one the operator
            stays, and they are computed again; unless it takes a single step.
    """

    product_masks: bool = False
    steep_masks: frozenset[ir.DataType] = frozenset()
    product_sums: frozenset[ir.DataType] = frozenset()
    transposed_rows: bool = False
    flipped_filters: float = math.inf
    spread_steps: int = 1
    long_steps: float = math.inf
    one_hot_taps: int = 32
    sliced_taps: int = 0
    summed_taps: tuple[int, int] | None = None
    windows_of_fewer: bool = True
    transposed_batch: bool = True
    searched_dtypes: frozenset[ir.DataType] = frozenset()
    searched_window: int = 0
    inner_filters: bool = False
    resized_axes: int = 2
    filled_constants: int = 0
    unit_rows: int = 0
    axes_at_run_time: bool = True
    reshaped_steps: bool = False
    whole_graph: bool = False
    scan_from_batch: float = math.inf


_PLAIN = Target()
_TARGETS: dict[str, Target] = {
    "cpu": Target(
        product_masks=True,
        steep_masks=frozenset({ir.DataType.FLOAT}),
        product_sums=frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE}),
        transposed_rows=True,
        flipped_filters=9,
        spread_steps=4,
        long_steps=64,
        summed_taps=(2**20, 2**21),
        searched_dtypes=frozenset({ir.DataType.FLOAT, *HALVES}),
        searched_window=4,
        inner_filters=True,
        scan_from_batch=8,
    ),
    "cuda": _PLAIN,
    "portable": Target(
        sliced_taps=128,
        filled_constants=SMALL,
        unit_rows=2**20,
        axes_at_run_time=False,
        reshaped_steps=True,
        whole_graph=True,
    ),
}


def target_of(name: str) -> Target:
    """The formulations for a target.

    Raises:
        ArgumentError: There is no such target.
    """
    if name not in _TARGETS:
        raise ArgumentError(f"target is one of {', '.join(map(repr, _TARGETS))}, not {name!r}")
    return _TARGETS[name]
