"""Checks nodes against the ranks and sizes of their operands, once inference has told these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import Dim, all_nodes, dims_of
from onnxgrad.graph.nodes import WINDOWS, attribute, refuse
from onnxgrad.graph.schemas import schema_of

# Operators whose attribute is an axis of the first operand, counted from either end.
_WITHIN = {
    "ArgMax",
    "ArgMin",
    "Compress",
    "Concat",
    "Gather",
    "GatherElements",
    "Hardmax",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "RMSNormalization",
    "ScatterElements",
    "Softmax",
    "Split",
    "SplitToSequence",
    "TopK",
}


# Operators with an operand that holds so many numbers for each axis.
_BY_AXIS = {"Pad": ("pads", 2), "Tile": ("repeats", 1)}
# How many axes the first operand has.
_AXES = {"AffineGrid": 3, "Col2Im": 3, "DepthToSpace": 4, "Gemm": 2, "RoiAlign": 4}
_AXES |= {"GRU": 3, "LSTM": 3, "RNN": 3, "SpaceToDepth": 4}
# More elements than any machine addresses.
TOO_MANY = 2**48


def check_fit(graph: ir.Graph) -> None:
    """Check axes, windows, lists and sizes of nodes, as far as ranks and sizes are known.

    Raises:
        ModelError: An axis is out of range, a window or a list is of other axes than its operand,
            or a tensor would have a size that no tensor has; the message names the node and what of
            it is wrong.
    """
    for node in all_nodes(graph):
        dims = _dims(node, 0)
        if node.domain or dims is None:
            continue
        _check_axes(node, len(dims))
        _check_lists(node, len(dims))
        if node.op_type in WINDOWS:
            _check_window(node, dims)
        if node.op_type == "Attention":
            _check_heads(node)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_blocks(node, len(dims))
    for node in graph:  # a branch that does not run asks nothing of sizes
        _check_sizes(node)


def _dims(node: ir.Node, place: int) -> tuple[Dim, ...] | None:
    """The dimensions of an operand, if it is there and they are known."""
    v = node.inputs[place] if place < len(node.inputs) else None
    return None if v is None else dims_of(v)


def _check_axes(node: ir.Node, rank: int) -> None:
    if rank != _AXES.get(node.op_type, rank):
        refuse(node, f"its first operand has {_AXES[node.op_type]} axes, not {rank}")
    if (axis := attribute(node, "axis")) is not None:
        if node.op_type in _WITHIN:
            _require_axes(node, "the attribute axis", [axis], rank)
        if node.op_type in ("Flatten", "OneHot") and not -rank - 1 <= axis <= rank:
            refuse(node, f"the attribute axis is {axis}, and the operand has {rank} axes")
    for what, axes in _constant_axes(node):
        more = len(axes) if node.op_type == "Unsqueeze" else 0
        _require_axes(node, what, axes, rank + more)
    if (perm := attribute(node, "perm")) is not None and len(perm) != rank:
        refuse(node, f"the attribute perm has {len(perm)} axes, and the operand {rank}")


def _check_lists(node: ir.Node, rank: int) -> None:
    """Check how long operands are that are lists."""
    held = _dims_by_name(node)
    axes = held.get("axes")
    if node.op_type.startswith("Reduce") and axes is not None and len(axes) != 1:
        refuse(node, f"its operand 'axes' is a list of numbers, and has {len(axes)} axes")
    lengths = {k: n for k, dims in held.items() if len(dims) == 1 and isinstance(n := dims[0], int)}
    if node.op_type == "Slice":
        lengths.pop("data", None)
        if len({*lengths.values()}) > 1:
            refuse(node, f"its lists are not equally long: {lengths}")
    if node.op_type in _BY_AXIS:
        name, each = _BY_AXIS[node.op_type]
        count = lengths.get("axes") if len(node.inputs) > 3 and node.inputs[3] else rank
        if name in lengths and count is not None and lengths[name] != each * count:
            refuse(node, f"its operand {name!r} has {lengths[name]} numbers for {count} axes")
    rois = held.get("rois")
    if node.op_type == "RoiAlign" and rois and rois[-1] != 4 and isinstance(rois[-1], int):
        refuse(node, f"its operand 'rois' has 4 numbers for each, not {rois[-1]}")


def _dims_by_name(node: ir.Node) -> dict[str, tuple[Dim, ...]]:
    """The dimensions of the operands for which they are known, by the schema's names."""
    schema = schema_of("", node.op_type)
    names = schema.inputs if schema else ()
    return {name: dims for k, name in enumerate(names) if (dims := _dims(node, k)) is not None}


