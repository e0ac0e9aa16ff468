"""The rescale rule of DeepLIFT: multipliers of nodes, between an input and a reference.

With Δ for the difference between both, a multiplier m of a node's operand satisfies Δy = Σ m Δx
where the node is complete. The walk chains multipliers as it chains derivatives.
A. Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.emit.subgraphs import copy_dependent, copy_node, merged
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import Rule, Rules, Visit, copy_body, pull
from onnxgrad.graph.facts import cotangent_dtype, is_float

# Functions of one operand, element by element, that others may shape, as bounds do.
_ELEMENTWISE = {
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Clip", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "PRelu", "Pow",
    "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
}  # fmt: skip
# Those that have a straight-through gradient, where that is asked for.
_ROUNDING = {"Ceil", "Floor", "QuantizeLinear", "Round", "Sign"}
_MAXIMA, _MINIMA = {"GlobalMaxPool", "Max", "MaxPool", "ReduceMax"}, {"Min", "ReduceMin"}
# Linear in each of one or two operands, or a sum of squares: at most quadratic in all.
_QUADRATIC = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "Mul", "ReduceSumSquare"}
# Of several operands that vary together: they are taken apart, as the standard defines them.
_DEFINED = {
    "GroupNormalization",
    "LogSoftmax",
    "RMSNormalization",
    "ReduceL1",
    "ReduceL2",
    "SwiGLU",
}

_Rule: TypeAlias = Callable[["_Change"], dict[int, Tensor]]


def rescale(copies: Mapping[ir.Node, ir.Node], eps: float) -> Rules:
    """The rules of one walk.

    Args:
        copies: By node, its copy at the reference. A node without one keeps its own rule.
        eps: Where an operand differs by less, its multiplier is the derivative.
    """
    rules: dict[str, _Rule] = dict.fromkeys(_ELEMENTWISE | _ROUNDING, _elementwise)
    rules |= dict.fromkeys(_MAXIMA | _MINIMA, _extreme)
    rules |= dict.fromkeys(_QUADRATIC, _quadratic)
    rules |= dict.fromkeys(_DEFINED, _by_definition)
    rules |= {"Div": _quotient, "Softmax": _softmax}
    rules["LayerNormalization"] = _layer_normalization
    rules["MeanVarianceNormalization"] = _mean_variance_normalization

    def bound(rule: _Rule) -> Rule:
        def apply(visit: Visit) -> dict[int, Tensor]:
            copy = copies.get(visit.node)
            return visit.vjp() if copy is None else rule(_Change(visit, copy, eps))

        return apply

    return {name: bound(rule) for name, rule in rules.items()}


class _Change:
    """A node, and its copy at the reference.

    Attributes:
        visit: Of the node.
        copy: Its copy.
        eps: As for `rescale`.
    """

    def __init__(self, visit: Visit, copy: ir.Node, eps: float) -> None:
        self.visit, self.copy, self.eps = visit, copy, eps
        self.op = visit.op

    @property
    def varying(self) -> list[int]:
        """The operands that the reference has others of."""
        pairs = zip(self.visit.node.inputs, self.copy.inputs, strict=True)
        return [k for k, (v, w) in enumerate(pairs) if v is not w]

    def operand(self, k: int) -> tuple[Tensor, Tensor]:
        """An operand at the input and at the reference."""
        return self._both(self.visit.node.inputs[k], self.copy.inputs[k])

    def dtype(self, k: int) -> ir.DataType:
        """The dtype of an operand's multipliers."""
        v = self.visit.node.inputs[k]
        dtype = None if v is None else cotangent_dtype(v)
        assert dtype is not None
        return dtype

    def output(self) -> tuple[Tensor, Tensor]:
        """The first output at the input and at the reference."""
        return self._both(self.visit.node.outputs[0], self.copy.outputs[0])

    def _both(self, v: ir.Value | None, w: ir.Value | None) -> tuple[Tensor, Tensor]:
        assert v is not None and w is not None
        return self._number(v), self._number(w)

    def _number(self, v: ir.Value) -> Tensor:
        """A value, at least in float32: rounded numbers may be integers."""
        t = self.op.tensor(v)
        return self.op.promoted(t if is_float(v) else self.op.Cast(t, to=ir.DataType.FLOAT))

    def g(self) -> Tensor:
        """The multipliers of the first output."""
        g = self.visit.gs[0]
        assert g is not None
        return self.op.promoted(g)

    def per_difference(self, k: int, contribution: Tensor, usual: Tensor | None) -> Tensor:
        """Contributions of an operand to the score by its difference, which gives a multiplier.

        Args:
            contribution: Of the shape of the operand, or of the output if that is broadcast.
            usual: The multiplier where the operand does not differ.
        """
        op, dtype = self.op, self.dtype(k)
        x, reference = self.operand(k)
        difference = x - reference
        differs = op.Abs(difference) >= self.eps  # not where both are infinite
        safe = op.Where(differs, difference, op.const(1, like=difference))
        m = op.bounded(contribution / safe)
        m = unbroadcast(m, contribution.shape, x)
        derivative = usual or op.cast(shapes.full_like(x, 0), dtype)
        return op.Where(differs, op.cast(m, dtype), derivative)


