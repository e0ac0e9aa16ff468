import numpy as np

from tests.samples import Sample, distinct, ints, normal, uniform

# Shape, axes and attributes.
_EMPTY_IS_NONE = {"noop_with_empty_axes": 1}
_CASES = [
    ((2, 3, 4), None, {}),
    ((2, 3, 4), None, {"keepdims": 0}),
    ((2, 3, 4), ints(1), {}),
    ((2, 3, 4), ints(-1, 0), {"keepdims": 0}),
    ((2, 1, 4), ints(1, 2), {"keepdims": 0}),
    ((2, 3), ints(), {}),
    ((), None, {}),
    ((4,), None, {"keepdims": 0}),
    ((0, 3), ints(1), {}),
    ((2, 3), None, _EMPTY_IS_NONE),
    ((2, 3), ints(), _EMPTY_IS_NONE),
    ((2, 3), ints(0), _EMPTY_IS_NONE | {"keepdims": 0}),
]
_ONTO_ZERO = [((0, 3), ints(0), {})]  # a sum over no elements


def _positive(*shape):
    return uniform(0.5, 2, *shape)


def _reductions(op, draw, cases=_CASES):
    return [
        Sample(op, [draw(*shape)] if axes is None else [draw(*shape), axes], attributes)
        for shape, axes, attributes in cases
    ]


def _with_zeros(*rows):
    return np.array(rows, np.float64)


SAMPLES = [
    *_reductions("ReduceSum", normal, _CASES + _ONTO_ZERO),
    *_reductions("ReduceMean", normal),
    *_reductions("ReduceSumSquare", normal, _CASES + _ONTO_ZERO),
    *_reductions("ReduceL1", distinct, _CASES + _ONTO_ZERO),
    *_reductions("ReduceL2", _positive, _CASES + _ONTO_ZERO),
    *_reductions("ReduceLogSum", _positive),
    *_reductions("ReduceLogSumExp", normal),
    Sample("ReduceLogSumExp", [normal(2, 3) + 1000], note="large"),
    *_reductions("ReduceMax", distinct),
    *_reductions("ReduceMin", distinct),
    *_reductions("ReduceProd", _positive, _CASES + _ONTO_ZERO),
    Sample("ReduceProd", [_with_zeros([0, 2, 3, 4], [0, 0, 3, 4]), ints(1)], note="zeros"),
    Sample("ReduceProd", [_with_zeros([0, 2, 0, 4], [5, 2, 0, 4])], note="zeros"),
    *(
        Sample(
            "CumSum", [normal(*shape), np.array(axis)], {"exclusive": exclusive, "reverse": reverse}
        )
        for shape, axis in [((2, 3, 4), 1), ((4,), 0), ((3, 2), -1)]
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    *(
        Sample(
            "CumProd", [x, np.array(axis)], {"exclusive": exclusive, "reverse": reverse}, opset=26
        )
        for x, axis in [
            (normal(2, 3, 4), 1),
            (_with_zeros([2, 0, 3, 4], [2, 3, 4, 0], [5, 0, 3, 0], [0, 0, 0, 4]), -1),
        ]
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    *(
        Sample("TopK", [distinct(*shape), ints(2)], {"axis": axis, "largest": largest}, outputs=2)
        for shape, axis in [((2, 3, 4), -1), ((3, 4), 0), ((4,), 0)]
        for largest in (0, 1)
    ),
    Sample("TopK", [distinct(2, 5), ints(3)], {"sorted": 0}, outputs=2),
    Sample("TopK", [distinct(2, 3), ints(3)], outputs=2, note="all"),
]
