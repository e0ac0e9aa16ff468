"""Samples of operators that read or write by index."""

import numpy as np

from tests.samples import Sample, ints, normal

SAMPLES = [
    Sample("Gather", [normal(4, 3), ints(2, 0, 2)]),
    Sample("Gather", [normal(4, 3), ints(-1, 1)], {"axis": 1}),
    Sample("Gather", [normal(2, 4, 3), ints(3, -4, 3)], {"axis": -2}),
    Sample("Gather", [normal(4, 3), np.array(-2)]),
    Sample("Gather", [normal(4, 3), np.array(1, np.int32)], {"axis": 1}),
    Sample("Gather", [normal(4, 3), np.array([[0, 1, 1], [3, 0, 0]])]),
    Sample("Gather", [normal(2, 4, 3), np.array([[0, 1, 1], [3, 0, 0]])], {"axis": 1}),
    Sample("Gather", [normal(5), ints(0, 1)]),
    Sample("GatherElements", [normal(3, 4), np.array([[0, 2, 0, -1]])]),
    Sample("GatherElements", [normal(3, 4), np.array([[0, 0], [1, 3], [-1, 3]])], {"axis": 1}),
    Sample("GatherND", [normal(3, 4), np.array([[0, 1], [2, 2], [0, 1]])]),
    Sample("GatherND", [normal(3, 4), np.array([[[0], [2]], [[0], [-1]]])]),
    Sample(
        "ScatterElements",
        [normal(3, 4), np.array([[0, 2, 1], [2, 0, -1]]), normal(2, 3)],
        note="none",
    ),
    Sample(
        "ScatterElements",
        [normal(3, 4), np.array([[0, 0], [1, 3]]), normal(2, 2)],
        {"axis": 1, "reduction": "add"},
    ),
    Sample("ScatterND", [normal(4, 3), np.array([[2], [0]]), normal(2, 3)]),
    Sample("ScatterND", [normal(4, 3), np.array([[2], [2]]), normal(2, 3)], {"reduction": "add"}),
    Sample("ScatterND", [normal(4, 3), np.array([[2, 1], [0, -1]]), normal(2)]),
]
