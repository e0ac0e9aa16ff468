"""Samples of operators that move elements."""

import numpy as np

from tests.samples import Sample, ints, normal

_MAX, _MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min

SAMPLES = [
    Sample("Reshape", [normal(2, 6), ints(3, 4)]),
    Sample("Reshape", [normal(2, 6), ints(0, -1, 2)]),
    Sample("Reshape", [normal(), ints(1, 1)]),
    Sample("Reshape", [normal(1, 1), ints()]),
    Sample("Reshape", [normal(0, 3), ints(3, 0)], {"allowzero": 1}),
    Sample("Flatten", [normal(2, 3, 4)]),
    Sample("Flatten", [normal(2, 3, 4)], {"axis": 0}),
    Sample("Flatten", [normal(2, 3, 4)], {"axis": -1}),
    Sample("Flatten", [normal(3)], {"axis": 1}),
    Sample("Squeeze", [normal(1, 3, 1), ints(0)]),
    Sample("Squeeze", [normal(1, 3, 1), ints(-1, 0)]),
    Sample("Squeeze", [normal(1, 3, 1)]),
    Sample("Unsqueeze", [normal(2, 3), ints(0)]),
    Sample("Unsqueeze", [normal(2, 3), ints(-1, 1)]),
    Sample("Unsqueeze", [normal(), ints(0)]),
    Sample("Transpose", [normal(2, 3, 4)]),
    Sample("Transpose", [normal(2, 3, 4)], {"perm": [1, 2, 0]}),
    Sample("Transpose", [normal()]),
    Sample("Concat", [normal(2, 3), normal(2, 1), normal(2, 2)], {"axis": 1}),
    Sample("Concat", [normal(2, 3), normal(1, 3)], {"axis": -2}),
    Sample("Concat", [normal(2, 3)], {"axis": 0}),
    Sample("Concat", [normal(2, 0), normal(2, 2)], {"axis": 1}),
    Sample("Expand", [normal(3, 1), ints(2, 3, 4)]),
    Sample("Expand", [normal(3, 1), ints(1, 2)]),
    Sample("Expand", [normal(3, 4), ints(1)]),
    Sample("Expand", [normal(), ints(2, 3)]),
    Sample("Expand", [normal(1, 3), ints(0, 3)]),
    Sample("Slice", [normal(6, 4), ints(1), ints(4)]),
    Sample("Slice", [normal(6, 4), ints(1, -3), ints(_MAX, -1), ints(0, 1)]),
    Sample("Slice", [normal(6, 4), ints(-100, 2), ints(100, 2), ints(-2, -1), ints(1, 1)]),
    Sample("Slice", [normal(7, 5), ints(1, 0), ints(6, _MAX), ints(1, 0), ints(2, 3)]),
    Sample("Slice", [normal(7, 5), ints(-1, 3), ints(_MIN, 0), ints(0, 1), ints(-1, -2)]),
    Sample("Slice", [normal(7, 5), ints(100), ints(-100), ints(1), ints(-3)]),
    Sample("Slice", [normal(2, 3, 8), ints(5), ints(5), ints(-1)]),
    Sample("Slice", [normal(8), ints(6), ints(0), ints(0), ints(-4)]),
    Sample(
        "Slice",
        [normal(8), np.array([1], np.int32), np.array([7], np.int32), np.array([0], np.int32)],
    ),
    Sample("Pad", [normal(3, 4), ints(1, 0, 2, 3)]),
    Sample("Pad", [normal(3, 4), ints(1, 2), None, ints(-1)]),
    Sample("Pad", [normal(3, 4), ints(-1, 2, 1, -2)]),
]
