"""Ports, the inputs of a net, and the arrays that are fed to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.errors import FeedError, nearest
from onnxgrad.graph.facts import may_agree, without_invented

Array: TypeAlias = np.ndarray


@dataclass(frozen=True)
class Port:
    """An input of a net.

    Attributes:
        name: Its name.
        dtype: Its numpy dtype; None if unknown, and for a sequence or an optional.
        shape: Its dimensions, each an int, a name, or None; None if even the rank is unknown.
    """

    name: str
    dtype: np.dtype | None
    shape: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, value: ir.Value) -> Port:
        """The port of a graph input."""
        tensor = isinstance(value.type, ir.TensorType) and value.dtype is not None
        dtype = np.dtype(value.dtype.numpy()) if tensor and value.dtype else None
        if value.shape is None:
            return cls(value.name or "", dtype, None)
        dims = tuple(d.value if isinstance(d, ir.SymbolicDim) else d for d in value.shape)
        # Some exporters write -1 for any size.
        free = [None if str(d).startswith("-") else d for d in dims]
        return cls(value.name or "", dtype, without_invented(free))

    def array(self, value: Any) -> Any:
        """`value` as the array to feed.

        Raises:
            FeedError: Another dtype or shape than the port's.
        """
        if self.dtype is None:
            return value
        array = self._of_dtype(value)
        self.require_shape(array.shape)
        if array.flags.c_contiguous:
            return array
        return np.ascontiguousarray(array).reshape(array.shape)

    def require_shape(self, shape: Sequence[int]) -> None:
        """Check the shape of an array.

        Raises:
            FeedError: It is another than the port's.
        """
        if shape != self.shape and not may_agree(self.shape, shape):
            raise FeedError(
                f"{self.name!r} has the shape {self.shape_text()}, and an array of shape "
                f"{tuple(shape)} was given."
            )

    def shape_text(self) -> str:
        """The shape as a message shows it, such as `(N, 3, ?)`."""
        if self.shape is None:
            return "(...)"
        return f"({', '.join('?' if d is None else str(d) for d in self.shape)})"

    def texts(self) -> tuple[str, str]:
        """The dtype and the shape as a table shows them, such as `float32` and `(N, 3, ?)`."""
        return self.dtype.name if self.dtype is not None else "?", self.shape_text()

    def _of_dtype(self, value: Any) -> Array:
        assert self.dtype is not None
        typed = hasattr(value, "dtype")  # arrays of any library have a dtype, lists have none
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise FeedError(f"{self.name!r} needs an array: {error}") from error
        if array.dtype == self.dtype:
            return array
        if self.dtype == object and array.dtype.kind in "USO":
            return array.astype(object)
        if not typed and _converts(array, self.dtype):
            return array.astype(self.dtype)
        hint = f" Convert it with .astype(np.{self.dtype.name})." if array.dtype != object else ""
        raise FeedError(
            f"{self.name!r} takes {self.dtype.name}, and {array.dtype.name} was given.{hint}"
        )


def arrays(ports: Mapping[str, Port], required: Sequence[str], feeds: Any) -> dict[str, Any]:
    """The arrays to feed, by input name.

    Args:
        ports: The ports by name.
        required: The inputs that must be given.
        feeds: A mapping by input name; or the value itself where one input is required.

    Raises:
        FeedError: An input is missing, or has a wrong name, dtype or shape.
    """
    if not isinstance(feeds, Mapping):
        if len(required) != 1:
            raise FeedError(
                f"The net has {len(required)} inputs: give a dict with the keys "
                f"{', '.join(map(repr, required))}."
            )
        feeds = {required[0]: feeds}
    for name in feeds:
        if name not in ports:
            raise FeedError(
                f"The net has no input {name!r}.{nearest(str(name), ports)} "
                f"Inputs: {', '.join(map(repr, ports))}."
            )
    if missing := [name for name in required if name not in feeds]:
        raise FeedError(f"No value for the input {', '.join(map(repr, missing))}.")
    return {name: ports[name].array(value) for name, value in feeds.items()}


def foreign(values: Iterable[ir.Value]) -> dict[str, str]:
    """Those of a dtype that ml_dtypes adds to numpy, such as bfloat16, as a message shows them."""
    ports = [p for p in map(Port.of, values) if p.dtype is not None and p.dtype.kind == "V"]
    return {p.name: f"{p.name!r} ({p.dtype})" for p in ports}


def _converts(array: Array, dtype: np.dtype) -> bool:
    """Whether Python numbers keep their values in `dtype`."""
    if array.size == 0:
        return True
    # ml_dtypes' floats are of kind "V".
    if array.dtype.kind in "iuf" and dtype.kind in "fV":
        return True
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return bool(limits.min <= array.min() and array.max() <= limits.max)
    return False
