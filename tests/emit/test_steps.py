"""Masks as steep HardSigmoids: exact beside their bounds, and of no derivative."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from onnxgrad.emit import steps
from onnxgrad.emit.builder import Builder
from tests.oracle import runner

BOUNDS = (0.0, 3.0, -3.0, 1.0, 6.0, 1e-3, -0.1)


@pytest.mark.parametrize("comparison", ["__gt__", "__ge__", "__lt__", "__le__"])
def test_steps_are_comparisons(comparison):
    near = [np.nextafter(np.float32(b), np.float32(s * np.inf)) for b in BOUNDS for s in (1, -1)]
    tiny = np.finfo(np.float32).tiny
    others = [*BOUNDS, *near, tiny, -tiny, 1e30, -1e30, np.inf, -np.inf]
    values = np.array([v for v in others if v == 0 or abs(v) >= tiny], np.float32)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name="g")
    op = Builder(graph)
    x = op.input("x", [len(values)])
    for k, bound in enumerate(BOUNDS):
        op.output(f"y{k}", steps.ones(getattr(x, comparison)(bound), like=x))
    found = runner(ir.to_proto(ir.Model(graph, ir_version=10)))({"x": values})
    assert "Cast" not in {node.op_type for node in graph}
    for bound, y in zip(BOUNDS, found, strict=True):
        np.testing.assert_array_equal(y, getattr(values, comparison)(np.float32(bound)))


def test_a_step_has_no_derivative():
    """A second order through the mask of a Relu is that of its branch alone, also next to 0."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[5] x) => (float[5] y) { r = Relu(x)  s = Mul(r, r)  y = Mul(s, r) }""")
    grad = og.gradient(model, forward=False)
    betas = [a.f for n in grad.graph.node for a in n.attribute if a.name == "beta"]
    assert betas and all(betas), "OpenVINO takes a beta of 0 for the default, 0.5"
    x = np.array([-2, 0, 1e-37, 1.5, 1e10], np.float32)
    (second,) = runner(og.gradient(grad, "x", forward=False))({"x": x})
    np.testing.assert_allclose(second, 6 * np.maximum(x, 0), rtol=1e-6)


def test_one_step_needs_no_scan():
    rng = np.random.default_rng(0)
    w, r = (rng.standard_normal((1, 12, n), np.float32) for n in (2, 3))
    graph = onnx.parser.parse_graph("""
        g (float[T, N, 2] x, float[1, N, 3] h, float[1, N, 3] c) => (float[T, 1, N, 3] y) {
            y, yh, yc = LSTM<hidden_size = 3>(x, w, r, "", "", h, c)
        }""")
    for name, value in (
        ("w", w.reshape(1, 12, 2).astype(np.float32)),
        ("r", r.reshape(1, 12, 3).astype(np.float32)),
    ):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    open_ = og.gradient(model, forward=False)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    single = og.gradient(model, forward=False)
    assert "Scan" in {n.op_type for n in open_.graph.node}
    assert "Scan" not in {n.op_type for n in single.graph.node}
    feeds = {"x": rng.standard_normal((1, 2, 2), np.float32)}
    feeds |= {name: rng.standard_normal((1, 2, 3), np.float32) for name in "hc"}
    for a, b in zip(runner(single)(feeds), runner(open_)(feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
