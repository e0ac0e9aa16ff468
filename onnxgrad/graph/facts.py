"""What is known of a value when the graph is built: its dtype, its sizes, its contents.

Dtypes and sizes have been set by `inference`; here they are only looked up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnx_ir as ir

from onnxgrad.graph.marks import ROUNDED, STOPPED

HALVES = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}

FLOATS = HALVES | {ir.DataType.FLOAT, ir.DataType.DOUBLE}

# One dimension: a known size, the name of a size (equal names are equal sizes), or None if unknown.
Dim = int | str | None
# Operators that give the elements of their first operand in the same order.
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def is_float(value: ir.Value) -> bool:
    """Whether `value` is a tensor of a differentiable dtype."""
    return isinstance(value.type, ir.TensorType) and value.dtype in FLOATS


def is_sequence(value: ir.Value) -> bool:
    """Whether `value` is a sequence of tensors; dtype and shape are then those of its elements."""
    kind = value.type
    # The most are tensors; whether one is of a type that derives from a protocol takes long to say.
    return kind.__class__ is not ir.TensorType and isinstance(kind, ir.SequenceType)


def cotangent_dtype(value: ir.Value) -> ir.DataType | None:
    """The dtype of the cotangents of `value`: its own, unless it is a rounded number."""
    return ROUNDED.of(value) if ROUNDED.on(value) else value.dtype


def carries(value: ir.Value) -> bool:
    """Whether cotangents can flow through `value`: a tensor of such a dtype, or a sequence of them.

    It is assumed for a value of unknown type.
    """
    kind = value.type
    if STOPPED.on(value):
        return False
    if ROUNDED.on(value):
        return True
    if kind.__class__ is ir.TensorType:
        return kind.dtype in FLOATS
    while isinstance(kind, ir.SequenceType | ir.OptionalType):
        kind = kind.elem_type
    return kind is None or (isinstance(kind, ir.TensorType) and kind.dtype in FLOATS)


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """The dimensions of a value; None where even the rank is unknown."""
    shape = value.shape
    if shape is None:
        return None
    dims = shape.dims
    for d in dims:
        if not isinstance(d, int):
            return tuple([d if isinstance(d, int) else d.value for d in dims])
    return dims  # type: ignore[return-value]


# How the names begin that onnx's shape inference makes up for sizes.
_INVENTED = "unk__"


def invented(value: ir.Value, axis: int) -> str:
    """A name for a size that has none, which counts as one that inference has made up."""
    return f"{_INVENTED}{value.name}_{axis}"


def without_invented(dims: Iterable[Dim]) -> tuple[Dim, ...]:
    """Dimensions, None in the place of names that inference has made up, or made of these."""
    return tuple(None if _INVENTED in str(d) else d for d in dims)


def shape_text(value: ir.Value) -> str:
    """The dimensions of a value as a message shows them, such as "[N,3,?]"; "" for any rank."""
    dims = dims_of(value)
    if dims is None:
        return ""
    return f"[{','.join('?' if d is None else str(d) for d in without_invented(dims))}]"


def shown(value: ir.Value) -> str:
    """The name and the dimensions of a value as a message shows them, such as "'x' [N,3,?]"."""
    return f"{value.name!r} {shape_text(value)}".rstrip()


def common_shape(a: ir.Shape | None, b: ir.Shape | None) -> ir.Shape | None:
    """The shape in which two agree, other sizes unknown; None where their ranks differ."""
    if a is None or b is None or len(a) != len(b):
        return None
    return ir.Shape([x if x == y else None for x, y in zip(a, b, strict=True)])


def may_agree(a: Sequence[Dim] | None, b: Sequence[Dim] | None) -> bool:
    """Whether two shapes may be the same, as far as they are known."""
    if a is None or b is None:
        return True
    return len(a) == len(b) and not any(
        isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(a, b, strict=True)
    )


def by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values of a graph: inputs, initializers, and the outputs of its nodes."""
    values = {v.name: v for v in graph.inputs if v.name} | dict(graph.initializers)
    for node in graph:
        values.update({v.name: v for v in node.outputs if v.name})
    return values


def elements_of(value: ir.Value) -> int | None:
    """The number of elements of a value; None where it is not known."""
    dims = dims_of(value)
    sizes = [d for d in dims or () if isinstance(d, int)]
    return math.prod(sizes) if dims is not None and len(sizes) == len(dims) else None


def subgraphs(node: ir.Node) -> Sequence[ir.Graph]:
    """The graphs that a node holds as attributes."""
    attributes = node.attributes.data  # the dictionary inside is several times as fast
    if not attributes:
        return ()
    found: list[ir.Graph] = []
    for a in attributes.values():
        if a.type == ir.AttributeType.GRAPH:
            found.append(a.as_graph())
        elif a.type == ir.AttributeType.GRAPHS:
            found += a.as_graphs()
    return found


def all_nodes(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """The nodes of a graph, each before those of the graphs that it holds.

    onnx_ir's own walk takes several times as long.
    """
    for node in graph:
        yield node
        if node.attributes.data:  # of most nodes that is all there is to ask
            for inner in subgraphs(node):
                yield from all_nodes(inner)


def inner_graphs(graph: ir.Graph | ir.Function) -> list[ir.Graph]:
    """The graphs that nodes of a graph hold, at any depth."""
    found: list[ir.Graph] = []
    for node in graph:
        if node.attributes.data:
            for inner in subgraphs(node):
                found += [inner, *inner_graphs(inner)]
    return found


def type_proto(value: ir.Value) -> onnx.TypeProto:
    """The type and shape of a value, as onnx's inference takes them. The type has to be known."""
    assert value.type is not None
    proto = ir.serde.serialize_type(value.type)
    if value.shape is not None:
        ir.serde.serialize_shape_into(proto, value.shape)
    return proto
