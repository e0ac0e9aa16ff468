"""Activation functions.

At a kink the derivative is PyTorch's; each such choice stands beside its rule.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxgrad.declare.registry import elementwise, rule
from onnxgrad.emit import shapes, steps
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor

# Derivatives with a name are also those of the activations of RNN, GRU and LSTM.
relu = elementwise("Relu", lambda op, Y: op.Cast(Y, to=ir.DataType.BOOL))  # 0 at 0
thresholded_relu = elementwise("ThresholdedRelu", lambda X, alpha: alpha < X)  # 0 at alpha
elementwise("Shrink", lambda op, input, lambd: op.Abs(input) > lambd)  # 0 at both bounds

sigmoid = elementwise("Sigmoid", lambda Y: Y * steps.line(Y, -1, 1))
softplus = elementwise("Softplus", lambda op, X: op.Sigmoid(X))
elu = elementwise("Elu", lambda op, X, Y, alpha: _elu(op, X, Y, 1, alpha))
elementwise("Selu", lambda op, X, Y, gamma, alpha: _elu(op, X, Y, gamma, gamma * alpha))
elementwise("Celu", lambda op, X, Y, alpha: _elu(op, X, Y / alpha, 1, 1))


def _elu(op: Builder, X: Tensor, Y: Tensor, right: float, left: float) -> Tensor:
    """`right` for X > 0, else Y + `left`, which is what it takes at 0."""
    return op.mask(Y + (left - right), X <= 0) + right


@elementwise("LeakyRelu")  # alpha at 0
def leaky_relu(op, X, Y, alpha):
    """From Y where it tells the sign of X: a runtime may have fused the operator with another."""
    positive = (Y if alpha > 0 else X) > 0
    return steps.line(steps.ones(positive, like=X), 1 - alpha, alpha) if alpha else positive


@elementwise("Softsign")
def _(op, input):
    r = op.bounded(1 / (1 + op.Abs(input)))
    return r * r


def softsign_of_output(op: Builder, y: Tensor) -> Tensor:
    """The derivative of Softsign where only its output is at hand; less exact for large inputs."""
    r = 1 - op.Abs(y)
    return r * r


@elementwise("Mish")
def _(op, X):
    t = op.Tanh(op.Softplus(X))
    return t + X * op.Sigmoid(X) * (1 - t * t)


@elementwise("Gelu")
def _(op, X, approximate):
    if approximate == "tanh":
        # Constant beyond 10 to the last bit, and there X * X could become infinite in float16.
        X = op.Clip(X, op.const(-10, like=X), op.const(10, like=X))
        c, d = math.sqrt(2 / math.pi), 0.044715
        xx = X * X
        t = op.Tanh(X * (xx * (c * d) + c))
        return (t + 1) * 0.5 + X * (1 - t * t) * (xx * (1.5 * c * d) + 0.5 * c)
    cdf = (op.Erf(X * math.sqrt(0.5)) + 1) * 0.5
    return cdf + X * op.Exp(X * X * -0.5) * (1 / math.sqrt(2 * math.pi))


@rule("HardSigmoid", "X")
def _(op, g, X, Y, alpha, beta):
    if steps.is_steep(alpha):
        return None
    if all(0 <= alpha * end + beta <= 1 for end in op.numbers.bounds.of(X.value)):
        return g * alpha
    return op.mask(g, between_bounds(Y)) * alpha


def between_bounds(Y: Tensor) -> Tensor:
    """Where a HardSigmoid has the derivative alpha; at both bounds it is 0."""
    return (Y > 0) & (Y < 1)


@rule("HardSwish", "X")  # 0 at -3, 1 at 3
def _(op, node, g, X, Y):
    """Where steps are one pass, 2 y - 1 plus halves for the bounds above X; y X is Y then, too."""
    y = op.HardSigmoid(X, alpha=1 / 6, beta=0.5)
    if X.dtype not in op.target.steep_masks:
        return g * (y + op.mask(y - 0.5, (X > -3) & (X < 3)))
    if op.holds(Y):
        op.replace(node, [X * y])
    above = op.sum([steps.ones(X <= -3, like=X), steps.ones(X < 3, like=X)])
    return g * (y + steps.line(above, 0.25, -0.5)) * 2


def _swish(op: Builder, x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """x sigmoid(alpha x) and its derivative."""
    s = op.Sigmoid(x * alpha)
    y = x * s
    return y, s + y * steps.line(s, -1, 1) * alpha


elementwise("Swish", lambda op, X, alpha: _swish(op, X, alpha)[1])
elementwise(
    "SwiGLU",
    A=lambda op, A, B, alpha: B * _swish(op, A, alpha)[1],
    B=lambda op, A, alpha: _swish(op, A, alpha)[0],
)


# At X = 0 the derivative is the slope, and the slope's is 0.
@rule("PRelu", "X")
def _(op, node, g, X, slope, Y):
    """The product of X with its derivative is Y: faster than the operator, whose place it takes."""
    derivative = steps.line(steps.ones(X > 0, like=X), 1 - slope, slope)
    if op.holds(Y) and X.dtype in op.target.steep_masks:
        op.replace(node, [X * derivative])
    return op.scale(g, derivative)


@rule("PRelu", "slope", broadcast=True)
def _(op, g, X):
    return op.mask(g * X, X < 0)


# As in torch.clamp, the input passes at both bounds, and a bound has the gradient of the elements
# clipped to it; where min > max, which clips all to max, that is all for max and none for min.
# A Clip from 0 to 6 is what a relu6 was: it passes at neither, and the mask needs the output alone,
# so that the runtime can still fuse the Clip with the Conv in front of it.
def _clip_passes(op, input, output, min, max):
    if min is None:
        return 1 if max is None else input <= max
    if max is not None and _is(min.const, 0) and _is(max.const, 6):
        return op.Cast(output, to=ir.DataType.BOOL) & (output < max)
    if max is not None and _ordered(min.const, max.const):
        return input.equals(output)  # one comparison in place of two
    above = input >= min
    return above if max is None else above & (input <= max)


elementwise("Clip", _clip_passes)


def _is(bound: np.ndarray | None, number: float) -> bool:
    return bound is not None and bool(bound == number)


def _ordered(low: np.ndarray | None, high: np.ndarray | None) -> bool:
    return low is not None and high is not None and bool(low < high)


@rule("Clip", "min", broadcast=True)
def _(op, g, input, min, max):
    below = input < min
    return op.mask(g, below if max is None else below & (min < max))


@rule("Clip", "max", broadcast=True)
def _(op, g, input, min, max):
    above = input > max
    return op.mask(g, above if min is None else above | (max < min))


@rule("Softmax", "input")
def _(op, g, output, axis):
    if op.picked(g):  # of a row that is masked as a whole the output is NaN, and may be discarded
        output = op.Where(op.IsNaN(output), op.const(0, like=output), output)
    m = g * output
    return m - output * shapes.reduce_sum(m, [axis], keepdims=1)


@rule("LogSoftmax", "input")
def _(op, g, output, axis):
    return g - op.Exp(output) * shapes.reduce_sum(g, [axis], keepdims=1)
