"""Attributions as they are drawn: of a sign, from -1 to 1, in the size of what they belong to."""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias, get_args

import numpy as np

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array

Sign: TypeAlias = Literal["positive", "absolute_value", "negative", "all"]


def sign_of(values: Array, sign: Sign | None) -> Sign:
    """The sign that is asked for, or else "all" where some values are negative.

    Raises:
        ArgumentError: It is none.
    """
    if sign is None:
        return "all" if (values < 0).any() else "positive"
    if sign not in get_args(Sign):
        raise ArgumentError(f"sign is one of {', '.join(map(repr, get_args(Sign)))}, not {sign!r}")
    return sign


def normalised(values: Array, sign: Sign, outlier_perc: float = 2) -> Array:
    """Attributions of a sign, divided by a large one and clipped to -1 to 1.

    Captum's scale: the smallest of the largest values that make up `outlier_perc` per cent of the
    sum of all absolute values.

    Raises:
        ArgumentError: A value is not finite, or the percentage is none.
    """
    if not np.isfinite(values).all():
        raise ArgumentError("the attribution has values that are not finite")
    if not 0 <= outlier_perc <= 100:
        raise ArgumentError(f"outlier_perc is from 0 to 100, not {outlier_perc}")
    values = np.asarray(values, np.float64)
    if sign == "absolute_value":
        values = np.abs(values)
    elif sign != "all":
        values = np.maximum(values if sign == "positive" else -values, 0)
    ordered = np.sort(np.abs(values), axis=None)
    sums = np.cumsum(ordered)
    if not sums.size or sums[-1] == 0:
        return values
    scale = ordered[np.argmax(sums >= sums[-1] * (1 - outlier_perc / 100))]
    return np.clip(values / (scale or ordered[-1]), -1, 1)


def resized(values: Array, size: tuple[int, int]) -> Array:
    """Values [H, W] in another size, bilinear."""
    from PIL import Image

    if values.shape == size:
        return values
    picture = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))


def thinned(values: Array, most: int) -> Array:
    """Rows [C, T] with no more than `most` columns: of each stretch the value furthest from 0."""
    length = values.shape[1]
    if length <= most:
        return values
    edges = np.linspace(0, length, most + 1).astype(int)
    parts = [values[:, a:b] for a, b in itertools.pairwise(edges)]
    far = [np.take_along_axis(p, np.abs(p).argmax(1)[:, None], 1) for p in parts]
    return np.concatenate(far, axis=1)
