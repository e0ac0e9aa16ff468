"""The bridge to PAIR's saliency: its own methods on a file and on the same file in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import bridges
from tests.bridges.page import run_example, run_part
from tests.oracle import Array

saliency = pytest.importorskip("saliency.core", reason="PAIR's saliency lacks: make explainers")
pytest.importorskip("torch", reason="PyTorch is not installed: make torch")

MODEL, LAYER = "models/digits.onnx", "v_Relu_6"


def in_pytorch(
    batch: Array, call_model_args: Mapping[str, int], expected_keys: Sequence[str]
) -> dict[str, Array]:
    from tests.torch_net import Net

    net, target = Net(onnx.load(MODEL)), call_model_args["target"]
    values = net.run({"image": np.moveaxis(batch, -1, 1)}, ["image", LAYER])
    seed = np.eye(10)[[target] * len(batch)]
    gradients = net.gradients({"logits": seed})
    layer = values[LAYER].detach().numpy()
    found = {
        saliency.INPUT_OUTPUT_GRADIENTS: np.moveaxis(gradients["image"], 1, -1),
        saliency.CONVOLUTION_LAYER_VALUES: np.moveaxis(layer, 1, -1),
        saliency.CONVOLUTION_OUTPUT_GRADIENTS: np.moveaxis(gradients[LAYER], 1, -1),
        saliency.OUTPUT_LAYER_VALUES: values["logits"].detach().numpy()[:, target],
    }
    return {key: found[key] for key in expected_keys}


def test_methods_give_the_masks_of_pytorchs_net() -> None:
    call = bridges.saliency.call_model_function(MODEL, layer=LAYER)
    image = np.moveaxis(np.load("models/digit.npy")[0], 0, -1).astype(np.float64)
    ask = {"target": 3}
    baseline = np.zeros_like(image)
    for mask in (
        lambda call: saliency.GradientSaliency().GetMask(image, call, ask),
        lambda call: saliency.GradCam().GetMask(image, call, ask),
        lambda call: saliency.IntegratedGradients().GetMask(
            image, call, ask, x_steps=5, x_baseline=baseline, batch_size=2
        ),
    ):
        np.testing.assert_allclose(mask(call), mask(in_pytorch), rtol=1e-3, atol=1e-5)
    keys = [saliency.OUTPUT_LAYER_VALUES, saliency.INPUT_OUTPUT_GRADIENTS]
    found, expected = (f(image[None], ask, keys) for f in (call, in_pytorch))
    for key in keys:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-6)
    best = int(og.Net(MODEL)(np.load("models/digit.npy")).argmax())
    again = call(image[None], expected_keys=keys[:1])
    np.testing.assert_array_equal(
        again[keys[0]], call(image[None], {"target": best}, keys)[keys[0]]
    )


def test_refusals() -> None:
    call = bridges.saliency.call_model_function(MODEL)
    image = np.zeros((1, 8, 8, 1))
    with pytest.raises(og.ArgumentError, match="needs a layer"):
        call(image, {"target": 3}, [saliency.CONVOLUTION_LAYER_VALUES])
    with pytest.raises(og.ArgumentError, match="no key 'SOMETHING'"):
        call(image, {"target": 3}, ["SOMETHING"])
    with pytest.raises(og.FeedError):
        call(image, {"target": 10}, [saliency.INPUT_OUTPUT_GRADIENTS])
    with pytest.raises(og.FeedError, match="target is the number of a class"):
        call(image, {"target": 2.5}, [saliency.INPUT_OUTPUT_GRADIENTS])
    assert call(image, {"target": 3}, []) == {}
    with pytest.raises(og.ArgumentError, match="has 'a', 'b'"):
        bridges.saliency.call_model_function("models/two_in_two_out.onnx")


def test_the_page_and_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_part("PAIR's saliency", tmp_path, monkeypatch)
    run_example(bridges.saliency.call_model_function, monkeypatch)
