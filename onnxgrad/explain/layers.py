"""Layers with places: which one a map is taken of, and which of its axes are the places.

Places are the pixels of feature maps [N, C, H, W], or what there is of the kind in one dimension or
in three. Which axis holds the channels is told by the operators: a convolution gives [N, C, ...],
and a Transpose moves the axis.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence

import onnx_ir as ir

from onnxgrad.engine.flow import Flow, operands, require_rules
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of, is_float

# Operators that take and give [N, C, ...].
_SPATIAL = {
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "DepthToSpace",
    "InstanceNormalization",
    "LpPool",
    "MaxPool",
    "QLinearConv",
    "SpaceToDepth",
}
# Operators behind which no axis is known to hold channels. All others leave the axes as they are.
_REARRANGE = {
    "Attention",
    "Einsum",
    "Flatten",
    "GRU",
    "Gemm",
    "If",
    "LSTM",
    "Loop",
    "MaxRoiPool",
    "RNN",
    "Reshape",
    "RoiAlign",
    "Scan",
    "Squeeze",
    "Unsqueeze",
}
# Operators that compute no features of their own.
_PASS_ON = {"AveragePool", "Identity", "LpPool", "MaxPool", "Pad", "Transpose"}
# Operators that tell of a tensor's shape alone.
_SHAPES = {"Shape", "Size"}
# Operators that mix channels.
_MIX = {
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DeformConv",
    "Einsum",
    "GRU",
    "Gemm",
    "LSTM",
    "MatMul",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "RNN",
}


def channel_axes(graph: ir.Graph) -> dict[ir.Value, int]:
    """The axis of channels of each tensor of which the operators tell it."""
    known: dict[ir.Value, int] = {}
    for node in graph:
        axis = 1 if _is(node, _SPATIAL) else _moved(node, known)
        if axis is not None:
            known.update({v: axis for v in node.outputs if len(dims_of(v) or ()) > 2})
    return known


def channels_of(image: ir.Value, graph: ir.Graph) -> int:
    """The axis of channels of a graph input: the one that arrives as 1 at a convolution, or 1."""
    last = len(dims_of(image) or ()) - 1
    for first in (1, last):
        known = {image: first}
        for node in graph:
            if _is(node, _SPATIAL):
                if node.inputs[0] in known and known[node.inputs[0]] == 1:
                    return first
            elif (axis := _moved(node, known)) is not None:
                known.update(dict.fromkeys(node.outputs, axis))
    return 1


def _is(node: ir.Node, kinds: Collection[str]) -> bool:
    return not node.domain and node.op_type in kinds


def _moved(node: ir.Node, known: dict[ir.Value, int]) -> int | None:
    """Where a node puts the axis of channels of an operand; None where that is not known."""
    rank = len(dims_of(node.outputs[0]) or ()) if node.outputs else 0
    operand = next(
        (v for v in node.inputs if v in known and len(dims_of(v) or ()) == rank),
        None,
    )
    if operand is None or _is(node, _REARRANGE):
        return None
    axis = known[operand]
    if _is(node, {"Transpose"}):
        perm = list(node.attributes.get_ints("perm", range(rank)[::-1]))
        others = [a for a in perm if a != axis]
        return perm.index(axis) if others == sorted(others) and axis != 0 else None
    if _is(node, {"MatMul"}):  # of channels, which lie last, with weights
        return axis if axis == rank - 1 and operand is node.inputs[0] else None
    return axis


def has_places(value: ir.Value, channels: int) -> bool:
    """Whether a tensor has more than one place, as far as its sizes are known."""
    return any(d != 1 for a, d in enumerate(dims_of(value) or ()) if a not in (0, channels))


def inputs_before(graph: ir.Graph) -> dict[ir.Value, frozenset[ir.Value]]:
    """The graph inputs, but for weights, that each tensor depends on by more than their shape."""
    none: frozenset[ir.Value] = frozenset()
    found = {v: frozenset([v]) for v in graph.inputs if not v.is_initializer()}
    for node in graph:
        if not _is(node, _SHAPES):
            sets = [found.get(v, none) for v in operands(node) if v is not None]
            found.update(dict.fromkeys(node.outputs, none.union(*sets)))
    return found


def _separating(graph: ir.Graph, of: Sequence[ir.Value]) -> dict[ir.Value, frozenset[ir.Value]]:
    """The tensors that every way to a score passes from the inputs before them; and these inputs.

    Every way from a tensor to the score passes those in front of it in a tree, whose root is the
    score: what its uses have in common.
    """
    front: dict[ir.Value | None, ir.Value | None] = dict.fromkeys(of)
    depth: dict[ir.Value | None, int] = {None: 0}

    def common(a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
        while a is not b:
            if depth[a] >= depth[b]:
                a = front[a]
            else:
                b = front[b]
        return a

    for node in reversed(graph):
        outputs: list[ir.Value | None] = [v for v in node.outputs if v in front]
        if not outputs or _is(node, _SHAPES):
            continue
        for v in outputs:
            depth[v] = depth[front[v]] + 1
        first = functools.reduce(common, outputs)
        for u in operands(node):
            if u is not None:
                front[u] = common(front[u], first) if u in front else first
    passed: dict[ir.Value, frozenset[ir.Value]] = {}
    for image in graph.inputs:
        ahead = front.get(image)
        while ahead is not None:
            passed[ahead] = passed.get(ahead, frozenset()) | {image}
            ahead = front[ahead]
    before = inputs_before(graph)
    return {v: images for v, images in passed.items() if before.get(v) == images}


def _reaching(graph: ir.Graph, values: Sequence[ir.Value]) -> set[ir.Value]:
    """What values depend on, by more than its shape."""
    found = set(values)
    for node in reversed(graph):
        if not found.isdisjoint(node.outputs) and not _is(node, _SHAPES):
            found.update(v for v in operands(node) if v is not None)
    return found


def input_named(graph: ir.Graph, name: str) -> ir.Value:
    """A graph input.

    Raises:
        ArgumentError: There is none of that name.
    """
    found = {v.name: v for v in graph.inputs if not v.is_initializer()}
    if name not in found:
        raise ArgumentError(f"input: {name!r} is none of the inputs {', '.join(map(repr, found))}")
    return found[name]


def find_layer(graph: ir.Graph, of: Sequence[ir.Value], name: str | None = None) -> ir.Value:
    """The last layer with places that all of a score depends on an input by.

    It is a floating-point tensor with places which every way from the inputs that it depends on to
    the score passes, so none of a branch; and one whose channels are mixed behind it, so that they
    are features and no classes, unless there is no other.

    Args:
        graph: A normalised graph.
        of: The score.
        name: The input that it has to depend on.

    Raises:
        ArgumentError: There is none, or several inputs have their own.
        NoRuleError: There is none, and an operator before the score has no gradient rule.
    """
    image = None if name is None else input_named(graph, name)
    channels = channel_axes(graph)
    reaching = _reaching(graph, of)
    mixed = _mixed(graph, reaching)
    separating = _separating(graph, of)
    with_places = [
        v
        for node in reversed(graph)
        for v in node.outputs
        if v in separating and is_float(v) and v in channels and has_places(v, channels[v])
    ]
    if image is not None:
        with_places = [v for v in with_places if image in separating[v]]
    values = [v for v in with_places if v in mixed] or with_places
    if not values:
        # What an operator without a rule gives is not known to have places.
        require_rules(Flow.of(graph, [v for v in graph.inputs if is_float(v)], of))
        raise ArgumentError(
            "no tensor with places, [N, C, H, W], was found that all of the score depends on. "
            "Name the layer, and pass tokens where it holds tokens. A net without places has no "
            f"such layer, and saliency or integrated_gradients explain it.{candidates(graph, of)}"
        )
    last = values[0]
    apart = [v for v in values if separating[v].isdisjoint(separating[last])]
    if image is None and apart:
        raise ArgumentError(
            f"several inputs have a layer with places of their own, {apart[0].name!r} and "
            f"{last.name!r}: name the layer, or in input the input"
        )
    layer = _computed(last, channels)
    if _attentions(graph, layer, reaching) > 1:  # one pools
        raise ArgumentError(
            f"behind {layer.name!r}, the last tensor with places, stand blocks of attention: name "
            f"a layer among them, with tokens=True, or this one.{candidates(graph, of)}"
        )
    return layer


def _attentions(graph: ir.Graph, layer: ir.Value, reaching: set[ir.Value]) -> int:
    """How many times tokens attend to each other between a layer and the score."""
    behind, count = {layer}, 0
    for node in graph:
        if behind.isdisjoint(operands(node)) or reaching.isdisjoint(node.outputs):
            continue
        behind.update(node.outputs)
        rank = len(dims_of(node.outputs[0]) or ())
        count += rank > 2 and _is(node, {"Attention", "Softmax"})
    return count


def _computed(layer: ir.Value, channels: dict[ir.Value, int]) -> ir.Value:
    """What a net has computed, before it is only pooled, padded or laid out in another way."""
    node = layer.producer()
    while node is not None and _is(node, _PASS_ON) and node.inputs[0] in channels:
        assert node.inputs[0] is not None
        layer = node.inputs[0]
        node = layer.producer()
    return layer


def _mixed(graph: ir.Graph, reaching: set[ir.Value]) -> set[ir.Value]:
    """What is mixed with other channels before it reaches the score."""
    found: set[ir.Value] = set()
    for node in reversed(graph):
        mixes = _is(node, _MIX) and not reaching.isdisjoint(node.outputs)
        if mixes or not found.isdisjoint(node.outputs):
            found.update(v for v in operands(node) if v is not None)
    return found


def candidates(graph: ir.Graph, of: Sequence[ir.Value]) -> str:
    """The sentence that lists tensors which may be a layer, or an empty string."""
    reaching = _reaching(graph, of)
    inner = {
        v: node
        for node in graph
        for v in node.outputs
        if v in reaching and is_float(v) and len(dims_of(v) or ()) > 2 and has_places(v, 1)
    }
    channels = channel_axes(graph)
    normed = [v for v in inner if _is(inner[v], {"LayerNormalization"})]
    named = normed or [v for v in inner if v in channels] or list(inner)
    names = ", ".join(repr(v.name) for v in named[-5:])
    return f" The last candidates are {names}." if names else ""
