"""Adam, Adagrad and Momentum, the standard's optimizers, as the formulas of their documents.

One node updates several tensors: its operands are all tensors X, then their gradients G, then their
states, in the same order. T counts the updates; the factors that depend on it are computed in
double precision, since 1 - beta**T cancels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor

TRAINING = "ai.onnx.preview.training"
Step = Callable[..., tuple[Tensor, ...]]
_REMARK = "the formulas of the standard"


@expansion(f"{TRAINING}::Adam", remark=_REMARK, on_cpu=False)
def _(
    op: Builder,
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Tensor, ...]:
    # At T = 0 there is no correction, and none that is 0 / 0 stands behind the Where.
    t = op.Cast(op.Max(T, op.const(1)), to=ir.DataType.DOUBLE)
    correction = op.Sqrt(1 - _power(op, beta, t)) / (1 - _power(op, alpha, t))

    def step(X: Tensor, G: Tensor, V: Tensor, H: Tensor) -> tuple[Tensor, ...]:
        G = _regularized(X, G, norm_coefficient)
        V = V * alpha + G * (1 - alpha)
        H = H * beta + G * G * (1 - beta)
        r = op.cast(R, X.dtype)
        r = op.Where(T > 0, r * op.cast(correction, X.dtype), r)
        X = X - r * V / (op.Sqrt(H) + epsilon)
        return X * (1 - norm_coefficient_post), V, H

    return _each(op, inputs, 4, step)


@expansion(f"{TRAINING}::Adagrad", remark=_REMARK, on_cpu=False)
def _(
    op: Builder,
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> tuple[Tensor, ...]:
    decay = 1 + op.Cast(T, to=ir.DataType.DOUBLE) * decay_factor

    def step(X: Tensor, G: Tensor, H: Tensor) -> tuple[Tensor, ...]:
        r = op.cast(R, X.dtype) / op.cast(decay, X.dtype)
        G = _regularized(X, G, norm_coefficient)
        H = H + G * G
        return X - r * G / (op.Sqrt(H) + epsilon), H

    return _each(op, inputs, 3, step)


@expansion(f"{TRAINING}::Momentum", remark=_REMARK, on_cpu=False)
def _(
    op: Builder,
    R: Tensor,
    T: Tensor,
    *inputs: Tensor,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[Tensor, ...]:
    if mode not in ("standard", "nesterov"):
        op.refuse(f"its mode is {mode!r}, neither 'standard' nor 'nesterov'")

    def step(X: Tensor, G: Tensor, V: Tensor) -> tuple[Tensor, ...]:
        r = op.cast(R, X.dtype)
        G = _regularized(X, G, norm_coefficient)
        V = V * alpha + G * op.Where(T > 0, op.const(beta, like=X), op.const(1, like=X))
        return X - r * (G + V * alpha if mode == "nesterov" else V), V

    return _each(op, inputs, 3, step)


def _each(op: Builder, inputs: tuple[Tensor, ...], kinds: int, step: Step) -> tuple[Tensor, ...]:
    """One step for each tensor; the results in the order of the operands, kind by kind."""
    if not inputs or len(inputs) % kinds or None in inputs:
        op.refuse(f"it needs {kinds} operands for each tensor after R and T, not {len(inputs)}")
    count = len(inputs) // kinds
    steps = [step(*inputs[k::count]) for k in range(count)]
    return tuple(t for kind in zip(*steps, strict=True) for t in kind)


def _regularized(X: Tensor, G: Tensor, norm_coefficient: float) -> Tensor:
    """The gradient, with that of 0.5 * norm_coefficient * |X|^2."""
    return X * norm_coefficient + G if norm_coefficient else G


def _power(op: Builder, base: float, t: Tensor) -> Tensor:
    return op.Pow(op.const(base, dtype=np.float64), t)
