"""Sums of products in the backward pass, with the factors that all terms have in common in front.

Where a net multiplies a tensor with a function of itself, as x sigmoid(x) or x clip(x + 3, 0, 6),
its cotangent comes in two parts, g f(x) and g x f'(x). One product with f(x) + x f'(x) is a pass
less, and of a product that the forward pass has computed, such as x f(x), nothing is computed
anew. Numbers that a net scales by are collected in a single product at the end, and they, as
constants for each channel, are factors of the filters behind them.

Half precision is left as it is: it has no room for products in another order.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.rewrites import Call, rewrite
from onnxgrad.emit.steps import is_above
from onnxgrad.graph.constants import constant_of, draws
from onnxgrad.graph.facts import FLOATS, HALVES, dims_of, subgraphs

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder
    from onnxgrad.emit.tensor import Tensor

_ROOMY = FLOATS - HALVES
# More products than that are not looked at: a power written as thousands of them has as many terms.
_MOST = 32
# Beyond these bounds a product of numbers might overflow where single ones do not.
_SMALL, _LARGE = 1e-12, 1e12


@rewrite("Mul")
def _of_one_number(op: Builder, call: Call) -> Call:
    """A product with two numbers, one after the other, as one with their product."""
    for x, number in (call.inputs, call.inputs[::-1]):
        k = None if number is None else _number(number.value)
        if x is None or number is None or k is None or x.dtype not in _ROOMY:
            continue
        for inner, other in factors_of(op, x.value):
            its = _number(other)
            if its is not None and _SMALL < abs(k * its) < _LARGE:
                # Both may have axes of size 1 that the tensor lacks.
                rank = max(len(dims_of(other) or ()), number.rank)
                if {number.value, other} <= op.constants:
                    product = op.const(np.full([1] * rank, k * its), like=x)
                else:  # one of the net's, which may be a weight
                    product = number * op.tensor(other)
                return call._replace(inputs=(op.tensor(inner), product))
    return call


def factored(op: Builder, gs: Sequence[Tensor]) -> Tensor | None:
    """The sum of cotangents of one value that are products with a common factor; else None."""
    if not 1 < len(gs) <= _MOST or gs[0].dtype not in _ROOMY:
        return None
    expanded = _expanded(op, [g.value for g in gs])
    terms = [Counter(_leaves(op, g.value, expanded)) for g in gs]
    numbers = [{v: n for v, n in term.items() if _number(v) is not None} for term in terms]
    if any(its != numbers[0] for its in numbers):
        return None
    k = [*Counter(numbers[0]).elements()]
    parts = [Counter({v: n for v, n in t.items() if v not in numbers[0]}) for t in terms]
    common = functools.reduce(operator.and_, parts)
    for v in [*common][:0:-1]:  # each term needs a factor of its own, else 1 would be added
        if any(part == common for part in parts):
            common -= Counter([v])
    rests = [[*(part - common).elements()] for part in parts]
    if not common or not all(rests):
        return None
    inner = op.sum([_product(op, rest) for rest in rests])
    y = _product(op, [*common.elements()]) * inner
    return op.typed(functools.reduce(operator.mul, map(op.tensor, k), y), gs[0])


def scaled(g: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """What a convolution of `g` with constant filters W has for operands.

    What `g` is multiplied with, a number or one for each channel, the filters are multiplied with,
    which a runtime does when it loads the file.
    """
    op, filters = g.op, W.value
    if op.parent is not None or g.dtype not in _ROOMY or not _is_constant(filters):
        return g, W
    while (found := _factor_of_filters(g, W)) is not None:
        x, factor = found
        g, W = op.tensor(x), W * factor
    return g, W


def _factor_of_filters(g: Tensor, W: Tensor) -> tuple[ir.Value, Tensor] | None:
    """A product's factor that the filters can have in its place, and the other factor."""
    for x, other in factors_of(g.op, g.value):
        if _number(other) is not None:
            return x, g.op.Reshape(g.op.tensor(other), g.op.const([]))
        dims, channels = dims_of(other), W.dim(0)
        rest = [1] * (len(W.shape or ()) - 2)
        if dims in ((channels, *rest), (1, channels, *rest)) and _is_constant(other):
            return x, g.op.Reshape(g.op.tensor(other), g.op.const([channels, 1, *rest]))
    return None


def _is_constant(value: ir.Value) -> bool:
    """Whether a value is computed from initializers alone, in a few nodes."""
    stack, seen = [value], 0
    while stack:
        v = stack.pop()
        if v.is_graph_input():
            return False
        if v.is_initializer():
            continue
        node, seen = v.producer(), seen + 1
        if node is None or seen > _MOST or draws(node) or any(subgraphs(node)):
            return False
        stack += [u for u in node.inputs if u is not None]
    return True


def _expanded(op: Builder, roots: Sequence[ir.Value]) -> set[ir.Node | None]:
    """The first products among the factors of `roots` that nothing else uses."""
    found: set[ir.Node | None] = set()
    more = [v for v in roots if factors_of(op, v) and not v.uses()]
    while more and len(found) + len(more) <= _MOST:
        found.update(v.producer() for v in more)
        inner = [v for n in found if n is not None for v in n.inputs if v is not None]
        more = [
            v
            for v in inner
            if v.producer() not in found
            and factors_of(op, v)
            and all(u.node in found for u in v.uses())
        ]
    return found


def _leaves(op: Builder, value: ir.Value, expanded: set[ir.Node | None]) -> list[ir.Value]:
    """The factors of a value."""
    if value.producer() not in expanded:
        return [value]
    return [leaf for v, _ in factors_of(op, value) for leaf in _leaves(op, v, expanded)]


def factors_of(op: Builder, value: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
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


def _product(op: Builder, factors: Sequence[ir.Value]) -> Tensor:
    """The product of factors; of two whose product exists already, that one."""
    for a, b in itertools.permutations(factors, 2):
        if (known := _known(op, a, b)) is not None:
            rest = [*factors]
            rest.remove(a)
            rest.remove(b)
            return _product(op, [known, *rest])
    y = op.tensor(factors[0])
    for v in factors[1:]:
        y = y * op.tensor(v)
    return y


def _known(op: Builder, a: ir.Value, b: ir.Value) -> ir.Value | None:
    """The product of two factors where the forward pass has it, or one pass makes it of `a`."""
    if (bound := is_above(b, a)) is not None:
        return op.ThresholdedRelu(op.tensor(a), alpha=bound).value
    for use in a.uses():
        y = use.node.outputs[0]
        is_product = use.node.op_type == "Mul" and {*use.node.inputs} == {a, b}
        if is_product and y not in op.emitted and y.graph is op.graph:
            return y
    return None
