"""Products of matrices."""

import functools

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.emit.einsum import ELLIPSIS, einsum, parse
from onnxgrad.graph.facts import Dim


def _as_matrices(op, g, A, B):
    """Cotangent and operands of a MatMul, vectors as matrices: a row times a column."""
    row, column = A.rank == 1, B.rank == 1
    if row or column:
        g = op.Unsqueeze(g, op.const([-2] * row + [-1] * column))
    return (
        g,
        op.Unsqueeze(A, op.const([0])) if row else A,
        op.Unsqueeze(B, op.const([1])) if column else B,
    )


def _transpose(op, X):
    """The last two axes exchanged; runtimes fuse it with the MatMul that follows."""
    return op.Transpose(X, perm=[*range(X.rank - 2), X.rank - 1, X.rank - 2])


@rule("MatMul", "A")
def matmul_a(op, g, A, B):
    if A.shape is None and B.rank == 2:
        return shapes.reshape_like(op.Gemm(shapes.as_matrix(g), B, transB=1), A)
    g, a, b = _as_matrices(op, g, A, B)
    if b.rank == 2:
        gA = shapes.reshape_like(op.Gemm(shapes.as_matrix(g), b, transB=1), a)
    else:
        gA = op.MatMul(g, _transpose(op, b))
        if b.rank > 2:
            gA = unbroadcast(gA, (*g.shape[:-2], *a.shape[-2:]), a)
    return op.Squeeze(gA, op.const([0])) if A.rank == 1 else gA


@rule("MatMul", "B")
def matmul_b(op, g, A, B):
    if A.shape is None and B.rank == 2:
        return op.Gemm(shapes.as_matrix(A), shapes.as_matrix(g), transA=1)
    g, a, b = _as_matrices(op, g, A, B)
    if b.rank == 2:  # the batch, if any, is summed by the product itself
        gB = _sum_of_products(op, a, g)
    else:
        gB = op.MatMul(_transpose(op, a), g)
        gB = unbroadcast(gB, (*g.shape[:-2], *b.shape[-2:]), b)
    return op.Squeeze(gB, op.const([1])) if B.rank == 1 else gB


def _sum_of_products(op, a, g):
    """The sum of aᵀg over the batch."""
    if a.rank == 2 or not op.target.transposed_rows:
        return op.Gemm(shapes.as_matrix(a), shapes.as_matrix(g), transA=1)
    # Transposed by a node of its own, which the Flatten keeps from being fused into the product.
    a = op.Transpose(a, perm=[a.rank - 1, *range(a.rank - 1)])
    return op.MatMul(op.Flatten(a, axis=1), shapes.as_matrix(g))


@rule("Gemm", "A")
def _(op, g, B, alpha, transA, transB):
    if transA:
        return op.Gemm(B, g, alpha=alpha, transA=transB, transB=1)
    return op.Gemm(g, B, alpha=alpha, transB=1 - transB)


@rule("Gemm", "B")
def _(op, g, A, alpha, transA, transB):
    if transB:
        return op.Gemm(g, A, alpha=alpha, transA=1, transB=transA)
    return op.Gemm(A, g, alpha=alpha, transA=1 - transA)


@rule("Gemm", "C", broadcast=True)
def _(g, beta):
    return g * beta


# -- Einsum ----------------------------------------------------------------------------------------
#
# The cotangent of an operand is an Einsum of the output's cotangent and the other operands, to the
# operand's labels. Three things are left: labels that only the operand has, over which it was
# summed (expand), axes of size 1 that met another size (sum or expand), repeated labels (put on the
# diagonal).


@rule("Einsum", "Inputs")
def _(op, g, i, Inputs, equation):
    terms, result = parse(equation)
    X, labels = Inputs[i], list(dict.fromkeys(terms[i]))
    like = einsum([(terms[i], X)], labels)  # X, or its diagonal
    others = [(a, t) for k, (a, t) in enumerate(zip(terms, Inputs, strict=True)) if k != i]
    others.insert(0, (result, g))
    found = [a for a in labels if any(a in term for term, _ in others)]
    if ELLIPSIS in result and ELLIPSIS not in labels:
        gX = einsum(others, [ELLIPSIS, *found])
        gX = shapes.reduce_sum(gX, range(gX.rank - len(found)))
    else:
        gX = einsum(others, found)
    missing = [k for k, (a, _) in enumerate(_axes(labels, like)) if a not in found]
    gX = _fitted(op.Unsqueeze(gX, op.const(missing)) if missing else gX, labels, like, others)
    return gX if like is X else _embed(op, gX, terms[i], X)


