"""Which weights of a net can have a low-rank adapter, and which of them are chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import FLOATS, inner_graphs
from onnxgrad.graph.schemas import joined_name

# Products by a matrix; those of com.microsoft by one of few bits.
_PACKED = {"MatMulNBits", "MatMulBnb4"}
_LINEAR = {"MatMul", "Gemm", *_PACKED}
_OPERATORS = {*_LINEAR, "Conv", "Gather"}


@dataclass(frozen=True)
class Use:
    """A node that maps vectors by a weight.

    Attributes:
        node: It has the weight, or what is made of it, as an operand.
        inner: The axis of the weight that the node sums over; of a Gather the one of its rows.
    """

    node: ir.Node
    inner: int


@dataclass(frozen=True)
class Adaptable:
    """A weight that can have an adapter.

    Attributes:
        weight: An initializer, or what a Constant gives.
        uses: All nodes that use it, the first one first.
        sizes: Of the weight as a matrix.
        dtype: That of the net's numbers there.
    """

    weight: ir.Value
    uses: tuple[Use, ...]
    sizes: tuple[int, int]
    dtype: ir.DataType

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return _shape(self.weight)

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.weight.name or ""

    @property
    def kind(self) -> str:
        """The operator of its first use."""
        return self.uses[0].node.op_type

    def fits(self, target: str) -> bool:
        """Whether it is of an operator, or it or a node that uses it has a name of a pattern."""
        if target in _OPERATORS:
            return any(use.node.op_type == target for use in self.uses)
        names = [self.name, *(use.node.name or "" for use in self.uses)]
        return any(fnmatchcase(name, target) for name in names)


def chosen(model: ir.Model, targets: str | Sequence[str] | None) -> list[Adaptable]:
    """The weights that targets stand for; None for those of all products by a matrix.

    Raises:
        ArgumentError: A target stands for none. The message lists the candidates.
    """
    found, refused = _sorted_out(model)
    if targets is None:
        linear = [a for a in found if a.kind in _LINEAR]
        if not linear:
            raise ArgumentError(f"no layer is linear; name others in targets.{_listed(found)}")
        return linear
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if others := [target for target in wanted if not isinstance(target, str)]:
        raise ArgumentError(f"targets are names, patterns and operators, not {others[0]!r}")
    for target in wanted:
        if not any(a.fits(target) for a in found):
            why = "".join(f" {reason}." for name, reason in refused if fnmatchcase(name, target))
            near = nearest(target, [n for a in found for n in (a.name, a.uses[0].node.name or "")])
            raise ArgumentError(
                f"targets: nothing that can have an adapter is {target!r}.{why}{near}"
                f"{_listed(found)}"
            )
    if not wanted:
        raise ArgumentError(f"targets is empty.{_listed(found)}")
    return [a for a in found if any(a.fits(target) for target in wanted)]


def _listed(found: Sequence[Adaptable]) -> str:
    if not found:
        return " The model has no weight that can have one."
    numbers = Counter(a.kind for a in found)
    kinds = ", ".join(f"{kind} ({number})" for kind, number in numbers.items())
    names = ", ".join(repr(a.name) for a in found[:8])
    return f" Operators: {kinds}. Weights: {names}{', ...' if len(found) > 8 else ''}."


def weights_of(model: ir.Model) -> Iterator[ir.Value]:
    """The initializers, and what Constants give, of all graphs."""
    for graph in (model.graph, *inner_graphs(model.graph)):
        yield from graph.initializers.values()
        for node in graph:
            if node.op_type == "Constant" and not node.domain:
                yield node.outputs[0]


def _sorted_out(model: ir.Model) -> tuple[list[Adaptable], list[tuple[str, str]]]:
    """The weights that can have an adapter, and those that cannot, by name, with the reason."""
    order = {node: k for k, node in enumerate(model.graph)}
    found, refused = [], []
    for weight in weights_of(model):
        if not (weight.uses() and weight.name) or ir.convenience.get_const_tensor(weight) is None:
            continue
        uses, reason = _uses(weight)
        uses.sort(key=lambda use: order.get(use.node, len(order)))
        adaptable = _measured(weight, tuple(uses)) if uses and not reason else None
        if adaptable is not None:
            found.append(adaptable)
        elif uses:
            refused.append((weight.name, f"{weight.name!r}: {reason or 'its size is not known'}"))
            refused += [(use.node.name or "", refused[-1][1]) for use in uses]
    found.sort(key=lambda a: order.get(a.uses[0].node, len(order)))
    return found, refused


def _uses(weight: ir.Value) -> tuple[list[Use], str]:
    """The nodes that map by a weight, and why it can have no adapter, or an empty string."""
    found: list[Use] = []
    reason = "it is an output of the graph" if weight.is_graph_output() else ""
    stack, rank = [(weight, False)], len(_shape(weight))
    while stack:
        value, turned = stack.pop()
        for node, index in value.uses():
            if node.op_type == "Shape" and not node.domain:
                continue
            if _passes(node, index, rank):
                stack.append((node.outputs[0], turned != (node.op_type == "Transpose")))
                continue
            inner, problem = _inner(node, index, rank)
            if problem:
                where = f"node {node.name!r}, {joined_name(node.domain, node.op_type)}"
                reason = f"{where}, {problem}"
            if inner is None:
                continue
            if node.op_type == "Conv" and turned:
                reason = f"node {node.name!r}, Conv, takes it transposed"
            found.append(Use(node, 1 - inner if turned else inner))
    return found, reason


def _passes(node: ir.Node, index: int, rank: int) -> bool:
    """Whether a node gives out a weight in another dtype, or transposed."""
    if node.domain or index:
        return False
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", [1, 0])
        return list(perm) == [1, 0] and rank == 2
    return node.op_type in ("Identity", "Cast", "DequantizeLinear")


def _inner(node: ir.Node, index: int, rank: int) -> tuple[int | None, str]:
    """The axis of a weight that a node sums over, if it has one, and why it has no adapter."""
    known = "com.microsoft" if node.op_type in _PACKED else ""
    at, kind = 0 if node.op_type == "Gather" else 1, node.op_type
    if node.domain != known or kind not in _OPERATORS or index != at:
        return None, "uses it too, and can have no adapter"
    if kind == "Conv":
        grouped = node.attributes.get_int("group", 1) != 1
        return 1, "has groups, for which no adapter can be merged" if grouped else ""
    if kind in _PACKED:
        return 1, ""
    if kind == "Gather" and node.attributes.get_int("axis", 0) not in (0, -2):
        return 0, "gathers along another axis than the first"
    if rank != 2:
        return 0, "takes it as a tensor that is no matrix"
    return node.attributes.get_int("transB", 0) if kind == "Gemm" else 0, ""


def _measured(weight: ir.Value, uses: tuple[Use, ...]) -> Adaptable | None:
    node = uses[0].node
    if node.op_type in _PACKED:
        sizes = node.attributes.get_int("N"), node.attributes.get_int("K")
        dtype = _dtype(node.inputs[2])
    else:
        rows, *others = _shape(weight)
        sizes = rows, math.prod(others)
        dtype = _dtype(node.inputs[0 if node.op_type == "Gather" else 1])
    return Adaptable(weight, uses, sizes, dtype) if dtype in FLOATS and 0 not in sizes else None


def _shape(weight: ir.Value) -> tuple[int, ...]:
    """The shape of a weight, which of a Constant's result the file need not say."""
    tensor = ir.convenience.get_const_tensor(weight)
    assert tensor is not None
    return tuple(tensor.shape.numpy())


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    """The dtype of a weight, or of what is made of one: a file need not say it."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type == "Constant":
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.dtype
    if node.op_type == "Cast":
        return ir.DataType(node.attributes.get_int("to"))
    if node.op_type == "DequantizeLinear":
        return _dtype(node.inputs[1])
    return _dtype(node.inputs[0])
