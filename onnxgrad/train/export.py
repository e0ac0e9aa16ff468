"""A trained state back in the file that it was trained from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import inner_graphs
from onnxgrad.runtimes.ports import Array
from onnxgrad.train.release import known_weights
from onnxgrad.transforms.options import Options

_INSTEAD = (
    "It cannot be written back: take the net with its weights as inputs, which "
    "onnxgrad.train.artifacts writes, infer.onnx."
)


def export(model: Any, state: Mapping[str, Array]) -> Any:
    """The model as it was, with the weights of a state.

    Opset, names, the order of nodes and all else stay: the model's optimised or quantised form is
    kept where the weights have not changed. A weight is written where the file has it, which may
    be a Constant node or a branch, in the dtype that it has there.

    Args:
        model: The model that was trained: a path, an `onnx.ModelProto`, its bytes or an
            `onnx_ir.Model`; it is not changed.
        state: Arrays by name, as a step gives them. What is no weight is left out: the optimizer's
            state, the count of steps.

    Returns:
        A model of the same kind (for a path a `ModelProto`).

    Raises:
        ModelError: The model cannot be read.
        ArgumentError: The state is of another model, or the file holds a weight in another form
            than the one that was trained, as where two calls of a function share it.

    Example:
        >>> weights = {"fc1.bias": np.zeros(8, np.float32)}
        >>> tuned = og.train.export("models/mlp.onnx", weights)
    """
    net = io.load(model)
    exposed = net.clone()
    known = known_weights(exposed, Options())
    _require_weights(state, known)
    new = {
        name: _of_dtype(name, array, known[name]) for name, array in state.items() if name in known
    }
    changed = {name: a for name, a in new.items() if not _equal(a, _content(known[name]))}
    places = _Places(net, known, new)
    for name, array in changed.items():
        places.write(name, array)
    return io.like(net, model)


def _require_weights(state: Any, known: Mapping[str, ir.Value]) -> None:
    """Check that a state has a weight, and nothing that belongs to none.

    Raises:
        ArgumentError: It is of another model.
    """
    if not isinstance(state, Mapping):
        raise ArgumentError(f"a state is arrays by name, not {type(state).__name__}")
    weights = [name for name in state if name in known]
    for name, array in state.items():
        owned = any(name.startswith(f"{weight}.") for weight in weights)
        if name not in known and not owned and np.ndim(array):
            raise ArgumentError(
                f"the state is of another model: there is no weight {name!r}.{nearest(name, known)}"
            )
    if not weights:
        raise ArgumentError("the state is of another model: it has none of the weights")


def _of_dtype(name: str, array: Any, weight: ir.Value) -> Array:
    """A new weight in the dtype of the old one.

    Raises:
        ArgumentError: It has another shape.
    """
    old, new = _content(weight), np.asarray(array)
    if new.shape != old.shape:
        raise ArgumentError(
            f"the state is of another model: {name!r} has the shape {new.shape}, and {old.shape} "
            "in the model"
        )
    return new.astype(old.dtype, copy=False)


def _content(weight: ir.Value) -> Array:
    tensor = ir.convenience.get_const_tensor(weight)
    assert tensor is not None
    return tensor.numpy()


def _equal(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


class _Places:
    """Where the weights of a net lie in its file: initializers and Constant nodes.

    Args:
        net: The model as it is in the file.
        known: Its weights, which share their tensors with it, by the names that a step gives them.
        new: The new contents.
    """

    def __init__(
        self, net: ir.Model, known: Mapping[str, ir.Value], new: Mapping[str, Array]
    ) -> None:
        self._known, self._new = known, new
        self._holders: dict[int, ir.Value] = {}
        self._named: dict[str, list[ir.Value]] = {}
        for value in _weights(net):
            self._holders[id(ir.convenience.get_const_tensor(value))] = value
            self._named.setdefault(value.name or "", []).append(value)

    def write(self, name: str, array: Array) -> None:
        """Put a new weight in the place of the old one.

        Raises:
            ArgumentError: The file holds it in another form, or once for several weights.
        """
        tensor = ir.convenience.get_const_tensor(self._known[name])
        for other, value in self._known.items():
            same = other != name and ir.convenience.get_const_tensor(value) is tensor
            if same and not _equal(self._new.get(other, _content(value)), array):
                raise ArgumentError(
                    f"the file holds {name!r} and {other!r} as one tensor, as calls of one "
                    f"function do, and they have become different. {_INSTEAD}"
                )
        named = self._named.get(name, [])
        holder = self._holders.get(id(tensor)) or (named[0] if len(named) == 1 else None)
        if holder is None or _content(holder).shape != array.shape:
            raise ArgumentError(f"the file holds {name!r} in another form. {_INSTEAD}")
        _write(holder, array)


def _weights(net: ir.Model) -> Iterator[ir.Value]:
    """The initializers of all graphs of a model, and the outputs of Constant nodes."""
    for graph in (net.graph, *(f.graph for f in net.functions.values())):
        for one in (graph, *inner_graphs(graph)):
            yield from one.initializers.values()
            yield from (node.outputs[0] for node in one if node.op_type == "Constant")


def _write(holder: ir.Value, array: Array) -> None:
    tensor, node = ir.tensor(array, name=holder.name), holder.producer()
    if node is None:
        holder.const_value = tensor
        return
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", tensor)
