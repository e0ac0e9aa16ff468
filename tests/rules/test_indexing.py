"""Conventions of indexing that no derivative decides."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.rules.test_rules import sample_model
from tests.samples import Sample, ints


def test_unique_gives_the_first_occurrence_the_cotangent() -> None:
    model, feeds = sample_model(Sample("Unique", [np.array([2.0, 1, 1, 3, 2])]), True, True)
    backward = og.gradient(model, "x0", of="y0", ograd=True, forward=False)
    seed = np.array([10.0, 20.0, 30.0])  # of the values 1, 2 and 3
    (g,) = runner(backward)(feeds | {"y0_ograd": seed})
    np.testing.assert_array_equal(g, [20, 10, 0, 30, 0])


def test_scatter_none_gives_each_duplicate_the_cotangent() -> None:
    sample = Sample("ScatterND", [np.zeros(3), np.array([[1], [1]]), np.array([4.0, 4.0])])
    model, feeds = sample_model(sample, True, True)
    backward = og.gradient(model, ["x0", "x2"], of="y0", ograd=True, forward=False)
    data, updates = runner(backward)(feeds | {"y0_ograd": np.array([1.0, 2.0, 3.0])})
    np.testing.assert_array_equal(data, [1, 0, 3])
    np.testing.assert_array_equal(updates, [2, 2])


def test_a_slice_backwards_to_int_max_is_refused_where_its_size_is_inferred() -> None:
    """The standard takes INT_MAX for the last element, onnxruntime for the way to the first."""
    reverse = [ints(-1), ints(np.iinfo(np.int64).max), ints(0), ints(-1)]
    sample = Sample("Slice", [np.arange(5.0), *reverse])
    model, _ = sample_model(sample, False, False)
    with pytest.raises(og.NoRuleError, match="write INT_MIN"):
        og.gradient(model)
    model, feeds = sample_model(sample, True, False)
    backward = og.gradient(model, ograd=True, forward=False)
    seed = np.array([1.0, 2, 3, 4, 5])
    (g,) = runner(backward)(feeds | {"y0_ograd": seed})
    np.testing.assert_array_equal(g, seed[::-1])


@pytest.mark.parametrize("places", ["3", "P"], ids=["known", "symbolic"])
def test_a_slice_between_transposes_runs_optimized(places: str) -> None:
    """onnxruntime moves a Transpose over a Pad as if the Pad had no axes."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    net (float[2,{places},4] x) => (y) <int64[1] one = {{1}}, int64[1] last = {{-1}}> {{
        t = Transpose<perm = [2, 1, 0]>(x)
        s = Slice(t, one, last, one)
        q = Mul(s, s)
        y = Transpose<perm = [2, 1, 0]>(q)
    }}"""
    model = onnx.parser.parse_model(text)
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    (g,) = runner(og.gradient(model, of="q", forward=False))({"x": x})
    np.testing.assert_array_equal(g, x * 2 * np.array([[0], [1], [0]]))
