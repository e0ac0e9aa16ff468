"""What float64 checks on the reference evaluator runs on onnxruntime too, in float32, alike."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.runtimes import reference_ops
from tests.oracle import reference, runner
from tests.rules.test_rules import floats, sample_model
from tests.samples import Sample, load_samples

OWN = {op.__name__ for op in reference_ops.OPS} | {"Resize"}
SAMPLES = [s for s in load_samples() if s.op in OWN]
# What onnxruntime refuses and the standard does not.
_REFUSED = (
    "Dilation not supported for AutoPadType",
    "output_padding (2) may be too large",
    "Batchwise recurrent operations (layout == 1) are not supported",
    "size_ % 2 == 1 was false",  # an LRN over an even number of channels
)


@contextlib.contextmanager
def unless_refused() -> Iterator[None]:
    try:
        yield
    except Exception as e:
        if any(r in str(e) for r in _REFUSED):
            pytest.skip(str(e))
        raise


def same(sample: Sample, symbolic: bool, transform: Callable[..., onnx.ModelProto]) -> None:
    model, feeds = sample_model(sample, symbolic, fed=False)
    single, feeds32 = sample_model(dataclasses.replace(sample, single=True), symbolic, fed=False)
    want = reference(transform(model))(feeds)
    got = runner(transform(single))(feeds32)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_forward(sample: Sample) -> None:
    """The reference's own operators are right."""
    with unless_refused():
        same(sample, False, lambda model: model)


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_gradient(sample: Sample, symbolic: bool) -> None:
    """onnxruntime has the kernels that a gradient asks for."""
    with unless_refused():
        same(sample, symbolic, lambda model: og.gradient(model, floats(sample)))
