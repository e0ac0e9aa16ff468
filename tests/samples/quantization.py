"""Quantization, in float32: the standard has it in no wider type."""

import numpy as np

from tests.samples import Sample, distinct, ints, uniform


def bytes_(*shape: int) -> np.ndarray:
    return uniform(-128, 127, *shape).astype(np.int8)


def _dequantize(x, scale, zero_point=None, **attributes) -> Sample:
    # The rule reads the rank of the scale, and whether it is a single number, from its shape.
    return Sample(
        "DequantizeLinear", [x, scale, zero_point], attributes, single=True, tolerance=1e-3
    )


SAMPLES = [
    _dequantize(bytes_(3, 4), uniform(0.1, 1)),
    _dequantize(bytes_(3, 4), uniform(0.1, 1), np.array(3, np.int8)),
    _dequantize(bytes_(5), uniform(0.1, 1, 1), bytes_(1), axis=0),
    _dequantize(bytes_(3, 4), uniform(0.1, 1, 4), bytes_(4)),
    _dequantize(bytes_(3, 4, 2), uniform(0.1, 1, 3), axis=0),
    _dequantize(bytes_(3, 4, 2), uniform(0.1, 1, 4), bytes_(4), axis=-2),
    _dequantize(bytes_(3, 1, 2), uniform(0.1, 1, 1), axis=1),
    _dequantize(bytes_(3, 4), uniform(0.1, 1, 3, 2), bytes_(3, 2), axis=1, block_size=2),
    _dequantize(bytes_(5, 3), uniform(0.1, 1, 3, 3), axis=0, block_size=2),
    _dequantize(bytes_(2, 7, 3), uniform(0.1, 1, 2, 3, 3), bytes_(2, 3, 3), axis=-2, block_size=3),
    _dequantize(ints(-70000, 3, 900).astype(np.int32), uniform(0.1, 1)),
    Sample("DynamicQuantizeLinear", [distinct(3, 4)], outputs=3, single=True, tolerance=1e-3),
    *(  # of one sign, and no two near each other: at a tie of extremes is a kink
        Sample("DynamicQuantizeLinear", [x], outputs=3, single=True, tolerance=1e-3)
        for x in (np.array([1.2, 1.9, 1.5, 1.3, 1.7]), np.array([-1.2, -1.9, -1.5, -1.3, -1.7]))
    ),
]
