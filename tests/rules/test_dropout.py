"""Dropout on a runtime that draws another mask in every run."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

TRAINING = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,50] x, bool training) => (float[N,50] y, bool[N,50] m) <float ratio = {0.25}> {
  y, m = Dropout(x, ratio, training)
}"""


@pytest.mark.parametrize("training", [False, True])
def test_the_mask_is_that_of_the_forward_pass(training: bool) -> None:
    run = runner(og.gradient(onnx.parser.parse_model(TRAINING), "x", of="y"))
    x = np.ones((4, 50), np.float32)
    for _ in range(3):
        y, mask, g = run({"x": x, "training": np.array(training)})
        assert mask.all() != training
        np.testing.assert_allclose(g, y)  # both are mask / (1 - ratio)


def test_two_masks_are_two() -> None:
    """Equal nodes are emitted once, but two draws are not equal."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[200] x) => (float[200] y) <bool training = {1}> {
      a = Dropout(x, , training)
      b = Dropout(x, , training)
      y = Sub(a, b)
    }"""
    y, g = runner(og.gradient(onnx.parser.parse_model(text), "x"))({"x": np.ones(200, np.float32)})
    assert y.any()
    np.testing.assert_allclose(g, y)


def test_inference_keeps_its_node() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[3] x) => (float[3] y) { y = Dropout(x) }"""
    backward = og.gradient(onnx.parser.parse_model(text), "x")
    (node,) = (n for n in backward.graph.node if n.op_type == "Dropout")
    assert [o for o in node.output if o] == ["y"]
