"""Fourier transforms, against the reference evaluator where onnxruntime lacks a variant."""

import numpy as np

from tests.samples import Sample, normal


def number(value: int) -> np.ndarray:
    return np.array(value, np.int64)


SAMPLES = [
    Sample("DFT", [normal(2, 5, 1)]),
    Sample("DFT", [normal(2, 5, 2)]),
    Sample("DFT", [normal(2, 5, 2)], {"inverse": 1}),
    Sample("DFT", [normal(2, 4, 1)], {"onesided": 1}),
    Sample("DFT", [normal(2, 5, 1)], {"onesided": 1}),
    Sample("DFT", [normal(2, 4, 1), number(6)], {"onesided": 1}),
    Sample("DFT", [normal(2, 6, 2), number(4)]),
    Sample("DFT", [normal(2, 4, 2), number(7)], {"inverse": 1}),
    Sample("DFT", [normal(3, 2, 4, 2), None, number(0)]),
    Sample("DFT", [normal(3, 2, 4, 1), number(5), number(-3)], {"onesided": 1}),
    # onnxruntime 1.32 gives other numbers than the standard and numpy, unless an even length fits
    # the half spectrum; the axis has to be a constant there.
    *(
        Sample("DFT", [normal(2, 3, 2), *length], {"inverse": 1, "onesided": 1}, reference=True)
        for length in ([], [number(5)], [number(4)], [number(8)], [number(5), number(-2)])
    ),
    # onnx's shape inference takes onesided for 0 where it is left out.
    Sample("STFT", [normal(2, 10, 1), number(3), normal(4)], {"onesided": 1}),
    Sample("STFT", [normal(1, 9, 1), number(2), normal(5), number(5)], {"onesided": 1}),
    Sample("STFT", [normal(2, 10, 1), number(3), None, number(4)], {"onesided": 1}),
    Sample("STFT", [normal(2, 10, 2), number(3), normal(4)], {"onesided": 0}),
    Sample("STFT", [normal(2, 10), number(3), normal(4)], {"onesided": 1}),
]
