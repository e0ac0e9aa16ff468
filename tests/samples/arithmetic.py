import numpy as np

from tests.samples import Sample, distinct, ints, normal, uniform

_PAIRS = [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1, 3), (4, 1)), ((2, 3), ()), ((1, 3), (2, 1))]
_MASK = np.array([[True, False, True], [False, True, False]])


def _apart(*shapes):
    """Operands whose elements are pairwise distinct however they are broadcast."""
    sizes = [int(np.prod(s)) for s in shapes]
    parts = np.split(distinct(sum(sizes)), np.cumsum(sizes)[:-1])
    return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]


_SIGNED = uniform(0.5, 2, 2, 3) * np.array([[1, -1, -1], [-1, 1, -1]])
# Not within 0.05 of a multiple of 0.5, 0.6 or 0.8.
_DIVIDEND = np.array([[1.3, -1.3, 2.7], [-0.1, 0.3, -5.1]])

SAMPLES = [
    *(Sample(op, [normal(*a), normal(*b)]) for op in ("Add", "Sub", "Mul") for a, b in _PAIRS),
    *(Sample("Div", [normal(*a), uniform(0.5, 2, *b)]) for a, b in _PAIRS),
    *(Sample(op, [normal(2, 3), normal(3), normal(2, 1)]) for op in ("Sum", "Mean")),
    *(Sample(op, _apart(*pair)) for op in ("Max", "Min") for pair in _PAIRS),
    *(Sample(op, _apart((2, 3), (3,), (2, 1))) for op in ("Max", "Min")),
    *(Sample(op, [distinct(2, 3)]) for op in ("Max", "Min")),
    *(Sample("Where", [_MASK, normal(*a), normal(*b)]) for a, b in _PAIRS[:2] + _PAIRS[3:]),
    Sample("Where", [_MASK[:1], normal(2, 1), normal()]),
    Sample("Where", [np.array(True), normal(2, 3), normal(3)]),
    *(Sample("Pow", [uniform(0.5, 2, *a), normal(*b)]) for a, b in _PAIRS),
    # Negative bases with integer exponents of an integer dtype: constants, equal or not, and fed.
    *(Sample("Pow", [_SIGNED, np.array(k)]) for k in (0, 1, 2, 3, 4, -1, -2)),
    Sample("Pow", [_SIGNED, ints(2, 2, 2)]),
    Sample("Pow", [_SIGNED, ints(0, 3, -1)]),
    Sample("Pow", [_SIGNED, ints(2, 1, 5).astype(np.int32)]),
    Sample("Pow", [np.array([0.0, 0.0, 0.0, 0.0, 2.0]), ints(0, 1, 2, 3, 0)]),
    *(
        Sample("Mod", [_DIVIDEND, sign * np.array([0.5, 0.8, 0.6])], {"fmod": fmod}, opset=opset)
        for fmod, opset in [(1, 21), (1, 28), (0, 28)]
        for sign in (1, -1)
    ),
    Sample("Mod", [_DIVIDEND, np.array(0.8)], {"fmod": 1}),
]
