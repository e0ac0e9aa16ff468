"""What a net is fed: values of its inputs, gradients imposed at tensors, tangents of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import names
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.names import All
from onnxgrad.run.requests import NetPortGradient
from onnxgrad.run.sessions import TransformSession
from onnxgrad.runtimes.ports import Array, Port, arrays


class Feeder:
    """Checks what a net is fed, and names it.

    Attributes:
        ports: By the name of an input, what it takes.
        required: The inputs that must be given.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self.ports = {value.name or "": Port.of(value) for value in model.graph.inputs}
        self.required = tuple(name for name in self.ports if name not in model.graph.initializers)

    def split(self, feeds: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays by input name, and the imposed gradients by tensor name.

        Raises:
            FeedError: An input of a wrong name, dtype or shape, or none given.
            UnknownNameError: A gradient is imposed at a tensor that is not there.
        """
        if not isinstance(feeds, Mapping):
            return arrays(self.ports, self.required, feeds), {}
        values: dict[str, Any] = {}
        ograds: dict[str, Any] = {}
        for key, value in feeds.items():
            if not isinstance(key, NetPortGradient):
                values[key] = value
            elif isinstance(key.spec, All):
                raise ArgumentError("A gradient is imposed at one tensor, not at ALL.")
            else:
                ograds[names.resolve(self._model, key.spec)] = value
        return arrays(self.ports, self.required, values), ograds

    def values(self, feeds: Any) -> dict[str, Any]:
        """The arrays by input name, where imposed gradients have no meaning."""
        values, ograds = self.split(feeds)
        if ograds:
            raise ArgumentError("The feeds impose a gradient, which has no meaning here.")
        return values

    def by_name(self, given: Any, only: Sequence[str], what: str) -> dict[str, Any]:
        """Values by tensor name, of a mapping by name or position; or that of the only tensor."""
        if isinstance(given, Mapping):
            if not given:
                raise ArgumentError(f"{what}: none is given.")
            return {names.resolve(self._model, spec): value for spec, value in given.items()}
        if len(only) != 1:
            raise ArgumentError(
                f"{what}: give a dict by tensor name, of {', '.join(map(repr, only))}."
            )
        return {only[0]: given}

    def complete(
        self,
        built: TransformSession,
        values: Mapping[str, Any],
        ograds: Mapping[str, Any],
        tangents: Mapping[str, Any],
    ) -> dict[str, Any]:
        """All that a transform's session is fed.

        Raises:
            FeedError: An imposed gradient or a tangent does not have its tensor's dtype and shape.
        """
        extra = {
            ports[name].name: _imposed(ports[name], value, self.ports, values)
            for ports, given in ((built.seeds, ograds), (built.tangents, tangents))
            for name, value in given.items()
        }
        return {**values, **extra}


def _imposed(
    port: Port, value: Any, inputs: Mapping[str, Port], values: Mapping[str, Array]
) -> Any:
    """The imposed gradient, of the shape that the tensor will have: it is never broadcast."""
    array = port.array(value)
    sizes = {
        symbol: size
        for name, given in values.items()
        if name in inputs and inputs[name].shape is not None
        for symbol, size in zip(inputs[name].shape or (), np.shape(given), strict=False)
        if isinstance(symbol, str)
    }
    expected = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in port.shape or ())
    return Port(port.name, port.dtype, expected if port.shape is not None else None).array(array)