def _axes(labels, t):
    """For each axis of `t` its label and its number within it: more than 0 in an ellipsis."""
    dots = range(t.rank - len(labels) + 1) if ELLIPSIS in labels else ()
    return [(a, k) for a in labels for k in (dots if a == ELLIPSIS else [0])]


def _fitted(gX, labels, like, others):
    """`gX`, which has the sizes that the others have, in those of `like`.

    An ellipsis broadcasts. A label has one size everywhere by the standard, but runtimes let a 1
    meet another size, and torch.tensordot is exported to that.
    """
    axes = _axes(labels, like)
    sizes: dict[tuple[str, int], list[Dim]] = {axis: [] for axis in axes}
    for term, t in others:
        for k, axis in enumerate(_axes(term, t)):
            sizes.setdefault(axis, []).append(t.dim(k))
    given = [shapes.broadcast(sizes[axis]) for axis in axes]
    wanted = [like.dim(k) for k in range(len(axes))]
    result = others[0][0]  # its sizes are the largest
    if not all(
        label in result or shapes.covers(g, w)
        for (label, _), g, w in zip(axes, given, wanted, strict=True)
    ):
        gX = gX.op.Expand(gX, shapes.shape(like))
    out = [shapes.broadcast(pair) for pair in zip(given, wanted, strict=True)]
    return unbroadcast(gX, out, like)


def _embed(op, gX, labels, X):
    """`gX`, which has each label once, on the diagonals of an X that repeats some."""
    axes = _axes(labels, X)
    repeated = [k for k, a in enumerate(axes) if a in axes[:k]]
    on = [_index(op, X, axes.index(axes[k])).equals(_index(op, X, k)) for k in repeated]
    gX = op.Unsqueeze(gX, op.const(repeated))
    return op.Where(functools.reduce(op.And, on), gX, op.const(0, like=gX))


def _index(op, X, axis):
    """The position along an axis, in a shape that broadcasts to X."""
    index = shapes.arange(op, shapes.dim(X, axis))
    return op.Unsqueeze(index, op.const([a for a in range(X.rank) if a != axis]))


# -- Det -------------------------------------------------------------------------------------------


@rule("Det", "X")
def _(op, g, X):
    """The cofactors, determinants of all minors: a singular matrix, without an inverse, has them.

    It takes n⁵ operations, against n³ for the inverse, which no operator of the standard gives.
    """
    g = op.Unsqueeze(g, op.const([-2, -1]))
    if X.dim(-1) == 1:
        return shapes.expand_like(g, X)
    n = shapes.dim(X, -1)
    k, i = shapes.arange(op, n - 1), op.Unsqueeze(shapes.arange(op, n), op.const([1]))
    left = k + op.Cast(k >= i, to=k.dtype)  # row i: 0 ... n - 1 without i
    minors = op.Gather(op.Gather(X, left, axis=-2), left, axis=-1)  # [..., i, rows, j, columns]
    r = X.rank
    minors = op.Transpose(minors, perm=[*range(r - 1), r, r - 1, r + 1])
    odd = op.Cast((i + op.Squeeze(i, op.const([1]))) % 2, to=X.dtype)
    return g * op.Det(minors) * (1 - 2 * odd)


# -- Inverse, which the standard's operators cannot express ----------------------------------------


@rule("com.microsoft::Inverse", "X", inputs=("X",), outputs=("Y",), broadcast=True)
def _(op, g, Y):
    """dY = -Y dX Y. The net keeps its operator, and with it its runtime."""
    transposed = _transpose(op, Y)
    return -op.MatMul(op.MatMul(transposed, g), transposed)
