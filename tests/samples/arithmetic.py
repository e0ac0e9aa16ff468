from tests.samples import Sample, normal, uniform

_PAIRS = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((2, 3), ()), ((1, 3), (2, 1))]

SAMPLES = [
    *(Sample(op, [normal(*a), normal(*b)]) for op in ("Add", "Sub", "Mul") for a, b in _PAIRS),
    *(Sample("Div", [normal(*a), uniform(0.5, 2, *b)]) for a, b in _PAIRS),
    *(Sample(op, [normal(2, 3), normal(3), normal(2, 1)]) for op in ("Sum", "Mean")),
]
