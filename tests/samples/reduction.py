from tests.samples import Sample, ints, normal

_REDUCTIONS = [
    ([normal(2, 3, 4)], {}),
    ([normal(2, 3, 4)], {"keepdims": 0}),
    ([normal(2, 3, 4), ints(1)], {}),
    ([normal(2, 3, 4), ints(-1, 0)], {"keepdims": 0}),
    ([normal(2, 1, 4), ints(1, 2)], {"keepdims": 0}),
    ([normal(2, 3), ints()], {}),
    ([normal()], {}),
    ([normal(4)], {"keepdims": 0}),
    ([normal(0, 3), ints(0)], {}),
]
_NONE_REDUCED = [
    ([normal(2, 3)], {"noop_with_empty_axes": 1}),
    ([normal(2, 3), ints()], {"noop_with_empty_axes": 1}),
]

SAMPLES = [
    *(Sample(op, x, a) for op in ("ReduceSum", "ReduceMean") for x, a in _REDUCTIONS[:-1]),
    *(Sample(op, x, a) for op in ("ReduceSum", "ReduceMean") for x, a in _NONE_REDUCED),
    Sample("ReduceSum", *_REDUCTIONS[-1]),
    Sample("ReduceSum", [normal(2, 3), ints(0)], {"noop_with_empty_axes": 1, "keepdims": 0}),
]
