"""Activation functions.

At a kink the derivative is PyTorch's; each such choice stands beside its rule.
"""

import onnx_ir as ir

from onnxgrad import shapes
from onnxgrad.registry import elementwise, rule

elementwise("Relu", lambda op, Y: op.Cast(Y, to=ir.DataType.BOOL))  # 0 at 0
elementwise("Sigmoid", lambda Y: Y * (1 - Y))


@rule("Softmax", "input")
def _(g, output, axis):
    m = g * output
    return m - output * shapes.reduce_sum(m, [axis], keepdims=1)


@rule("LogSoftmax", "input")
def _(op, g, output, axis):
    return g - op.Exp(output) * shapes.reduce_sum(g, [axis], keepdims=1)
