"""What a net is asked for: `NetPortGradient`, and what the transforms take for `wrt` and `of`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

from onnxgrad.graph.errors import ArgumentError, UnknownNameError
from onnxgrad.graph.names import All

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
            if not isinstance(self.spec, Sequence):
                raise ArgumentError(
                    "NetPortGradient takes a tensor's name, a position (a sequence of names and "
                    f"indices) or ALL, not {self.spec!r}."
                )
            if not self.spec:
                raise UnknownNameError(
                    "A tensor's name or its position, names and indices, is needed, "
                    f"not {self.spec!r}."
                )
            if any(not isinstance(part, Hashable) for part in self.spec):
                raise ArgumentError(
                    f"NetPortGradient is of one tensor, and {self.spec!r} is no position, names "
                    "and indices. For several tensors give a list of NetPortGradients."
                )
            object.__setattr__(self, "spec", tuple(self.spec))  # hashable

    def __repr__(self) -> str:
        spec = list(self.spec) if isinstance(self.spec, tuple) else self.spec
        return f"NetPortGradient({spec!r})"


Request: TypeAlias = NetPortGradient | Sequence[NetPortGradient]


def requests(request: Any) -> tuple[NetPortGradient, ...]:
    """One request or several.

    Raises:
        ArgumentError: It is none.
    """
    if isinstance(request, NetPortGradient):
        return (request,)
    several = isinstance(request, Sequence) and not isinstance(request, str)
    if several and request and all(isinstance(one, NetPortGradient) for one in request):
        return tuple(request)
    raise ArgumentError(
        f"The second argument is a NetPortGradient or a list of them, not {request!r}."
    )


def pick(found: dict[str, Any], spec: Any) -> Any:
    """The result itself where one tensor was named, or none and there is but one."""
    one = isinstance(spec, str) or (spec is None and len(found) == 1)
    return next(iter(found.values())) if one else found
