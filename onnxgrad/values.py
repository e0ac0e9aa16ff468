"""What is known of a value when the graph is built: its dtype, its sizes, its contents.

Mostly that is what the standard's inference tells; what that misses or gets wrong stands here.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
FLOATS = HALVES | {ir.DataType.FLOAT, ir.DataType.DOUBLE}

# One dimension: known, or known only by a name (equal names are equal sizes), or unknown.
Dim = int | str | None

# Constants of up to this many elements are computed when the graph is built.
SMALL = 1024

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
}

# Operators that move elements of their first operand, one of all, and look at none of them.
_MOVES = {"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"}

# The dtypes that hold any size.
_COUNTING = {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def draws(node: ir.Node) -> bool:
    """Whether a node may give other values when it is computed again."""
    if node.domain or node.op_type not in _RANDOM:
        return False
    if node.op_type != "Dropout":
        return True
    training = node.inputs[2] if len(node.inputs) > 2 else None
    known = None if training is None else constant_of(training)
    return training is not None and (known is None or bool(known.all()))


def is_float(value: ir.Value) -> bool:
    """Whether `value` is a tensor of a differentiable dtype."""
    return isinstance(value.type, ir.TensorType) and value.dtype in FLOATS


def is_sequence(value: ir.Value) -> bool:
    """Whether `value` is a sequence of tensors; dtype and shape are then those of its elements."""
    return isinstance(value.type, ir.SequenceType)


# In a value's meta: the dtype of its cotangents, where it is a rounded number that a
# straight-through gradient takes for the number itself.
ROUNDED = "onnxgrad.rounded"


# In a value's meta: no cotangent is to flow through it.
STOPPED = "onnxgrad.stopped"


def cotangent_dtype(value: ir.Value) -> ir.DataType | None:
    """The dtype of the cotangents of `value`: its own, unless it is a rounded number."""
    return value.meta.get(ROUNDED, value.dtype)


def carries(value: ir.Value) -> bool:
    """Whether cotangents can flow through `value`: such a tensor, or a sequence of them.

    Of a value whose type is unknown it has to be assumed.
    """
    kind = value.type
    if STOPPED in value.meta:
        return False
    if ROUNDED in value.meta:
        return True
    while isinstance(kind, ir.SequenceType | ir.OptionalType):
        kind = kind.elem_type
    return kind is None or (isinstance(kind, ir.TensorType) and kind.dtype in FLOATS)


# In an output's meta: the shape that the file declares.
_DECLARED = "onnxgrad.declared"


def keep_declared(output: ir.Value) -> None:
    """Note what the file declares of an output, which may be wrong."""
    output.meta.setdefault(_DECLARED, output.shape)


def restore_declared(output: ir.Value) -> None:
    """Declare what the file did, where no shape is known: a graph's output needs one."""
    if output.shape is None:
        output.shape = output.meta.get(_DECLARED)


# In a value's meta: its rank, where an example has told it.
_LEARNT = "onnxgrad.rank"


def learn_rank(value: ir.Value, rank: int) -> None:
    """Note the rank that a value had in an example."""
    value.meta[_LEARNT] = rank


def learnt(value: ir.Value) -> ir.Shape | None:
    """The shape of a value as far as an example has told it."""
    rank = value.meta.get(_LEARNT)
    return None if rank is None else ir.Shape([None] * rank)


POOLS = {"AveragePool", "LpPool", "MaxPool"}


