from itertools import product

import numpy as np

from tests.samples import Array, Sample, normal, uniform

_LABELS = {(4,): [0, 2, 1, 2], (2, 2): [[0, 2], [1, 1]], (1, 2, 1): [[[2], [0]]]}


def _labels(shape: tuple[int, ...], dtype: type = np.int64) -> Array:
    return np.array(_LABELS[shape], dtype)


def _scores(shape: tuple[int, ...]) -> Array:
    return normal(shape[0], 3, *shape[1:])


SAMPLES = [
    *(
        Sample(
            op,
            [_scores(s), _labels(s), *([uniform(0.5, 2, 3)] if weighted else [])],
            {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored}),
        )
        for op in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
        for s, reduction, weighted, ignored in [
            *product([(4,)], ["none", "sum", "mean"], [False, True], [None, 2]),
            ((2, 2), "mean", True, 0),
            ((2, 2), "none", True, 2),
            ((1, 2, 1), "mean", False, None),
            ((1, 2, 1), "sum", True, 1),
        ]
    ),
    *(
        Sample(
            "SoftmaxCrossEntropyLoss",
            [_scores(s), _labels(s), uniform(0.5, 2, 3)],
            {"ignore_index": 1},
            outputs=2,
        )
        for s in ((4,), (2, 2))
    ),
    Sample("SoftmaxCrossEntropyLoss", [_scores((4,)), _labels((4,))], outputs=2, of=[1], note="z"),
    *(
        Sample(op, [_scores((4,)), _labels((4,), np.int32)], {"ignore_index": -1})
        for op in ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
    ),
]
