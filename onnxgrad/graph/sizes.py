"""Sizes that the standard's inference misjudges or leaves open: see `corrections`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.corrections import Found, misjudged, size
from onnxgrad.graph.facts import Dim, dims_of


@size("ConstantOfShape")
def _constant_of_shape(node: ir.Node) -> Found:
    """Sizes that are constants, which inference does not see in an inner graph."""
    sizes = None if node.inputs[0] is None else dims_in(node.inputs[0])
    return [] if sizes is None else [(node.outputs[0], sizes)]


@size("Flatten")
def _flatten(node: ir.Node) -> Found:
    """Name products of sizes, so that equal names are equal sizes."""
    if (dims := None if node.inputs[0] is None else dims_of(node.inputs[0])) is not None:
        axis = node.attributes.get_int("axis", 1)
        axis += len(dims) if axis < 0 else 0
        yield node.outputs[0], [_product(dims[:axis]), _product(dims[axis:])]


@size("Reshape")
def _reshape(node: ir.Node) -> Found:
    """Name the size that a -1 stands for: what the others leave of the product of all."""
    x, target = node.inputs[0], None if node.inputs[1] is None else dims_in(node.inputs[1])
    dims = None if x is None else dims_of(x)
    if dims is None or target is None or target.count(-1) != 1:
        return
    if not node.attributes.get_int("allowzero", 0):
        target = [dims[k] if d == 0 and k < len(dims) else d for k, d in enumerate(target)]
    left = list(dims)
    for d in target:
        if isinstance(d, str) and d in left:
            left.remove(d)
            target[target.index(d)] = 1
    others = [d for d in target if d != -1]
    if None in left or not all(isinstance(d, int) and d > 0 for d in others):
        return
    count = math.prod(d for d in left if isinstance(d, int))
    divisor = math.prod(d for d in others if isinstance(d, int))
    if count % divisor == 0:
        rest = _product([count // divisor, *(d for d in left if isinstance(d, str))])
        yield node.outputs[0], [rest if d == -1 else None for d in target]


def multiplies_names(node: ir.Node) -> bool:
    """Whether a node gives a product of sizes of which one is named."""
    if node.domain or node.op_type not in ("Flatten", "Reshape"):
        return False
    found = _flatten(node) if node.op_type == "Flatten" else _reshape(node)
    return any(isinstance(d, str) and "*[" in d for _, dims in found for d in dims)


def _product(dims: Sequence[Dim]) -> Dim:
    """The product of sizes: a number or a name; None where one is not known."""
    count = math.prod(d for d in dims if isinstance(d, int))
    names = sorted(d for d in dims if isinstance(d, str))
    if None in dims or count == 0 or not names:
        return None if None in dims else count
    if count == 1 and len(names) == 1:
        return names[0]
    return "*".join(([] if count == 1 else [str(count)]) + [f"[{n}]" for n in names])


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
