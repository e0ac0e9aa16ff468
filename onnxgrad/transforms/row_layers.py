"""Where operators leave the examples of a batch: products of matrices, and layers."""

from __future__ import annotations

from dataclasses import replace

from onnxgrad.transforms.row_nodes import Found, Mixed, RowNode, table
from onnxgrad.transforms.row_sizes import Rows

RULES, rule = table()

# By operator: the operands that have the batch for their first axis, where they depend on it.
_FIRST_AXIS = {
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
    "SpaceToDepth": (0,),
}


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


@rule("RotaryEmbedding")
def _rotary_embedding(node: RowNode) -> Found:
    """Angles by place, with the places of each example; or angles of each example."""
    return [node.all_at(0, (0, 1, 2) if node.operand(3) is None else (0, 3))]


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
    place = node.required(0)
    if place.axis != axis:
        raise Mixed
    for k, one in enumerate(node.places()[1:], 1):
        states = {4: 0, 5: axis, 6: axis}  # the lengths of sequences, and what they begin with
        expected = replace(place, axis=states[k]) if k in states else None
        if node.operand(k) is not None and one != expected:
            raise Mixed
    whole = replace(place, axis=axis and 2)
    return [whole, *[place] * (node.count - 1)]
