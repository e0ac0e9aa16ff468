"""Sums of products in the backward pass, with the factors that all terms have in common in front.

Where a net multiplies a tensor with a function of itself, as x sigmoid(x) or x clip(x + 3, 0, 6),
its cotangent comes in two parts, g f(x) and g x f'(x). One product with f(x) + x f'(x) is a pass
less, and of a product that the forward pass has computed, such as x f(x), nothing is computed
anew. Numbers that a net scales by are collected in a single product at the end.

Half precision is left as it is: it has no room for products in another order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.rewrites import Call, rewrite
from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import HALVES

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder
    from onnxgrad.emit.tensor import Tensor

# Beyond these bounds a product of numbers might overflow where single ones do not.
_SMALL, _LARGE = 1e-12, 1e12


@rewrite("Mul")
def _of_one_number(op: Builder, call: Call) -> Call:
    """A product with two numbers, one after the other, as one with their product."""
    for x, number in (call.inputs, call.inputs[::-1]):
        if x is None or number is None or x.dtype in HALVES or (k := _number(number.value)) is None:
            continue
        for inner, other in _factors(op, x.value):
            if (its := _number(other)) is not None and _SMALL < abs(k * its) < _LARGE:
                shape = max(np.shape(constant_of(other)), np.shape(constant_of(number.value)))
                product = op.const(np.full(shape, k * its), like=x)
                return call._replace(inputs=(op.tensor(inner), product))
    return call


def factored(op: Builder, gs: Sequence[Tensor]) -> Tensor | None:
    """The sum of cotangents of one value that are products with a common factor; else None."""
    if len(gs) < 2 or gs[0].dtype in HALVES:
        return None
    expanded = _expanded(op, [g.value for g in gs])
    terms = [_leaves(op, g.value, expanded) for g in gs]
    numbers = {tuple(sorted(k for v in term if (k := _number(v)) is not None)) for term in terms}
    if len(numbers) != 1:
        return None
    k = float(np.prod(numbers.pop()))
    parts = [Counter(v for v in term if _number(v) is None) for term in terms]
    common = parts[0].copy()
    for part in parts[1:]:
        common &= part
    *spare, first = [*reversed(common)] or [None]
    for v in spare:  # a term needs a factor of its own: 1 would have to be added
        if v is not None and any(part == common for part in parts):
            common -= Counter([v])
    rests = [part - common for part in parts]
    if first is None or not all(rests) or not _SMALL < abs(k) < _LARGE:
        return None
    inner = op.sum([_product(op, [*rest.elements()]) for rest in rests])
    y = _product(op, [*common.elements()]) * inner * k
    return op.typed(y, gs[0])


def scaled(g: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """What a product or convolution of `g` and `W` has for operands.

    A number that `g` is multiplied with is one for a constant `W`, which a runtime multiplies when
    it loads the file.
    """
    op = g.op
    if op.parent is None and g.dtype not in HALVES and W.value.is_initializer():
        for x, other in _factors(op, g.value):
            if not W.value.is_graph_input() and (k := _number(other)) is not None:
                return op.tensor(x), W * k
    return g, W


def _expanded(op: Builder, roots: Sequence[ir.Value]) -> set[ir.Node | None]:
    """The products among the factors of `roots` that nothing else uses."""
    found: set[ir.Node | None] = set()
    more = [v for v in roots if _factors(op, v) and not v.uses()]
    while more:
        found.update(v.producer() for v in more)
        inner = [v for n in found if n is not None for v in n.inputs if v is not None]
        more = [
            v
            for v in inner
            if v.producer() not in found
            and _factors(op, v)
            and all(u.node in found for u in v.uses())
        ]
    return found


def _leaves(op: Builder, value: ir.Value, expanded: set[ir.Node | None]) -> list[ir.Value]:
    """The factors of a value."""
    if value.producer() not in expanded:
        return [value]
    return [leaf for v, _ in _factors(op, value) for leaf in _leaves(op, v, expanded)]


def _factors(op: Builder, value: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """Each factor with the other one, where `value` is a product that this pass has emitted."""
    node = value.producer()
    if (
        node is None
        or node.op_type != "Mul"
        or value not in op.emitted
        or node.graph is not op.graph
    ):
        return []
    a, b = node.inputs
    return [] if a is None or b is None else [(a, b), (b, a)]


def _number(value: ir.Value) -> float | None:
    """The number that a constant of one element holds."""
    shape = value.shape
    if shape is None or any(d != 1 for d in shape) or (c := constant_of(value)) is None:
        return None
    return float(c.item())


def _product(op: Builder, factors: list[ir.Value]) -> Tensor:
    """The product of factors; of two whose product exists already, that one."""
    for k, a in enumerate(factors):
        for use in a.uses():
            known = use.node.outputs[0] if use.node.op_type == "Mul" else None
            others = [v for v in use.node.inputs if v is not a]
            if known is None or known in op.emitted or known.graph is not op.graph or not others:
                continue
            rest = factors[:k] + factors[k + 1 :]
            if others[0] in rest:
                rest.remove(others[0])  # type: ignore[arg-type]
                return _product(op, [known, *rest])
    y = op.tensor(factors[0])
    for v in factors[1:]:
        y = y * op.tensor(v)
    return y
