"""Functions of one variable, element by element: dy/dx in terms of x and y.

At a kink the derivative is PyTorch's; each such choice stands beside its rule.
"""

import math

import onnx_ir as ir

from onnxgrad.declare.registry import elementwise, rule
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.facts import FLOATS
from onnxgrad.graph.schemas import schema_of

elementwise("Neg", lambda: -1)
elementwise("Abs", lambda op, X: op.Sign(X))  # 0 at 0
elementwise("Reciprocal", lambda op, Y: -_square(op, Y))


@elementwise("Sqrt")
def _(op, X, Y):
    """1 / 2√x; finite at 0 where x is a sum of squares, all of which have the derivative 0 there.

    So the length of a vector has the gradient 0 at the vector 0, as ReduceL2 has.
    """
    if not _is_sum_of_squares(op, X.value):
        return 0.5 / Y
    return op.bounded(0.5 / op.Where(Y.equals(0), op.const(1, like=Y), Y))


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


# Operators that keep a sum of squares such a sum.
_SUMS = {
    "Add", "Cast", "Concat", "Expand", "Identity", "Mean", "ReduceMean", "ReduceSum", "Reshape",
    "Slice", "Squeeze", "Sum", "Transpose", "Unsqueeze",
}  # fmt: skip


def _is_sum_of_squares(op: Builder, value: ir.Value) -> bool:
    """Whether a forward value sums squares alone, none of which is differentiated itself."""
    rest = [value]
    while rest:
        v = rest.pop()
        node = v.producer()
        if node is None or node.domain or v in op.kept or not op.holds(op.tensor(v)):
            return False
        operands = [u for u in node.inputs if u is not None and u.dtype in FLOATS]
        if node.op_type in _SUMS:
            rest += operands
        elif node.op_type == "Pow":
            exponent = constant_of(node.inputs[1])  # type: ignore[arg-type]
            if exponent is None or exponent.size == 0 or (exponent != 2).any():
                return False
        elif not (node.op_type == "Mul" and operands[0] is operands[1]):
            return False
    return True


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
