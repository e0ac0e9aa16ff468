"""Support vector machines of ai.onnx.ml, in the standard's own operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import close, new_input
from onnxgrad.emit.tensor import Tensor
from onnxgrad.expansions.ml import linear, rows_of, transformed


@expansion("ai.onnx.ml::SVMRegressor")
def _(
    op, X, *, coefficients=(), kernel_params=(0.0, 0.0, 0.0), kernel_type="LINEAR", n_supports=0,
    one_class=0, post_transform="NONE", rho=(0.0,), support_vectors=(),
):  # fmt: skip
    if one_class:
        op.refuse("with one_class it gives 1 or -1, which has a derivative of zero")
    x = rows_of(op, X)
    weights = op.const(np.array(coefficients).reshape(-1, 1), like=x)
    if n_supports:
        vectors = np.array(support_vectors).reshape(n_supports, -1)
        x = _kernel(op, x, vectors, kernel_type, kernel_params)
    return transformed(op, op.MatMul(x, weights) + rho[0], post_transform)


@expansion("ai.onnx.ml::SVMClassifier")
def _(
    op, X, *, classlabels_ints=(), classlabels_strings=(), coefficients=(),
    kernel_params=(0.0, 0.0, 0.0), kernel_type="LINEAR", post_transform="NONE", prob_a=(),
    prob_b=(), rho=(0.0,), support_vectors=(), vectors_per_class=(),
):  # fmt: skip
    """The scores of the classes or of pairs of them; the labels are left to the operator."""
    classes = len(classlabels_ints) or len(classlabels_strings)
    if not sum(vectors_per_class):
        return None, transformed(op, linear(op, X, coefficients, rho[:1], classes), post_transform)
    vectors = np.array(support_vectors).reshape(sum(vectors_per_class), -1)
    k = _kernel(op, rows_of(op, X), vectors, kernel_type, kernel_params)
    weights = _by_pairs(np.array(coefficients).reshape(classes - 1, -1), vectors_per_class)
    scores = op.MatMul(k, op.const(weights, like=k)) + np.array(rho)
    if prob_a:
        wins = 1 - op.Sigmoid(scores * np.array(prob_a) + np.array(prob_b))
        return None, transformed(op, _coupled(op, wins, classes), post_transform)
    if classes > 2:
        return None, transformed(op, scores, post_transform)
    if post_transform == "NONE":
        return None, op.Concat(-scores, scores, axis=1)
    if post_transform == "LOGISTIC":
        scores = op.Sigmoid(scores)
    elif post_transform == "PROBIT":
        op.refuse("post_transform PROBIT has no rule yet")
    return None, op.Concat(1 - scores, scores, axis=1)


def _by_pairs(coefficients: np.ndarray, per_class: Sequence[int]) -> np.ndarray:
    """The weights of the support vectors in the decision between each two classes, as columns.

    Row r has a vector's coefficients against the r-th of the other classes.
    """
    owner = np.repeat(np.arange(len(per_class)), per_class)
    return np.stack(
        [
            np.where(owner == i, coefficients[j - 1], np.where(owner == j, coefficients[i], 0))
            for i, j in _pairs(len(per_class))
        ],
        axis=1,
    )


def _pairs(classes: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


def _coupled(op: Builder, wins: Tensor, classes: int) -> Tensor:
    """Probabilities of the classes, of those with which one of each two wins.

    The second method of Wu, Lin and Weng, "Probability estimates for multi-class classification by
    pairwise coupling", 2004: p minimises p' Q p. onnxruntime iterates until that is nearly so, and
    what it gives is differentiated, not the limit.
    """
    least = 1e-7
    wins = op.Clip(wins, op.const(least, like=wins), op.const(1 - least, like=wins))
    pairs = _pairs(classes)
    picks = np.zeros((2, len(pairs), classes, classes))
    for k, (i, j) in enumerate(pairs):
        picks[0, k, i, j] = picks[1, k, j, i] = 1
    first, second = (op.const(p.reshape(len(pairs), -1), like=wins) for p in picks)
    r = op.MatMul(wins, first) + op.MatMul(1 - wins, second)
    r = op.Reshape(r, op.const([-1, classes, classes]))
    diagonal = op.Unsqueeze(op.ReduceSum(r * r, op.const([1]), keepdims=0), op.const([2]))
    q = diagonal * np.eye(classes) - r * op.Transpose(r, perm=[0, 2, 1])
    p = shapes.full(wins, [shapes.dim(wins, 0), classes], 1 / classes)

    inner = op.child("coupling")
    number = ir.Value(type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    going = ir.Value(type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    new_input(inner, "step", number), new_input(inner, "going", going)
    before = new_input(inner, "p", p.value)
    better, unfinished = _step(inner, inner.tensor(q.value), before, classes)
    close(inner, [unfinished, better])
    true = op.const(True, dtype=np.bool_)
    return op.node("Loop", [op.const(100), true, p], 1, {"body": inner.graph}, like=[p])[0]


def _step(op: Builder, q: Tensor, p: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """One pass over the classes, and whether any row was not finished before it."""
    now, axis = p, op.const([1])
    qp = op.Squeeze(op.MatMul(q, op.Unsqueeze(p, op.const([2]))), op.const([2]))
    pqp = op.ReduceSum(p * qp, axis)
    active = op.ReduceMax(op.Abs(qp - pqp), axis) >= 0.005 / classes
    for k, row in enumerate(op.Split(q, axis=1, num_outputs=classes, outputs=classes)):
        row = op.Squeeze(row, axis)
        own, at = (op.Slice(t, op.const([k]), op.const([k + 1]), axis) for t in (row, qp))
        change = (pqp - at) / own
        scale = 1 / (1 + change)
        pqp = (pqp + change * (change * own + at * 2)) * scale * scale
        qp = (qp + change * row) * scale
        p = (p + change * np.eye(classes)[k]) * scale
    some = op.ReduceMax(op.Cast(active, to=ir.DataType.INT32), keepdims=0) > 0
    return op.Where(active, p, now), some


def _kernel(
    op: Builder,
    x: Tensor,
    vectors: np.ndarray,
    kind: str,
    params: Sequence[float],
) -> Tensor:
    """The kernel of every row of `x` with every support vector."""
    if len(params) != 3:
        op.refuse(f"kernel_params are gamma, coef0 and degree, not {len(params)} numbers")
    gamma, coef0, degree = params
    if kind == "RBF":
        apart = op.Unsqueeze(x, op.const([1])) - vectors[None]
        return op.Exp(op.ReduceSumSquare(apart, op.const([2]), keepdims=0) * -gamma)
    product = op.MatMul(x, op.const(vectors.T, like=x))
    if kind == "LINEAR":
        return product
    product = product * gamma + coef0
    return op.Tanh(product) if kind == "SIGMOID" else op.Pow(product, op.const(degree, like=x))
