"""Products of matrices."""

from onnxgrad import shapes
from onnxgrad.registry import rule


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
def _(op, g, A, B):
    g, a, b = _as_matrices(op, g, A, B)
    if g.rank == 2:
        gA = op.Gemm(g, b, transB=1)
    else:
        gA = op.MatMul(g, _transpose(op, b))
        if b.rank > 2:
            gA = shapes.unbroadcast(gA, (*g.shape[:-2], *a.shape[-2:]), a)
    return op.Squeeze(gA, op.const([0])) if A.rank == 1 else gA


@rule("MatMul", "B")
def _(op, g, A, B):
    g, a, b = _as_matrices(op, g, A, B)
    if b.rank == 2:  # the batch, if any, is summed by the product itself
        gB = op.Gemm(op.Flatten(a, axis=-1), op.Flatten(g, axis=-1), transA=1)
    else:
        gB = op.MatMul(_transpose(op, a), g)
        gB = shapes.unbroadcast(gB, (*g.shape[:-2], *b.shape[-2:]), b)
    return op.Squeeze(gB, op.const([1])) if B.rank == 1 else gB


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
