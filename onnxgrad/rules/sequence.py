"""Sequences whose elements only a run tells, as where a loop collects them.

The cotangent of a sequence is the sequence of the cotangents of its elements. Where the elements
are known when the graph is built, `expansions.sequence` has replaced the operators.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import each, zeros_like
from onnxgrad.emit.tensor import Tensor


@rule("SequenceConstruct", "inputs")
def _(op, g, inputs, i):
    return op.typed(op.SequenceAt(g, op.const(i)), inputs[i])


@rule("SequenceAt", "input_sequence")
def _(op, g, input_sequence, position):
    k = _from_front(op, position, op.SequenceLength(input_sequence))
    return op.SequenceInsert(op.SequenceErase(zeros_like(input_sequence), k), g, k)


@rule("SequenceInsert", "input_sequence")
def _(op, g, input_sequence, position):
    if position is None:
        return op.SequenceErase(g)
    return op.SequenceErase(g, _from_front(op, position, op.SequenceLength(g) - 1))


@rule("SequenceInsert", "tensor")
def _(op, g, input_sequence, tensor, position):
    if position is None:
        return op.typed(op.SequenceAt(g, op.const(-1)), tensor)
    k = _from_front(op, position, op.SequenceLength(g) - 1)
    return op.typed(op.SequenceAt(g, k), tensor)


@rule("SequenceErase", "input_sequence")
def _(op, g, input_sequence, position):
    k = op.const(-1) if position is None else position
    k = _from_front(op, k, op.SequenceLength(input_sequence))
    return op.SequenceInsert(g, shapes.full_like(op.SequenceAt(input_sequence, k), 0), k)


@rule("ConcatFromSequence", "input_sequence")
def _(op, g, input_sequence, axis, new_axis):
    if g.shape is not None and not -g.rank <= axis < g.rank:
        op.refuse(f"its attribute axis is {axis}, and its output has {g.rank} axes")
    if new_axis:
        return op.SplitToSequence(g, axis=axis, keepdims=0)
    (sizes,) = each(op, lambda inner, x: [_size(inner, x, axis)], [input_sequence])
    return op.SplitToSequence(g, op.ConcatFromSequence(sizes, axis=0), axis=axis)


@rule("SplitToSequence", "input")
def _(op, g, input, split, axis, keepdims):
    new_axis = None if split is not None or keepdims else 1
    return op.typed(op.ConcatFromSequence(g, axis=axis, new_axis=new_axis), input)


def _from_front(op: Builder, position: Tensor, length: Tensor) -> Tensor:
    """A position that is not negative."""
    position = op.cast(position, ir.DataType.INT64)
    known = position.const
    if known is not None and known >= 0:
        return position
    return op.Where(position < 0, position + length, position)


def _size(op: Builder, x: Tensor, axis: int) -> Tensor:
    """The size of an axis of a tensor whose rank may be unknown, as a vector."""
    return op.Gather(op.Shape(x), op.const([axis]))
