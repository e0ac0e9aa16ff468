"""Sizes as products of names, and which of them depend on the number of examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.graph.constants import constant_of, dims_in
from onnxgrad.graph.facts import Dim, dims_of


@dataclass(frozen=True)
class Product:
    """A number times sizes by their names, which are sorted."""

    number: int = 1
    names: tuple[str, ...] = ()

    def __mul__(self, other: Product) -> Product:
        return Product(self.number * other.number, tuple(sorted(self.names + other.names)))

    def over(self, other: Product) -> Product | None:
        """The quotient, if it is one for all sizes."""
        names = Counter(self.names)
        names.subtract(other.names)
        if other.number < 1 or self.number % other.number or min(names.values(), default=0) < 0:
            return None
        return Product(self.number // other.number, tuple(sorted(names.elements())))


def multiplied(sizes: Iterable[Product | None]) -> Product | None:
    """The product of sizes; None if one is unknown."""
    found = Product()
    for size in sizes:
        if size is None:
            return None
        found *= size
    return found


@dataclass(frozen=True)
class Rows:
    """Where the examples of a tensor are: on an axis of size outer * batch * inner."""

    axis: int
    outer: Product = Product()
    inner: Product = Product()

    @property
    def plain(self) -> bool:
        """Whether the axis holds the examples and nothing else."""
        return self.outer == self.inner == Product()


class Sizes:
    """What the names of sizes stand for.

    Args:
        batch: The name of the number of examples.
    """

    def __init__(self, batch: str) -> None:
        self.batch = Product(names=(batch,))
        self._known = {batch: self.batch}
        self._sizes: dict[ir.Value, list[Product | None]] = {}

    def learn(self, value: ir.Value, place: Rows | None) -> None:
        """Take in the sizes of a tensor with its examples, or of one that has nothing of them.

        All its sizes but that of the examples are then free of their number.
        """
        for axis, d in enumerate(dims_of(value) or ()):
            if isinstance(d, str) and place is not None and place.axis == axis:
                self._known[d] = self.of(place)
            elif isinstance(d, str):
                self._known.setdefault(d, Product(names=(d,)))

    def call(self, value: ir.Value, sizes: Sequence[Product | None]) -> None:
        """Take in what the sizes of a tensor are, where inference has named them anew, or not."""
        self._sizes[value] = list(sizes)
        for d, size in zip(dims_of(value) or (), sizes, strict=False):
            if isinstance(d, str) and size is not None:
                self._known.setdefault(d, size)

    def sizes(self, value: ir.Value, dims: Sequence[Dim]) -> list[Product | None]:
        """The sizes of a tensor, None for each that is not known."""
        found = [self.product(d) for d in dims]
        called = self._sizes.get(value, found)
        return [b if a is None else a for a, b in zip(found, called, strict=True)]

    def of(self, place: Rows) -> Product:
        """The size of the axis with the examples."""
        return place.outer * place.inner * self.batch

    def product(self, dim: Dim) -> Product | None:
        """What a size is; None if it is unknown."""
        if isinstance(dim, int):
            return Product(dim)
        if dim is None:
            return None
        if dim not in self._known and "[" in dim:  # a formula of another size
            inner = self.product(dim[dim.index("[") + 1 : dim.rindex("]")])
            if inner is not None and not self.depends(inner):
                self._known[dim] = Product(names=(dim,))
        return self._known.get(dim)

    def depends(self, size: Product | None) -> bool:
        """Whether a size may depend on the number of examples."""
        return size is None or not set(size.names).isdisjoint(self.batch.names)

    def is_free(self, value: ir.Value) -> bool:
        """Whether a tensor holds sizes, none of which depends on the number of examples."""
        held = self.held(value)
        return held is not None and not any(map(self.depends, held))

    def held(self, value: ir.Value | None, depth: int = 16) -> list[Product | None] | None:
        """The sizes that a vector or a scalar holds, None for each that is not known.

        Args:
            value: The tensor.
            depth: Through how many nodes they are followed where `dims_in` does not tell them.
        """
        if value is None:
            return None
        dims, node = dims_in(value), value.producer()
        found = None if dims is None else [self.product(d) for d in dims]
        counts = value.dtype == ir.DataType.INT64 and len(dims_of(value) or ()) < 2
        if (found and None not in found) or node is None or node.domain or not counts or not depth:
            return found
        compute = _HOLDING.get(node.op_type)
        if compute is None:
            return found
        parts = [self.held(v, depth - 1) for v in _read(node)]
        known = [part for part in parts if part is not None]
        return compute(node, known) if len(known) == len(parts) else found


_Held = list[Product | None]


def _read(node: ir.Node) -> Sequence[ir.Value | None]:
    """The operands of a node whose elements its result is made of.

    Exporters write Where(Equal(sizes, -1), ones, sizes) for Expand: what is compared counts too.
    """
    if node.op_type != "Where":
        return node.inputs if node.op_type in _JOINING else node.inputs[:1]
    equal = None if node.inputs[0] is None else node.inputs[0].producer()
    compared = equal.inputs if equal is not None and equal.op_type == "Equal" else (None, None)
    return (*compared, *node.inputs[1:])


def _zipped(function: Callable[..., Product | None]) -> Callable[[ir.Node, list[_Held]], _Held]:
    """Element by element; what has one element counts for all."""

    def compute(_: ir.Node, parts: list[_Held]) -> _Held:
        length = max(map(len, parts))
        same = [p * (length // len(p)) for p in parts]
        return [function(*sizes) for sizes in zip(*same, strict=True)]

    return compute


def _picked(node: ir.Node, parts: list[_Held]) -> _Held:
    index = None if node.inputs[1] is None else constant_of(node.inputs[1])
    if index is None:
        return [None]
    return [parts[0][int(k)] for k in index.ravel()]


def _product(a: Product | None, b: Product | None) -> Product | None:
    return None if a is None or b is None else a * b


def _quotient(a: Product | None, b: Product | None) -> Product | None:
    return None if a is None or b is None else a.over(b)


def _chosen(
    a: Product | None, b: Product | None, x: Product | None, y: Product | None
) -> Product | None:
    """One of two sizes, by whether two others are equal."""
    if a is None or b is None:
        return None
    if a == b:
        return x
    return y if (a.number < 0) != (b.number < 0) or not a.names + b.names else None


_JOINING = {"Concat", "Div", "Mul"}
# By operator, the sizes that its result holds, from those that its operands hold.
_HOLDING: dict[str, Callable[[ir.Node, list[_Held]], _Held]] = {
    "Cast": lambda _, parts: parts[0],
    "Concat": lambda _, parts: [size for part in parts for size in part],
    "Div": _zipped(_quotient),
    "Gather": _picked,
    "Identity": lambda _, parts: parts[0],
    "Mul": _zipped(_product),
    "Reshape": lambda _, parts: parts[0],
    "Squeeze": lambda _, parts: parts[0],
    "Unsqueeze": lambda _, parts: parts[0],
    "Where": _zipped(_chosen),
}
