"""Low-rank adapters (LoRA, Hu et al. 2021) beside the weights of a file.

A weight W of which an adapter is added counts as W + s BA, with two small matrices A and B. The
definitions, shapes, and first values are those of the library peft. The base stays as it is: its
nodes, fused ones too, and its weights, of few bits or not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import FLOATS, HALVES, all_nodes
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.stage import staged
from onnxgrad.runtimes.onnxruntime import write_adapter
from onnxgrad.train.adaptable import Adaptable, Use, chosen, weights_of
from onnxgrad.train.arguments import numbers, require_number
from onnxgrad.transforms.options import Source, published

ADAPTERS = "onnxgrad.adapters"

# The first one where an input may have a default value, and a weight need not be an input.
_IR_VERSION = 4


@published
def lora(
    net: ir.Model,
    rank: int = 8,
    alpha: float = 8,
    targets: str | Sequence[str] | None = None,
    *,
    rslora: bool = False,
    seed: int = 0,
) -> None:
    """A model with a low-rank adapter beside each of some weights, of which it alone is trained.

    A weight W counts as W + alpha / rank BA wherever it is used. The base is left as it is: opset,
    names and fused operators. At first BA is 0, and so the outputs are those of `model`.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        rank: The number of rows of A, and of columns of B.
        alpha: BA is multiplied with alpha / rank.
        targets: Which weights have an adapter: patterns of their names, or of those of the nodes
            that use them, as ["*.q_proj*", "lm_head"], or operators: "MatMul", "Gemm", "Conv"
            (without groups), "Gather" (an embedding), "MatMulNBits" and "MatMulBnb4" (of
            com.microsoft; their weights have few bits). None for all but Conv and Gather. A weight
            that several nodes use has one adapter.
        rslora: Multiply with alpha / √rank instead (Kalajdzievski 2023).
        seed: Of the numbers that A is drawn from.

    Returns:
        A model of the same kind (for a path a `ModelProto`) with two more inputs by weight, which
        have default values: nothing has to be fed. For a product by a matrix of n inputs and m
        outputs, "<weight>.lora_A" has the shape [rank, n] and is drawn from a uniform distribution,
        and "<weight>.lora_B" is zeros of the shape [m, rank]. For an embedding of n rows of m
        numbers it is A that is zeros, and B is drawn from a normal distribution. For a Conv they
        are [rank, channels, kernel...] and [m, rank, 1...]. Beside half precision they are float32.
        The metadata property "onnxgrad.adapters" lists them, in JSON. A file of an IR version
        before 4, which lists its weights among its inputs, becomes one of version 4, which does not
        have to and where an input may have a default value.

    Raises:
        ModelError: The model cannot be read.
        ArgumentError: A target stands for no weight that can have an adapter (the message lists
            those that can), or one has an adapter already; or a number makes no sense.

    Example:
        >>> model = og.train.lora("models/mlp.onnx", rank=2, targets="fc1.*")
        >>> [x.name for x in model.graph.input]
        ['input', 'fc1.weight.lora_A', 'fc1.weight.lora_B']
    """
    counted("rank", rank, 1)
    require_number("alpha", alpha, above=True)
    counted("seed", seed)
    listed = adapters_of(net)
    own = {v for a in listed.values() for v in (a["A"], a["B"])}
    found = [a for a in chosen(net, targets) if a.name not in own]
    if again := [repr(a.name) for a in found if a.name in listed]:
        raise ArgumentError(f"targets: {', '.join(again)} has an adapter already")
    if net.ir_version < _IR_VERSION:
        net.ir_version = _IR_VERSION
        net.graph.inputs[:] = [v for v in net.graph.inputs if not v.is_initializer()]
    rng, names = np.random.default_rng(seed), Names(net.graph)
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    for adaptable in found:
        listed[adaptable.name] = _add(net.graph, adaptable, rank, scale, rng, names)
    net.metadata_props[ADAPTERS] = json.dumps(listed)


def adapters_of(net: ir.Model) -> dict[str, dict[str, Any]]:
    """The adapters of a model by the names of their weights.

    Each has the names of its "A" and "B", its "scale", and the "axis" of the weight that A is for.
    """
    found: dict[str, dict[str, Any]] = json.loads(net.metadata_props.get(ADAPTERS, "{}"))
    return found


def adapter_names(net: ir.Model) -> list[str]:
    """The names of the weights of a model's adapters, which alone are trained by default."""
    return [name for a in adapters_of(net).values() for name in (a["A"], a["B"])]


