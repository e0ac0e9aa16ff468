"""Functions of one variable, element by element: dy/dx in terms of x and y.

At a kink the derivative is PyTorch's; each such choice stands beside its rule.
"""

import math

from onnxgrad.declare.registry import elementwise, rule
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.schemas import schema_of

elementwise("Neg", lambda: -1)
elementwise("Abs", lambda op, X: op.Sign(X))  # 0 at 0
elementwise("Reciprocal", lambda op, Y: -_square(op, Y))
elementwise("Sqrt", lambda Y: 0.5 / Y)
elementwise("Exp", lambda output: output)
elementwise("Log", lambda input: 1 / input)
elementwise("Erf", lambda op, input: op.Exp(-(input * input)) * (2 / math.sqrt(math.pi)))

elementwise("Sin", lambda op, input: op.Cos(input))
elementwise("Cos", lambda op, input: -op.Sin(input))
elementwise("Tan", lambda output: 1 + output * output)
elementwise("Asin", lambda op, input: 1 / op.Sqrt(1 - input * input))
elementwise("Acos", lambda op, input: -1 / op.Sqrt(1 - input * input))
elementwise("Atan", lambda op, input: 1 / (1 + _square(op, input)))
elementwise("Sinh", lambda op, input: op.Cosh(input))
elementwise("Cosh", lambda op, input: op.Sinh(input))
tanh = elementwise("Tanh", lambda output: 1 - output * output)
elementwise("Asinh", lambda op, input: 1 / op.Sqrt(1 + _square(op, input)))
elementwise("Acosh", lambda op, input: 1 / (op.Sqrt(input - 1) * op.Sqrt(input + 1)))
elementwise("Atanh", lambda input: 1 / (1 - input * input))


def _square(op: Builder, x: Tensor) -> Tensor:
    """x², with room for it."""
    x = op.promoted(x)
    return x * x


@rule("Identity", "input")  # of tensors and of sequences
def _(g):
    return g


@rule("Cast", "input")
@rule("CastLike", "input")
def _(op, g, input):
    return op.cast(g, input.dtype)


if schema_of("", "BitCast"):  # from opset 26

    @rule("BitCast", "input")
    def _(op, g, input, output):
        if input.dtype != output.dtype:
            op.refuse("it reads the bits of one floating-point type as another: use Cast")
        return g