def _elementwise(change: _Change) -> dict[int, Tensor]:
    """Δy / Δx of the one operand that differs."""
    usual = change.visit.vjp()
    if change.varying != list(change.visit.wanted) or len(change.varying) != 1:
        return usual
    (k,), (y, reference) = change.varying, change.output()
    return {k: change.per_difference(k, change.g() * (y - reference), usual.get(k))}


def _softmax(change: _Change) -> dict[int, Tensor]:
    """Of a matrix, with a score for each class: as element by element, less the mean of the row.

    In attention that would make large multipliers of small differences of scores: there by the
    definition, in which each factor is bounded.
    """
    if change.output()[0].rank > 2:
        return _by_definition(change)
    op, axis = change.op, change.visit.node.attributes.get_int("axis", -1)
    return {
        k: m - op.ReduceMean(m, op.const([axis]), keepdims=1)
        for k, m in _elementwise(change).items()
    }


def _extreme(change: _Change) -> dict[int, Tensor]:
    """What the extreme gains goes to where it lies, what it loses to where it lay.

    With z the further of y and its reference, z less the reference is what it gains at the input,
    and y - z what it loses at the reference.
    """
    op, visit, (y, reference) = change.op, change.visit, change.output()
    further = (op.Min if visit.node.op_type in _MINIMA else op.Max)(y, reference)
    rest, dtype = visit.gs[1:], visit.gs[0].dtype  # type: ignore[union-attr]
    gained, lost = (
        visit.vjp([op.cast(change.g() * part, dtype), *rest], node)
        for part, node in ((further - reference, visit.node), (y - further, change.copy))
    )
    usual, found = visit.vjp(), {}
    for k in visit.wanted:
        parts = [op.promoted(c[k]) for c in (gained, lost) if k in c]
        if parts and k in change.varying:
            found[k] = change.per_difference(k, op.sum(parts), usual.get(k))
    return usual | found


def _quadratic(change: _Change) -> dict[int, Tensor]:
    """The derivative halfway between: for a product (a + reference of a) / 2, and so for b."""
    visit, op = change.visit, change.op
    if len(change.varying) < 2 and visit.node.op_type != "ReduceSumSquare":
        return visit.vjp()
    halfway = {}
    for k in change.varying:
        v, (x, reference) = visit.node.inputs[k], change.operand(k)
        assert v is not None
        halfway[v] = op.cast((x + reference) * 0.5, change.dtype(k))
    return visit.vjp(node=copy_node(op, visit.node, halfway, "halfway"))


def _quotient(change: _Change) -> dict[int, Tensor]:
    """a / b as the product of a and 1 / b, whose difference is -Δb / (b · reference of b)."""
    op, (a, a0), (b, b0) = change.op, change.operand(0), change.operand(1)
    if 1 not in change.varying:
        return change.visit.vjp()
    ratios = {0: (1 / b + 1 / b0) * 0.5, 1: -((a + a0) * 0.5 / b / b0)}
    found = {}
    for k in change.visit.wanted:
        m = op.cast(change.g() * ratios[k], change.dtype(k))
        found[k] = unbroadcast(m, m.shape, change.operand(k)[0])
    return found


