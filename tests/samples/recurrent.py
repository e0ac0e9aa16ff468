"""RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.samples import Array, Sample

_T, _N, _I, _H = 3, 2, 3, 2
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent(
    op: str,
    lens: list[int] | None = None,
    *,
    bias: bool = True,
    start: bool = True,
    peepholes: bool = False,
    steps: int = _T,
    outputs: int | None = None,
    of: Sequence[int] | None = None,
    seed: int = 0,
    **attributes: Any,
) -> Sample:
    """One node, with every optional operand or with fewer.

    The seed is such that no argument of an activation lies near a kink.
    """
    normal = np.random.default_rng(seed).standard_normal
    D, G = 2 if attributes.get("direction") == "bidirectional" else 1, _GATES[op]
    layout = attributes.get("layout", 0)
    X: Array = normal((_N, steps, _I) if layout else (steps, _N, _I))
    shape = (_N, D, _H) if layout else (D, _N, _H)
    inputs = [
        X,
        normal((D, G * _H, _I)),
        normal((D, G * _H, _H)),
        normal((D, 2 * G * _H)) if bias else None,
        None if lens is None else np.array(lens, np.int32),
        normal(shape) if start else None,
    ]
    if op == "LSTM":
        inputs += [normal(shape) if start else None, normal((D, 3 * _H)) if peepholes else None]
    while inputs[-1] is None:
        inputs.pop()
    return Sample(
        op,
        inputs,
        {"hidden_size": _H, **attributes},
        outputs=outputs or (3 if op == "LSTM" else 2),
        note=f"{',peepholes' * peepholes},lens={lens},of={of}",
        of=of,
        symbolic=of is None and "activations" not in attributes,
        reference=True,  # onnxruntime has float32 alone
    )


# Each function that a runtime may offer, with arguments; smooth at the samples' numbers.
_PLAIN = ["Relu", "Sigmoid", "Softsign", "Softplus"]
_ONE = {"LeakyRelu": 0.3, "ThresholdedRelu": 0.2, "Elu": 0.7}
_TWO = {"Affine": (0.5, 0.1), "ScaledTanh": (0.8, 1.3), "HardSigmoid": (0.3, 0.4)}

SAMPLES = [
    *(recurrent(op) for op in _GATES),
    *(recurrent(op, [3, 2], direction="bidirectional") for op in _GATES),
    *(recurrent(op, [2, 0], direction="reverse", start=False, bias=False) for op in _GATES),
    *(recurrent(op, bias=False, start=False, outputs=1) for op in _GATES),
    *(recurrent(op, steps=1, direction="reverse") for op in _GATES),
    *(recurrent(op, clip=0.5, seed=2) for op in _GATES),
    *(recurrent(op, layout=1, direction="bidirectional") for op in _GATES),
    recurrent("GRU", linear_before_reset=1),
    recurrent("GRU", [1, 3], linear_before_reset=1, direction="bidirectional", clip=0.7),
    recurrent("GRU", linear_before_reset=1, bias=False, start=False),
    recurrent("LSTM", peepholes=True),
    recurrent("LSTM", [2, 3], peepholes=True, direction="bidirectional", clip=0.7),
    recurrent("LSTM", input_forget=1),
    recurrent("LSTM", [1, 3], input_forget=1, peepholes=True, direction="reverse"),
    # Which of the outputs are used.
    *(recurrent(op, of=[k]) for op in ("GRU", "LSTM") for k in (0, 1)),
    *(recurrent("LSTM", lens, of=of) for lens in (None, [2, 3]) for of in ([2], [1, 2])),
    # Activations.
    *(recurrent("RNN", activations=[name]) for name in _PLAIN),
    *(recurrent("RNN", activations=[n], activation_alpha=[a]) for n, a in _ONE.items()),
    *(
        recurrent("RNN", activations=[n], activation_alpha=[a], activation_beta=[b])
        for n, (a, b) in _TWO.items()
    ),
    recurrent(
        "RNN",
        direction="bidirectional",
        activations=["ScaledTanh", "Affine"],
        activation_alpha=[0.5, 0.6],
        activation_beta=[0.7, 0.2],
    ),
    recurrent("GRU", activations=["HardSigmoid", "Softsign"]),
    recurrent(
        "GRU",
        direction="bidirectional",
        activations=["Sigmoid", "LeakyRelu", "HardSigmoid", "Elu"],
        activation_alpha=[0.2, 0.3, 0.4],
        activation_beta=[0.6],
        linear_before_reset=1,
    ),
    recurrent("LSTM", activations=["HardSigmoid", "Tanh", "Relu"]),
    recurrent(
        "LSTM",
        direction="bidirectional",
        activations=["Sigmoid", "ScaledTanh", "Softsign", "HardSigmoid", "Tanh", "Affine"],
        activation_alpha=[0.9, 0.3, 0.5],
        activation_beta=[1.1, 0.4, 0.2],
        peepholes=True,
    ),
]
