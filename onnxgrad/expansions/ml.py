"""Operators of ai.onnx.ml that have a derivative, in the standard's own; zero.py has the others.

Whatever the dtype of the operand, what they give is float32, onnxruntime's way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor

FLOAT = ir.DataType.FLOAT


@expansion("ai.onnx.ml::Scaler")
def _(op, X, *, offset=(), scale=()):
    x = op.cast(X, FLOAT)
    if offset:
        x = x - np.array(offset)
    return x * np.array(scale) if scale else x


@expansion("ai.onnx.ml::Imputer")
def _(
    op, X, *, imputed_value_floats=(), imputed_value_int64s=(), replaced_value_float=0.0,
    replaced_value_int64=0,
):  # fmt: skip
    if X.dtype.is_integer():
        values, missing = imputed_value_int64s, X.equals(replaced_value_int64)
    else:
        values = imputed_value_floats
        gone = np.isnan(replaced_value_float)
        missing = op.IsNaN(X) if gone else X.equals(replaced_value_float)
    return op.Where(missing, op.const(np.array(values), like=X), X)


@expansion("ai.onnx.ml::ArrayFeatureExtractor")
def _(op, X, Y):
    if X.rank == 1:
        X = op.Unsqueeze(X, op.const([0]))
    return op.Gather(X, shapes.reshape(Y, [-1]), axis=-1)


@expansion("ai.onnx.ml::FeatureVectorizer")
def _(op, *X, inputdimensions=()):
    parts = []
    for x, size in zip(X, inputdimensions, strict=True):
        if x.rank != 2:
            op.refuse("an operand is no matrix: reshape it to one row for each example")
        x = op.cast(x, FLOAT)
        if shapes.dim(x, 1) != size:  # as many columns as declared: cut, or filled with zeros
            x = op.Pad(x, op.const([0, size]), op.const(0, like=x), op.const([1]))
            x = op.Slice(x, op.const([0]), op.const([size]), op.const([1]))
        parts.append(x)
    return op.Concat(*parts, axis=1)


@expansion("ai.onnx.ml::Normalizer")
def _(op, X, *, norm="MAX"):
    x = op.cast(X, FLOAT)
    axis = op.const([-1])
    if norm == "L2":
        length = op.ReduceL2(x, axis)
    else:
        length = op.ReduceL1(x, axis) if norm == "L1" else op.ReduceMax(x, axis)
    return x / op.Where(length.equals(0), op.const(1, like=x), length)


@expansion("ai.onnx.ml::LinearRegressor")
def _(op, X, *, coefficients=(), intercepts=(), targets=1, post_transform="NONE"):
    return transformed(op, linear(op, X, coefficients, intercepts, targets), post_transform)


@expansion("ai.onnx.ml::LinearClassifier")
def _(
    op, X, *, coefficients=(), intercepts=(), classlabels_ints=(), classlabels_strings=(),
    multi_class=0, post_transform="NONE",
):  # fmt: skip
    """The scores; the labels are left to the operator."""
    scores = linear(op, X, coefficients, intercepts, len(intercepts))
    labels = len(classlabels_ints) or len(classlabels_strings)
    if len(intercepts) == 1 and labels == 2:
        if post_transform == "SOFTMAX":
            op.refuse("the softmax of a single score")
        second = transformed(op, scores, post_transform)
        return None, op.Concat(1 - second, second, axis=1)
    return None, transformed(op, scores, post_transform)


def rows_of(op: Builder, X: Tensor) -> Tensor:
    """One row for each example, in float32."""
    if X.rank != 2:
        op.refuse("its operand is no matrix: reshape it to one row for each example")
    return op.cast(X, FLOAT)


def linear(
    op: Builder, X: Tensor, coefficients: Sequence[float], intercepts: Sequence[float], rows: int
) -> Tensor:
    x = rows_of(op, X)
    y = op.MatMul(x, op.const(np.array(coefficients).reshape(rows, -1).T, like=x))
    return y + np.array(intercepts) if intercepts else y


def transformed(op: Builder, scores: Tensor, post_transform: str) -> Tensor:
    if post_transform == "NONE":
        return scores
    if post_transform == "LOGISTIC":
        return op.Sigmoid(scores)
    if post_transform == "SOFTMAX":
        return op.Softmax(scores, axis=-1)
    return op.refuse(f"post_transform {post_transform} has no rule yet")
