"""Arithmetic of several operands, with broadcasting, which the engine undoes.

At a kink the derivative is PyTorch's; each such choice stands beside its rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxgrad.declare.registry import elementwise, rule
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import share_of
from onnxgrad.emit.tensor import Tensor

elementwise("Add", A=lambda: 1, B=lambda: 1)
elementwise("Sub", A=lambda: 1, B=lambda: -1)
elementwise("Mul", A=lambda B: B, B=lambda A: A)
elementwise("Div", A=lambda B: 1 / B, B=lambda B, C: -(C / B))
elementwise("Sum", data_0=lambda: 1)


@rule("Mean", "data_0", broadcast=True)
def _(g, data_0):
    return g / len(data_0)


# What was not selected may be infinite downstream: an exact select, never a product with 0.
@rule("Where", "X", broadcast=True)
def _(op, g, condition):
    return op.Where(condition, g, op.const(0, like=g))


@rule("Where", "Y", broadcast=True)
def _(op, g, condition):
    return op.Where(condition, op.const(0, like=g), g)


def share(g: Tensor, operands: Sequence[Tensor], best: Tensor, i: int) -> Tensor:
    """The part of `g` for the i-th of several operands: those that equal `best` share it evenly."""
    op, wins = g.op, [x.equals(best) for x in operands]
    ties = op.sum([op.Cast(w, to=g.dtype) for w in wins])
    return op.mask(g * share_of(ties, operands), wins[i])


# Operands that tie share evenly, as in torch.maximum; so they do where there are more than two.
@rule("Max", "data_0", broadcast=True)
def _(g, data_0, max, i):
    return g if len(data_0) == 1 else share(g, data_0, max, i)


@rule("Min", "data_0", broadcast=True)
def _(g, data_0, min, i):
    return g if len(data_0) == 1 else share(g, data_0, min, i)


@rule("Pow", "X", broadcast=True)
def _(op, g, X, Y, Z):
    c = Y.const
    if c is not None and c.size and (c == c.flat[0]).all():
        return op.scale(g, _power_derivative(op, X, Z, float(c.flat[0])))
    x, y = op.promoted(X), op.promoted(op.cast(Y, X.dtype))
    # 0 for the exponent 0, also at X = 0, where the formula has 0 * inf.
    both_zero = X.equals(0) & y.equals(0)
    return op.scale(g, y * op.Pow(x, op.Where(both_zero, op.const(0, like=y), y - 1)))


def _power_derivative(op: Builder, X: Tensor, Z: Tensor, c: float) -> Tensor | float:
    """c X^(c - 1) in the shortest form, in at least float32 where half precision has no room."""
    if c == 0:
        return op.const(0, like=X)
    if c == 1:
        return 1
    if c == 2:
        return X * 2
    if c == 0.5:
        return 0.5 / Z
    X, Z = op.promoted(X), op.promoted(Z)
    if c == 3:
        return X * X * 3
    if c == -1:
        return -(Z * Z)
    return op.Pow(X, op.const(c - 1, like=X)) * c


@rule("Pow", "Y", broadcast=True)
def _(op, g, X, Y, Z):
    if X.const is not None and (X.const > 0).all():
        log = op.const(np.log(X.const.astype(np.float64)), like=X)
    else:
        # 0 at X = 0, where the formula has 0 * -inf; for X < 0 there is no derivative: NaN.
        log = op.Log(op.Where(X.equals(0), op.const(1, like=X), X))
    return op.cast(g * (Z * log), Y.dtype)


# C = A - B n with n the quotient as a whole number, rounded down or, with fmod, towards 0; it is
# found from C, so that rounding cannot give another. (Round has no bfloat16 before opset 22.)
elementwise("Mod", A=lambda: 1, B=lambda op, A, B, C: -op.Floor((A - C) / B + 0.5))
