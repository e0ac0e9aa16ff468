"""A trained state back in the file that it was trained from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import all_nodes, inner_graphs
from onnxgrad.passes.normalise import normalise
from onnxgrad.runtimes.ports import Array


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
    normal = io.load(net)
    normalise(normal, list(state))
    known = normal.graph.initializers
    _require_weights(state, known)
    changed = {
        name: _of_dtype(name, array, known[name]) for name, array in state.items() if name in known
    }
    changed = {name: a for name, a in changed.items() if not _equal(a, _content(known[name]))}
    places = _Places(net)
    for name, array in changed.items():
        places.write(name, array, known[name])
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
    assert weight.const_value is not None
    return weight.const_value.numpy()


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


class _Places:
    """Where the weights of a net lie in its file: initializers and Constant nodes, by their names.

    A name can be that of several weights, in several branches or functions.
    """

    def __init__(self, net: ir.Model) -> None:
        self._values: dict[str, list[ir.Value]] = {}
        for value in _weights(net):
            self._values.setdefault(value.name or "", []).append(value)
        self._all = [value for values in self._values.values() for value in values]

    def write(self, name: str, array: Array, old: ir.Value) -> None:
        """Put a new weight in the place of an old one.

        Raises:
            ArgumentError: The file has no such weight, or several.
        """
        content = _content(old)
        named = [v for v in self._values.get(name, []) if _equal(_held(v), content)]
        # A pass that moves a weight out of a branch may give it another name.
        found = named or [v for v in self._all if _equal(_held(v), content)]
        if len(found) != 1:
            raise ArgumentError(
                f"the file holds {name!r} in {len(found)} places of this content: it cannot be "
                "written back. Save the net with its weights as inputs instead, as "
                "onnxgrad.train.artifacts does (infer.onnx)."
            )
        _write(found[0], array)


def _weights(net: ir.Model) -> Iterator[ir.Value]:
    """The initializers of all graphs of a model, and the outputs of Constant nodes."""
    for graph in (net.graph, *(f.graph for f in net.functions.values())):
        for one in (graph, *inner_graphs(graph)):
            yield from (v for v in one.initializers.values() if v.const_value is not None)
        for node in all_nodes(graph):
            if node.op_type == "Constant" and not node.domain and _is_number(node):
                yield node.outputs[0]


def _is_number(node: ir.Node) -> bool:
    return any(n in node.attributes for n in ("value", "value_float", "value_floats"))


def _held(value: ir.Value) -> Array:
    tensor = ir.convenience.get_const_tensor(value)
    return np.empty(0, np.bool_) if tensor is None else tensor.numpy()


def _write(value: ir.Value, array: Array) -> None:
    tensor = ir.tensor(array, name=value.name)
    node = value.producer()
    if node is None:
        value.const_value = tensor
        return
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", tensor)
