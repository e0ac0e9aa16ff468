"""Rewrites: what the builder emits instead of a node that a rule asks for, by operator.

Runtimes have faults, operators lack dtypes, and zero times infinity is NaN; no rule has to know.
Each workaround is one function here, found by its operator::

    @rewrite("Pad")
    def _along_all_axes(op, call):
        \"\"\"Which runtime does what.\"\"\"
        return call._replace(inputs=...)

The rewrites of products and quotients are in `finite`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.facts import FLOATS, HALVES
from onnxgrad.graph.schemas import onnx_schema

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder
    from onnxgrad.emit.tensor import Tensor


class Call(NamedTuple):
    """A node that a rule asks for: the arguments of `Builder.node`. No attribute is None."""

    op_type: str
    inputs: Sequence[Tensor | None]
    outputs: int
    attributes: dict[str, Any]
    like: Sequence[Tensor] | None


# Returns the call with other operands or attributes, or the outputs of nodes emitted instead.
Rewrite = Callable[["Builder", Call], "Call | tuple[Tensor, ...]"]

_REWRITES: dict[str, list[Rewrite]] = {}
_OF_EVERY_OPERATOR: list[Rewrite] = []


def rewrite(*op_types: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite of these operators, or of every operator if none is named.

    Rewrites of one operator apply in the order of their registration, those of every operator last.
    """

    def register(function: Rewrite) -> Rewrite:
        for table in [_REWRITES.setdefault(n, []) for n in op_types] or [_OF_EVERY_OPERATOR]:
            table.append(function)
        return function

    return register


def rewritten(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """The call to emit instead of `call`, or the outputs of nodes that a rewrite has emitted."""
    for function in (*_REWRITES.get(call.op_type, ()), *_OF_EVERY_OPERATOR):
        result = function(op, call)
        if not isinstance(result, Call):
            return result
        call = result
    return call


# -- faults of runtimes ----------------------------------------------------------------------------


@rewrite("HardSigmoid")
def _told_its_beta(op: Builder, call: Call) -> Call:
    """A HardSigmoid through the origin has a beta just below 0: OpenVINO takes 0 for the default.

    No number changes, as what is cut off at 0 is smaller than any normal float32.
    """
    if call.attributes.get("beta") != 0:
        return call
    return call._replace(attributes=call.attributes | {"beta": -(2.0**-126)})


@rewrite("Pad")
def _along_all_axes(op: Builder, call: Call) -> Call:
    """A Pad whose axes are known becomes one of all axes, without the operand axes.

    onnxruntime's transpose optimizer moves a Transpose over a Pad as if it had no axes. But its
    PadFusion (microsoft/onnxruntime#18136) takes a Pad without axes of a Conv's filters for a Pad
    of its image, unless the value is another than +0: so the value becomes -0.
    """
    data, pads, value, axes = (*call.inputs, None, None)[:4]
    if data is None or pads is None or axes is None:
        return call
    if data.shape is None or axes.const is None:
        return call
    if value is None and data.dtype in FLOATS:
        value = op.const(-0.0, like=data)
    rank, n = len(data.shape), axes.const.size
    places = np.full(2 * rank, 2 * n)  # an axis that is not padded reads the 0 behind the pads
    for k, axis in enumerate(axes.const):
        places[[axis % rank, axis % rank + rank]] = k, n + k
    if np.array_equal(axes.const, np.arange(rank)):
        return call._replace(inputs=(data, pads, value))
    if pads.const is not None:
        return call._replace(inputs=(data, op.const(np.append(pads.const, 0)[places]), value))
    all_pads = op.Concat(pads, op.const([0]), axis=0)
    return call._replace(inputs=(data, op.Gather(all_pads, op.const(places)), value))


@rewrite("Expand")
def _to_no_elements(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """An Expand to no elements as a product: onnxruntime drops an Expand of an axis of 1 to 0."""
    data, sizes = (*call.inputs, None, None)[:2]
    if data is None or sizes is None or 0 not in (dims_in(sizes.value) or ()):
        return call
    one = ir.tensor(np.ones(1, data.dtype.numpy()))
    return (data * op.ConstantOfShape(sizes, value=one),)


@rewrite("Scan")
def _of_known_ranks(op: Builder, call: Call) -> Call:
    """A refusal where the rank of a step's result is not known: onnxruntime runs no such Scan."""
    for v in call.attributes["body"].outputs:
        _ = op.tensor(v).rank
    return call


# -- half precision --------------------------------------------------------------------------------


@rewrite("ScatterElements", "ScatterND")
def _sums_in_single(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """A scatter that adds in half precision, in float32.

    In half precision the sum loses digits, and onnxruntime's CPU provider does not take it
    (microsoft/onnxruntime#32025, #32065).
    """
    halves = [t.dtype for t in call.inputs if t is not None and _is_half(t)]
    sums = call.attributes.get("reduction") == "add"
    return _in_single(op, call, halves[0]) if sums and halves else call


@rewrite()
def _lacks_half(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """A node in half precision, in float32 where the standard defines the operator only there."""
    wanted = call.attributes.get("dtype")
    halves = [(k, t) for k, t in enumerate(call.inputs) if t is not None and _is_half(t)]
    if call.like is not None or not (halves or wanted in HALVES):
        return call
    schema = onnx_schema("", call.op_type, op.opset)
    if schema is None:
        return call
    for k, t in halves if schema.inputs else ():
        formal = schema.inputs[min(k, len(schema.inputs) - 1)]
        if not _takes(formal, t.dtype):
            return _in_single(op, call, t.dtype)
    if wanted in HALVES and not _takes(schema.outputs[0], wanted):
        return _in_single(op, call, wanted)
    return call


def _is_half(t: Tensor) -> bool:
    return t.value.dtype in HALVES and isinstance(t.value.type, ir.TensorType)


def _takes(formal: onnx.defs.OpSchema.FormalParameter, dtype: ir.DataType) -> bool:
    return f"tensor({dtype.name.lower()})" in formal.types


def _in_single(op: Builder, call: Call, half: ir.DataType) -> tuple[Tensor, ...]:
    """The outputs of a node in float32, between casts from half precision and back."""
    single, attributes = ir.DataType.FLOAT, call.attributes
    promoted = [op.cast(t, single) if t is not None and t.dtype == half else t for t in call.inputs]
    if attributes.get("dtype") == half:
        attributes = {**attributes, "dtype": single}
    values = op.node(call.op_type, promoted, call.outputs, attributes)
    return tuple(op.cast(t, half) if t.dtype == single else t for t in values)
