"""Where operators leave the examples of a batch: those that compute by element or move elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxgrad.graph.constants import draws
from onnxgrad.transforms.row_nodes import Found, Mixed, RowNode, table
from onnxgrad.transforms.row_sizes import Product, Rows, multiplied

RULES, rule = table()


def _names(text: str) -> list[str]:
    return text.split()


_UNARY = _names("""
Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu
HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu
Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu
""")
_BROADCAST = _names("""
Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less
LessOrEqual Max Mean Min Mod Mul Or Pow PRelu Sub Sum Where Xor
""")
_REDUCTIONS = _names("""
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare
""")


# -- element by element -------------------------------------------------------------------------


@rule(*_UNARY, *_BROADCAST)
def _elementwise(node: RowNode) -> Found:
    return [node.aligned()]


@rule("QuantizeLinear", "DequantizeLinear")
def _quantised(node: RowNode) -> Found:
    """One scale for all, or scales along another axis."""
    place, rank = node.only(0), node.rank(0)
    if node.rank(1) == 1 and node.dims(1) != (1,) and node.number("axis", 1) % rank == place.axis:
        raise Mixed
    if node.rank(1) > 1:
        raise Mixed
    return [place]


@rule("Dropout")
def _dropout(node: RowNode) -> Found:
    if draws(node.node):
        raise Mixed
    return [node.only(0)] * 2


@rule("BatchNormalization")
def _batch_normalization(node: RowNode) -> Found:
    """With the statistics of training."""
    if node.number("training_mode", 0) or node.only(0).axis:
        raise Mixed
    return [node.only(0)]


# -- along axes ---------------------------------------------------------------------------------


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK", "CumSum")
def _along_an_axis(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0)
    if node.node.op_type == "CumSum":
        (axis,) = node.ints(1) or [0]
    else:
        axis = node.number("axis", -1)
    if axis % rank == place.axis:
        raise Mixed
    return [place] * node.count


@rule("LayerNormalization", "RMSNormalization")
def _last_axes(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0)
    if place.axis >= node.number("axis", -1) % rank:
        raise Mixed
    return [place] * node.count


@rule("MeanVarianceNormalization")
def _given_axes(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0)
    if place.axis in {a % rank for a in node.numbers("axes") or [0, 2, 3]}:
        raise Mixed
    return [place]


def _without(place: Rows, axes: set[int]) -> Rows:
    """The place after axes are gone.

    Raises:
        Mixed: The axis of the examples is among them.
    """
    if place.axis in axes:
        raise Mixed
    return replace(place, axis=place.axis - sum(a < place.axis for a in axes))


@rule(*_REDUCTIONS)
def _reduction(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0)
    axes = {a % rank for a in node.ints(1) or []}
    if not axes:
        if not node.number("noop_with_empty_axes", 0):
            raise Mixed
        return [place]
    return [_kept_or_gone(node, place, axes)]


@rule("ArgMax", "ArgMin")
def _place_of_extreme(node: RowNode) -> Found:
    return [_kept_or_gone(node, node.only(0), {node.number("axis", 0) % node.rank(0)})]


def _kept_or_gone(node: RowNode, place: Rows, axes: set[int]) -> Rows:
    gone = _without(place, axes)
    return place if node.number("keepdims", 1) else gone


# -- shapes -------------------------------------------------------------------------------------


@rule("Transpose")
def _transpose(node: RowNode) -> Found:
    place = node.only(0)
    order = node.numbers("perm") or list(reversed(range(node.rank(0))))
    return [replace(place, axis=order.index(place.axis))]


@rule("Squeeze")
def _squeeze(node: RowNode) -> Found:
    axes = node.ints(1)
    if axes is None:
        raise Mixed
    return [_without(node.only(0), {a % node.rank(0) for a in axes})]


@rule("Unsqueeze")
def _unsqueeze(node: RowNode) -> Found:
    place, axes = node.only(0), node.ints(1) or []
    rank = node.rank(0) + len(axes)
    left = sorted(set(range(rank)) - {a % rank for a in axes})
    sizes = dict(zip(left, node.sizes(0), strict=True))
    node.known.call(node.node.outputs[0], [sizes.get(k, Product()) for k in range(rank)])
    return [replace(place, axis=left[place.axis])]


@rule("Flatten")
def _flatten(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0)
    axis = node.number("axis", 1)
    axis = axis + rank if axis < 0 else axis
    first = place.axis < axis
    low, high = (0, axis) if first else (axis, rank)
    sizes = node.sizes(0)
    before, behind = multiplied(sizes[low : place.axis]), multiplied(sizes[place.axis + 1 : high])
    if before is None or behind is None:
        raise Mixed
    return [Rows(0 if first else 1, before * place.outer, place.inner * behind)]


@rule("Reshape")
def _reshape(node: RowNode) -> Found:
    """In the order of the elements an example keeps its place. The target may hold their number."""
    place, sizes = node.required(0), node.sizes(0)
    target = _target(node, sizes)
    node.known.call(node.node.outputs[0], target)
    axis = place.axis
    if place.plain and target[: axis + 1] == sizes[: axis + 1] and None not in sizes[: axis + 1]:
        return [place]  # whatever is behind
    before = multiplied(sizes[:axis])
    if before is None:
        raise Mixed
    for k, size in enumerate(target):
        front = multiplied(target[:k])
        outer = None if front is None else (before * place.outer).over(front)
        if outer is not None and size is not None:
            inner = size.over(outer * node.batch)
            if inner is not None and None not in target:
                return [Rows(k, outer, inner)]
    raise Mixed


def _target(node: RowNode, sizes: Sequence[Product | None]) -> list[Product | None]:
    """The sizes that a Reshape gives; one that is left open follows from the others."""
    target: list[Product | None] = []
    unknown = []
    for k, size in enumerate(node.held(1)):
        if size == Product(0) and not node.number("allowzero", 0):
            target.append(sizes[k])
        elif size is None or size == Product(-1):
            unknown.append(k)
            target.append(None)
        else:
            target.append(size)
    total = multiplied(sizes)
    rest = multiplied(t for k, t in enumerate(target) if k not in unknown)
    if len(unknown) == 1 and total is not None and rest is not None:
        target[unknown[0]] = total.over(rest)
    return target


@rule("Expand")
def _expand(node: RowNode) -> Found:
    """Examples that are there, or the same numbers for each."""
    sizes = node.held(1)
    place, rank = node.rows(0), max(node.rank(0), len(sizes))
    sizes = [*[Product()] * (rank - len(sizes)), *sizes]
    if place is None:
        axis = _only_batch(node, sizes)
        node.require_one(0, axis - (rank - node.rank(0)))
        return [Rows(axis)]
    moved = replace(place, axis=place.axis + rank - node.rank(0))
    if sizes[moved.axis] not in (node.known.of(place), Product()) or _has_batch(
        node, sizes, moved.axis
    ):
        raise Mixed
    return [moved]


def _only_batch(node: RowNode, sizes: Sequence[Product | None]) -> int:
    """The one axis whose size is that of the batch, no other one depending on it."""
    if sizes.count(node.batch) != 1 or _has_batch(node, sizes, axis := sizes.index(node.batch)):
        raise Mixed
    return axis


def _has_batch(node: RowNode, sizes: Sequence[Product | None], but: int) -> bool:
    """Whether a size may depend on that of the batch, one axis left out."""
    return any(node.known.depends(s) for k, s in enumerate(sizes) if k != but)


@rule("ConstantOfShape")
def _constant_of_shape(node: RowNode) -> Found:
    return [Rows(_only_batch(node, node.held(0)))]


@rule("Tile")
def _tile(node: RowNode) -> Found:
    place, repeats = node.rows(0), node.held(1)
    if place is None:
        axis = _only_batch(node, repeats)
        node.require_one(0, axis)
        return [Rows(axis)]
    if repeats[place.axis] != Product() or _has_batch(node, repeats, -1):
        raise Mixed
    return [place]


@rule("Pad")
def _pad(node: RowNode) -> Found:
    place, rank, pads = node.only(0), node.rank(0), node.ints(1) or []
    axes = [a % rank for a in node.ints(3) or range(rank)]
    if place.axis in axes:
        k = axes.index(place.axis)
        if pads[k] or pads[k + len(axes)]:
            raise Mixed
    return [place]


@rule("Slice")
def _slice(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0)
    axes = [a % rank for a in node.ints(3) or range(rank)]
    if place.axis in axes:
        raise Mixed
    return [place]


@rule("Resize")
def _resize(node: RowNode) -> Found:
    """The size of the batch may be among the sizes."""
    place = node.required(0)
    mode = node.node.attributes.get_string("coordinate_transformation_mode", "")
    ratio = node.node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    axes = [a % node.rank(0) for a in node.numbers("axes") or range(node.rank(0))]
    if mode == "tf_crop_and_resize" or ratio != "stretch":
        raise Mixed
    if place.axis in axes:
        k = axes.index(place.axis)
        if node.operand(3) is not None:
            same = node.held(3)[k] == node.known.of(place)
        else:
            same = node.contents(2)[k] == 1
        if not same:
            raise Mixed
    return [place]


# -- parts --------------------------------------------------------------------------------------


@rule("Concat", "GatherElements", "ScatterElements")
def _along_another_axis(node: RowNode) -> Found:
    """All operands have the examples in the same place."""
    places = set(node.places())
    if len(places) != 1 or (place := places.pop()) is None:
        raise Mixed
    if node.number("axis", 0) % node.rank(0) == place.axis:
        raise Mixed
    return [place]


@rule("Split")
def _split(node: RowNode) -> Found:
    place = node.only(0)
    if node.number("axis", 0) % node.rank(0) == place.axis:
        raise Mixed
    return [place] * node.count


@rule("Gather")
def _gather(node: RowNode) -> Found:
    data, indices = node.places()
    axis = node.number("axis", 0) % node.rank(0)
    if data is None and indices is not None:
        return [replace(indices, axis=indices.axis + axis)]
    if data is None or indices is not None or data.axis == axis:
        raise Mixed
    return [data if data.axis < axis else replace(data, axis=data.axis + node.rank(1) - 1)]


@rule("OneHot")
def _one_hot(node: RowNode) -> Found:
    place, rank = node.only(0), node.rank(0) + 1
    axis = node.number("axis", -1) % rank
    return [place if place.axis < axis else replace(place, axis=place.axis + 1)]


@rule("Trilu")
def _trilu(node: RowNode) -> Found:
    place = node.only(0)
    if place.axis >= node.rank(0) - 2:
        raise Mixed
    return [place]
