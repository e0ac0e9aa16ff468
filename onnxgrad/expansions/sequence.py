"""Sequences and optionals whose elements are known when the graph is built become these tensors.

Mostly an exporter has split a tensor or listed several, and the elements are known. Operators on
other sequences have rules, in `rules.sequence`.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxgrad.declare.expansions import expansion, items
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.subgraphs import copy_into, each
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import is_sequence

KNOWN = "where its elements are known one by one when the graph is built"


@expansion("SequenceEmpty")
def _(op, *, dtype=1):
    return []


@expansion("SequenceConstruct")
def _(op, *inputs):
    return list(inputs)


@expansion("SequenceInsert")
def _(op, input_sequence, tensor, position):
    known = _known(op, input_sequence)
    k = len(known) if position is None else _place(op, position, len(known))
    return [*known[:k], tensor, *known[k:]]


@expansion("SequenceErase")
def _(op, input_sequence, position):
    known = _known(op, input_sequence)
    k = len(known) - 1 if position is None else _place(op, position, len(known))
    return [*known[:k], *known[k + 1 :]]


@expansion("SequenceMap", remark="a Loop, or copies of its body")
def _(op, input_sequence, *additional_inputs, body):
    operands = [input_sequence, *additional_inputs]
    known = [items(t) if is_sequence(t.value) else None for t in operands]
    if any(is_sequence(t.value) and k is None for t, k in zip(operands, known, strict=True)):
        return tuple(each(op, lambda inner, *x: _copy(inner, body, x), operands))
    results = [
        _copy(op, body, [t if k is None else k[i] for t, k in zip(operands, known, strict=True)])
        for i in range(len(known[0] or []))
    ]
    return tuple([r[k] for r in results] for k in range(len(body.outputs)))


def _copy(op: Builder, body: ir.Graph, inputs: Iterable[Tensor]) -> list[Tensor]:
    """The outputs of a copy of a graph, whose types and sizes are inferred anew."""
    nodes, outputs = copy_into(op, body, list(inputs))
    for node in nodes:
        for v in node.outputs:
            v.shape = None
        op.infer_outputs(node)
    return outputs


@expansion("SequenceAt")
def _(op, input_sequence, position):
    known = _known(op, input_sequence)
    return known[_place(op, position, len(known))]


@expansion("ConcatFromSequence")
def _(op, input_sequence, *, axis, new_axis=0):
    known = _known(op, input_sequence)
    if new_axis:
        known = [op.Unsqueeze(t, op.const([axis])) for t in known]
    return op.Concat(*known, axis=axis)


@expansion("SplitToSequence")
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
    """The content of an optional: a tensor, a sequence, or nothing."""


@expansion("Optional", remark=KNOWN)
def _(op, input, *, type=None):
    return _Held([] if input is None else [input])


@expansion("OptionalGetElement", remark=KNOWN)
def _(op, input):
    known = items(input)
    if isinstance(known, _Held):
        if not known:
            op.refuse("its operand holds nothing")
        input = known[0]
        known = items(input)
    elif known is None and isinstance(input.value.type, ir.OptionalType):
        op.refuse("what its operand holds is not known when the graph is built")
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
