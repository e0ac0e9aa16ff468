"""What is known of a value when the graph is built: its dtype, its sizes, its contents.

Mostly that is what the standard's inference tells; what that misses or gets wrong stands here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}

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


_POOLS = {"AveragePool", "LpPool", "MaxPool"}


def _counts_too_many(node: ir.Node) -> bool:
    """Whether ceil_mode makes room for a window that has nothing of the input: it is dropped."""
    sizes = None if node.inputs[0] is None else dims_of(node.inputs[0])
    if sizes is None or not node.attributes.get_int("ceil_mode", False):
        return False
    for size, (stride, begin, end, reach) in zip(sizes[2:], _windows(node, sizes), strict=False):
        if isinstance(size, int):
            last = -(-(size + begin + end - reach - 1) // stride) * stride
            if last >= size + begin:
                return True
    return False


def _windows(node: ir.Node, sizes: tuple[Dim, ...]) -> Iterable[tuple[int, int, int, int]]:
    """How a window slides along each axis, from the attributes for an operand of `sizes`.

    Its stride, the padding in front and behind, and the way from its first to its last element.
    """
    n = len(sizes) - 2
    lists = {"kernel_shape": [], "strides": [1] * n, "dilations": [1] * n, "pads": [0] * (2 * n)}
    for name in lists.keys() & node.attributes.keys():
        lists[name] = list(node.attributes[name].as_ints())
    pads = lists["pads"]
    reach = [(k - 1) * d for k, d in zip(lists["kernel_shape"], lists["dilations"], strict=False)]
    return zip(lists["strides"], pads[:n], pads[n:], reach, strict=False)


def is_window(node: ir.Node) -> bool:
    """Whether a window of known size slides along the first operand, to where it still fits."""
    slides = not node.domain and node.op_type in {"Conv", *_POOLS}
    known = bool(node.attributes.get_ints("kernel_shape"))
    return slides and known and not node.attributes.get_int("ceil_mode", False)


def name_sizes(node: ir.Node) -> None:
    """Name what a window leaves of a size that has a name, where inference leaves it unknown.

    The name is the formula, so that equal names are equal sizes.
    """
    found = dims_of(node.outputs[0])
    sizes = dims_of(x) if is_window(node) and (x := node.inputs[0]) is not None else None
    if found is None or sizes is None or len(found) != len(sizes):
        return
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    left = []
    for size, (stride, begin, end, reach) in zip(sizes[2:], _windows(node, sizes), strict=False):
        pads = {"NOTSET": begin + end, "VALID": 0}.get(auto, reach)  # SAME rounds up size / stride
        left.append(_after(size, pads - reach - 1, stride))
    if len(left) == len(found) - 2:  # a model that is not valid may have less
        dims = [b if a is None else a for a, b in zip(found[2:], left, strict=True)]
        for v in node.outputs:
            v.shape = ir.Shape([*found[:2], *dims])


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
    that starts beyond a pool's input.
    """
    if not node.domain and node.op_type in _POOLS:
        return _counts_too_many(node)
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
    part = _known_part(value)
    return part[0] if part is not None and part[1].all() else None


def forget_constant(value: ir.Value) -> None:
    """Let the value be computed anew: more is known of what it depends on."""
    value.meta.pop("onnxgrad.constant", None)


def _known_part(value: ir.Value) -> tuple[np.ndarray, np.ndarray] | None:
    """A value's array and which of its elements are known, as those of a Shape may be in part."""
    if value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy(), np.array(True)
    node = value.producer()
    if node is None:
        return None
    if "onnxgrad.constant" not in value.meta:
        value.meta["onnxgrad.constant"] = _evaluate(node, value)
    return value.meta["onnxgrad.constant"]


def _evaluate(node: ir.Node, value: ir.Value) -> tuple[np.ndarray, np.ndarray] | None:
    if node.domain or node.op_type in _RANDOM or any(subgraphs(node)) or not node.inputs:
        return None
    if node.op_type == "Shape":
        dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
        if dims is None:
            return None
        a = node.attributes
        dims = dims[slice(*(a[k].as_int() if k in a else None for k in ("start", "end")))]
        known = [isinstance(d, int) for d in dims]
        return np.array([d if isinstance(d, int) else 0 for d in dims], np.int64), np.array(known)
    if node.op_type == "Size":
        size = None if node.inputs[0] is None else elements_of(node.inputs[0])
        return None if size is None else (np.array(size), np.array(True))
    out = elements_of(value)
    if out is None or out > SMALL:
        return None
    arrays: dict[str | None, np.ndarray] = {}
    masks: dict[str | None, np.ndarray] = {}
    whole = True
    for k, v in enumerate(node.inputs):
        if v is None:
            continue
        part = _known_part(v)
        if part is None or part[0].size > SMALL:
            return None
        arrays[v.name] = masks[v.name] = part[0]
        if not part[1].all():
            if node.op_type not in _MOVES or (k and node.op_type != "Concat"):
                return None
            whole = False
        if node.op_type in _MOVES and (not k or node.op_type == "Concat"):
            masks[v.name] = np.broadcast_to(part[1], part[0].shape)
    opsets = {"": node.graph.opset_imports[""]} if node.graph is not None else None
    evaluator = onnx.reference.ReferenceEvaluator(ir.serde.serialize_node(node), opsets=opsets)
    run: Any = evaluator.run
    array = np.asarray(run([value.name], arrays)[0])
    return array, np.array(True) if whole else np.asarray(run([value.name], masks)[0], bool)


def dims_in(value: ir.Value) -> list[Dim] | None:
    """What a vector of sizes holds: numbers, and names of dimensions that it has from a Shape.

    None where nothing is known, and for an element that is calculated.
    """
    names: list[Dim] = [None]
    found = _moved(value, names)
    if found is None:
        return None
    return [names[d - _NAMED] if d >= _NAMED else d for d in found.ravel().tolist()]


# No size is as large; beyond it, the numbers stand for names.
_NAMED = 2**48


def _moved(value: ir.Value, names: list[Dim]) -> np.ndarray | None:
    """The elements of `value` where only moved since they were constants or dimensions."""
    node, known, size = value.producer(), constant_of(value), elements_of(value)
    if known is not None:
        return known
    unknown = None if size is None or size > SMALL else np.full(size, _NAMED)
    if node is None or not node.inputs or node.inputs[0] is None or value.is_graph_input():
        return unknown
    if node.op_type == "Shape":
        a = node.attributes
        dims = dims_of(node.inputs[0]) or ()
        dims = dims[slice(*(a[k].as_int() if k in a else None for k in ("start", "end")))]
        for d in dims:
            if not isinstance(d, int) and d not in names:
                names.append(d)
        return np.array([d if isinstance(d, int) else _NAMED + names.index(d) for d in dims])
    if node.op_type not in _MOVES or node.domain:
        return unknown
    arrays = {
        v.name: constant_of(v) if k and node.op_type != "Concat" else _moved(v, names)
        for k, v in enumerate(node.inputs)
        if v is not None
    }
    if any(a is None for a in arrays.values()):
        return unknown
    opsets = {"": node.graph.opset_imports[""]} if node.graph is not None else None
    evaluator = onnx.reference.ReferenceEvaluator(ir.serde.serialize_node(node), opsets=opsets)
    run: Any = evaluator.run
    return np.asarray(run([value.name], arrays)[0])


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
