"""Maps over places: laid out from a layer, scaled, and resized to the input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.layers import channels_of, input_named, inputs_before
from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of, shown

# How a layer's tokens lie: sizes of the places, True for a square, False for no tokens.
Tokens: TypeAlias = bool | Sequence[int] | None
# How a map is resized.
Interpolate: TypeAlias = bool | Literal["linear", "nearest"]


def channels_first(t: Tensor, axis: int) -> Tensor:
    """A tensor with its axis of channels moved to 1."""
    if axis == 1:
        return t
    return t.op.Transpose(t, perm=[0, axis, *(a for a in range(1, t.rank) if a != axis)])


def from_tokens(t: Tensor, tokens: bool | Sequence[int], class_tokens: int) -> Tensor:
    """Tokens [N, T, C], or places [N, H, W, C], as maps [N, C, H, W].

    Raises:
        ArgumentError: There are not as many tokens as places.
    """
    if t.rank > 3:
        return channels_first(t, t.rank - 1)
    end = shapes.dim(t, 1)
    rest = shapes.part(t, class_tokens, end, axis=1) if class_tokens else t
    count = end - class_tokens
    sizes = _square(count) if isinstance(tokens, bool) else list(tokens)
    if isinstance(count, int) and shapes.product(sizes) != count:
        raise ArgumentError(
            f"the layer {t.value.name!r} has {end} tokens, {class_tokens} of them for classes, and "
            f"the other {count} do not make {' x '.join(map(str, sizes))} places: pass others in "
            "tokens or in class_tokens"
        )
    maps = t.op.Transpose(rest, perm=[0, 2, 1])
    return shapes.reshape(maps, [*shapes.dims(t)[:1], shapes.dim(t, 2), *sizes])


def _square(count: Size) -> list[Size]:
    """The sides of a square of so many places."""
    if isinstance(count, int):
        return [math.isqrt(count)] * 2
    op = count.op
    root = op.Round(op.Sqrt(op.Cast(count, to=ir.DataType.FLOAT)))
    return [op.Cast(root, to=ir.DataType.INT64)] * 2


def scaled(t: Tensor, first: int = 1) -> Tensor:
    """A map that goes from 0 to 1 over the axes from `first` on; zeros where it is constant."""
    op, axes = t.op, t.op.const(range(first, t.rank))
    t = t - op.ReduceMin(t, axes, keepdims=1)
    return t / (op.ReduceMax(t, axes, keepdims=1) + 1e-7)


def resized(t: Tensor, sizes: Sequence[Size], how: Interpolate = True) -> Tensor:
    """Maps [N, ...] in other sizes: as cv2.resize does, or to the nearest place before."""
    op = t.op
    x = op.Unsqueeze(t, op.const([1]))
    target = shapes.vector(t, [shapes.dim(t, 0), 1, *sizes])
    rules = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if how == "nearest":
        rules = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    y = op.Resize(x, None, None, target, **rules)
    y.value.shape = ir.Shape(dims_in(target.value) or [None] * x.rank)
    return op.Squeeze(y, op.const([1]))


def image_of(graph: ir.Graph, layer: ir.Value, places: int, name: str | None) -> ir.Value:
    """The graph input that a layer's map is resized to.

    Args:
        places: How many axes of places the layer has.
        name: Its name; None for the one that the layer depends on and that has such places.

    Raises:
        ArgumentError: There is no such input, or there are several.
    """
    before = inputs_before(graph)[layer] if name is None else [input_named(graph, name)]
    for rank in (places + 2, places + 1):
        found = [v for v in before if len(dims_of(v) or ()) == rank]
        if len(found) == 1:
            return found[0]
        if found:
            break
    names = ", ".join(shown(v) for v in graph.inputs if not v.is_initializer())
    raise ArgumentError(
        f"the map of {layer.name!r} has {places} axes of places, and it is not one input that has "
        f"as many, beside examples and channels: name one in input. The inputs are {names}"
    )


def sizes_of(graph: ir.Graph, image: Tensor, places: int) -> list[Size]:
    """The sizes of an input's places; it is [N, C, ...], [N, ..., C] or [N, ...]."""
    sizes = shapes.dims(image)[1:]
    if image.rank == places + 2:
        del sizes[channels_of(image.value, graph) - 1]
    return sizes
