"""Resize, GridSample and AffineGrid against PyTorch, in its own modes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.samples import Sample, ints, normal, sample_id, uniform
from tests.torch_gradients import assert_like_torch, torch

F = torch.nn.functional

PADDINGS = ("zeros", "border", "reflection")


def grid_sample(sample: Sample) -> tuple[Sample, object]:
    how = sample.attributes
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(how["mode"], how["mode"])

    def function(x, grid):
        return F.grid_sample(x, grid, mode, how["padding_mode"], bool(how["align_corners"]))

    return sample, function


# At elements, at the border, at the mirrors and beyond them too.
KINKS = np.array([-1.5, -1, -0.75, -0.5, 0, 0.25, 0.5, 1, 1.25])


def grid(*shape: int) -> np.ndarray:
    points = uniform(-2.2, 2.2, *shape)
    points.reshape(-1)[::3] = np.resize(KINKS, points.reshape(-1)[::3].shape)
    return points


GRIDS = [
    grid_sample(
        Sample(
            "GridSample",
            [normal(*image), grid(*points)],
            {"mode": mode, "padding_mode": padding, "align_corners": align},
            wrt=[0] if mode == "nearest" else None,
        )
    )
    for mode, padding, align in itertools.product(("linear", "nearest", "cubic"), PADDINGS, (0, 1))
    for image, points in (
        ((2, 3, 4, 4), (2, 3, 5, 2)),
        ((1, 2, 1, 5), (1, 2, 6, 2)),
        *(() if mode == "cubic" else (((1, 2, 4, 2, 4), (1, 2, 2, 4, 3)),)),
    )
]


@pytest.mark.parametrize(("sample", "function"), GRIDS, ids=sample_id)
def test_grid_sample(sample, function):
    assert_like_torch(sample, function, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
def test_affine_grid(size, align):
    n = len(size)
    sample = Sample(
        "AffineGrid", [normal(2, n, n + 1), ints(2, 1, *size)], {"align_corners": align}
    )
    assert_like_torch(
        sample, lambda theta, _: F.affine_grid(theta, [2, 1, *size], bool(align)), second=False
    )
