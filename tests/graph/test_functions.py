"""Function bodies of the standard: what is known of their values."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import reference


def test_a_body_whose_scan_uses_constants_outside_of_it() -> None:
    """LinearAttention's, in which inference enters no inner graph and sees no constant from one."""
    text = """<ir_version: 13, opset_import: ["" : 27]>
    g (float[N,T,4] q, float[N,T,4] k, float[N,T,2] v) => (float[N,T,2] y, float[N,2,2,1] s) {
      y, s = LinearAttention<q_num_heads = 2, kv_num_heads = 2, update_rule = "linear">(q, k, v)
    }"""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 3, n)).astype(np.float32) for n in (4, 4, 2))
    backward = og.gradient(onnx.parser.parse_model(text), "v", of="y", ograd=True, forward=False)
    (g,) = reference(backward)({"q": q, "k": k, "v": v, "y_ograd": np.ones((1, 3, 2), np.float32)})
    # y_t = sum over s <= t of (q_t . k_s) v_s / sqrt(2), for each head
    heads = np.einsum("nthd,nshd->nhts", q.reshape(1, 3, 2, 2), k.reshape(1, 3, 2, 2))
    expected = np.tril(heads).sum(2) / np.sqrt(2)
    np.testing.assert_allclose(g, expected.transpose(0, 2, 1), rtol=1e-5)


def test_an_if_on_the_number_of_elements() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[2,3] x) => (y) <int64 six = {6}> {
      n = Size(x)
      c = Equal(n, six)
      y = If(c) <then_branch = a () => (u) { u = Sin(x) }, else_branch = b () => (w) { w = Det(x) }>
    }"""
    backward = og.gradient(onnx.parser.parse_model(text), "x", of="y")
    assert "If" not in {n.op_type for n in backward.graph.node}


def test_the_graphs_that_an_operator_modifies_its_scores_with() -> None:
    """FlexAttention's score_mod: its constants stay with it, and its weights have gradients."""
    text = """<ir_version: 13, opset_import: ["" : 26, "ai.onnx.preview" : 1]>
    g (float[1,1,2,2] q, float[1,1,3,2] k, float[1,1,3,2] v) => (float[1,1,2,2] y) {
      y = ai.onnx.preview.FlexAttention<score_mod = s (float[B,H,L,S] a) => (float[B,H,L,S] b)
        <float half = {0.5}> { b = Mul(a, half) }>(q, k, v)
    }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, n, 2)).astype(np.float32) for n in (2, 3, 3))
    assert og.check(model, {"q": q, "k": k, "v": v})
    backward = og.gradient(model, "v", ograd=True)
    assert not [n for n in backward.graph.node if n.domain]


def test_a_scan_of_opset_8_is_refused() -> None:
    text = """<ir_version: 3, opset_import: ["" : 8]>
    g (float[1,2] s, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z) {
      y, z = Scan<num_scan_inputs = 1, body = b (float[2] a, float[2] n) => (float[2] c, float[2] d)
        { c = Add(a, n)  d = Identity(c) }>( , s, x)
    }"""
    with pytest.raises(og.ModelError, match="Scan of opset 8"):
        og.gradient(onnx.parser.parse_model(text), "x")