def _check_sizes(node: ir.Node) -> None:
    for v in node.outputs:
        known = [d for d in dims_of(v) or () if isinstance(d, int)]
        if min(known, default=0) < 0:
            refuse(node, f"its output {v.name!r} would have the size {min(known)}")
        if math.prod(known) > TOO_MANY:
            refuse(node, f"its output {v.name!r} would have the sizes {known}: no machine holds it")


def _check_blocks(node: ir.Node, rank: int) -> None:
    """Check what tells a scale for each part of the operand; one for all needs no axis."""
    block, scale, axis = attribute(node, "block_size"), _dims(node, 1), attribute(node, "axis")
    if axis is not None and scale not in (None, (), (1,)):
        _require_axes(node, "the attribute axis", [axis], rank)
    if block and scale is not None and len(scale) != rank:
        refuse(
            node,
            f"the attribute block_size is {block}: a scale has the {rank} axes of the operand "
            f"then, not {len(scale)}",
        )


def _constant_axes(node: ir.Node) -> Iterable[tuple[str, Sequence[int]]]:
    """The axes that operands tell, with how to call them."""
    schema = schema_of("", node.op_type)
    for name, v in zip(schema.inputs if schema else (), node.inputs, strict=False):
        if name in ("axes", "axis") and v is not None and (held := constant_of(v)) is not None:
            if held.dtype.kind not in "iu":
                refuse(node, f"its operand {name!r} is {held.dtype}, not an integer")
            yield f"its operand {name!r}", [int(k) for k in held.flat]


def _require_axes(node: ir.Node, what: str, axes: Sequence[int], rank: int) -> None:
    for axis in axes:
        if not -rank <= axis < max(rank, 1):  # a scalar may be told its axis 0
            refuse(node, f"{what} is {axis}, which is none of {rank} axes")


def _check_heads(node: ir.Node) -> None:
    ranks = [len(dims) for k in range(3) if (dims := _dims(node, k)) is not None]
    if len(set(ranks)) > 1 or ranks[0] not in (3, 4):
        refuse(node, f"Q, K and V have 3 axes or 4, all as many, not {ranks}")
    for name in ("q_num_heads", "kv_num_heads"):
        if ranks[0] == 3 and (attribute(node, name) or 0) < 1:
            refuse(node, f"the attribute {name} is 1 or more for operands of 3 axes")
    if (mask := _dims(node, 3)) is not None and len(mask) > 4:
        refuse(node, f"its operand 'attn_mask' has 4 axes at most, not {len(mask)}")


def _check_window(node: ir.Node, dims: Sequence[Dim]) -> None:
    spatial = len(dims) - 2
    kernel = attribute(node, "kernel_shape")
    if spatial < 1:
        refuse(node, f"its operand has {spatial + 2} axes, fewer than a batch of channels")
    for name in ("kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape"):
        found = attribute(node, name)
        wanted = spatial * (2 if name == "pads" else 1)
        # onnxruntime takes an output_shape with the batch and the channels too.
        allowed = (wanted, wanted + 2) if name == "output_shape" else (wanted,)
        if found and len(found) not in allowed:
            refuse(node, f"the attribute {name} has {len(found)} numbers, not {wanted}")
    if node.op_type.startswith("Conv") and (its := _dims(node, 1)) is not None:
        if len(its) != spatial + 2:
            refuse(node, f"its weight has {len(its)} axes, and its operand {spatial + 2}")
        _check_channels(node, dims[1], its)
        sizes = its[2:]
        if kernel and any(
            isinstance(s, int) and s != k for s, k in zip(sizes, kernel, strict=True)
        ):
            refuse(
                node, f"the attribute kernel_shape is {list(kernel)}, the weight's {list(sizes)}"
            )


def _check_channels(node: ir.Node, channels: Dim, weight: Sequence[Dim]) -> None:
    group = attribute(node, "group") or 1
    transposed = node.op_type == "ConvTranspose"
    its = weight[0] if transposed else weight[1]
    if isinstance(channels, int) and isinstance(its, int):
        wanted = its if transposed else its * group
        if channels != wanted or channels % group:
            refuse(
                node,
                f"its operand has {channels} channels, and its weight is for {wanted} in "
                f"groups of the attribute group, {group}",
            )
