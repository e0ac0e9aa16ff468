import numpy as np

from tests.samples import Sample, distinct, normal, uniform

# From one saturated end to the other, and never on a kink.
_WIDE = np.array([[-40.0, -3.1, -2.2, -0.7], [0.2, 1.3, 3.4, 40.0]])
_SMOOTH = ["Sigmoid", "Softplus", "Softsign", "Mish", "Elu", "Selu", "HardSigmoid", "HardSwish"]

SAMPLES = [
    Sample("Relu", [distinct(2, 3)]),
    Sample("Relu", [distinct()], note="scalar"),
    *(Sample(op, [_WIDE]) for op in _SMOOTH),
    Sample("LeakyRelu", [distinct(2, 3)]),
    *(Sample("LeakyRelu", [distinct(2, 3)], {"alpha": alpha}) for alpha in (0.3, -0.3, 0.0)),
    *(Sample("Elu", [distinct(2, 3)], {"alpha": alpha}) for alpha in (0.5, 2.0)),
    Sample("Selu", [distinct(2, 3)], {"alpha": 0.5, "gamma": 2.0}),
    # Before opset 28 Celu is of float32 only.
    Sample("Celu", [_WIDE], opset=28),
    *(Sample("Celu", [distinct(2, 3)], {"alpha": alpha}, opset=28) for alpha in (0.5, 2.0)),
    *(Sample("Gelu", [_WIDE], {"approximate": how}) for how in ("none", "tanh")),
    Sample("HardSigmoid", [distinct(2, 3)], {"alpha": 0.4, "beta": 0.3}),
    Sample("Swish", [_WIDE], opset=24),
    Sample("Swish", [normal(2, 3)], {"alpha": 1.7}, opset=24),
    Sample("SwiGLU", [_WIDE, normal(2, 4)], opset=28),
    Sample("SwiGLU", [normal(3), normal(3)], {"alpha": 1.7}, opset=28),
    Sample("ThresholdedRelu", [_WIDE]),
    Sample("ThresholdedRelu", [distinct(2, 3)], {"alpha": -0.5}),
    # onnxruntime's Shrink of float64 rounds to float32.
    Sample("Shrink", [_WIDE], reference=True),
    Sample("Shrink", [_WIDE], {"lambd": 1.0, "bias": 0.5}, reference=True),
    Sample("Shrink", [distinct(2, 3)], {"lambd": -0.5, "bias": 0.3}, reference=True),
    *(
        Sample("PRelu", [distinct(2, 3, 4), normal(*slope)])
        for slope in [(2, 3, 4), (3, 1), (1,), (1, 1, 4), ()]
    ),
    Sample("PRelu", [distinct(5), normal(1)]),
    Sample("Clip", [_WIDE]),
    Sample("Clip", [_WIDE, np.array(-1.5)]),
    Sample("Clip", [_WIDE, None, np.array(1.5)]),
    Sample("Clip", [_WIDE, np.array(-1.5), np.array(1.5)]),
    Sample("Clip", [_WIDE, np.array(1.5), np.array(-1.0)], note="crossed"),
    *(
        Sample(op, [normal(*shape)], {"axis": axis})
        for op in ("Softmax", "LogSoftmax")
        for shape, axis in [((2, 3), -1), ((2, 3, 4), 1), ((4,), 0), ((3, 1), 1), ((0, 3), 1)]
    ),
    Sample("Softmax", [normal(2, 3) + 1000], note="large"),
    Sample("LogSoftmax", [uniform(-1000, 1000, 2, 3)], note="large"),
]
