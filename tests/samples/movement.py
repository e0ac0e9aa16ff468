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
    Sample("Slice", [normal(2, 3), ints(-9), ints(_MIN), ints(0), ints(-1)]),
    Sample("Slice", [normal(7, 5), ints(1, -1), ints(_MAX, _MIN), ints(0, 1), ints(2**30, -1000)]),
    Sample("Slice", [normal(0, 3), ints(0), ints(_MAX), ints(0)]),
    Sample("Slice", [normal(3, 0), ints(-1), ints(_MIN), ints(1), ints(-2)]),
    Sample("Split", [normal(6, 2)], {"num_outputs": 3}, outputs=3),
    Sample("Split", [normal(2, 7)], {"num_outputs": 3, "axis": -1}, outputs=3),
    Sample("Split", [normal(2, 7), ints(1, 4, 2)], {"axis": 1}, outputs=3),
    Sample("Split", [normal(2, 7), ints(0, 4, 3)], {"axis": 1}, outputs=3, of=[0, 2]),
    Sample("Split", [normal(5), ints(5)], outputs=1),
    Sample("Tile", [normal(2, 3), ints(2, 3)]),
    Sample("Tile", [normal(2, 3, 2), ints(1, 2, 1)]),
    Sample("Tile", [normal(2, 1), ints(1, 1)]),
    Sample("Tile", [normal(2, 3), ints(0, 2)]),
    Sample("Tile", [normal(1), ints(0)]),
    Sample("Tile", [normal(0, 3), ints(2, 2)]),
    Sample("Pad", [normal(3, 4), ints(1, 0, 2, 3)]),
    Sample("Pad", [normal(3, 4), ints(1, 2), None, ints(-1)]),
    Sample("Pad", [normal(3, 4), ints(-1, 2, 1, -2)]),
    Sample("Pad", [normal(3, 4), ints(0, 0, 0, 0), normal()]),
    Sample("Pad", [normal(3, 4), ints(1, 0, -2, 3), normal()]),
    Sample("Pad", [normal(2, 3, 4), ints(1, 0, 2, 3), normal(), ints(-1, 0)]),
    *(
        Sample("Pad", operands, {"mode": mode})
        for mode in ("reflect", "edge", "wrap")
        for operands in (
            [normal(4), ints(2, 3)],
            [normal(3, 4), ints(1, 0, 2, 3)],
            [normal(2, 3, 4), ints(2, 1, 0, 2), None, ints(-1, 1)],
            [normal(3, 4), ints(0, 1), None, ints(0)],
        )
    ),
    Sample("Pad", [normal(5, 4), ints(-1, 2, -2, 1)], {"mode": "edge"}),
    Sample("Pad", [normal(5, 4), ints(-1, -1, -2, 0)], {"mode": "reflect"}),
    *(
        Sample(op, [array], {"blocksize": 2} | mode)
        for op, array, modes in (
            ("DepthToSpace", normal(2, 8, 2, 3), [{}, {"mode": "DCR"}, {"mode": "CRD"}]),
            ("SpaceToDepth", normal(2, 3, 4, 2), [{}]),
        )
        for mode in modes
    ),
    Sample("SpaceToDepth", [normal(1, 2, 3, 3)], {"blocksize": 3, "mode": "CRD"}, opset=28),
    Sample("Trilu", [normal(3, 4)]),
    Sample("Trilu", [normal(2, 4, 3), np.array(1)], {"upper": 0}),
    Sample("Trilu", [normal(4, 3), np.array(-2)]),
    Sample("CenterCropPad", [normal(5, 4), ints(2, 7)]),
    Sample("CenterCropPad", [normal(3, 4, 5), ints(8, 2)], {"axes": [-1, 1]}),
    Sample("ReverseSequence", [normal(4, 3), ints(4, 1, 2)]),
    Sample("ReverseSequence", [normal(2, 4, 3), ints(3, 1)], {"batch_axis": 0, "time_axis": 1}),
]
