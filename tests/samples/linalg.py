from itertools import product

from tests.samples import Sample, normal

_MATMUL = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((2, 4, 3), (3,)),
    ((3,), (2, 3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 5, 2, 3), (3, 1)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((1, 2, 3), (5, 3, 4)),
    ((2, 1, 2, 3), (5, 3, 4)),
    ((2, 5, 1, 3), (2, 1, 3, 4)),
    ((0, 2, 3), (3, 4)),
]

SAMPLES = [
    *(Sample("MatMul", [normal(*a), normal(*b)]) for a, b in _MATMUL),
    *(
        Sample(
            "Gemm",
            [normal(*((3, 2) if t else (2, 3))), normal(*((4, 3) if u else (3, 4))), normal(*c)],
            {"alpha": 0.5, "beta": 1.5, "transA": t, "transB": u},
        )
        for t, u, c in product((0, 1), (0, 1), ((2, 4), (4,)))
    ),
    *(
        Sample("Gemm", [normal(2, 3), normal(3, 4), c])
        for c in (None, normal(), normal(1), normal(2, 1), normal(1, 4), normal(1, 1))
    ),
]
