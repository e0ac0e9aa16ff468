"""The large weights of a net, which its sessions on onnxruntime share."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.data import reference
from onnxgrad.runtimes.ports import Array

# Smaller weights stay in the model's message: shape inference reads some of them.
SHARE_BYTES = 1024

# Above this size together, the sessions of gradients take the weights as inputs, in place. Then
# they add nothing to the memory; constants are packed for every session, see docs/bounds.md.
_COPY_LIMIT = 2**28

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


class Weights:
    """One `OrtValue` per weight, over the array's own memory, for as long as a session uses it.

    Args:
        make: What makes an `OrtValue` of an array.
    """

    def __init__(self, make: Callable[[Array], Any]) -> None:
        self._make = make
        self._values: weakref.WeakValueDictionary[tuple[Any, ...], Any]
        self._values = weakref.WeakValueDictionary()

    def value(self, array: Array) -> Any:
        """The `OrtValue` of a C-contiguous array: the same one for the same memory.

        An `OrtValue` keeps its array alive.
        """
        key = (array.__array_interface__["data"][0], array.dtype.str, array.shape)
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = self._make(array)
        return value


def take_out(model: ir.Model, weights: Weights) -> tuple[dict[str, Any], bool]:
    """Replace the large initializers by references to nowhere.

    Returns:
        Their values by name, and whether nobody else writes any of them.
    """
    taken, fixed = {}, True
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < SHARE_BYTES or value.is_graph_input():
            continue
        if not value.uses():
            continue  # onnxruntime drops it before it looks for its value
        array = np.require(tensor.numpy(), requirements=["C", "A"])
        if not array.dtype.isnative or array.dtype.kind not in "fiu":
            continue  # not a type that an OrtValue can be made of from numpy
        taken[name] = weights.value(array)
        fixed &= _is_fixed(array)
        value.dtype, value.shape = tensor.dtype, ir.Shape(array.shape)
        value.const_value = reference(tensor, "", "weights", 0, array.nbytes)
    return taken, fixed


def _is_fixed(array: Any) -> bool:
    """Whether nobody else writes the memory of an array: its owner, or whoever writes a file."""
    while isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.base
    return array is None or isinstance(array, bytes)


def feed_weights(model: ir.Model, taken: dict[str, Any]) -> dict[str, Any]:
    """Make inputs of the floating-point weights, in place, if they are large together.

    Returns:
        By name, the values to feed, which are removed from `taken`.
    """
    tensors = (model.graph.initializers[name].const_value for name in taken)
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) <= _COPY_LIMIT:
        return {}
    fed = {}
    for name in [n for n, value in taken.items() if value.data_type() in _FLOATS]:
        value = model.graph.initializers.pop(name)
        value.const_value = None
        model.graph.inputs.append(value)
        fed[name] = taken.pop(name)
    return fed
