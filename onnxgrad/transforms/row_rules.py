"""Where operators leave the examples of a batch: the rules of `rows`, by family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxgrad.graph.constants import draws
from onnxgrad.transforms.row_nodes import Mixed, RowNode
from onnxgrad.transforms.row_sizes import Product, Rows, multiplied

# Of the outputs of a node, in their order.
Found = Sequence[Rows | None]
Rule = Callable[[RowNode], Found]
# By the names of operators of the standard's default domain.
RULES: dict[str, Rule] = {}


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
# By operator: the operands that have the batch for their first axis, where they depend on it.
_FIRST_AXIS = {
    "AffineGrid": (0,),
    "AveragePool": (0,),
    "Col2Im": (0,),
    "Conv": (0,),
    "ConvInteger": (0,),
    "ConvTranspose": (0,),
    "DeformConv": (0, 2, 4),
    "DepthToSpace": (0,),
    "GlobalAveragePool": (0,),
    "GlobalLpPool": (0,),
    "GlobalMaxPool": (0,),
    "GridSample": (0, 1),
    "GroupNormalization": (0,),
    "InstanceNormalization": (0,),
    "LRN": (0,),
    "LpPool": (0,),
    "MaxPool": (0,),
    "QLinearConv": (0,),
    "RotaryEmbedding": (0, 3),
    "SpaceToDepth": (0,),
}


def rule(*op_types: str) -> Callable[[Rule], Rule]:
    """Declare the rule of operators."""

    def declare(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(op_types, function))
        return function

    return declare


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
    """In the order of the elements an example keeps its place."""
    place, sizes = _reshaped(node), node.sizes(0)
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


def _reshaped(node: RowNode) -> Rows:
    """Where the examples are in what is reshaped. The target may hold their number."""
    if (place := node.rows(0)) is None:
        raise Mixed
    return place


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
    if (place := node.rows(0)) is None:
        raise Mixed
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


@rule("Concat")
def _concat(node: RowNode) -> Found:
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


@rule("GatherElements", "ScatterElements")
def _elements(node: RowNode) -> Found:
    places = set(node.places())
    if len(places) != 1 or (place := places.pop()) is None:
        raise Mixed
    if node.number("axis", 0) % node.rank(0) == place.axis:
        raise Mixed
    return [place]


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


# -- products -----------------------------------------------------------------------------------


@rule("MatMul", "MatMulInteger")
def _matmul(node: RowNode) -> Found:
    """Matrices by example, or the rows or columns of one."""
    if any(p is not None for p in node.places()[2:]) or any(
        node.operand(k) is not None and node.rank(k) for k in (2, 3)
    ):
        raise Mixed
    a, b, ranks = node.rows(0), node.rows(1), (node.rank(0), node.rank(1))
    rank = max(ranks)
    if a is not None and b is None and a.axis == ranks[0] - 2 and ranks[0] > 1:
        return [replace(a, axis=rank - 2)]
    if b is not None and a is None and b.axis == ranks[1] - 1 and min(ranks) > 1:
        return [replace(b, axis=rank - 1)]
    if min(ranks) < 2:
        if a is not None and b is None and a.axis < ranks[0] - 1:
            return [a]
        raise Mixed
    moved = {
        replace(place, axis=place.axis + rank - r)
        for place, r in zip((a, b), ranks, strict=True)
        if place is not None
    }
    if len(moved) != 1 or (place := moved.pop()).axis >= rank - 2:
        raise Mixed
    for k, (mine, r) in enumerate(zip((a, b), ranks, strict=True)):
        if mine is None:
            node.require_one(k, place.axis - (rank - r))
    return [place]


@rule("Gemm")
def _gemm(node: RowNode) -> Found:
    a, b, *c = node.places()
    if a is None or b is not None or a.axis != node.number("transA", 0):
        raise Mixed
    place = replace(a, axis=0)
    if c and c[0] is not None and c[0] != place:
        raise Mixed
    if node.operand(2) is not None and c[0] is None:
        node.require_one(2, node.rank(2) - 2)
    return [place]


@rule("Einsum")
def _einsum(node: RowNode) -> Found:
    """Equations with a term for the result."""
    left, arrow, result = (
        node.node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    )
    if not arrow or "." in left:
        raise Mixed
    terms, places = left.split(","), node.places()
    if any(len(term) != len(set(term)) for term in terms):
        raise Mixed
    letters = {
        (term[p.axis], p.outer, p.inner)
        for term, p in zip(terms, places, strict=True)
        if p is not None
    }
    if len(letters) != 1:
        raise Mixed
    ((letter, outer, inner),) = letters
    free = [term for term, p in zip(terms, places, strict=True) if p is None]
    if letter not in result or any(letter in term for term in free):
        raise Mixed
    return [Rows(result.index(letter), outer, inner)]


# -- layers -------------------------------------------------------------------------------------


@rule(*_FIRST_AXIS)
def _first_axis(node: RowNode) -> Found:
    """The first result alone: the places that a MaxPool gives out count all examples."""
    return [node.all_at(0, _FIRST_AXIS[node.node.op_type])]


@rule("Attention")
def _attention(node: RowNode) -> Found:
    """Queries, keys and values of each example, with a mask for all or for each."""
    places = node.places()
    if not places[0] == places[1] == places[2] or places[0] is None or places[0].axis:
        raise Mixed
    for k, place in enumerate(places[3:], 3):
        if node.operand(k) is None:
            continue
        if k == 3 and place is None:
            node.require_one(k, node.rank(k) - 4)
        elif place != places[0] or (k == 3 and node.rank(k) != 4):
            raise Mixed
    return [places[0]] * node.count


@rule("LSTM", "GRU", "RNN")
def _recurrent(node: RowNode) -> Found:
    axis = 0 if node.number("layout", 0) else 1
    place = node.rows(0)
    if place is None or place.axis != axis:
        raise Mixed
    for k, one in enumerate(node.places()[1:], 1):
        states = {4: 0, 5: axis, 6: axis}  # the lengths of sequences, and what they begin with
        expected = replace(place, axis=states[k]) if k in states else None
        if node.operand(k) is not None and one != expected:
            raise Mixed
    whole = replace(place, axis=axis and 2)
    return [whole, *[place] * (node.count - 1)]
