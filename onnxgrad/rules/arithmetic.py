"""Arithmetic of several operands, with broadcasting, which the engine undoes."""

from onnxgrad.registry import elementwise, rule

elementwise("Add", A=lambda: 1, B=lambda: 1)
elementwise("Sub", A=lambda: 1, B=lambda: -1)
elementwise("Mul", A=lambda B: B, B=lambda A: A)
elementwise("Div", A=lambda B: 1 / B, B=lambda B, C: -(C / B))
elementwise("Sum", data_0=lambda: 1)


@rule("Mean", "data_0", broadcast=True)
def _(g, data_0):
    return g / len(data_0)
