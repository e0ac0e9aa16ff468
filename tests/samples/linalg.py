from itertools import product

import numpy as np

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

_EINSUM = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("bhid,bhjd->bhij", [(2, 2, 3, 2), (2, 2, 4, 2)]),
    ("i,i", [(3,), (3,)]),  # the output implicit
    ("ij,jk", [(2, 3), (3, 2)]),
    ("b a", [(2, 3)]),
    ("...ji", [(2, 3, 4)]),
    ("ij->", [(2, 3)]),  # a label summed over in one operand alone
    ("ij,k->i", [(2, 3), (4,)]),
    ("i,j->ij", [(2,), (3,)]),
    (",ij->ij", [(), (2, 3)]),
    (",->", [(), ()]),
    ("ii->i", [(3, 3)]),  # diagonals
    ("ii", [(3, 3)]),
    ("...ii->...i", [(2, 3, 3)]),
    ("iij,jii->ij", [(2, 2, 3), (3, 2, 2)]),
    ("iii,i->", [(2, 2, 2), (2,)]),
    ("...ij,...jk->...ik", [(2, 2, 3), (2, 3, 2)]),
    ("...ij,...jk->...ik", [(1, 5, 2, 3), (2, 1, 3, 2)]),  # axes of 1 in an ellipsis
    ("...ii,...->...", [(1, 3, 3), (4,)]),
    ("...i,...j->...", [(2, 1, 3), (2, 4, 2)]),
    ("i...j,j...->...i", [(2, 5, 3), (3, 1)]),
    ("...,...->...", [(2, 3), (2, 1)]),
    ("...i->...i", [(3,)]),  # an ellipsis of no axes
    ("bij,bjk,bkl->il", [(2, 2, 3), (2, 3, 4), (2, 4, 2)]),
    ("i,j,k->kij", [(2,), (3,), (4,)]),
    ("...a,...b,ab->...", [(2, 3), (1, 4), (3, 4)]),
    ("ab,ab,ab->a", [(2, 3), (2, 3), (2, 3)]),
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
    *(Sample("Einsum", [normal(*s) for s in operands], {"equation": e}) for e, operands in _EINSUM),
    *(Sample("Det", [normal(*s)]) for s in ((1, 1), (2, 2), (2, 3, 3), (2, 1, 4, 4))),
    Sample("Det", [np.ones((3, 3))], note="of rank 1"),
    Sample("Det", [np.diag([0.0, 1.0, 2.0])], note="singular"),
]
