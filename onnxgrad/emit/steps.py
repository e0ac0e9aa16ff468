"""Masks and straight lines in a form that a blocked layout keeps.

Where a net convolves in two dimensions, onnxruntime keeps its tensors in blocks of channels. A
comparison, or the sum with a number, has to put them in order first; a HardSigmoid or a
BatchNormalization does not, and takes one pass over the tensor where the former take two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import constant_of

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder

# A HardSigmoid of such a slope is 0 or 1 but for denormal numbers. Powers of two: products with
# them are exact.
_AT_ZERO = 2.0**126
_ELSEWHERE = 2.0**100
_BELOW = {"Less", "LessOrEqual"}
_ABOVE = {"Greater", "GreaterOrEqual"}


def is_step(node: ir.Node | None) -> bool:
    """Whether a node is a HardSigmoid that stands for a comparison."""
    slope = None if node is None else node.attributes.get("alpha")
    return slope is not None and node.op_type == "HardSigmoid" and is_steep(slope.as_float())  # type: ignore[union-attr]


def is_steep(slope: float) -> bool:
    """Whether a HardSigmoid of this slope is 0 or 1, whose derivative is 0."""
    return abs(slope) >= _ELSEWHERE


def is_above(value: ir.Value, x: ir.Value) -> float | None:
    """The number above which `x` has to lie for a step `value` to be 1, where it depends on that.

    Followed are Clips at 0 and sums with a number, whose sign rounding does not change.
    """
    node = value.producer()
    if not is_step(node) or node is None or node.attributes["alpha"].as_float() != _AT_ZERO:
        return None
    at, bound = node.inputs[0], 0.0
    if at is None or node.attributes["beta"].as_float() > 0:
        return None
    if (node := at.producer()) is not None and node.op_type == "Clip" and len(node.inputs) > 1:
        low = None if node.inputs[1] is None else constant_of(node.inputs[1])
        at = node.inputs[0] if low is not None and not low.any() else at
    node = None if at is None else at.producer()
    if at is not x and node is not None and node.op_type == "Add" and x in node.inputs:
        other = node.inputs[1 - node.inputs.index(x)]
        number = None if other is None else constant_of(other)
        if number is None or number.size != 1:
            return None
        at, bound = x, -float(number.item())
    return bound if at is x else None


def ones(passes: Tensor, like: Tensor) -> Tensor:
    """1 where `passes`, else 0, in the dtype of `like`."""
    op = passes.op
    found = _step(op, passes.value) if like.dtype in op.target.steep_masks else None
    return op.Cast(passes, to=like.dtype) if found is None else found


def _step(op: Builder, passes: ir.Value) -> Tensor | None:
    """Ones where a tensor lies beyond a constant, or between two, as steep HardSigmoids."""
    node = passes.producer()
    if node is None or node.domain or node.inputs[0] is None:
        return None
    if node.op_type == "And" and node.inputs[1] is not None:
        both = [_step(op, v) for v in node.inputs if v is not None]
        return None if both[0] is None or both[1] is None else both[0] * both[1]
    x = node.inputs[0]
    if x.dtype not in op.target.steep_masks or op.numbers.may_fail(x):
        return None
    if node.op_type == "Cast":
        return _beyond(op, x, 0.0, 1, strict=True) if op.numbers.bounds.of(x)[0] >= 0 else None
    if node.op_type not in _ABOVE | _BELOW or node.inputs[1] is None:
        return None
    bound = constant_of(node.inputs[1])
    if bound is None or bound.ndim or not _is_apart(float(bound)):
        return None
    sign = 1 if node.op_type in _ABOVE else -1
    return _beyond(op, x, float(bound), sign, strict=not node.op_type.endswith("OrEqual"))


def _is_apart(bound: float) -> bool:
    """Whether the slope takes the neighbours of a bound to 0 and 1."""
    return bound == 0 or 2.0**-70 < abs(bound) < 2.0**20


def _beyond(op: Builder, x: ir.Value, bound: float, sign: int, strict: bool) -> Tensor:
    """1 where sign x > sign bound, or also where they are equal, else 0."""
    if bound == 0:
        slope, offset = _AT_ZERO, 0.0 if strict else 1.0
    else:
        if not strict:
            bound = float(np.nextafter(np.float32(bound), np.float32(-sign * math.inf)))
        slope, offset = _ELSEWHERE, -sign * _ELSEWHERE * bound
    return op.HardSigmoid(op.tensor(x), alpha=sign * slope, beta=offset)


def line(x: Tensor, slope: float | Tensor, offset: float | Tensor) -> Tensor:
    """`slope` x + `offset`, numbers or tensors that broadcast to `x`."""
    op = x.op
    if x.dtype not in op.target.steep_masks:
        return x * slope + offset
    if not isinstance(slope, Tensor) and not isinstance(offset, Tensor):
        ends = [slope * end + offset for end in op.numbers.bounds.of(x.value)]
        if min(ends) >= 0 and max(ends) <= 1:
            return op.HardSigmoid(x, alpha=float(slope), beta=float(offset))
    scale, shift = _by_channel(slope, x), _by_channel(offset, x)
    if scale is None or shift is None:
        return x * slope + offset
    mean, variance = (_by_channel(number, x) for number in (0, 1))
    return op.BatchNormalization(x, scale, shift, mean, variance, epsilon=0.0)


def _by_channel(number: float | Tensor, x: Tensor) -> Tensor | None:
    """A number for each channel of images `x`, as a vector; None where it is not one for each."""
    channels = x.dim(1) if x.shape is not None and len(x.shape) == 4 else None
    if not isinstance(channels, int):
        return None
    if not isinstance(number, Tensor):
        return x.op.const([number] * channels, like=x)
    if number.static not in ((channels, 1, 1), (1, channels, 1, 1)):
        return None
    return x.op.Reshape(number, x.op.const([channels]))
