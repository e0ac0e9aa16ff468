"""Sizes that the standard's inference misjudges or leaves open: see `corrections`."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.corrections import Found, misjudged, size
from onnxgrad.graph.facts import Dim, dims_of


@size("ConstantOfShape")
def _constant_of_shape(node: ir.Node) -> Found:
    """Sizes that are constants, which inference does not see in an inner graph."""
    sizes = None if node.inputs[0] is None else dims_in(node.inputs[0])
    return [] if sizes is None else [(node.outputs[0], sizes)]


@misjudged("SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert", "SplitToSequence")
def _of_sequences(node: ir.Node) -> bool:
    """The elements of a sequence may differ in size, though inference gives the size one name."""
    return any(isinstance(d, str) for d in dims_of(node.outputs[0]) or ())


@misjudged("Attention")
def _attention(node: ir.Node) -> bool:
    """Inference takes a size that it would have to calculate, as a head's size, for 0."""
    dims = [None if v is None else dims_of(v) for v in node.inputs]
    calculated = len(node.outputs) > 3 or (dims[0] is not None and len(dims[0]) == 3)
    return calculated and any(not isinstance(n, int) for d in dims for n in d or ())


@misjudged("Einsum")
def _einsum(node: ir.Node) -> bool:
    """Inference takes the sizes in the first operand's ellipsis for those of all operands."""
    parts = []
    terms = node.attributes["equation"].as_string().split("->")[0].split(",")
    for term, v in zip(terms, node.inputs, strict=True):
        before, dots, after = term.replace(" ", "").partition("...")
        dims = None if v is None else dims_of(v)
        if dots and dims is not None:
            parts.append(dims[len(before) : len(dims) - len(after)])
    return len(parts) > 1 and any(map(_may_differ, zip(*parts, strict=True)))


def _may_differ(sizes: tuple[Dim, ...]) -> bool:
    """Whether sizes along one axis may differ; inference would take the first of them."""
    equal = sizes[0] is not None and len(set(sizes)) == 1
    return not equal and not all(isinstance(n, int) for n in sizes)
