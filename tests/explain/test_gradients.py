"""Explanations that are gradients: against differences, and what they say of a Softmax."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad as og

MLP = "models/mlp.onnx"
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString())
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_saliency_is_the_gradient_of_the_class_that_wins() -> None:
    model = og.explain.saliency(MLP, abs=False)
    table = {p.key: json.loads(p.value) for p in model.metadata_props}
    assert table["onnxgrad.attributions"] == {"input": "input_attribution"}
    found = run(model, input=X)
    winner = found["logits"].argmax(1)
    step = 1e-3 * np.eye(4, dtype=np.float32)
    for k in range(4):
        up, down = (
            run(model, input=X + s)["logits"][range(5), winner] for s in (step[k], -step[k])
        )
        np.testing.assert_allclose(found["input_attribution"][:, k], (up - down) / 2e-3, atol=2e-3)
    product = run(og.explain.input_x_gradient(MLP), input=X)["input_attribution"]
    np.testing.assert_allclose(product, X * found["input_attribution"], rtol=1e-6)
    absolute = run(og.explain.saliency(MLP), input=X)["input_attribution"]
    np.testing.assert_array_equal(absolute, np.abs(found["input_attribution"]))


def test_before_the_softmax() -> None:
    """It is told, and the result is that for the logits; not where the tensor is named."""
    net = og.attach(MLP, lambda op, y: {"p": op.Reshape(op.Softmax(y, axis=1), op.const([-1, 3]))})
    del net.graph.output[0]
    with pytest.warns(og.SoftmaxWarning, match="'logits'"):
        model = og.explain.saliency(net, target=1)
    expected = run(og.explain.saliency(MLP, target=1), input=X)["input_attribution"]
    np.testing.assert_allclose(run(model, input=X)["input_attribution"], expected, rtol=1e-5)
    named = run(og.explain.saliency(net, of="p", target=1), input=X)["input_attribution"]
    assert np.abs(named - expected).max() > 0.01


def test_the_sum() -> None:
    found = run(og.explain.saliency(MLP, target=None, abs=False), input=X)["input_attribution"]
    expected = run(og.gradient(MLP), input=X)["input_grad"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_mistakes() -> None:
    with pytest.raises(og.ArgumentError, match="there are 3 classes"):
        og.explain.saliency(MLP, target=3)
    with pytest.raises(TypeError, match="tarket"):
        og.explain.saliency(MLP, tarket=3)
