"""Nets out of the wild that failed once: their gradients against numbers found elsewhere.

`tests/cases/README.md` says what each one stands for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import accept, runner
from tests.rules.test_rules import validate

CASES = Path(__file__).parents[1] / "cases"
NAMES = sorted(p.stem for p in CASES.glob("*.npz"))


def arrays(name: str, kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind in the file of numbers, by the tensor that each belongs to."""
    with np.load(CASES / f"{name}.npz") as found:
        return {k.partition(":")[2]: found[k] for k in found if k.startswith(f"{kind}:")}


@pytest.mark.parametrize("target", ["portable", "cpu"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient(name: str, target: str) -> None:
    feeds, seeds, wanted = (arrays(name, kind) for kind in ("in", "ograd", "grad"))
    model = onnx.load(CASES / f"{name}.onnx")
    backward = og.gradient(
        model, list(wanted), of=list(seeds), ograd=True, forward=False, target=target
    )
    if target == "portable":
        validate(backward)
    else:  # an operator of a runtime's own may stay
        accept(backward)
        assert {o.domain for o in backward.opset_import} <= {o.domain for o in model.opset_import}
    results = runner(backward)(feeds | {f"{of}_ograd": g for of, g in seeds.items()})
    for got, (wrt, want) in zip(results, wanted.items(), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, 1e-4, 1e-5 * np.abs(want).max(), err_msg=wrt)
