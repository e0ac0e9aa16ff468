"""Sequences and optionals that are known element by element: their tensors take the short way.

So they are in most files, where an exporter split a tensor or collected a list of them. A sequence
that a loop builds has as many elements as the loop has steps; for it there is no rule.
"""

from __future__ import annotations

from onnxgrad import shapes
from onnxgrad.builder import Builder, Tensor
from onnxgrad.expand import expansion, items
from onnxgrad.shapes import Size

KNOWN = "where its elements are known one by one when the graph is built"


@expansion("SequenceEmpty", note=KNOWN)
def _(op, *, dtype=1):
    return []


@expansion("SequenceConstruct", note=KNOWN)
def _(op, *inputs):
    return list(inputs)


@expansion("SequenceInsert", note=KNOWN)
def _(op, input_sequence, tensor, position):
    known = _known(op, input_sequence)
    k = len(known) if position is None else _place(op, position, len(known))
    return [*known[:k], tensor, *known[k:]]


@expansion("SequenceErase", note=KNOWN)
def _(op, input_sequence, position):
    known = _known(op, input_sequence)
    k = len(known) - 1 if position is None else _place(op, position, len(known))
    return [*known[:k], *known[k + 1 :]]


@expansion("SequenceAt", note=KNOWN)
def _(op, input_sequence, position):
    known = _known(op, input_sequence)
    return known[_place(op, position, len(known))]


@expansion("ConcatFromSequence", note=KNOWN)
def _(op, input_sequence, *, axis, new_axis=0):
    known = _known(op, input_sequence)
    if new_axis:
        known = [op.Unsqueeze(t, op.const([axis])) for t in known]
    return op.Concat(*known, axis=axis)


@expansion("SplitToSequence", note=KNOWN)
def _(op, input, split, *, axis=0, keepdims=1):
    sizes = _sizes(op, shapes.dim(input, axis), split)
    parts = op.Split(input, op.const(sizes), axis=axis, outputs=len(sizes))
    if split is None and not keepdims:
        return [op.Squeeze(t, op.const([axis])) for t in parts]
    return list(parts)


def _sizes(op: Builder, size: Size, split: Tensor | None) -> list[int]:
    if split is not None and split.const is None:
        return op.refuse("how it splits is not known when the graph is built")
    if split is not None and split.const is not None and split.const.ndim:
        return [int(n) for n in split.const]
    if not isinstance(size, int):
        return op.refuse("how many parts it gives is not known when the graph is built")
    part = 1 if split is None or split.const is None else int(split.const)
    return [min(part, size - start) for start in range(0, size, part)]


class _Held(list):
    """What an optional holds: a tensor, a sequence, or nothing."""


@expansion("Optional", note=KNOWN)
def _(op, input, *, type=None):
    return _Held([] if input is None else [input])


@expansion("OptionalGetElement", note=KNOWN)
def _(op, input):
    known = items(input)
    if isinstance(known, _Held):
        if not known:
            op.refuse("its operand holds nothing")
        input = known[0]
        known = items(input)
    return input if known is None else known


def _known(op: Builder, sequence: Tensor) -> list[Tensor]:
    known = items(sequence)
    if known is None:
        return op.refuse("the elements of its sequence are not known when the graph is built")
    return known


def _place(op: Builder, position: Tensor, length: int) -> int:
    if position.const is None:
        return op.refuse("its position in the sequence is not known when the graph is built")
    k = int(position.const.item())
    return k + length if k < 0 else k
