"""Products of sizes, some of which have only a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from onnxgrad.graph.facts import Dim


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


def product_of(dim: Dim) -> Product | None:
    """One size; None if it is unknown."""
    if dim is None:
        return None
    return Product(dim) if isinstance(dim, int) else Product(names=(dim,))


def multiplied(sizes: Iterable[Product | None]) -> Product | None:
    """The product of sizes; None if one is unknown."""
    found = Product()
    for size in sizes:
        if size is None:
            return None
        found *= size
    return found
