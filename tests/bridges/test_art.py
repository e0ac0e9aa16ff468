"""The bridge to ART: its own attacks on a file against the same attacks on PyTorch's net."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, quantize_static

import onnxgrad as og
from tests.bridges.page import run_example, run_part
from tests.oracle import Array

pytest.importorskip("art", reason="ART is not installed: make attacks")
from art.attacks.evasion import (
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
)

from onnxgrad.bridges.art import Classifier

MLP, DIGITS = "models/mlp.onnx", "models/digits.onnx"
PREPROCESSING = (np.float32(0.2), np.float32(1.5))


def pytorch(**options: object) -> object:
    """ART's own classifier of PyTorch, of the same net."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    from art.estimators.classification import PyTorchClassifier
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(MLP).graph.initializer}
    with torch.no_grad():
        for k, layer in enumerate(net[::2], 1):
            layer.weight.copy_(torch.tensor(weights[f"fc{k}.weight"]))
            layer.bias.copy_(torch.tensor(weights[f"fc{k}.bias"]))
    return PyTorchClassifier(
        net, nn.CrossEntropyLoss(reduction="sum"), (4,), 3, device_type="cpu", **options
    )


@pytest.fixture
def points() -> Array:
    return np.random.default_rng(0).uniform(0, 1, (5, 4)).astype(np.float32)


@pytest.fixture
def digits() -> Array:
    digit = np.load("models/digit.npy").astype(np.float32)
    return np.concatenate([digit, digit[..., ::-1], digit[..., ::-1, :]])


def test_gradients_are_those_of_arts_own_classifier(points: Array) -> None:
    options = {"clip_values": (0, 1), "preprocessing": PREPROCESSING}
    ours, theirs = Classifier(MLP, **options), pytorch(**options)
    y, classes = np.array([0, 2, 1, 1, 0]), np.array([2, 2, 0, 1, 1])
    soft = np.random.default_rng(1).dirichlet(np.ones(3), 5).astype(np.float32)
    for ask in (
        lambda c: c.predict(points, batch_size=2),
        lambda c: c.loss_gradient(points, np.eye(3, dtype=np.float32)[y]),
        lambda c: c.class_gradient(points),
        lambda c: c.class_gradient(points, 1),
        lambda c: c.class_gradient(points, classes),
        lambda c: c.compute_loss(points, y, reduction="sum"),
    ):
        found, expected = ask(ours), ask(theirs)
        assert found.shape == np.shape(expected) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    one_hot = ours.loss_gradient(points, np.eye(3)[y])
    np.testing.assert_array_equal(ours.loss_gradient(points, y), one_hot)
    losses = ours.compute_loss(points, soft)
    assert ours.compute_loss(points, soft, "mean") == pytest.approx(losses.mean())
    scores = ours.predict(points).astype(np.float64)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    np.testing.assert_allclose(losses, -(soft * logs).sum(1), rtol=1e-5)
    hidden = ours.get_activations(points, "v_Tanh_1", batch_size=3)
    np.testing.assert_allclose(hidden, og.Net(MLP)((points - 0.2) / 1.5, og.Value("v_Tanh_1")))
    assert ours.layer_names[1] == "v_Tanh_1"
    whole = Classifier(MLP).loss_gradient(np.ones((1, 4), np.int64), y[:1])  # no whole numbers
    np.testing.assert_array_equal(whole, Classifier(MLP).loss_gradient(np.ones((1, 4)), y[:1]))
    np.testing.assert_array_equal(ours.get_activations(points, 1), hidden)


