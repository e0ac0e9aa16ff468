"""Runtimes are found by name, and a new one is one file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from onnxgrad.runtimes import registry
from onnxgrad.runtimes.ports import Port
from onnxgrad.runtimes.protocol import Copied, Runtime, Session

NET = '<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = Mul(x, x) }'
X = np.array([1, 2], np.float32)

# Doubles what onnx's reference gives, to be told from it.
MINE = """
from onnxgrad.runtimes.protocol import Copied
from onnxgrad.runtimes.registry import runtime, start


@runtime("twice")
class Twice:
    title, target = "twice", "portable"

    def __init__(self, factor=2):
        self.factor = factor

    def load(self, model, *, lean=False):
        return Session(start("reference").load(model), self.factor)


class Session:
    def __init__(self, inner, factor):
        self.inner, self.factor, self.outputs = inner, factor, inner.outputs

    def run(self, feeds, outputs=None):
        return [self.factor * y for y in self.inner.run(feeds, outputs)]

    def bind(self, feeds):
        return Copied(self, feeds)
"""


@pytest.fixture
def twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file in the folder."""
    (tmp_path / "twice.py").write_text(MINE)
    kept = dict(registry._makers)
    monkeypatch.setattr("onnxgrad.runtimes.__path__", [*og.runtimes.__path__, str(tmp_path)])
    registry._load_all.cache_clear()
    yield
    registry._makers.clear()
    registry._makers.update(kept)
    registry._load_all.cache_clear()
    sys.modules.pop("onnxgrad.runtimes.twice", None)


def test_a_new_runtime_is_one_file(twice: None) -> None:
    net = og.Net(onnx.parser.parse_model(NET), runtime="twice")
    np.testing.assert_array_equal(net(X), 2 * X * X)
    np.testing.assert_array_equal(net(X, og.NetPortGradient("x")), 2 * 2 * X)
    np.testing.assert_array_equal(net.bind(X)(), 2 * X * X)
    with pytest.raises(og.ArgumentError, match="Runtimes: 'onnxruntime', 'reference', 'twice'"):
        og.Net(onnx.parser.parse_model(NET), runtime="thrice")


def test_an_unknown_runtime_is_told_which_there_are() -> None:
    with pytest.raises(og.ArgumentError, match=r"no runtime 'referense'\. Nearest: 'reference'"):
        og.Net(onnx.parser.parse_model(NET), runtime="referense")
    with pytest.raises(og.ArgumentError, match="Runtimes: 'onnxruntime', 'reference'"):
        og.Net(onnx.parser.parse_model(NET), runtime=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["providers", "threads"])
def test_options_that_a_runtime_lacks_are_refused(option: str) -> None:
    with pytest.raises(og.ArgumentError, match=f"'reference' does not take {option}"):
        og.Net(onnx.parser.parse_model(NET), runtime="reference", **{option: 1})


@pytest.mark.parametrize("name", ["onnxruntime", "reference"])
def test_a_runtime_loads_runs_and_binds(name: str) -> None:
    runtime: Runtime = registry.start(name)
    session: Session = runtime.load(ir.from_proto(onnx.parser.parse_model(NET)))
    assert list(session.outputs) == ["y"]
    np.testing.assert_array_equal(session.run({"x": X}, ["y"])[0], X * X)
    binding = session.bind({"x": X.copy()})
    binding.inputs["x"][...] = 3
    binding.run()
    np.testing.assert_array_equal(binding.outputs[0], [9, 9])


def test_copied_results_keep_their_shape() -> None:
    text = NET.replace("float[2]", "float[N]").replace("Mul(x, x)", "Unique(x)")
    session = registry.start("reference").load(ir.from_proto(onnx.parser.parse_model(text)))
    x = np.array([1, 2], np.float32)
    bound = Copied(session, {"x": x})
    x[...] = 1
    with pytest.raises(og.FeedError, match=r"shape \(2,\) and got \(1,\)"):
        bound.run()


def test_names_that_shape_inference_makes_up_are_any_size() -> None:
    value = ir.Value(
        name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["unk__0", "N", -1, 3])
    )
    assert Port.of(value).shape_text() == "(?, N, ?, 3)"
