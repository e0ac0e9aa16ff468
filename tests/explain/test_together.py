"""Several explanations in one file: equal to each alone, with one forward pass."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import explain
from tests.explain.test_paths import LAYER, MLP, X, explained, run

METHODS: dict[str, Any] = {
    "plain": explain.saliency,
    "path": partial(
        explain.integrated_gradients, n_steps=6, convergence_delta=True, baselines="input"
    ),
    "rules": partial(explain.deep_lift, baselines="input"),
    "guided": explain.guided_backprop,
    "inner": partial(explain.layer_conductance, layer=["v_Tanh_1", LAYER]),
    "tunnel": partial(explain.noise_tunnel, method=explain.saliency, seed="input"),
    "shap": partial(explain.gradient_shap, baselines=X, seed="input", stdevs=0.1, n_samples=3),
}


def fed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Feeds for all inputs, of five examples; equal ones for inputs of one name and shape."""
    found: dict[str, np.ndarray] = {"input": X}
    for value in model.graph.input:
        kind = value.type.tensor_type
        sizes = [d.dim_value or 5 for d in kind.shape.dim]
        rng = np.random.default_rng(sum(sizes))
        numbers = rng.integers(3, size=sizes) if kind.elem_type == 7 else rng.random(sizes)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        found.setdefault(value.name, numbers.astype(dtype))
    return found


@pytest.mark.parametrize("target", ["argmax", "input", 1])
def test_each_is_as_alone(target: Any) -> None:
    model = explain.several(MLP, METHODS, target=target)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, fed(model))
    table = json.loads({p.key: p.value for p in model.metadata_props}["onnxgrad.attributions"])
    assert table["input"]["path"] == "input_path"
    assert table[LAYER] == {"inner": f"{LAYER}_inner"}
    seen = set()
    for name, method in METHODS.items():
        alone = method(MLP, target=target)
        for output, expected in run(alone, fed(alone)).items():
            stem = output.removesuffix("_attribution")
            other = {"logits": output, "convergence_delta": f"{name}_{output}"}
            key = other.get(output, f"{stem}_{name}")
            np.testing.assert_allclose(found[key], expected, rtol=1e-5)
            seen.add(key)
    assert seen == set(found)


def test_beside_a_map() -> None:
    """A map of a layer too, and its mean over noisy images."""
    net = explained("resnet").model
    maps = partial(explain.grad_cam, layer=explained("resnet").tensors["layer2"])
    noisy = partial(explain.noise_tunnel, method=maps, stdevs=0.0, nt_samples=2)
    model = explain.several(net, {"map": maps, "mean": noisy, "path": explain.saliency})
    names = [v.name for v in model.graph.output]
    assert names[0] == "logits" and [n.rsplit("_", 1)[1] for n in names[1:]] == [
        "map", "mean", "path",
    ]  # fmt: skip
    found = list(run(model, explained("resnet").feeds).values())
    np.testing.assert_allclose(found[2], found[1], rtol=1e-4, atol=1e-6)


def test_inputs_are_shared() -> None:
    model = explain.several(MLP, METHODS, target="input")
    names = [v.name for v in model.graph.input]
    assert names[:3] == ["input", "target", "input_baseline"]
    assert names[3:] == ["input_noise", "coefficients", "input_noise_shap", "input_choices"]


def test_one_forward_pass() -> None:
    """The net's own nodes are there once."""
    net = onnx.load(MLP)
    for methods in (METHODS, [explain.saliency, explain.input_x_gradient]):
        model = explain.several(MLP, methods)
        given = [name for node in model.graph.node for name in node.output]
        assert all(given.count(node.output[0]) == 1 for node in net.graph.node)
    gemms = [n for n in model.graph.node if n.op_type == "Gemm" and "logits" in n.output]
    assert len(gemms) == 1
    reading = [n for n in model.graph.node if "input" in n.input and n.op_type == "Gemm"]
    assert len(reading) == 1


def test_without_the_outputs_of_the_net() -> None:
    model = explain.several(MLP, [explain.saliency, explain.guided_backprop], forward=False)
    assert [v.name for v in model.graph.output] == ["input_saliency", "input_guided_backprop"]


def test_mistakes() -> None:
    with pytest.raises(og.ArgumentError, match="two of saliency"):
        explain.several(MLP, [explain.saliency, partial(explain.saliency, abs=False)])
    with pytest.raises(og.ArgumentError, match="methods is a list"):
        explain.several("models/mlp.onnx", explain.saliency)  # type: ignore[arg-type]
    with pytest.raises(og.ArgumentError, match="a method is a function"):
        explain.several(MLP, [og.gradient])
