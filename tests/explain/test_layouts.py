"""Layouts are guessed as people lay out their arrays."""

from __future__ import annotations

import numpy as np
import pytest

import onnxgrad as og
from onnxgrad.explain.layouts import arranged, image_layout, kind_of, layout_of


@pytest.mark.parametrize(
    "shape, layout",
    [
        (("N", 3, 224, 224), "NCHW"),
        ((1, 3, 224, 224), "NCHW"),
        ((None, 224, 224, 3), "NHWC"),
        (("N", "H", "W", 3), "NHWC"),
        (("N", 3, "H", "W"), "NCHW"),
        (("N", 3, 8, 3), "NCHW"),
        (("N", 1, 28, 28), "NCHW"),
        (("N", 28, 28, 1), "NHWC"),
        ((None, None, None, None), "NCHW"),
        ((1, 224, 224, None), "NHWC"),
        ((1, 16, 32, 32), None),
        ((3, 32, 32), "CHW"),
        ((32, 32, 3), "HWC"),
        (("N", 28, 28), "NHW"),
        ((7, 28, 28), None),
        (("N", 128), None),
        ((), None),
    ],
)
def test_ports_of_images(shape: tuple[int | str | None, ...], layout: str | None) -> None:
    assert image_layout(shape) == layout


@pytest.mark.parametrize(
    "shape, layout",
    [
        ((16000,), "T"),
        ((1, 16000), "NT"),
        ((16000, 1), "TC"),
        ((3, 200), "CT"),
        ((200, 3), "TC"),
        ((28, 28), "HW"),
        ((2, 3), "HW"),
        ((1, 3, 200), "NCT"),
        ((1, 200, 6), "NTC"),
        ((1, 28, 28), "NHW"),
        ((1, 80, 3000), "NFT"),
        ((3, 32, 32), "CHW"),
        ((32, 32, 3), "HWC"),
        ((1, 1, 8, 8), "NCHW"),
        ((1, 8, 8, 3), "NHWC"),
        ((1, 16, 7, 7), "NCHW"),
    ],
)
def test_arrays(shape: tuple[int, ...], layout: str) -> None:
    assert layout_of(shape) == layout


def test_kinds() -> None:
    kinds = {"NCHW": "image", "HW": "image", "NTC": "signal", "T": "signal", "NFT": "spectrogram"}
    kinds |= {"TF": "spectrogram", "NSC": "text", "S": "text"}
    assert {layout: kind_of(layout) for layout in kinds} == kinds
    for wrong in ("", "N", "NCC", "HT", "NCHWX", "abc"):
        with pytest.raises(og.ArgumentError, match="is no layout"):
            kind_of(wrong)


def test_arranged() -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(arranged(array, "NHWC", 1), np.moveaxis(array[1], 2, 0))
    np.testing.assert_array_equal(arranged(array[0], "TNF", 2), array[0][:, 2].T[None])
    with pytest.raises(og.ArgumentError, match="no example 2: there are 2"):
        arranged(array, "NCHW", 2)
    with pytest.raises(og.ArgumentError, match="not the layout 'HW'"):
        arranged(array, "HW")
