"""A trained state back in the file that it was trained from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxgrad.graph import io, protos
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import subgraphs
from onnxgrad.graph.guard import guarded
from onnxgrad.runtimes.ports import Array
from onnxgrad.train.arguments import numbers
from onnxgrad.train.modes import infer
from onnxgrad.train.release import known_weights
from onnxgrad.transforms.options import Options

_INSTEAD = (
    "It cannot be written back: take the net with its weights as inputs, which "
    "onnxgrad.train.artifacts writes, infer.onnx."
)


@guarded
def export(model: Any, state: Mapping[str, Array], *, inference: bool = False) -> Any:
    """The model as it was, with the weights of a state.

    Opset, names, the order of nodes and all else stay: the model's optimised or quantised form is
    kept where the weights have not changed. A weight is written where the file has it, which may
    be a Constant node or a branch, in the dtype that it has there.

    Args:
        model: The model that was trained: a path, an `onnx.ModelProto`, its bytes or an
            `onnx_ir.Model`; it is not changed.
        state: Arrays by name, as a step gives them. What is no weight is left out: the optimizer's
            state, the count of steps.
        inference: Let each BatchNormalization and Dropout compute as in inference, where the file
            was exported for training.

    Returns:
        A model of the same kind (for a path a `ModelProto`).

    Raises:
        ModelError: The model cannot be read, or one in memory takes more than 2 GB and is no
            `onnx_ir.Model`.
        ArgumentError: The state is of another model, or the file holds a weight in another form
            than the one that was trained, as where two calls of a function share it.

    Example:
        >>> weights = {"fc1.bias": np.zeros(16, np.float32)}
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
    written = {places.find(name, array): array for name, array in changed.items()}
    changes = inference and infer(net)
    if changes or isinstance(model, ir.Model) or io.weight_bytes(net) > protos.LIMIT:
        for holder, array in written.items():
            _write(holder, array)
        return io.like(net, model)  # which refuses a message that would be too large
    proto = _message(model)
    for holder, message in zip(places.holders, _holders(proto), strict=True):
        if holder in written:
            _write_message(message, written[holder])
    return proto


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
        ArgumentError: It has another shape, or no real numbers.
    """
    old, new = _content(weight), numbers(name, array)
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

    Attributes:
        holders: All of them, in the order of the file.
    """

    def __init__(
        self, net: ir.Model, known: Mapping[str, ir.Value], new: Mapping[str, Array]
    ) -> None:
        self._new = new
        graphs = (net.graph, *(function.graph for function in net.functions.values()))
        self.holders = [value for graph in graphs for value in _weights(graph)]
        self._tensors = {name: ir.convenience.get_const_tensor(v) for name, v in known.items()}
        # Held, since a tensor made of an attribute's numbers would leave its id to the next one.
        self._held = [ir.convenience.get_const_tensor(v) for v in self.holders]
        self._by_tensor = {id(t): v for t, v in zip(self._held, self.holders, strict=True)}

    def find(self, name: str, array: Array) -> ir.Value:
        """The place of a weight, for a new one.

        Raises:
            ArgumentError: The file holds it in another form, or once for several weights.
        """
        tensor = self._tensors[name]
        for other, held in self._tensors.items():
            same = other != name and held is tensor
            if same and not _equal(self._new.get(other, array), array):
                raise ArgumentError(
                    f"the file holds {name!r} and {other!r} as one tensor, as calls of one "
                    f"function do, and they have become different. {_INSTEAD}"
                )
        named = [v for v in self.holders if v.name == name]
        holder = self._by_tensor.get(id(tensor)) or (named[0] if len(named) == 1 else None)
        if holder is None or _content(holder).shape != array.shape:
            raise ArgumentError(f"the file holds {name!r} in another form. {_INSTEAD}")
        return holder


def _weights(graph: ir.Graph) -> Iterator[ir.Value]:
    """The initializers of a graph, and the outputs of Constant nodes, in the order of the file."""
    yield from graph.initializers.values()
    for node in graph:
        if node.op_type == "Constant":
            yield node.outputs[0]
        for inner in subgraphs(node):
            yield from _weights(inner)


def _write(holder: ir.Value, array: Array) -> None:
    tensor, node = ir.tensor(array, name=holder.name), holder.producer()
    if node is None:
        holder.const_value = tensor
        return
    node.attributes.clear()
    node.attributes["value"] = ir.AttrTensor("value", tensor)


def _message(model: Any) -> onnx.ModelProto:
    """A private message of a model that `io.load` has read."""
    proto = onnx.ModelProto()
    if isinstance(model, onnx.ModelProto):
        proto.CopyFrom(model)
    elif isinstance(model, bytes | bytearray | memoryview):
        proto.ParseFromString(bytes(model))
    else:
        proto = onnx.load(model)
    if protos.has_sparse(list(protos.walk(proto))):
        protos.make_dense(proto, "")
    return proto


def _holders(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto | onnx.NodeProto]:
    """The initializers and the Constant nodes of a message, in the order of `_Places.holders`."""
    yield from _held(proto.graph, proto.graph.initializer)
    for function in proto.functions:
        yield from _held(function, ())


def _held(graph: Any, tensors: Any) -> Iterator[onnx.TensorProto | onnx.NodeProto]:
    yield from tensors
    for node in graph.node:
        if node.op_type == "Constant":
            yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _held(inner, inner.initializer)


def _write_message(holder: onnx.TensorProto | onnx.NodeProto, array: Array) -> None:
    """Replace the content of a tensor; its name, its dtype and all else stay."""
    if isinstance(holder, onnx.NodeProto):
        if holder.attribute[0].name != "value":
            tensor = numpy_helper.from_array(array)
            del holder.attribute[:]
            holder.attribute.append(onnx.helper.make_attribute("value", tensor))
        holder = holder.attribute[0].t
    for field in ("float_data", "double_data", "int32_data", "raw_data"):
        holder.ClearField(field)
    little = array.dtype.newbyteorder("<")
    holder.raw_data = array.astype(little).tobytes()