ATTACKS = {
    "fgsm": (FastGradientMethod, {"eps": 0.1}),
    "pgd": (ProjectedGradientDescent, {"eps": 0.1, "eps_step": 0.03, "max_iter": 5}),
    "pgd towards": (
        ProjectedGradientDescent,
        {"norm": 2, "eps": 0.5, "max_iter": 5, "targeted": True},
    ),
    "carlini wagner": (
        CarliniL2Method,
        {"max_iter": 5, "binary_search_steps": 2, "initial_const": 10},
    ),
    "deepfool": (DeepFool, {"max_iter": 10}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_move_as_they_move_pytorchs_net(name: str, points: Array) -> None:
    attack, settings = ATTACKS[name]
    quiet = {} if name == "fgsm" else {"verbose": False}
    options = {"clip_values": (0, 1), "preprocessing": PREPROCESSING}
    classes = np.eye(3)[[0, 2, 1, 1, 0]] if "targeted" in settings else None
    ours, theirs = (
        attack(c, **settings, **quiet).generate(points, classes)
        for c in (Classifier(MLP, **options), pytorch(**options))
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.abs(ours - points).max() > 1e-3


def test_a_quantised_net_is_fooled(digits: Array, tmp_path: Path) -> None:
    """Of int8: no gradient flows through it but with straight_through."""

    class Examples(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"image": digits}])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.feeds, None)

    made = tmp_path / "int8.onnx"
    quantize_static(DIGITS, made, Examples(), per_channel=True)
    classifier = Classifier(made, clip_values=(0, 1), straight_through=True)
    assert {"QuantizeLinear"} <= {n.op_type for n in onnx.load(made).graph.node}
    with pytest.raises(og.UnreachableError, match="straight_through"):
        Classifier(made).class_gradient(digits)
    before = classifier.predict(digits).argmax(1)
    for attack in (
        FastGradientMethod(classifier, eps=0.3),
        ProjectedGradientDescent(classifier, eps=0.2, eps_step=0.05, max_iter=5, verbose=False),
        CarliniL2Method(classifier, max_iter=5, initial_const=1, verbose=False),
        DeepFool(classifier, max_iter=60, epsilon=0.02, verbose=False),
    ):
        moved = attack.generate(digits)
        assert (classifier.predict(moved).argmax(1) != before).mean() > 0.5, attack
        assert moved.min() >= 0 and moved.max() <= 1


def test_a_fixed_batch_and_the_scores_before_a_softmax(digits: Array, tmp_path: Path) -> None:
    """Whole batches of two are run; the file ends in probabilities."""
    softmax = og.attach(DIGITS, lambda op, y: {"p": op.Softmax(y, axis=1)}, "logits")
    del softmax.graph.output[0]
    softmax.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    softmax.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    fixed, free = Classifier(softmax), Classifier(DIGITS)
    labels = np.array([3, 6, 0])
    for ask in (
        lambda c: c.predict(digits),
        lambda c: c.predict(digits[:0]),
        lambda c: c.loss_gradient(digits, labels),
        lambda c: c.class_gradient(digits),
        lambda c: c.class_gradient(digits, labels),
        lambda c: c.compute_loss(digits, labels),
    ):
        np.testing.assert_allclose(ask(fixed), ask(free), rtol=1e-4, atol=1e-6)
    assert (fixed.nb_classes, fixed.input_shape) == (10, (1, 8, 8))
    fixed.save("copy.onnx", str(tmp_path))
    assert len(Classifier(tmp_path / "copy.onnx").predict(digits)) == 3


def test_refusals(digits: Array) -> None:
    classifier = Classifier(DIGITS)
    with pytest.raises(og.ArgumentError, match=r"train the net with onnxgrad\.train"):
        classifier.fit(digits, np.arange(3))
    for label in (10, -1, [1, 2], "three", [0.5, 1, 2]):
        with pytest.raises(og.FeedError, match="The classes are 0 to 9, one for each of 3"):
            classifier.class_gradient(digits, label)
    for y in (np.array([1, 2, 10]), np.eye(3)):
        with pytest.raises(og.FeedError, match="The classes are 0 to 9, one for each of 3"):
            classifier.loss_gradient(digits, y)
    with pytest.raises(og.FeedError, match="'image' has the shape"):
        classifier.predict(digits[:, 0])
    with pytest.raises(og.UnknownNameError, match="there are 9, see layer_names"):
        classifier.get_activations(digits, 9)
    with pytest.raises(og.ArgumentError, match="layer is an index"):
        classifier.get_activations(digits, 1.5)
    with pytest.raises(og.ArgumentError, match=r"nb_classes: the file has \(10,\), not \(7,\)"):
        Classifier(DIGITS, nb_classes=7)
    with pytest.raises(og.ArgumentError, match="'y' has 1 score for each example"):
        Classifier(
            onnx.parser.parse_model(
                '<ir_version: 10, opset_import: ["" : 21]>'
                "g (float[N,1] x) => (float[N,1] y) {y = Sin(x)}"
            )
        )
    with pytest.raises(og.ArgumentError, match="reduction is"):
        classifier.compute_loss(digits, np.arange(3), reduction="most")
    with pytest.raises(og.ArgumentError, match="one input, the examples, and this one 'a', 'b'"):
        Classifier("models/two_in_two_out.onnx")
    open_sizes = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,M] x) => (float[N,M] y) {y = Sin(x)}'
    )
    with pytest.raises(og.ArgumentError, match="input_shape: the file does not tell it"):
        Classifier(open_sizes)
    assert Classifier(open_sizes, nb_classes=2, input_shape=[2]).class_gradient(
        np.zeros((1, 2), np.float32)
    ).tolist() == [[[1, 0], [0, 1]]]


def test_the_page_and_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_part("ART", tmp_path, monkeypatch)
    run_example(Classifier, monkeypatch)