def _by_definition(change: _Change) -> dict[int, Tensor]:
    """The multipliers of the nodes that define the operator, chained."""
    op, node = change.op, change.visit.node
    nodes, outputs = copy_body(op, node)
    pairs = zip(node.inputs, change.copy.inputs, strict=True)
    stands = {v: op.tensor(w) for v, w in pairs if v is not None and w is not None and v is not w}
    rules = rescale(copy_dependent(op, nodes, stands, "reference"), change.eps)
    sources = {k: v for k in change.visit.wanted if (v := node.inputs[k]) is not None}
    seeds = merged(op, zip(outputs, change.visit.gs, strict=True))
    found = pull(op, seeds, list(sources.values()), nodes, rules)
    return {k: found[v] for k, v in sources.items() if v in found}


def _layer_normalization(change: _Change) -> dict[int, Tensor]:
    """With v = mean(c²) + epsilon."""
    if change.varying != [0] or any(g is not None for g in change.visit.gs[1:]):
        return change.visit.vjp()
    attributes, (x, reference) = change.visit.node.attributes, change.operand(0)
    axes = shapes.axes_from(x, attributes.get_int("axis", -1))
    c, c0 = (t - _mean(t, axes) for t in (x, reference))
    v, v0 = (_mean(t * t, axes) + attributes.get_float("epsilon", 1e-5) for t in (c, c0))
    return _standardised(change, change.g() * change.operand(1)[0], (c, c0), (v, v0), axes)


def _mean_variance_normalization(change: _Change) -> dict[int, Tensor]:
    """With v = mean(c²). Where it is 0, so is c; then any v gives c / √v, such as the other one."""
    op, axes = change.op, change.visit.node.attributes["axes"].as_ints()
    c, c0 = (centred(t, axes) for t in change.operand(0))
    v, v0 = (_mean(t * t, axes) for t in (c, c0))
    some, differ = op.Max(v, v0), ~(v.equals(0) | v0.equals(0))
    some = op.Where(some.equals(0), op.const(1, like=v), some)
    v, v0 = (op.Where(differ, t, some) for t in (v, v0))
    return _standardised(change, change.g(), (c, c0), (v, v0), axes, differ)


def centred(x: Tensor, axes: shapes.Axes) -> Tensor:
    """`x` less its mean, exactly 0 where all elements are equal, whose mean may be rounded."""
    op, vector = x.op, shapes.axes_vector(x, axes)
    equal = op.ReduceMax(x, vector, keepdims=1).equals(op.ReduceMin(x, vector, keepdims=1))
    return op.Where(equal, op.const(0, like=x), x - _mean(x, axes))


def _mean(t: Tensor, axes: shapes.Axes) -> Tensor:
    return shapes.reduce_mean(t, axes, keepdims=1)


def _standardised(
    change: _Change,
    g: Tensor,
    cs: tuple[Tensor, Tensor],
    vs: tuple[Tensor, Tensor],
    axes: shapes.Axes,
    differ: Tensor | None = None,
) -> dict[int, Tensor]:
    """The multipliers of c r for c = x less its mean, and r = 1 / √v.

    A product, of which Δr / Δv = -(r r₀)² / (r + r₀) and Δv = mean((c + c₀) Δc).

    Args:
        g: The multipliers of c r.
        cs, vs: c and v at the input and at the reference.
        differ: Where Δv is the difference of these v; None for everywhere. Elsewhere it is 0.
    """
    op, (c, c0) = change.op, cs
    r, r0 = (op.bounded(1 / op.Sqrt(v)) for v in vs)
    both, slope = c + c0, op.bounded((r * r0) * (r * r0) / (r + r0))
    slope = slope if differ is None else op.mask(slope, differ)
    m = g * (r + r0) * 0.5 - both * (_mean(g * both, axes) * 0.5 * slope)
    return {0: op.cast(m - _mean(m, axes), change.dtype(0))}
