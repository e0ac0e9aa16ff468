import onnx

from tests.samples import Sample, distinct, normal, uniform

_ANY = ["Identity", "Neg", "Exp", "Erf", "Sin", "Cos", "Atan", "Sinh", "Cosh", "Tanh", "Asinh"]

SAMPLES = [
    *(Sample(op, [normal(2, 3)]) for op in _ANY),
    Sample("Abs", [distinct(2, 3)]),
    *(Sample(op, [uniform(0.5, 2, 2, 3)]) for op in ("Reciprocal", "Sqrt", "Log")),
    *(Sample(op, [uniform(-0.9, 0.9, 2, 3)]) for op in ("Tan", "Asin", "Acos", "Atanh")),
    Sample("Acosh", [uniform(1.2, 3, 2, 3)]),
    Sample("Exp", [normal()], note="scalar"),
    Sample("BitCast", [normal(2, 3)], {"to": onnx.TensorProto.DOUBLE}, opset=26, reference=True),
]
