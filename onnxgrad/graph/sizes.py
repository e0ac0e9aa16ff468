"""Sizes that the standard's inference misjudges or leaves open: see `corrections`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of, dims_in
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


def is_new_axis(value: ir.Value, axis: int) -> bool:
    """Whether an Unsqueeze has put an axis, counted from the front, into a value of any rank."""
    node = value.producer()
    if node is None or node.domain or node.op_type != "Unsqueeze" or node.inputs[1] is None:
        return False
    axes = constant_of(node.inputs[1])
    return axes is not None and axis in axes


@size("Slice")
def _slice(node: ir.Node) -> Found:
    """Keep the names of sizes along axes of which all is taken, as exporters write x[:, :n].

    What is left of another axis has the name of what is taken, so that equal names are equal sizes.
    """
    operands = [None if v is None else constant_of(v) for v in node.inputs[1:]]
    dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
    present = [v is None for v in node.inputs[1:]]
    if dims is None or any(o is None and not p for o, p in zip(operands, present, strict=True)):
        return
    starts, ends, axes, steps = (*operands, None, None)[:4]
    assert starts is not None and ends is not None
    n = len(starts)
    axes = np.arange(n) if axes is None else axes % len(dims)
    steps = np.ones(n, np.int64) if steps is None else steps
    left = list(dims)
    for a, *taken in zip(axes, starts, ends, steps, strict=True):
        left[a] = _taken(dims[a], *map(int, taken))
    yield node.outputs[0], left


def _taken(dim: Dim, start: int, end: int, step: int) -> Dim:
    """The size that a Slice leaves of one; None where inference tells it, or nothing."""
    end = min(end, 2**31 - 1)  # the end of the axis
    if (start, end, step) == (0, 2**31 - 1, 1):
        return dim
    return f"[{dim}] from {start} to {end} by {step}" if isinstance(dim, str) else None


@size("Pad")
def _pad(node: ir.Node) -> Found:
    """Name padded sizes, and keep the names of those that are not padded."""
    x, pads, _, axes = (*node.inputs, None, None)[:4]
    dims, known = None if x is None else dims_of(x), None if pads is None else constant_of(pads)
    at = None if axes is None else constant_of(axes)
    if dims is None or known is None or (axes is not None and at is None):
        return
    added = dict.fromkeys(range(len(dims)), 0)
    places = range(len(dims)) if at is None else [int(a) % len(dims) for a in at]
    added |= dict(zip(places, known.reshape(2, -1).sum(axis=0).tolist(), strict=True))
    yield node.outputs[0], [_sum(d, added[a]) for a, d in enumerate(dims)]


def _sum(dim: Dim, number: int) -> Dim:
    """A size with a number added; None where it is not known."""
    if isinstance(dim, int):
        return dim + number
    return f"[{dim}]{number:+d}" if dim and number else dim


def keeps_names(node: ir.Node) -> bool:
    """Whether a node gives sizes of its operand, of which one is named."""
    if node.domain or node.op_type not in ("Slice", "Pad"):
        return False
    found = _slice(node) if node.op_type == "Slice" else _pad(node)
    return any(isinstance(d, str) for _, dims in found for d in dims)


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
    """Inference takes the sizes of the first operand, or in its ellipsis, for those of the output.

    One that is 1 there may be larger in another operand.
    """
    left, arrow, right = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    ellipses: list[tuple[Dim, ...]] = []
    by_label: dict[str, list[Dim]] = {label: [] for label in (right if arrow else "")}
    for term, v in zip(left.split(","), node.inputs, strict=True):
        before, dots, after = term.partition("...")
        dims = None if v is None else dims_of(v)
        if dims is None:
            continue
        if dots:
            ellipses.append(dims[len(before) : len(dims) - len(after)])
        ends = [*dims[: len(before)], *dims[len(dims) - len(after) :]]
        for label, d in zip(before + after, ends, strict=False):
            by_label.get(label, []).append(d)
    axes = [*by_label.values(), *(zip(*ellipses, strict=True) if len(ellipses) > 1 else ())]
    return any(len(sizes) > 1 and _may_differ(tuple(sizes)) for sizes in axes)


def _may_differ(sizes: tuple[Dim, ...]) -> bool:
    """Whether sizes along one axis may differ; inference would take the first of them."""
    equal = sizes[0] is not None and len(set(sizes)) == 1
    return not equal and not all(isinstance(n, int) for n in sizes)
