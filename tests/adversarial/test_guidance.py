"""Classifier guidance: against the same in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tests.adversarial.nets import classifier, exported, reference, run  # noqa: E402

guidance = og.adversarial.guidance
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((3, 3, 6, 6)).astype(np.float32)
T = np.array([0.1, 0.5, 0.9], np.float32)
TARGET = np.array([4, 0, 2])
SCALE = np.float32(2.5)


class Denoiser(nn.Module):
    """Noise, and where `channels` is 6 a variance behind it, of images of 3 x 6 x 6."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.time = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(1, 8)
        self.last = nn.Conv2d(8, channels, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.conv(x) + self.time(t[:, None])[:, :, None, None]))


def nets(channels: int = 3, batch: int | str = "N") -> tuple[Any, Any, Any, Any]:
    net, judge = Denoiser(channels).eval(), classifier(time=True, smooth=True)
    names = ("x", "t")
    return net, judge, exported(net, batch, names, "noise"), exported(judge, batch, names)


def slope(judge: Any, t: Any = T, x: np.ndarray = X, target: np.ndarray = TARGET) -> np.ndarray:
    """The gradient of log p(class | x, t)."""
    at = torch.tensor(x).requires_grad_()
    y = F.log_softmax(judge(at, torch.tensor(t)), 1).gather(1, torch.tensor(target)[:, None]).sum()
    return torch.autograd.grad(y, at)[0].numpy()


def predicted(net: Any) -> np.ndarray:
    return net(torch.tensor(X), torch.tensor(T)).detach().numpy()


@pytest.mark.parametrize("runs", [run, reference])
@pytest.mark.parametrize("batch", ["N", 3])
def test_noise_is_guided(batch: Any, runs: Any) -> None:
    net, judge, model, other = nets(batch=batch)
    guided = guidance(model, other, "x")
    assert [v.name for v in guided.graph.input] == ["x", "t", "target", "scale", "sigma"]
    feeds = {"x": X, "t": T, "target": TARGET, "scale": SCALE, "sigma": np.float32(0.7)}
    found = runs(guided, **feeds)
    assert np.abs(found["noise"] - predicted(net)).max() < 1e-5
    want = predicted(net) - np.float32(0.7) * SCALE * slope(judge)
    assert np.abs(found["noise_guided"] - want).max() < 1e-5
    assert np.abs(found["noise_guided"] - found["noise"]).max() > 0.01


def test_a_score_is_guided() -> None:
    net, judge, model, other = nets()
    guided = guidance(model, other, "x", of="noise", prediction="score", forward=False)
    found = run(guided, x=X, t=T, target=TARGET, scale=SCALE)
    assert [*found] == ["noise_guided"]
    want = predicted(net) + SCALE * slope(judge)
    assert np.abs(found["noise_guided"] - want).max() < 1e-5


def test_the_variance_behind_the_noise_is_left_alone() -> None:
    net, judge, model, other = nets(channels=6)
    guided = guidance(model, other, "x", target=[4, 0, 2])
    found = run(guided, x=X, t=T, scale=SCALE, sigma=np.float32(0.5))["noise_guided"]
    assert np.abs(found[:, :3] - (predicted(net)[:, :3] - 0.5 * SCALE * slope(judge))).max() < 1e-5
    assert np.array_equal(found[:, 3:], run(model, x=X, t=T)["noise"][:, 3:])


def test_sigma_is_that_of_the_model() -> None:
    """It is computed in the model, for each example."""
    net, judge, model, other = nets()
    model = og.attach(model, lambda op, t: {"sigma": op.Sqrt(1 - t * t)}, "t")
    found = run(guidance(model, other, "x", of="noise"), x=X, t=T, target=TARGET, scale=SCALE)
    sigma = np.sqrt(1 - T * T).reshape(3, 1, 1, 1)
    want = predicted(net) - sigma * SCALE * slope(judge)
    assert np.abs(found["noise_guided"] - want).max() < 1e-5


def test_inputs_of_other_names() -> None:
    net, judge, model, _ = nets()
    other = exported(judge, "B", ("image", "time"), "scores")
    with pytest.raises(og.ArgumentError, match="name in inputs"):
        guidance(model, other, "image")
    guided = guidance(model, other, "image", inputs={"image": "x", "time": "t"})
    feeds = {"x": X, "t": T, "target": TARGET, "scale": SCALE, "sigma": np.float32(1)}
    want = predicted(net) - SCALE * slope(judge)
    assert np.abs(run(guided, **feeds)["noise_guided"] - want).max() < 1e-5
    guided = guidance(model, other, "image", inputs={"image": "x"})  # a time of its own
    feeds |= {"time": T[::-1].copy()}
    want = predicted(net) - SCALE * slope(judge, T[::-1].copy())
    assert np.abs(run(guided, **feeds)["noise_guided"] - want).max() < 1e-5


def test_a_classifier_that_ends_in_a_softmax() -> None:
    net, judge, model, other = nets()
    other = og.attach(other, lambda op, y: {"p": op.Softmax(y, axis=1)}, "logits")
    found = run(
        guidance(model, other, "x", logits="p"),
        x=X, t=T, target=TARGET, scale=SCALE, sigma=np.float32(1),
    )  # fmt: skip
    want = predicted(net) - SCALE * slope(judge)
    assert np.abs(found["noise_guided"] - want).max() < 1e-5


def test_a_mixture_is_sampled_at_the_class() -> None:
    """The score of a mixture of two Gaussians, guided by its classifier, is that of one of them."""
    x = np.linspace(-3, 3, 41, dtype=np.float32)[:, None]
    score = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[N,1] x) => (float[N,1] score) <float two = {2}> {
      h = Mul(x, two)
      t = Tanh(h)
      m = Mul(t, two)
      score = Sub(m, x)
    }"""
    scores = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[N,1] x) => (float[N,2] logits) <float[1,2] w = {-2, 2}> { logits = MatMul(x, w) }"""
    guided = guidance(
        onnx.parser.parse_model(score), onnx.parser.parse_model(scores), prediction="score"
    )
    for k, mean in enumerate((-2, 2)):
        found = run(guided, x=x, target=np.full(41, k), scale=np.float32(1))["score_guided"]
        assert np.abs(found - (mean - x)).max() < 1e-5


def test_what_it_refuses() -> None:
    _, _, model, other = nets()
    with pytest.raises(og.ArgumentError, match="prediction is"):
        guidance(model, other, "x", prediction="v")
    with pytest.raises(og.ArgumentError, match="name the one to differentiate in x"):
        guidance(model, other)
    with pytest.raises(og.ArgumentError, match="name its prediction in of"):
        guidance("models/two_in_two_out.onnx", other, "x")
    with pytest.raises(og.ArgumentError, match="is of shape"):
        guidance(og.attach(model, lambda op, y: {"m": y * 1.0}, "t"), other, "x", of="m")
    with pytest.raises(og.UnknownNameError, match="no tensor 'noize'"):
        guidance(model, other, "x", of="noize")
    with pytest.raises(og.ArgumentError, match="a dict of tensors by its inputs' names"):
        guidance(model, other, "x", inputs=["x"])  # type: ignore[arg-type]
    taken = og.attach(model, lambda op, x: {"scale": x * 2.0}, "x")
    with pytest.raises(og.ArgumentError, match="'scale'"):
        guidance(taken, other, "x", of="noise")


def test_the_result_is_of_the_kind_of_the_model_and_standard() -> None:
    _, _, model, other = nets()
    guided = guidance(model, other, "x")
    assert isinstance(guided, onnx.ModelProto) and not guided.functions
    assert {d.domain for d in guided.opset_import} == {""}