# -- the nodes -------------------------------------------------------------------------------------


def _add(
    graph: ir.Graph,
    adaptable: Adaptable,
    rank: int,
    scale: float,
    rng: np.random.Generator,
    names: Names,
) -> dict[str, Any]:
    """Add an adapter to each node that uses a weight, and tell of it."""
    axis = adaptable.uses[0].inner
    kind = ir.DataType.FLOAT if adaptable.dtype in HALVES else adaptable.dtype
    shapes = _shapes(adaptable, axis, rank)
    a, b = _first(adaptable.kind, shapes, rng)
    made: list[ir.Value] = []
    for suffix, array in (("lora_A", a), ("lora_B", b)):
        name = f"{adaptable.name}.{suffix}"
        if name in names.taken:
            raise ArgumentError(f"the model has a tensor {name!r} already: rename it")
        names.taken.add(name)
        value = _weight(graph, name, array.astype(kind.numpy()))
        graph.inputs.append(value)
        made.append(value)
    number = np.array(scale, kind.numpy())
    factor = _weight(graph, names.fresh(f"{adaptable.name}.lora_scale"), number)
    for use in adaptable.uses:
        _Beside(graph, use, adaptable.dtype, names).add(made[0], made[1], factor, axis)
    return {"A": made[0].name, "B": made[1].name, "scale": scale, "axis": axis}


def _shapes(adaptable: Adaptable, axis: int, rank: int) -> tuple[list[int], list[int]]:
    if adaptable.kind == "Conv":
        out, *kernel = adaptable.shape
        return [rank, *kernel], [out, rank, *(1 for _ in kernel[1:])]
    return [rank, adaptable.sizes[axis]], [adaptable.sizes[1 - axis], rank]


