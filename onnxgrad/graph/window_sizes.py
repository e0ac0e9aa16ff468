"""What sliding windows leave of a size, and which sizes the standard's inference misjudges."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.facts import Dim, dims_of

POOLS = {"AveragePool", "LpPool", "MaxPool"}


def drops_windows(node: ir.Node, sizes: tuple[Dim, ...]) -> list[bool]:
    """Whether ceil_mode makes room for a window that has nothing of the input, by axis.

    It is dropped. Of a size that is not known no inference tells anything.
    """
    found = []
    for size, (stride, begin, end, reach) in zip(sizes[2:], windows_of(node, sizes), strict=False):
        if isinstance(size, int) and node.attributes.get_int("ceil_mode", False):
            last = -(-(size + begin + end - reach - 1) // stride) * stride
            found.append(last >= size + begin)
        else:
            found.append(False)
    return found


def windows_of(node: ir.Node, sizes: tuple[Dim, ...]) -> list[tuple[int, int, int, int]]:
    """How a window slides along each axis, from the attributes for an operand of `sizes`.

    Its stride, the padding in front and behind, and the way from its first to its last element.
    """
    n = len(sizes) - 2
    lists = {"kernel_shape": [], "strides": [1] * n, "dilations": [1] * n, "pads": [0] * (2 * n)}
    for name in lists.keys() & node.attributes.keys():
        lists[name] = list(node.attributes[name].as_ints())
    pads = lists["pads"]
    reach = [(k - 1) * d for k, d in zip(lists["kernel_shape"], lists["dilations"], strict=False)]
    return list(zip(lists["strides"], pads[:n], pads[n:], reach, strict=False))


def is_window(node: ir.Node) -> bool:
    """Whether a window of known size slides along the first operand, to where it still fits."""
    slides = not node.domain and node.op_type in {"Conv", *POOLS}
    known = bool(node.attributes.get_ints("kernel_shape"))
    return slides and known and not node.attributes.get_int("ceil_mode", False)


def name_sizes(node: ir.Node) -> None:
    """Name what a window leaves of a size that has a name, where inference leaves it unknown.

    The name is the formula, so that equal names are equal sizes. In an inner graph inference does
    not see the constants among the sizes of a ConstantOfShape either.
    """
    found = dims_of(node.outputs[0])
    if node.op_type == "ConstantOfShape" and found is not None and node.inputs[0] is not None:
        node.outputs[0].shape = _filled_in(found, dims_in(node.inputs[0]) or found)
    sizes = dims_of(x) if is_window(node) and (x := node.inputs[0]) is not None else None
    if found is None or sizes is None or len(found) != len(sizes):
        return
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    left = []
    for size, (stride, begin, end, reach) in zip(sizes[2:], windows_of(node, sizes), strict=False):
        pads = {"NOTSET": begin + end, "VALID": 0}.get(auto, reach)  # SAME rounds up size / stride
        left.append(_after(size, pads - reach - 1, stride))
    if len(left) == len(found) - 2:  # a model that is not valid may have less
        for v in node.outputs:
            v.shape = _filled_in(found, [*found[:2], *left])


def _filled_in(known: Sequence[Dim], more: Sequence[Dim]) -> ir.Shape:
    """A shape with what is known of it, else what more is found of it."""
    return ir.Shape([b if a is None else a for a, b in zip(known, more, strict=True)])


def _after(size: Dim, more: int, stride: int) -> str | None:
    """The name of (size + more) // stride + 1."""
    if not isinstance(size, str):
        return None
    if stride > 1:
        return f"([{size}]{more:+d})//{stride}+1"
    return size if more == -1 else f"[{size}]{more + 1:+d}"


# The elements of a sequence may differ in size, though inference gives the size one name.
_OF_SEQUENCES = {
    "SequenceAt",
    "SequenceConstruct",
    "SequenceErase",
    "SequenceInsert",
    "SplitToSequence",
}


def misjudged(node: ir.Node) -> bool:
    """Whether the standard's inference may give wrong sizes, where operands' are not numbers.

    It takes the ellipsis of an Einsum's first operand for that of all, and what Attention would
    have to calculate, a head's size or the number of keys, for 0. Below opset 22 it counts a window
    that starts beyond a pool's input: `settle` says which pools cannot be written otherwise.
    """
    if not node.domain and node.op_type in POOLS:
        sizes = None if node.inputs[0] is None else dims_of(node.inputs[0])
        return sizes is not None and any(drops_windows(node, sizes))
    if not node.domain and node.op_type in _OF_SEQUENCES:
        return any(isinstance(d, str) for d in dims_of(node.outputs[0]) or ())
    if node.domain or node.op_type not in ("Attention", "Einsum"):
        return False
    dims = [None if v is None else dims_of(v) for v in node.inputs]
    if node.op_type == "Attention":
        queried = len(node.outputs) > 3 or (dims[0] is not None and len(dims[0]) == 3)
        return queried and any(not isinstance(n, int) for d in dims for n in d or ())
    parts, terms = [], node.attributes["equation"].as_string().split("->")[0].split(",")
    for term, d in zip(terms, dims, strict=True):
        before, dots, after = term.replace(" ", "").partition("...")
        if dots and d is not None:
            parts.append(d[len(before) : len(d) - len(after)])
    return any(
        any(n is None or n != axis[0] for n in axis) and not all(isinstance(n, int) for n in axis)
        for axis in zip(*parts, strict=True)
        if len(parts) > 1
    )
