"""Nodes that change nothing but a shape are emitted once where several follow each other.

Rules reshape what they are given, as the rule of LSTM takes away the axis of its directions. A
runtime moves no elements for that, but a node takes it half a microsecond. So a Reshape, Squeeze,
Unsqueeze or Flatten behind another one reads what that one reads, or is left out where that has the
shape already. A Pad that adds nothing and an Expand that repeats nothing are left out too.

The cotangents of parts that make up a tensor are joined, not padded and added.

Only shapes that are written in the graph count. One that is computed may be there to make a runtime
wait: see `order`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import steps
from onnxgrad.emit.rewrites import Call, rewrite
from onnxgrad.graph.constants import SMALL
from onnxgrad.graph.facts import VIEWS, dims_of

if TYPE_CHECKING:
    from onnxgrad.emit.builder import Builder
    from onnxgrad.emit.tensor import Tensor

_VIEWS = VIEWS - {"Identity"}
# The most of them, one behind the other, that are followed.
_MOST = 8


@rewrite(*_VIEWS)
def _of_its_origin(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """A view of a view as one of its origin."""
    x = call.inputs[0]
    if x is None or x.shape is None:
        return call
    origin, own, shown = _origin(x.value)
    operands = [None if t is None else t.value for t in call.inputs]
    dims = None if origin is x.value else _viewed(call.op_type, shown, operands, call.attributes)
    if dims is None or None in dims:
        return call
    if dims == own:
        return (op.tensor(origin),)
    open_ = [k for k, d in enumerate(dims) if not isinstance(d, int)]
    if len(open_) > 1 or (open_ and 0 in dims):
        return call
    sizes = op.const([-1 if k in open_ else d for k, d in enumerate(dims)])
    attributes = {"allowzero": 1} if 0 in dims else {}
    return call._replace(
        op_type="Reshape", inputs=(op.tensor(origin), sizes), attributes=attributes
    )


@rewrite("Pad")
def _of_nothing(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """What it pads, where the pads are known to be 0."""
    x, pads = call.inputs[0], call.inputs[1]
    known = None if pads is None else _written(pads.value)
    return call if x is None or known is None or known.any() else (x,)


@rewrite("Mul")
def _of_what_repeats(op: Builder, call: Call) -> Call:
    """A product with what an Expand repeats as one with its operand, where shapes tell as much."""
    for k, t in enumerate(call.inputs):
        other = call.inputs[1 - k]
        origin = None if t is None else _repeated(op, t.value)
        if t is None or other is None or origin is None or t.value is other.value:
            continue
        if t.shape is not None and None not in t.shape and t.shape == other.shape:
            inputs = [origin, origin]
            inputs[1 - k] = other
            return call._replace(inputs=inputs)
    return call


@rewrite("Expand")
def _to_its_shape(op: Builder, call: Call) -> Call | tuple[Tensor, ...]:
    """What it expands, where it is of that shape."""
    x, sizes = call.inputs[0], call.inputs[1]
    known = None if sizes is None else _written(sizes.value)
    if x is None or known is None or x.shape is None or len(known) > len(x.shape):
        return call
    mine = x.shape[len(x.shape) - len(known) :]
    same = all(n == 1 or n == d for n, d in zip(known.tolist(), mine, strict=True))
    return (x,) if same else call


def side_by_side(op: Builder, gs: Sequence[Tensor]) -> list[Tensor]:
    """Terms of a sum; those that Pads have put side by side along an axis are joined to one."""
    found: dict[Any, list[tuple[int, int, ir.Value, Tensor]]] = {}
    for g in gs:
        x, pads = padding_of(op, g.value) or (None, np.zeros((2, 0), np.int64))
        for axis in np.flatnonzero(pads.any(axis=0)).tolist():
            (begin, end), length = pads[:, axis].tolist(), (dims_of(x) or ())[axis]  # type: ignore[arg-type]
            if x is not None and isinstance(length, int):
                others = np.insert(np.delete(pads, axis, axis=1), axis, 0, axis=1)
                key = (axis, begin + length + end, *others.ravel().tolist())
                found.setdefault(key, []).append((begin, begin + length, x, g))
    for (axis, size, *pads_of_others), parts in found.items():
        parts.sort(key=lambda part: part[0])
        begins, ends, xs, padded = zip(*parts, strict=True)
        if len(parts) > 1 and [*begins, size] == [0, *ends]:
            whole = _joined(op, xs, axis, np.array(pads_of_others))
            rest = [g for g in gs if g not in padded]
            return side_by_side(op, [*rest, op.typed(whole, gs[0])])
    return list(gs)


def summed(op: Builder, gs: Sequence[Tensor]) -> Tensor:
    """The sum of terms of equal shape. What an Expand repeats is added as it is."""
    origins = [_repeated(op, g.value) for g in gs]
    small = [t for t in origins if t is not None]
    rest = [g for g, t in zip(gs, origins, strict=True) if t is None]
    if not small or not rest:
        return op.sum(gs)
    y, offset = op.sum(rest), functools.reduce(operator.add, small)
    return op.typed(_line(op, y, offset), gs[0])


def _line(op: Builder, y: Tensor, offset: Tensor) -> Tensor:
    """`y` + `offset`; in one pass where `y` is a product with a factor that repeats as it does."""
    node = y.value.producer() if y.value in op.emitted else None
    if node is not None and node.op_type == "Mul" and offset.static is not None:
        for x, slope in (node.inputs, node.inputs[::-1]):
            if x is None or slope is None or dims_of(slope) != offset.static:
                continue
            if not op.numbers.may_fail(slope):
                return steps.line(op.tensor(x), op.tensor(slope), offset)
    return y + offset


def _repeated(op: Builder, value: ir.Value) -> Tensor | None:
    """What an Expand of this pass repeats."""
    node = value.producer()
    if node is None or node.op_type != "Expand" or value not in op.emitted:
        return None
    x = node.inputs[0]
    return None if x is None or dims_of(x) is None or dims_of(value) is None else op.tensor(x)


def _joined(op: Builder, xs: Sequence[ir.Value], axis: int, pads: np.ndarray) -> Tensor:
    """Values side by side with zeros around them, and around each of them if they are the same."""
    inner = [found for x in xs if (found := padding_of(op, x)) is not None]
    its = inner[0][1] if len(inner) == len(xs) else None
    if its is not None and not its[:, axis].any() and all((p == its).all() for _, p in inner):
        xs, pads = [x for x, _ in inner], pads + its.ravel()
    whole = op.Concat(*map(op.tensor, xs), axis=axis)
    return op.Pad(whole, op.const(pads), op.const(-0.0, like=whole))


def padding_of(op: Builder, value: ir.Value) -> tuple[ir.Value, np.ndarray] | None:
    """What a Pad of this pass puts zeros around, and how many before and after each axis."""
    node = value.producer()
    if node is None or node.op_type != "Pad" or value not in op.emitted or len(node.inputs) > 3:
        return None
    x, pads, filled = (*node.inputs, None)[:3]
    known = None if pads is None else _written(pads)
    zero = filled is None or ((c := _written(filled)) is not None and not c.any())
    if x is None or known is None or not zero or "mode" in node.attributes or dims_of(x) is None:
        return None
    return None if (known < 0).any() else (x, known.reshape(2, -1))


def _origin(value: ir.Value) -> tuple[ir.Value, list[Any], list[Any]]:
    """What a tensor of known rank shows in another shape, the dimensions there, and those it shows.

    An object of its own stands for each size that has no name, so that it is known again.
    """
    chain: list[ir.Node] = []
    for _ in range(_MOST):
        node = value.producer()
        if node is None or node.op_type not in _VIEWS or node.domain:
            break
        before = node.inputs[0]
        computed = [v for v in node.inputs[1:] if v is not None and _written(v) is None]
        if before is None or computed or dims_of(before) is None:
            break
        value = before
        chain.append(node)
    own = [object() if d is None else d for d in dims_of(value) or ()]
    dims: list[Any] = own
    for node in reversed(chain):
        attributes = {name: a.value for name, a in node.attributes.items()}
        viewed = _viewed(node.op_type, dims, node.inputs, attributes)
        dims = list(dims_of(node.outputs[0]) or ())
        if viewed is not None:
            dims = [k if d is None else d for d, k in zip(viewed, dims, strict=True)]
    return value, own, dims


def _written(value: ir.Value) -> np.ndarray | None:
    """The contents of a constant that stands in the graph."""
    tensor = None if value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size > SMALL else tensor.numpy()


def _viewed(
    op_type: str,
    dims: list[Any],
    operands: Sequence[ir.Value | None],
    attributes: dict[str, Any],
) -> list[Any] | None:
    """The dimensions that a view of a tensor with others has; None where one is not known."""
    given = operands[1] if len(operands) > 1 else None
    sizes = None if given is None else _written(given)
    if None in dims or (op_type != "Flatten" and sizes is None):
        return None
    if op_type == "Flatten":
        axis = attributes.get("axis", 1)
        axis += len(dims) if axis < 0 else 0
        return [_product(dims[:axis]), _product(dims[axis:])]
    assert sizes is not None
    numbers = [int(n) for n in sizes.ravel()]
    if op_type == "Squeeze":
        axes = {n % len(dims) for n in numbers}
        return [d for a, d in enumerate(dims) if a not in axes]
    if op_type == "Unsqueeze":
        rank, rest = len(dims) + len(numbers), iter(dims)
        axes = {n % rank for n in numbers}
        return [1 if a in axes else next(rest) for a in range(rank)]
    return _reshaped(dims, numbers, bool(attributes.get("allowzero")))


def _product(dims: Sequence[Any], over: Sequence[Any] = ()) -> Any:
    """The product of some sizes, divided by that of others; None where it has no name."""
    names = [d for d in dims if not isinstance(d, int)]
    for d in over:
        if not isinstance(d, int):
            if d not in names:
                return None
            names.remove(d)
    count, divisor = (math.prod(d for d in part if isinstance(d, int)) for part in (dims, over))
    if not divisor or count % divisor:
        return None
    if not names:
        return count // divisor
    return names[0] if len(names) == 1 and count == divisor else None


def _reshaped(dims: list[Any], sizes: list[int], allowzero: bool) -> list[Any]:
    """The shape that a Reshape to `sizes` gives."""
    found = [
        dims[k] if n == 0 and not allowzero and k < len(dims) else n for k, n in enumerate(sizes)
    ]
    if -1 in sizes:
        rest = sizes.index(-1)
        found[rest] = _product(dims, found[:rest] + found[rest + 1 :])
    return found