def _first(
    kind: str, shapes: tuple[list[int], list[int]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The first values of A and B: their product is 0."""
    if kind == "Gather":
        return np.zeros(shapes[0]), rng.standard_normal(shapes[1])
    bound = 1 / math.sqrt(math.prod(shapes[0][1:]))  # torch's kaiming_uniform_ with a = √5
    return rng.uniform(-bound, bound, shapes[0]), np.zeros(shapes[1])


def _weight(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    kind, shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    value = ir.Value(name=name, type=kind, shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


class _Beside:
    """Puts the nodes of an adapter behind a node that uses its weight, in the file's own opset.

    Args:
        graph: The main graph, which holds the constants.
        use: The node.
        dtype: That of what it gives.
        names: Of the whole file.
    """

    def __init__(self, graph: ir.Graph, use: Use, dtype: ir.DataType, names: Names) -> None:
        self._graph, self._node, self._inner = graph, use.node, use.inner
        self._dtype, self._names = dtype, names
        self._nodes: list[ir.Node] = []

    def add(self, a: ir.Value, b: ir.Value, scale: ir.Value, axis: int) -> None:
        """Add what the adapter gives to what the node gives, which leaves its name to the sum.

        Args:
            a, b, scale: The two matrices, and a number.
            axis: The one of the weight that A is for.
        """
        straight = self._inner == axis  # else the node reads the weight transposed
        old, graph = self._node.outputs[0], self._node.graph
        delta = self._product(a, b, scale, straight)
        if a.dtype != self._dtype:
            delta = self._emit("Cast", delta, to=self._dtype)
        new = self._emit("Add", old, delta)
        before = [use for use in old.uses() if use.node not in self._nodes]
        for node, index in before:
            node.replace_input_with(index, new)
        assert isinstance(graph, ir.Graph)
        graph.outputs[:] = [new if v is old else v for v in graph.outputs]
        new.type, new.shape = old.type, old.shape
        new.name, old.name = old.name, self._names.fresh(f"{old.name}_base")
        graph.insert_after(self._node, self._nodes)

    def _emit(self, op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        name = self._names.fresh(f"{self._node.name or self._node.op_type}/lora/{op_type}")
        given = ir.convenience.convert_attributes(attributes)
        node = ir.Node("", op_type, inputs, given, name=name)
        node.outputs[0].name = self._names.fresh(f"{name}_output")
        self._nodes.append(node)
        return node.outputs[0]

    def _product(self, a: ir.Value, b: ir.Value, scale: ir.Value, straight: bool) -> ir.Value:
        """What the node would give of the low-rank matrix."""
        attributes = self._node.attributes
        if self._node.op_type == "Conv":
            y = self._emit(
                "Conv", self._operand(a), a, **{k: v.value for k, v in attributes.items()}
            )
            return self._emit("Conv", self._emit("Mul", y, scale), b)
        first, second = (a, self._turned(b)) if straight else (b, a)
        if self._node.op_type == "Gather":
            return self._rows(first, second, scale, straight)
        x = self._operand(a)
        if attributes.get_int("transA", 0):
            x = self._turned(x)
        y = self._emit("MatMul", x, self._turned(first) if straight else first)
        y = self._emit("MatMul", self._emit("Mul", y, scale), second)
        alpha = attributes.get_float("alpha", 1.0)
        return y if alpha == 1 else self._emit("Mul", y, self._constant(alpha, a.dtype))

    def _rows(self, table: ir.Value, second: ir.Value, scale: ir.Value, straight: bool) -> ir.Value:
        """The rows of the low-rank matrix; the indices may have any number of axes."""
        indices = self._node.inputs[1]
        assert indices is not None
        line = self._emit("Reshape", indices, self._constant([-1], ir.DataType.INT64))
        rows = self._emit("Gather", table, line, axis=int(straight))
        rows = self._turned(rows) if straight else rows
        y = self._emit("MatMul", self._emit("Mul", rows, scale), second)
        return self._emit("Reshape", y, self._emit("Shape", self._node.outputs[0]))

    def _operand(self, like: ir.Value) -> ir.Value:
        """The node's own operand, in the adapter's dtype."""
        x = self._node.inputs[0]
        assert x is not None and like.dtype is not None
        return x if like.dtype == self._dtype else self._emit("Cast", x, to=like.dtype)

    def _turned(self, matrix: ir.Value) -> ir.Value:
        return self._emit("Transpose", matrix, perm=[1, 0])

    def _constant(self, content: Any, dtype: ir.DataType | None) -> ir.Value:
        assert dtype is not None
        name = self._names.fresh(f"{self._node.name or self._node.op_type}/lora/constant")
        return _weight(self._graph, name, np.array(content, dtype.numpy()))


# -- back to one file, and to a file of its own ----------------------------------------------------


@guarded
def merge(model: Any, state: Mapping[str, Any] | None = None) -> Any:
    """A model without adapters: each weight W becomes W + s BA.

    Args:
        model: A result of `lora`: a path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`;
            it is not changed.
        state: The A and B of all adapters by name, as training gives them; what else it holds is
            left alone. None for those that the model has.

    Returns:
        A model of the same kind (for a path a `ModelProto`), the file as it was before `lora` with
        other weights, in their own dtypes.

    Raises:
        ModelError: The model cannot be read.
        ArgumentError: It has no adapter, the base weight is quantized, or the state lacks a matrix
            or has one of another shape.

    Example:
        >>> tuned = og.train.merge(og.train.lora("models/mlp.onnx"))
        >>> [x.name for x in tuned.graph.input]
        ['input']
    """
    net = io.load(model)
    arrays = _matrices(net, state)
    weights = {v.name: v for v in weights_of(net)}
    for name, adapter in adapters_of(net).items():
        if name not in weights:
            raise _lacking(name)
        _merge(weights[name], arrays[adapter["A"]], arrays[adapter["B"]], adapter)
    _part(net, set(arrays))
    del net.metadata_props[ADAPTERS]
    return io.like(net, model)


@guarded
def save_adapter(
    model: Source | ir.Model, path: str | os.PathLike[str], state: Mapping[str, Any] | None = None
) -> None:
    """Write the adapters of a model to an .onnx_adapter file, whole or not at all.

    The one file `model` then serves many adapters: onnxruntime's `LoraAdapter` loads this one, and
    it takes the place of the model's own A and B in the runs whose `RunOptions` have it active.

    Args:
        model: A result of `lora`.
        path: Where to write.
        state: As for `merge`.

    Raises:
        ArgumentError: As for `merge`, but for quantized weights.
        RuntimeMissingError: onnxruntime, which writes the format, is not installed.
        SaveError: The folder is missing or cannot be written, or the disk is full.

    Example:
        >>> og.train.save_adapter(og.train.lora("models/mlp.onnx"), "tuned.onnx_adapter")
    """
    arrays = _matrices(io.load(model), state)
    path = io.writable(path)
    folder, name = os.path.split(path)
    with staged(folder, path) as stage:
        write_adapter(str(stage / name), arrays)
        os.replace(stage / name, path)


def _lacking(name: str) -> ArgumentError:
    return ArgumentError(
        f"the model does not hold {name!r}: give the result of onnxgrad.train.lora itself"
    )


def _matrices(net: ir.Model, state: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
    """The A and B of all adapters by name."""
    names = adapter_names(net)
    if not names:
        raise ArgumentError("the model has no adapter: it is no result of onnxgrad.train.lora")
    found = {}
    for name in names:
        value = net.graph.initializers.get(name)
        own = None if value is None else value.const_value
        if own is None:
            raise _lacking(name)
        array = own.numpy() if state is None else state.get(name)
        if array is None:
            raise ArgumentError(f"state: it lacks {name!r}, which an adapter of the model needs")
        array = numbers(name, array)
        if array.shape != own.numpy().shape:
            raise ArgumentError(
                f"state: {name!r} has the shape {list(array.shape)}, and the model's has "
                f"{list(own.numpy().shape)}: it is of another model, or of another rank"
            )
        found[name] = array.astype(own.dtype.numpy())
    return found


def _merge(weight: ir.Value, a: np.ndarray, b: np.ndarray, adapter: Mapping[str, Any]) -> None:
    tensor = ir.convenience.get_const_tensor(weight)
    assert tensor is not None
    if tensor.dtype not in FLOATS:
        raise ArgumentError(
            f"the weight {weight.name!r} is quantized: an adapter cannot be merged into it; write "
            "it to a file of its own with save_adapter"
        )
    wide = np.float64 if tensor.dtype == ir.DataType.DOUBLE else np.float32
    product = b.reshape(len(b), -1).astype(wide) @ a.reshape(len(a), -1).astype(wide)
    delta = adapter["scale"] * (product if adapter["axis"] else product.T)
    array = tensor.numpy().astype(wide) + delta.reshape(tensor.shape.numpy())
    merged = ir.tensor(array.astype(tensor.dtype.numpy()), name=weight.name)
    if (node := weight.producer()) is None:
        weight.const_value = merged
    else:
        node.attributes.clear()
        node.attributes.add(ir.AttrTensor("value", merged))


def _part(net: ir.Model, names: set[str]) -> None:
    """Remove the nodes of the adapters, and what nothing else needs."""
    made = {v for v in net.graph.inputs if v.name in names}
    net.graph.inputs[:] = [v for v in net.graph.inputs if v not in made]
    doomed: list[ir.Node] = []
    for node in all_nodes(net.graph):
        if not any(v in made for v in node.inputs):
            continue
        doomed.append(node)
        base = node.inputs[0]
        if node.op_type != "Add" or base is None or base in made:
            made.update(node.outputs)
            continue
        total = node.outputs[0]
        total.name, base.name = base.name, total.name
        total.replace_all_uses_with(base, replace_graph_outputs=True)
    while doomed:
        node = doomed.pop()
        if node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        read = {v for v in node.inputs if v is not None}
        node.graph.remove(node, safe=True)
        for v in read:
            if v.uses():
                continue
            if (producer := v.producer()) is not None:
                doomed.append(producer)
            elif v.is_initializer():
                net.graph.initializers.pop(v.name or "")
