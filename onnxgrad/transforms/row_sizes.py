"""Sizes as products of names, and which of them depend on the number of examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.graph.constants import dims_in
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

    def learn(self, value: ir.Value, place: Rows | None) -> None:
        """Take in the sizes of a tensor with its examples, or of one that has nothing of them.

        All its sizes but that of the examples are then free of their number.
        """
        for axis, d in enumerate(dims_of(value) or ()):
            if isinstance(d, str) and place is not None and place.axis == axis:
                self._known[d] = self.of(place)
            elif isinstance(d, str):
                self._known.setdefault(d, Product(names=(d,)))

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
        held = sizes_in(value)
        return held is not None and not any(self.depends(self.product(d)) for d in held)


def sizes_in(value: ir.Value) -> list[Dim] | None:
    """The sizes that a vector holds, as `dims_in`, also behind the choice of exporters for Expand.

    They write Where(Equal(sizes, -1), ones, sizes).
    """
    held, node = dims_in(value), value.producer()
    if held is None or None not in held or node is None or node.op_type != "Where":
        return held
    condition, *branches = node.inputs
    equal = None if condition is None else condition.producer()
    if equal is None or equal.op_type != "Equal":
        return held
    read = [None if v is None else dims_in(v) for v in (*equal.inputs, *branches)]
    if any(sizes is None or len(sizes) != len(held) for sizes in read):
        return held
    return [_chosen(*dims) for dims in zip(*read, strict=True)]


def _chosen(a: Dim, b: Dim, x: Dim, y: Dim) -> Dim:
    """One of two sizes, by whether two others are equal."""
    if isinstance(a, int) and isinstance(b, int):
        return x if a == b else y
    number = a if isinstance(a, int) else b
    named = isinstance(a, str) or isinstance(b, str)
    return y if named and isinstance(number, int) and number < 0 else None
