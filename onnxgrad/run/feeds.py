"""What a net is fed: values of its inputs, gradients imposed at tensors, tangents of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import names
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.names import All
from onnxgrad.heads.head import Head, parted
from onnxgrad.run.recent import Recent
from onnxgrad.run.requests import NetPortGradient
from onnxgrad.run.sessions import TransformSession
from onnxgrad.runtimes.ports import Array, Port, arrays
from onnxgrad.transforms.options import Of

# How many names and positions to look up only once.
_NAMES = 1024


@dataclass(frozen=True)
class Feeds:
    """What one call feeds.

    Attributes:
        values: The arrays of the net's own inputs, by name.
        added: What is given for the inputs that heads add, by name: not checked yet.
        ograds: The gradients imposed, by tensor name.
    """

    values: dict[str, Any]
    added: dict[str, Any]
    ograds: dict[str, Any]

    @property
    def imposed(self) -> list[str] | bool:
        """At which tensors gradients are imposed; False for none."""
        return sorted(self.ograds) or False


class Feeder:
    """Checks what a net is fed, and names it.

    Attributes:
        ports: By the name of an input, what it takes.
        required: The inputs that must be given.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model, self._names = model, Recent[Any, str](_NAMES)
        self.ports = {value.name or "": Port.of(value) for value in model.graph.inputs}
        self.required = tuple(name for name in self.ports if name not in model.graph.initializers)

    def split(self, feeds: Any, *of: Of) -> Feeds:
        """What a call feeds, parted.

        Args:
            feeds: By name, for the net's inputs and those that heads add, and by NetPortGradient;
                the array itself where there is one input in all.
            of: What the call is of, where the heads are.

        Raises:
            FeedError: An input of a wrong name, dtype or shape, or none given.
            UnknownNameError: A gradient is imposed at a tensor that is not there.
        """
        values, ograds = self._parted(feeds)
        heads = [head for some in of if some is not None for head in parted(some)[1]]
        if not heads:
            return Feeds(arrays(self.ports, self.required, values), {}, ograds)
        added = [name for head in heads for name in head.inputs if name not in self.ports]
        ports = self.ports | {name: Port(name, None, None) for name in added}
        found = arrays(ports, list(dict.fromkeys([*self.required, *added])), values)
        return Feeds(found, {name: found.pop(name) for name in dict.fromkeys(added)}, ograds)

    def _parted(self, feeds: Any) -> tuple[Any, dict[str, Any]]:
        """The inputs, and the gradients that are imposed."""
        if not isinstance(feeds, Mapping):
            return feeds, {}
        values: dict[str, Any] = {}
        ograds: dict[str, Any] = {}
        for key, value in feeds.items():
            if not isinstance(key, NetPortGradient):
                values[key] = value
            elif isinstance(key.spec, All):
                raise ArgumentError("A gradient is imposed at one tensor, not at ALL.")
            else:
                ograds[self.name(key.spec)] = value
        return values, ograds

    def name(self, spec: names.TensorSpec) -> str:
        """The name of the tensor that a name or a position stands for; it is looked up once.

        Raises:
            UnknownNameError: There is no such tensor.
        """
        if (found := self._names.get(spec)) is None:
            found = self._names.keep(spec, names.resolve(self._model, spec))
        return found

    def plain(self, feeds: Any, of: Of = None) -> Feeds:
        """What a call feeds, where imposed gradients have no meaning."""
        parts = self.split(feeds, of)
        if parts.ograds:
            raise ArgumentError("The feeds impose a gradient, which has no meaning here.")
        return parts

    def by_name(self, given: Any, only: Sequence[str | Head], what: str) -> dict[Any, Any]:
        """Values by tensor name, of a mapping by name or position; or that of the only tensor.

        A head of `only` stands for itself.
        """
        if isinstance(given, Mapping):
            if not given:
                raise ArgumentError(f"{what}: none is given.")
            return {
                one if isinstance(one, Head) and one in only else self.name(one): v
                for one, v in given.items()
            }
        if len(only) != 1:
            raise ArgumentError(
                f"{what}: give a dict by tensor name, of {', '.join(map(repr, only))}."
            )
        return {only[0]: given}

    def complete(
        self,
        built: TransformSession,
        feeds: Feeds,
        ograds: Mapping[Any, Any] | None = None,
        tangents: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """All that a transform's session is fed.

        Args:
            built: The session.
            feeds: What the call feeds.
            ograds: What is imposed, in the place of that in `feeds`; at heads, in their order.
            tangents: By tensor name.

        Raises:
            FeedError: One of these, or an input of a head, has not the dtype and shape of its
                tensor.
        """
        ograds = feeds.ograds if ograds is None else ograds
        if not (ograds or tangents or feeds.added):
            return feeds.values
        left = iter([port for name, port in built.seeds.items() if name not in ograds])
        seeds = [
            (next(left) if isinstance(y, Head) else built.seeds[y], g) for y, g in ograds.items()
        ]
        moves = [(built.tangents[x], t) for x, t in (tangents or {}).items()]
        added = [(built.ports[n], v) for n, v in feeds.added.items() if n in built.ports]
        extra = {
            port.name: fitting(port, value, self.ports, feeds.values)
            for port, value in (*added, *seeds, *moves)
        }
        return {**feeds.values, **extra}


def fitting(port: Port, value: Any, inputs: Mapping[str, Port], values: Mapping[str, Array]) -> Any:
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
