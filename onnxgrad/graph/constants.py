"""The contents of small tensors, as far as they are known when the graph is built."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.facts import Dim, all_nodes, dims_of, elements_of, subgraphs
from onnxgrad.graph.marks import CONTENTS, STAND_IN, Contents

# Constants of up to this many elements are computed when the graph is built.
SMALL = 1024

# Operators that move elements of their first operand, Concat of all operands, without looking at
# them. Their results are small where their operands are, so the size of a result need not be known.
_MOVES = {"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"}

# The dtypes that can hold any size.
_COUNTING = {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE}


_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}


def is_random(node: ir.Node) -> bool:
    """Whether an operator is one that may draw, as Dropout in training."""
    return not node.domain and node.op_type in _RANDOM


def draws(node: ir.Node) -> bool:
    """Whether a node may give other values when it is computed again."""
    if not is_random(node):
        return False
    if node.op_type != "Dropout":
        return True
    training = node.inputs[2] if len(node.inputs) > 2 else None
    known = None if training is None else constant_of(training)
    return training is not None and (known is None or bool(known.all()))


def constant_of(value: ir.Value) -> np.ndarray | None:
    """The array of a value that no caller can override, else None.

    A small one may be computed by nodes, as exporters do with shapes.
    """
    known = _contents(value)
    return known.array if known is not None and known.whole else None


def dims_in(value: ir.Value) -> list[Dim] | None:
    """The sizes in a vector: numbers, and names of dimensions that a Shape has put there.

    An element that is calculated is None; the result is None where nothing is known.
    """
    known = _contents(value)
    return None if known is None else known.array.ravel().tolist()


def forget_constant(value: ir.Value) -> None:
    """Forget the contents of a value, to compute them anew: more is known of its operands now."""
    CONTENTS.drop(value)


def stand_in(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    """Take the elements of some values, and what follows from them, as unknown from now on.

    A rule takes what is known for a fixed number. The derivative of its result by it would be lost.
    """
    for v in values:
        STAND_IN.set(v, True)
    for node in all_nodes(graph):
        for y in node.outputs:
            forget_constant(y)


_Computation = Generator[ir.Value, Contents | None, Contents | None]


def _contents(value: ir.Value) -> Contents | None:
    """What is known of a tensor's elements when the graph is built.

    A computation that needs another value first waits in a list, without recursion: a net can be
    deeper than Python's stack of calls.
    """
    waiting, known = [_told(value)], None
    while waiting:
        try:
            asked = waiting[-1].send(known)
        except StopIteration as end:
            waiting.pop()
            known = end.value
        else:
            waiting.append(_told(asked))
            known = None
    return known


def _told(value: ir.Value) -> _Computation:
    """Compute the contents of `value`: yields the values whose contents are to be sent to it."""
    node = value.producer()
    if STAND_IN.on(value):
        return _unknown(value)
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return Contents(tensor.numpy())
    if node is None:
        return _unknown(value)
    if CONTENTS.on(value):
        return CONTENTS.of(value)
    return CONTENTS.set(value, (yield from _computed(node, value)))


def _computed(node: ir.Node, value: ir.Value) -> _Computation:
    """The contents of `value`, an output of the node, from those of the operands."""
    if node.domain or node.op_type in _RANDOM or any(subgraphs(node)) or not node.inputs:
        return _unknown(value)
    first = node.inputs[0]
    if node.op_type == "Shape":
        dims = None if first is None else dims_of(first)
        a = node.attributes
        ends = (a[k].as_int() if k in a else None for k in ("start", "end"))
        return _unknown(value) if dims is None else _of_dims(value, dims[slice(*ends)], (-1,))
    if node.op_type == "Size":
        size = None if first is None else elements_of(first)
        return None if size is None else Contents(np.array(size))
    out = elements_of(value)
    if out is None and node.op_type == "ConstantOfShape" and first is not None:
        sizes = yield first
        out = math.prod(sizes.array.tolist()) if sizes is not None and sizes.whole else None
    if (out is None and node.op_type not in _MOVES) or (out is not None and out > SMALL):
        return None
    operands: dict[ir.Value, Contents] = {}
    for k, v in enumerate(node.inputs):
        if v is None:
            continue
        known = yield v
        moved = _moves(node, k) and value.dtype in _COUNTING
        if known is None or known.array.size > SMALL or not (known.whole or moved):
            return _unknown(value)
        operands[v] = known
    if all(known.whole for known in operands.values()):
        array = _run(node, value, {v: known.array for v, known in operands.items()})
        return _unknown(value) if array is None else Contents(array)
    return _moved(node, value, operands)


def _moved(node: ir.Node, value: ir.Value, operands: dict[ir.Value, Contents]) -> Contents | None:
    """The contents that an operator gives which moves elements: it is run on their places."""
    elements: list[Dim] = []
    arrays = {}
    for k, (v, known) in enumerate(operands.items()):
        array = known.array
        if _moves(node, k):
            array = np.arange(len(elements), len(elements) + array.size).reshape(array.shape)
            elements += known.array.ravel().tolist()
        arrays[v] = array
    places = _run(node, value, arrays)
    if places is None:
        return _unknown(value)
    return _of_dims(value, [elements[int(k)] for k in places.ravel()], places.shape)


def _moves(node: ir.Node, k: int) -> bool:
    """Whether an operator moves the elements of its operand at `k`."""
    return node.op_type in _MOVES and (not k or node.op_type == "Concat")


def _run(node: ir.Node, value: ir.Value, arrays: dict[ir.Value, np.ndarray]) -> np.ndarray | None:
    """The output of a node for these operands; None where onnx's evaluator cannot compute it.

    It lacks some operators, as those whose function depends on dtypes, and has errors of all kinds.
    """
    from onnx.reference import ReferenceEvaluator  # it takes long to load, and few nets need it

    # An inner graph imports nothing before `normalise`.
    version = None if node.graph is None else node.graph.opset_imports.get("")
    opsets = None if version is None else {"": version}
    feeds = {v.name: array for v, array in arrays.items()}
    try:
        run: Any = ReferenceEvaluator(ir.serde.serialize_node(node), opsets=opsets).run
        return np.asarray(run([value.name], feeds)[0])
    except Exception:
        return None


def _of_dims(value: ir.Value, dims: Sequence[Dim], shape: tuple[int, ...]) -> Contents:
    """The contents of a tensor of sizes; an element that is no size, as a fraction, is unknown."""
    dims = [d if isinstance(d, int | str) else None for d in dims]
    whole = all(isinstance(d, int) for d in dims)
    dtype = value.dtype.numpy() if whole and value.dtype is not None else object
    return Contents(np.array(dims, dtype).reshape(shape), whole)


def _unknown(value: ir.Value) -> Contents | None:
    """The contents of a small tensor of sizes, each of them unknown.

    Only their number is known. A tensor that joins them with others may still be known in part.
    """
    shape, size = dims_of(value), elements_of(value)
    counts = isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.INT64
    if not counts or shape is None or size is None or size > SMALL:
        return None
    return _of_dims(value, [None] * size, tuple(d for d in shape if isinstance(d, int)))
