"""Operators that move elements, beside PyTorch's functions of the same meaning."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is what the conventions are compared with")

from tests.samples import Sample, ints, normal, sample_id  # noqa: E402
from tests.torch_gradients import assert_like_torch  # noqa: E402

F = torch.nn.functional
IMAGE = normal(2, 3, 4, 5)
PADS = ints(0, 0, 1, 2, 0, 0, 3, 4)


def padded(mode):
    return lambda x, _: F.pad(x, (2, 4, 1, 3), mode=mode)


MOVES = [
    (Sample("Pad", [IMAGE, PADS], {"mode": "reflect"}), padded("reflect")),
    (Sample("Pad", [IMAGE, PADS], {"mode": "edge"}), padded("replicate")),
    (Sample("Pad", [IMAGE, PADS], {"mode": "wrap"}), padded("circular")),
    (Sample("Pad", [IMAGE, PADS]), padded("constant")),
    (Sample("Pad", [IMAGE, ints(0, 0, -1, -1, 0, 0, 0, 1)]), lambda x, _: F.pad(x, (-1, 1, -1, 0))),
    (Sample("DepthToSpace", [normal(2, 12, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
     lambda x: F.pixel_shuffle(x, 2)),
    (Sample("Tile", [normal(2, 3), ints(3, 2)]), lambda x, _: x.tile(3, 2)),
    (Sample("Trilu", [normal(2, 3, 3), np.array(-1)]), lambda x, _: torch.triu(x, -1)),
    (Sample("Trilu", [normal(2, 3, 3), np.array(1)], {"upper": 0}), lambda x, _: torch.tril(x, 1)),
    (Sample("Slice", [normal(7, 5), ints(-1), ints(np.iinfo(np.int64).min), ints(1), ints(-1)]),
     lambda x, *_: x.flip(1)),
    (Sample("Slice", [normal(7, 5), ints(1), ints(9), ints(0), ints(3)]), lambda x, *_: x[1:9:3]),
    (Sample("CenterCropPad", [normal(5, 4), ints(2, 7)]), lambda x, _: F.pad(x[1:3], (1, 2))),
]  # fmt: skip


@pytest.mark.parametrize(("sample", "function"), MOVES, ids=sample_id)
def test_moves(sample, function):
    assert_like_torch(sample, function)
