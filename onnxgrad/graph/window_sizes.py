"""Sizes behind sliding windows: names for them, and where inference misjudges them."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.corrections import Found, misjudged, size
from onnxgrad.graph.facts import Dim, dims_of

POOLS = {"AveragePool", "LpPool", "MaxPool"}
_WINDOWS = {"Conv", *POOLS}


def drops_windows(node: ir.Node, sizes: tuple[Dim, ...]) -> list[bool]:
    """Along which axes ceil_mode makes room for a window that has no element of the input.

    Such a window is dropped. False for an axis of unknown size.
    """
    found = []
    for dim, (stride, begin, end, reach) in zip(sizes[2:], windows_of(node, sizes), strict=False):
        if isinstance(dim, int) and node.attributes.get_int("ceil_mode", False):
            last = -(-(dim + begin + end - reach - 1) // stride) * stride
            found.append(last >= dim + begin)
        else:
            found.append(False)
    return found


def windows_of(node: ir.Node, sizes: tuple[Dim, ...]) -> list[tuple[int, int, int, int]]:
    """How a window slides along each axis of an operand of `sizes`, by the attributes.

    Returns:
        For each axis the stride, the padding in front and behind, and the distance from the first
        to the last element of the window.
    """
    n = len(sizes) - 2
    lists = {"kernel_shape": [], "strides": [1] * n, "dilations": [1] * n, "pads": [0] * (2 * n)}
    for name in lists.keys() & node.attributes.keys():
        lists[name] = list(node.attributes[name].as_ints())
    if not lists["kernel_shape"]:
        lists["kernel_shape"] = _sizes_of_filters(node)
    pads = lists["pads"]
    reach = [(k - 1) * d for k, d in zip(lists["kernel_shape"], lists["dilations"], strict=False)]
    return list(zip(lists["strides"], pads[:n], pads[n:], reach, strict=False))


def is_window(node: ir.Node) -> bool:
    """Whether a window of known size slides along the first operand for as long as it fits."""
    if node.op_type not in _WINDOWS or node.domain:
        return False
    known = bool(node.attributes.get_ints("kernel_shape") or _sizes_of_filters(node))
    return known and not node.attributes.get_int("ceil_mode", False)


def _sizes_of_filters(node: ir.Node) -> list[int]:
    """The kernel of a Conv without the attribute kernel_shape, if all of its sizes are known."""
    filters = node.inputs[1] if node.op_type == "Conv" and len(node.inputs) > 1 else None
    sizes = (dims_of(filters) or ())[2:] if filters is not None else ()
    known = [d for d in sizes if isinstance(d, int)]
    return known if len(known) == len(sizes) else []


@size("Conv", *POOLS)
def _windows(node: ir.Node) -> Found:
    """Name the size behind a window by its formula, so that equal names are equal sizes."""
    sizes = dims_of(x) if is_window(node) and (x := node.inputs[0]) is not None else None
    if sizes is None:
        return
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    left = []
    for dim, (stride, begin, end, reach) in zip(sizes[2:], windows_of(node, sizes), strict=False):
        pads = {"NOTSET": begin + end, "VALID": 0}.get(auto, reach)  # SAME rounds up size / stride
        left.append(_after(dim, pads - reach - 1, stride))
    if len(left) == len(sizes) - 2:  # a model that is not valid may have fewer
        yield from ((v, [None, None, *left]) for v in node.outputs)


def _after(dim: Dim, more: int, stride: int) -> str | None:
    """The name of (dim + more) // stride + 1."""
    if not isinstance(dim, str):
        return None
    if stride > 1:
        return f"([{dim}]{more:+d})//{stride}+1"
    return dim if more == -1 else f"[{dim}]{more + 1:+d}"


@misjudged(*POOLS)
def _pools(node: ir.Node) -> bool:
    """Below opset 22 inference counts a window that starts beyond a pool's input.

    `passes.plain` says which pools cannot be written otherwise.
    """
    sizes = None if node.inputs[0] is None else dims_of(node.inputs[0])
    return sizes is not None and any(drops_windows(node, sizes))
