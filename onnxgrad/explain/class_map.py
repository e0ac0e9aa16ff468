"""What all class-activation maps share: their options, their layers, and the size of the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.layers import candidates, channel_axes, find_layer
from onnxgrad.explain.method import Explaining, ExplainOptions, Explanation, method
from onnxgrad.explain.places import (
    Interpolate,
    Tokens,
    channels_first,
    from_tokens,
    image_of,
    resized,
    scaled,
    sizes_of,
)
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import shown
from onnxgrad.transforms.asked import float_outputs
from onnxgrad.transforms.options import TensorSpecs, Transform

P = ParamSpec("P")
# A map [N, ...] of a layer's activations and their gradients, both [N, C, ...].
Formula = Callable[[Tensor, Tensor], Tensor]


class Placed(Explaining, total=False):
    """The options of whatever has a class-activation map in it."""

    input: str | None
    tokens: Tokens
    class_tokens: int
    scale: bool


class Mapped(Placed, total=False):
    """The options of every class-activation map."""

    interpolate: Interpolate


@dataclass(frozen=True)
class MapOptions(ExplainOptions):
    """The options of a class-activation map, as `grad_cam` describes them."""

    input: str | None = None
    tokens: Tokens = None
    class_tokens: int = 1
    interpolate: Interpolate = False
    scale: bool = False

    def __post_init__(self) -> None:
        if self.interpolate not in (False, True, "linear", "nearest"):
            raise ArgumentError(
                f"interpolate is False, True, 'linear' or 'nearest', not {self.interpolate!r}"
            )


def map_method(function: Callable[Concatenate[ir.Model, P], None]) -> Transform[P]:
    """A public class-activation map."""
    return method(function, MapOptions)


class ClassMap:
    """A class-activation map of one layer, or of several.

    Args:
        net: A private model, which is changed.
        layer, options: As for `grad_cam`.

    Attributes:
        explanation: The score that is explained.
        layers: The layers, named or found.

    Raises:
        ArgumentError: No layer is found.
    """

    def __init__(self, net: ir.Model, layer: TensorSpecs | None, **options: Unpack[Mapped]) -> None:
        self.given = MapOptions(**options)
        # Until the layer is found, a tensor that there is stands for it.
        wrt = float_outputs(net) if layer is None else layer
        self.explanation = Explanation(net, wrt, kind=MapOptions, **options)
        job = self.explanation.job
        if layer is None:
            job.wrt = [self._found(job.op.graph, job.of)]
        self.layers = job.wrt
        self.channels = channel_axes(job.op.graph)

    @property
    def op(self) -> Builder:
        """What emits at the end of the net."""
        return self.explanation.op

    def map(self, formula: Formula) -> Tensor:
        """The map by a formula, of the dtype of the first layer.

        Raises:
            ArgumentError: Which axes of a layer are places is not known.
        """
        op, given = self.op, self.given
        gradients = self.explanation.gradients()
        maps = []
        for v in self.layers:
            a, g = (op.promoted(self.laid_out(v, t)) for t in (op.tensor(v), gradients[v]))
            cam = op.Relu(formula(a, g))
            cam = scaled(cam) if given.scale else cam
            maps.append(self._resized(cam) if given.interpolate else cam)
        if any(m.shape != maps[0].shape for m in maps):
            raise ArgumentError(
                f"the layers {', '.join(repr(v.name) for v in self.layers)} have other places than "
                "each other: pass interpolate=True, which gives all of them the input's"
            )
        cam = op.sum(maps) / len(maps)
        return op.cast(scaled(cam) if given.scale else cam, op.tensor(self.layers[0]).dtype)

    def laid_out(self, layer: ir.Value, t: Tensor) -> Tensor:
        """A tensor of the shape of a layer as [N, C, ...].

        Raises:
            ArgumentError: Which axes are places is not known.
        """
        tokens = self.given.tokens
        if t.rank < 3:
            raise ArgumentError(f"the layer {shown(layer)} has no places.{self._candidates()}")
        if tokens is False:
            return t
        if tokens is not None:
            return from_tokens(t, tokens, self.given.class_tokens)
        if layer not in self.channels:
            raise ArgumentError(
                f"no operator tells which axes of {shown(layer)} are places: pass "
                "tokens=True, or their numbers, for tokens [N, T, C]; tokens=False for [N, C, ...]"
            )
        return channels_first(t, self.channels[layer])

    def image(self, places: int) -> ir.Value:
        """The input that the map belongs to, where it has so many axes of places."""
        return image_of(self.op.graph, self.layers[0], places, self.given.input)

    def _resized(self, cam: Tensor) -> Tensor:
        """A map in the size of the input's places."""
        places = cam.rank - 1
        image = self.op.tensor(self.image(places))
        return resized(cam, sizes_of(self.op.graph, image, places), self.given.interpolate)

    def _found(self, graph: ir.Graph, of: list[ir.Value]) -> ir.Value:
        """The layer, where none is named."""
        if self.given.tokens is not None:
            raise ArgumentError(f"name the layer that holds the tokens.{self._candidates()}")
        return find_layer(graph, of, self.given.input)

    def _candidates(self) -> str:
        return candidates(self.op.graph, self.explanation.job.of)