def drops_windows(node: ir.Node, sizes: tuple[Dim, ...]) -> list[bool]:
    """Whether ceil_mode makes room for a window that has nothing of the input, by axis.

    It is dropped. Of a size that is not known no inference tells anything.
    """
    found = []
    for size, (stride, begin, end, reach) in zip(sizes[2:], windows_of(node, sizes), strict=False):
        if isinstance(size, int) and node.attributes.get_int("ceil_mode", False):
            last = -(-(size + begin + end - reach - 1) // stride) * stride
            found.append(last >= size + begin)
        else:
            found.append(False)
    return found


def windows_of(node: ir.Node, sizes: tuple[Dim, ...]) -> list[tuple[int, int, int, int]]:
    """How a window slides along each axis, from the attributes for an operand of `sizes`.

    Its stride, the padding in front and behind, and the way from its first to its last element.
    """
    n = len(sizes) - 2
    lists = {"kernel_shape": [], "strides": [1] * n, "dilations": [1] * n, "pads": [0] * (2 * n)}
    for name in lists.keys() & node.attributes.keys():
        lists[name] = list(node.attributes[name].as_ints())
    pads = lists["pads"]
    reach = [(k - 1) * d for k, d in zip(lists["kernel_shape"], lists["dilations"], strict=False)]
    return list(zip(lists["strides"], pads[:n], pads[n:], reach, strict=False))


def is_window(node: ir.Node) -> bool:
    """Whether a window of known size slides along the first operand, to where it still fits."""
    slides = not node.domain and node.op_type in {"Conv", *POOLS}
    known = bool(node.attributes.get_ints("kernel_shape"))
    return slides and known and not node.attributes.get_int("ceil_mode", False)


def name_sizes(node: ir.Node) -> None:
    """Name what a window leaves of a size that has a name, where inference leaves it unknown.

    The name is the formula, so that equal names are equal sizes. In an inner graph inference does
    not see the constants among the sizes of a ConstantOfShape either.
    """
    found = dims_of(node.outputs[0])
    if node.op_type == "ConstantOfShape" and found is not None and node.inputs[0] is not None:
        node.outputs[0].shape = _filled_in(found, dims_in(node.inputs[0]) or found)
    sizes = dims_of(x) if is_window(node) and (x := node.inputs[0]) is not None else None
    if found is None or sizes is None or len(found) != len(sizes):
        return
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    left = []
    for size, (stride, begin, end, reach) in zip(sizes[2:], windows_of(node, sizes), strict=False):
        pads = {"NOTSET": begin + end, "VALID": 0}.get(auto, reach)  # SAME rounds up size / stride
        left.append(_after(size, pads - reach - 1, stride))
    if len(left) == len(found) - 2:  # a model that is not valid may have less
        for v in node.outputs:
            v.shape = _filled_in(found, [*found[:2], *left])


def _filled_in(known: Sequence[Dim], more: Sequence[Dim]) -> ir.Shape:
    """A shape with what is known of it, else what more is found of it."""
    return ir.Shape([b if a is None else a for a, b in zip(known, more, strict=True)])


def _after(size: Dim, more: int, stride: int) -> str | None:
    """The name of (size + more) // stride + 1."""
    if not isinstance(size, str):
        return None
    if stride > 1:
        return f"([{size}]{more:+d})//{stride}+1"
    return size if more == -1 else f"[{size}]{more + 1:+d}"


# The elements of a sequence may differ in size, though inference gives the size one name.
_OF_SEQUENCES = {
    "SequenceAt",
    "SequenceConstruct",
    "SequenceErase",
    "SequenceInsert",
    "SplitToSequence",
}


def misjudged(node: ir.Node) -> bool:
    """Whether the standard's inference may give wrong sizes, where operands' are not numbers.

    It takes the ellipsis of an Einsum's first operand for that of all, and what Attention would
    have to calculate, a head's size or the number of keys, for 0. Below opset 22 it counts a window
    that starts beyond a pool's input: `settle` says which pools cannot be written otherwise.
    """
    if not node.domain and node.op_type in POOLS:
        sizes = None if node.inputs[0] is None else dims_of(node.inputs[0])
        return sizes is not None and any(drops_windows(node, sizes))
    if not node.domain and node.op_type in _OF_SEQUENCES:
        return any(isinstance(d, str) for d in dims_of(node.outputs[0]) or ())
    if node.domain or node.op_type not in ("Attention", "Einsum"):
        return False
    dims = [None if v is None else dims_of(v) for v in node.inputs]
    if node.op_type == "Attention":
        queried = len(node.outputs) > 3 or (dims[0] is not None and len(dims[0]) == 3)
        return queried and any(not isinstance(n, int) for d in dims for n in d or ())
    parts, terms = [], node.attributes["equation"].as_string().split("->")[0].split(",")
    for term, d in zip(terms, dims, strict=True):
        before, dots, after = term.replace(" ", "").partition("...")
        if dots and d is not None:
            parts.append(d[len(before) : len(d) - len(after)])
    return any(
        any(n is None or n != axis[0] for n in axis) and not all(isinstance(n, int) for n in axis)
        for axis in zip(*parts, strict=True)
        if len(parts) > 1
    )


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """The dimensions of a value; None where even the rank is unknown."""
    shape = value.shape
    if shape is None:
        return None
    return tuple([d if isinstance(d, int) else d.value for d in shape])


def common_shape(a: ir.Shape | None, b: ir.Shape | None) -> ir.Shape | None:
    """The sizes in which two shapes agree, the others unknown; None without a common rank."""
    if a is None or b is None or len(a) != len(b):
        return None
    return ir.Shape([x if x == y else None for x, y in zip(a, b, strict=True)])


def elements_of(value: ir.Value) -> int | None:
    """The number of elements of a value; None where it is not known."""
    dims = dims_of(value)
    sizes = [d for d in dims or () if isinstance(d, int)]
    return math.prod(sizes) if dims is not None and len(sizes) == len(dims) else None


def constant_of(value: ir.Value) -> np.ndarray | None:
    """The array of a value that no caller can override, else None.

    A small one may be computed by nodes, as exporters do with shapes.
    """
    known = _contents(value)
    return known.array if known is not None and known.whole else None


def dims_in(value: ir.Value) -> list[Dim] | None:
    """What a vector of sizes holds: numbers, and names of dimensions that it has from a Shape.

    None where nothing is known, and for an element that is calculated.
    """
    known = _contents(value)
    return None if known is None else known.array.ravel().tolist()


class _Contents(NamedTuple):
    """The elements of a tensor; of one that is not known as a whole, objects: a Dim each."""

    array: np.ndarray
    whole: bool = True


# In a value's meta: its contents, where a node gives it.
_CONTENTS = "onnxgrad.contents"


def forget_constant(value: ir.Value) -> None:
    """Let the value be computed anew: more is known of what it depends on."""
    value.meta.pop(_CONTENTS, None)


_Computation = Generator[ir.Value, _Contents | None, _Contents | None]


def _contents(value: ir.Value) -> _Contents | None:
    """What is known of a tensor's elements when the graph is built.

    Who needs to know the same of another value first waits here: a net is deeper than Python's
    stack of calls.
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
    """The contents of `value`. It yields values to be sent theirs."""
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return _Contents(tensor.numpy())
    node = value.producer()
    if node is None:
        return _unknown(value)
    if _CONTENTS not in value.meta:
        value.meta[_CONTENTS] = yield from _computed(node, value)
    return value.meta[_CONTENTS]


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
        return None if size is None else _Contents(np.array(size))
    if (out := elements_of(value)) is None or out > SMALL:
        return None
    operands: dict[ir.Value, _Contents] = {}
    for k, v in enumerate(node.inputs):
        if v is None:
            continue
        known = yield v
        moved = _moves(node, k) and value.dtype in _COUNTING
        if known is None or known.array.size > SMALL or not (known.whole or moved):
            return _unknown(value)
        operands[v] = known
    if all(known.whole for known in operands.values()):
        return _Contents(_run(node, value, {v: known.array for v, known in operands.items()}))
    return _moved(node, value, operands)


def _moved(node: ir.Node, value: ir.Value, operands: dict[ir.Value, _Contents]) -> _Contents | None:
    """What an operator that moves elements gives: it is run on their places."""
    elements: list[Dim] = []
    arrays = {}
    for k, (v, known) in enumerate(operands.items()):
        array = known.array
        if _moves(node, k):
            array = np.arange(len(elements), len(elements) + array.size).reshape(array.shape)
            elements += known.array.ravel().tolist()
        arrays[v] = array
    places = _run(node, value, arrays)
    return _of_dims(value, [elements[int(k)] for k in places.ravel()], places.shape)


def _moves(node: ir.Node, k: int) -> bool:
    """Whether an operator moves the elements of its operand at `k`, and no others."""
    return node.op_type in _MOVES and (not k or node.op_type == "Concat")


def _run(node: ir.Node, value: ir.Value, arrays: dict[ir.Value, np.ndarray]) -> np.ndarray:
    opsets = {"": node.graph.opset_imports[""]} if node.graph is not None else None
    evaluator = onnx.reference.ReferenceEvaluator(ir.serde.serialize_node(node), opsets=opsets)
    run: Any = evaluator.run
    return np.asarray(run([value.name], {v.name: array for v, array in arrays.items()})[0])


def _of_dims(value: ir.Value, dims: Sequence[Dim], shape: tuple[int, ...]) -> _Contents:
    """The contents of a tensor of sizes; what is no size, as a fraction, is not known."""
    dims = [d if isinstance(d, int | str) else None for d in dims]
    whole = all(isinstance(d, int) for d in dims)
    dtype = value.dtype.numpy() if whole and value.dtype is not None else object
    return _Contents(np.array(dims, dtype).reshape(shape), whole)


def _unknown(value: ir.Value) -> _Contents | None:
    """The contents of a small tensor of sizes, of which there is no more to say than their number.

    What is put together of it and of others may be known in part.
    """
    shape, size = dims_of(value), elements_of(value)
    counts = isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.INT64
    if not counts or shape is None or size is None or size > SMALL:
        return None
    return _of_dims(value, [None] * size, tuple(d for d in shape if isinstance(d, int)))


def subgraphs(node: ir.Node) -> Iterable[ir.Graph]:
    """The graphs that a node holds as attributes."""
    for a in node.attributes.values():
        if a.type == ir.AttributeType.GRAPH:
            yield a.as_graph()
        elif a.type == ir.AttributeType.GRAPHS:
            yield from a.as_graphs()


def type_proto(value: ir.Value) -> onnx.TypeProto:
    """A value's type, which has to be known, with its shape, as onnx's inference takes it."""
    assert value.type is not None
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto
