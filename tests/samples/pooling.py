import numpy as np

from tests.samples import Array, Sample, distinct, ints, normal


def _max(x: tuple[int, ...], **attributes: object) -> Sample:
    return Sample("MaxPool", [distinct(*x)], attributes)


_HALVES = {"kernel_shape": [2], "strides": [2]}

SAMPLES = [
    # 1-D to 3-D; strides with and without a remainder
    _max((2, 3, 7), kernel_shape=[3]),
    _max((2, 2, 6, 5), kernel_shape=[2, 3], strides=[2, 2]),
    _max((1, 2, 4, 4, 5), kernel_shape=[2, 2, 3], strides=[2, 1, 2]),
    _max((2, 2, 5, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    _max((1, 2, 5, 6), kernel_shape=[3, 2], pads=[1, 0, 0, 1]),
    _max((1, 2, 7, 8), kernel_shape=[2, 3], dilations=[3, 2], strides=[1, 2]),
    *(_max((1, 2, 6, 8), kernel_shape=[3, 2], strides=[2, 3], ceil_mode=c) for c in (0, 1)),
    # A window that would start beyond the input is dropped: along the first, along both axes.
    _max((1, 2, 6, 7), kernel_shape=[2, 3], strides=[3, 2], ceil_mode=1),
    _max((1, 2, 5, 5), kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    *(
        _max((1, 2, 6, 7), kernel_shape=[3, 2], strides=[2, 3], auto_pad=pad)
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    _max((1, 2, 5, 6), kernel_shape=[2, 2], storage_order=1),
]


def _average(x: tuple[int, ...], **attributes: object) -> Sample:
    return Sample("AveragePool", [normal(*x)], attributes)


SAMPLES += [
    _average((2, 3, 7), kernel_shape=[3]),
    _average((2, 2, 6, 5), kernel_shape=[2, 3], strides=[2, 2]),
    _average((2, 2, 4, 6), kernel_shape=[2, 3], strides=[2, 3]),
    _average((1, 2, 4, 4, 5), kernel_shape=[2, 2, 3], strides=[2, 1, 2]),
    *(
        _average((1, 2, 6, 7), kernel_shape=[3, 3], count_include_pad=count, **more)
        for count in (0, 1)
        for more in (
            {"pads": [1, 1, 1, 1]},
            {"pads": [1, 0, 0, 2], "strides": [2, 3]},
            {"ceil_mode": 1, "strides": [2, 2]},
            {"ceil_mode": 1, "strides": [2, 3], "pads": [1, 0, 0, 1]},
            {"ceil_mode": 1, "strides": [3, 2], "pads": [1, 1, 1, 1]},
            {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
            {"auto_pad": "SAME_LOWER", "strides": [3, 1]},
            {"auto_pad": "VALID"},
            {"dilations": [2, 2], "pads": [1, 1, 0, 0]},
        )
    ),
    *(
        Sample("LpPool", [distinct(1, 2, 6, 5)], {"kernel_shape": [3, 2], **more})
        for more in (
            {},
            {"p": 1, "pads": [1, 0, 1, 1]},
            {"p": 3, "strides": [2, 2], "dilations": [1, 2]},
            {"p": 4, "auto_pad": "SAME_LOWER", "strides": [2, 2]},
            {"ceil_mode": 1, "strides": [2, 2]},
        )
    ),
    *(Sample("GlobalAveragePool", [normal(*x)]) for x in ((2, 3, 4), (1, 2, 2, 3, 2))),
    *(Sample("GlobalMaxPool", [distinct(*x)]) for x in ((2, 3, 4), (1, 2, 3, 4))),
    *(Sample("GlobalLpPool", [distinct(2, 2, 3, 2)], {"p": p}) for p in (1, 2, 3)),
    Sample("MaxUnpool", [normal(1, 2, 2), ints(1, 3, 4, 7).reshape(1, 2, 2)], _HALVES),
    # onnx's evaluator takes the indices as those of a tensor of 4 x 4, onnxruntime of 4 x 5.
    *(
        Sample(
            "MaxUnpool",
            [normal(1, 2, 2, 2), ints(*places).reshape(1, 2, 2, 2), ints(1, 2, 4, 5)],
            {"kernel_shape": [2, 2], "strides": [2, 2]},
            single=single,
            tolerance=3e-3 if single else 1e-6,
        )
        for places, single in (
            ([1, 3, 12, 15, 16, 18, 24, 31], False),
            ([1, 3, 12, 19, 20, 22, 34, 39], True),
        )
    ),
]


def _shuffled(*shape: int) -> Array:
    """Quarters of whole numbers, in any order: no step in float32 meets a tie."""
    n = int(np.prod(shape))
    return (np.random.default_rng(n).permutation(n).reshape(shape) - n / 2) / 4


# Windows next to each other, with and without a rest. In doubles MaxPool's are not searched.
SAMPLES += [
    Sample(
        "MaxPool",
        [_shuffled(*shape)],
        {"kernel_shape": kernel, "strides": kernel, **more},
        single=True,
        tolerance=1e-3,
    )
    for shape, kernel, more in (
        ((2, 2, 4, 6), [2, 2], {}),
        ((2, 2, 5, 7), [2, 2], {}),
        ((2, 2, 4, 6), [2, 2], {"ceil_mode": 1}),
        ((2, 2, 5, 7), [2, 2], {"ceil_mode": 1}),
        ((1, 2, 4, 6), [2, 2], {"auto_pad": "SAME_UPPER"}),
        ((1, 2, 3, 9), [1, 4], {}),
        ((1, 2, 7, 3), [3, 1], {"auto_pad": "VALID"}),
        ((2, 2, 7), [2], {}),
        ((1, 2, 4, 4, 6), [2, 1, 2], {}),
    )
]
SAMPLES += [
    Sample("AveragePool", [_shuffled(*shape)], {"kernel_shape": kernel, "strides": kernel})
    for shape, kernel in (((2, 2, 5, 7), [2, 3]), ((1, 2, 7), [3]), ((1, 2, 4, 4, 6), [2, 2, 3]))
]
