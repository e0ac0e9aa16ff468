"""Samples of operators that read or write by index."""

import math

import numpy as np

from tests.samples import Array, Sample, distinct, ints, normal


def _apart(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[Array, Array]:
    """Two arrays all of whose numbers are distinct."""
    n = math.prod(a)
    numbers = distinct(n + math.prod(b))
    return numbers[:n].reshape(a), numbers[n:].reshape(b)


_COLUMNS = np.array([[0, 1], [1, 1], [3, -1]])

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
    Sample("Gather", [normal(2, 4, 3), ints(-3)], {"axis": 1}),
    Sample("Gather", [normal(2, 3), np.zeros((0,), np.int64)]),
    Sample("Gather", [normal(2, 3), np.zeros((2, 0), np.int64)], {"axis": 1}),
    Sample("Gather", [normal(4, 3), np.array([[2]])], {"axis": 1}),
    Sample("GatherElements", [normal(2, 3, 2), np.array([[[0], [2]], [[1], [1]]])], {"axis": -2}),
    Sample("GatherElements", [normal(3), np.zeros(0, np.int64)]),
    Sample("GatherND", [normal(2, 3, 4), np.array([[1], [-1]])], {"batch_dims": 1}),
    Sample("GatherND", [normal(2, 3, 4), np.array([[[1, 2]], [[0, 0]]])], {"batch_dims": 1}),
    Sample("GatherND", [normal(2, 2, 4), np.array([[[1], [2]], [[0], [-2]]])], {"batch_dims": 2}),
    Sample("GatherND", [normal(2, 3), np.array([1])]),
    *(
        Sample(op, [data, indices, updates], {"reduction": reduction} | axis)
        for reduction in ("mul", "max", "min")
        for op, indices, (data, updates), axis in (
            ("ScatterElements", _COLUMNS, _apart((3, 4), (3, 2)), {"axis": 1}),
            ("ScatterElements", ints(2, 2, -1), _apart((3,), (3,)), {}),
            ("ScatterND", np.array([[0], [2], [0]]), _apart((3, 4), (3, 4)), {}),
            ("ScatterND", np.array([[0, 1], [-1, 2], [0, 1]]), _apart((3, 4), (3,)), {}),
        )
    ),
    # Zero factors: the derivative is the product of the others.
    *(
        Sample(
            "ScatterElements", [np.array([1.5, data, -1]), ints(*indices), np.array(updates)], mul
        )
        for mul in [{"reduction": "mul"}]
        for data, indices, updates in (
            (2.0, (0, 0, 1), (0.0, 3, 0.5)),
            (2.0, (1, 1, 1, 2), (0.0, 0.0, 2, 0)),
            (2.0, (1, 1, 1, 2), (0.0, 0.0, 0.0, 4)),
            (0.0, (1, 1, 0), (0.0, 2.0, 2.0)),
        )
    ),
    Sample("Compress", [normal(3, 4), np.array([True, False, True])], {"axis": 0}),
    Sample("Compress", [normal(3, 4), np.array([False, True, True])], {"axis": -1}),
    Sample("Compress", [normal(3, 4), np.array([True, False, True, True])]),
    Sample("Compress", [normal(3, 4), np.array([False, False])], {"axis": 1}),
    # Equal values would part at the first step: tests/rules/test_indexing.py has those.
    Sample("Unique", [distinct(5)]),
    Sample("Unique", [distinct(2, 3)], {"sorted": 0}),
    Sample("Unique", [distinct(3, 2)], {"axis": -1}, outputs=4),
    # onnxruntime has no OneHot of float64.
    Sample("OneHot", [ints(1, -1, 5), np.array(3), normal(2)]),
    Sample("OneHot", [np.array([[1, 0], [2, 2]]), np.array(4), normal(2)], {"axis": 1}),
    Sample("OneHot", [ints(1, -1, 5), ints(3), normal(2)], single=True, tolerance=1e-4),
    Sample("Range", [np.array(1.0), np.array(4.1), np.array(0.7)], wrt=[0, 2]),
    Sample("Range", [np.array(3.0), np.array(-1.1), np.array(-0.5)], wrt=[0, 2]),
    Sample("TensorScatter", [normal(2, 3, 5, 2), normal(2, 3, 2, 2), ints(1, 3)], opset=24),
    Sample("TensorScatter", [normal(2, 5, 2), normal(2, 3, 2)], opset=24),
    Sample(
        "TensorScatter",
        [normal(2, 5), normal(2, 3), ints(1, 4)],
        {"mode": "circular", "axis": 1},
        opset=24,
    ),
]
