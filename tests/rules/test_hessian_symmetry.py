"""Hessians are symmetric: <u, H v> = <v, H u> on every smooth operator of the table."""

from __future__ import annotations

import numpy as np
import pytest

import onnxgrad as og
from tests.oracle import close, inner
from tests.rules.test_rules import float_outputs, floats, sample_model
from tests.samples import Sample, load_samples, sample_id
from tests.transforms.test_forward_mode import exactness, like, run


@pytest.mark.parametrize("sample", [s for s in load_samples() if s.smooth], ids=sample_id)
def test_hessian_is_symmetric(sample: Sample) -> None:
    rng = np.random.default_rng(4)
    model, feeds = sample_model(sample, symbolic=False, fed=False)
    wrt, of = floats(sample), float_outputs(model, sample)
    values = run(model, sample, feeds)
    feeds = feeds | {f"{y}_ograd": like(rng, values[y]) for y in of}
    second = og.hvp(model, wrt, of=of, ograd=True, forward=False, unreachable="zeros")
    u, v = ([like(rng, feeds[x]) for x in wrt] for _ in range(2))

    def product(direction: list[np.ndarray]) -> list[np.ndarray]:
        tangents = {f"{x}_tangent": d for x, d in zip(wrt, direction, strict=True)}
        found = run(second, sample, feeds | tangents)
        return [found[f"{x}_hvp"] for x in wrt]

    hu, hv = product(u), product(v)
    scale = float(sum(abs(a * b).sum() for a, b in zip(u, hv, strict=True)))
    # Where probabilities are 0 or 1 but for rounding, so is the Hessian 0.
    assert close(inner(u, hv), inner(v, hu), exactness(sample), max(scale, 1e-6))
