"""What a net is asked for: `Value`, `NetPortGradient`, and what the transforms take for `of`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

import onnx_ir as ir
from typing_extensions import TypeVar

from onnxgrad.graph import names
from onnxgrad.graph.errors import ArgumentError, UnknownNameError
from onnxgrad.graph.names import All
from onnxgrad.heads.head import Head

# One tensor: a name, or a position such as ["layer1", 0, "weight"].
One: TypeAlias = str | Sequence[Any]
# Whether one tensor is named or all are decides on the type of a result.
Named = TypeVar("Named", bound=One | All, covariant=True, default=One | All)


@dataclass(frozen=True)
class NetPortGradient(Generic[Named]):
    """The gradient at a tensor of a net.

    As the second argument of a `Net` it asks for the gradient with respect to that tensor; as a key
    of the first it imposes the gradient at that tensor.

    Args:
        spec: The name of an input, a parameter or any other floating-point tensor; a position such
            as `["layer1", 0, "weight"]`; or `ALL`, for every input and every trainable weight.
    """

    spec: Named

    def __post_init__(self) -> None:
        if not isinstance(self.spec, str | All):
            place = _position("NetPortGradient", self.spec, "or ALL")
            object.__setattr__(self, "spec", place)

    def __repr__(self) -> str:
        spec = list(self.spec) if isinstance(self.spec, tuple) else self.spec
        return f"NetPortGradient({spec!r})"


@dataclass(frozen=True)
class Value:
    """The value of a tensor of a net, or of a head or a loss, as the second argument of a `Net`.

    Args:
        spec: The name of any tensor, an inner one too, a position, or a head such as
            `heads.class_score("logits", target=3)`.

    Example:
        >>> net = og.Net("models/mlp.onnx")
        >>> y, g = net([[1, 2, 3, 4]], [og.Value("logits"), og.NetPortGradient("input")])
        >>> y.shape, g.shape
        ((1, 3), (1, 4))
    """

    spec: One | Head

    def __post_init__(self) -> None:
        if not isinstance(self.spec, str | Head):
            object.__setattr__(self, "spec", _position("Value", self.spec, "or a head"))

    def __repr__(self) -> str:
        spec = list(self.spec) if isinstance(self.spec, tuple) else self.spec
        return f"Value({spec!r})"


_KINDS = (NetPortGradient, Value)

Request: TypeAlias = NetPortGradient | Value | Sequence[NetPortGradient | Value]


def _position(kind: str, spec: Any, other: str) -> tuple[Any, ...]:
    """A position, made hashable.

    Raises:
        ArgumentError, UnknownNameError: It is none.
    """
    if not isinstance(spec, Sequence):
        raise ArgumentError(
            f"{kind} takes a tensor's name, a position (a sequence of names and "
            f"indices) {other}, not {spec!r}."
        )
    if not spec:
        raise UnknownNameError(
            f"A tensor's name or its position, names and indices, is needed, not {spec!r}."
        )
    if any(not isinstance(part, Hashable) for part in spec):
        raise ArgumentError(
            f"{kind} is of one tensor, and {spec!r} is no position, names "
            f"and indices. For several tensors give a list of {kind}s."
        )
    return tuple(spec)


def requests(request: Any) -> NetPortGradient | Value | tuple[NetPortGradient | Value, ...]:
    """One request, or several as a tuple.

    Raises:
        ArgumentError: It is none.
    """
    if isinstance(request, _KINDS):
        return request
    several = isinstance(request, Sequence) and not isinstance(request, str)
    if several and request and all(isinstance(one, _KINDS) for one in request):
        return tuple(request)
    raise ArgumentError(
        f"The second argument is a Value, a NetPortGradient or a list of them, not {request!r}."
    )


class Requested:
    """What requests stand for in a net.

    Args:
        model: The net.
        asked: One request or several.

    Attributes:
        wrt: What to differentiate with respect to; empty for no gradient.
        values: The names of the tensors to give out, then the heads.

    Raises:
        ArgumentError: Gradients of all tensors, and of others beside them.
        UnknownNameError: There is no such tensor.
    """

    def __init__(
        self, model: ir.Model, asked: NetPortGradient | Value | tuple[NetPortGradient | Value, ...]
    ) -> None:
        self._alone = not isinstance(asked, tuple)
        several = asked if isinstance(asked, tuple) else (asked,)
        # Each a name, a head or ALL.
        self._asked = [
            (one, one.spec if isinstance(one.spec, All | Head) else names.resolve(model, one.spec))
            for one in several
        ]
        gradients = [x for one, x in self._asked if isinstance(one, NetPortGradient)]
        wrt: dict[Any, None] = dict.fromkeys(gradients)
        if All.ALL in wrt and len(wrt) > 1:
            raise ArgumentError("ALL stands for all gradients: ask for it alone.")
        self.wrt: All | tuple[str, ...] = All.ALL if All.ALL in wrt else tuple(sorted(wrt))
        given = dict.fromkeys(y for one, y in self._asked if isinstance(one, Value))
        heads = (y for y in given if isinstance(y, Head))
        self.values = (*sorted(y for y in given if isinstance(y, str)), *heads)

    def result(self, gradients: dict[str, Any], values: Mapping[str, Any]) -> Any:
        """What the user gets.

        Args:
            gradients: By tensor name.
            values: By tensor name, in the order of `self.values`.
        """
        if not self.values and not self._alone:
            named = [place for _, place in self._asked if isinstance(place, str)]
            return {x: gradients[x] for x in named} or gradients
        known = dict(zip(self.values, values.items(), strict=True))

        def of_one(one: NetPortGradient | Value, place: Any) -> Any:
            if isinstance(one, Value):
                return known[place][1]
            return gradients if isinstance(place, All) else gradients[place]

        if self._alone:
            return of_one(*self._asked[0])
        if not self.wrt:
            return dict(known[place] for _, place in self._asked)
        return tuple(of_one(*asked) for asked in self._asked)


def pick(found: dict[str, Any], spec: Any, order: Sequence[str] | None) -> Any:
    """The result itself where one tensor was named, or none and there is but one; else all.

    Args:
        found: The results by tensor name.
        spec: What was asked for.
        order: The names in `spec`, where it has several.
    """
    if isinstance(spec, str | Head) or (spec is None and len(found) == 1):
        return next(iter(found.values()))
    return found if order is None else {name: found[name] for name in order}
