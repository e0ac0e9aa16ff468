"""Explanations of noisy inputs: against numpy's mean and variance, captum, and statistics."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import onnxgrad as og
from onnxgrad import explain
from tests.explain.test_paths import LAYER, MLP, X, closely, explained, run

RNG = np.random.default_rng(1)
NOISE = RNG.standard_normal((6, 5, 4)).astype(np.float32)
POOL = RNG.standard_normal((7, 4)).astype(np.float32)
CHOICES = RNG.integers(7, size=(6, 5))
COEFFICIENTS = RNG.random((6, 5)).astype(np.float32)
signed = partial(explain.saliency, abs=False)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")  # that it sets hooks


def gradients(points: np.ndarray) -> np.ndarray:
    """Gradients at points [S, N, ...] of the scores of the classes at X."""
    classes = run(explain.saliency(MLP), {"input": X})["logits"].argmax(1)
    model = signed(MLP, target="input")
    return np.stack(
        [
            run(model, {"input": x.astype(np.float32), "target": classes})["input_attribution"]
            for x in points
        ]
    )


@pytest.mark.parametrize("size", [None, 1, 4, 6])
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_moments(kind: Any, size: int | None) -> None:
    model = explain.noise_tunnel(
        MLP,
        signed,
        nt_type=kind,
        nt_samples=6,
        nt_samples_batch_size=size,
        stdevs=0.3,
        seed="input",
    )
    gs = gradients(X + 0.3 * NOISE).astype(float)
    expected = {"smoothgrad": gs.mean(0), "smoothgrad_sq": (gs**2).mean(0), "vargrad": gs.var(0)}
    feeds = {"input": X, "input_noise": NOISE}
    closely(run(model, feeds)["input_attribution"], expected[kind], 1e-5)
    evaluated = ReferenceEvaluator(model).run(["input_attribution"], feeds)[0]
    closely(evaluated, expected[kind], 1e-5)
    empty = run(model, {"input": X[:0], "input_noise": NOISE[:, :0]})
    assert empty["input_attribution"].shape == (0, 4)


AROUND: dict[str, Any] = {
    "integrated_gradients": partial(explain.integrated_gradients, n_steps=5),
    "in parts": partial(explain.integrated_gradients, n_steps=5, internal_batch_size=7),
    "guided_backprop": explain.guided_backprop,
    "deep_lift": explain.deep_lift,
    "layer": partial(explain.layer_conductance, layer=LAYER, n_steps=5),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("size", [None, 2])
def test_around_any_method(name: str, size: int | None) -> None:
    """It is the mean of the method's own results at the noisy inputs."""
    model = explain.noise_tunnel(
        MLP, AROUND[name], nt_samples=6, nt_samples_batch_size=size, stdevs=0.2, seed="input"
    )
    found = run(model, {"input": X, "input_noise": NOISE})
    one = AROUND[name](MLP, target="input")
    classes = found["logits"].argmax(1)
    results = [run(one, {"input": x, "target": classes}) for x in X + np.float32(0.2) * NOISE]
    (last,) = [v.name for v in model.graph.output if v.name.endswith("_attribution")]
    closely(found[last], np.mean([r[last] for r in results], axis=0), 1e-4)


@pytest.mark.parametrize("size", [None, 7])
def test_gradient_shap(size: int | None) -> None:
    model = explain.gradient_shap(
        MLP, baselines=POOL, n_samples=6, stdevs=0.2, seed="input", internal_batch_size=size
    )
    feeds = {
        "input": X,
        "input_noise": NOISE,
        "input_choices": CHOICES,
        "coefficients": COEFFICIENTS,
    }
    noisy, starts, c = X + 0.2 * NOISE, POOL[CHOICES], COEFFICIENTS[..., None]
    expected = (gradients(c * noisy + (1 - c) * starts) * (noisy - starts)).mean(0)
    closely(run(model, feeds)["input_attribution"], expected, 1e-5)


def test_baselines_are_drawn() -> None:
    """Expected gradients and expected integrated gradients have one mean, which both approach."""
    pool = partial(explain.integrated_gradients, baselines=POOL, n_steps=20)
    paths = explain.noise_tunnel(
        MLP, pool, nt_samples=400, stdevs=0.0, draw_baseline_from_distrib=True, seed=0
    )
    points = explain.gradient_shap(MLP, baselines=POOL, n_samples=3000, seed=0)
    mean = np.mean(
        [
            run(
                explain.integrated_gradients(MLP, baselines=b, n_steps=20), {"input": X}
            )["input_attribution"]
            for b in POOL
        ],
        axis=0,
    )  # fmt: skip
    for model in (paths, points):
        closely(run(model, {"input": X})["input_attribution"], mean, 0.15)


def test_seeds() -> None:
    """Equal seeds give equal files and results, other seeds others; the noise is normal."""
    made = [explain.noise_tunnel(MLP, signed, seed=s, stdevs=0.5) for s in (3, 3, 4)]
    first, again, other = (run(m, {"input": X})["input_attribution"] for m in made)
    np.testing.assert_array_equal(first, again)
    assert made[0] == made[1]
    assert np.abs(first - other).max() > 1e-3
    linear = og.attach(MLP, lambda op, x: {"y": x * x}, "input")
    model = explain.noise_tunnel(
        linear, signed, of="y", target=None, nt_type="vargrad", nt_samples=20000, stdevs=2.0, seed=1
    )
    variance = run(model, {"input": X[:2]})["input_attribution"]  # of 2 x
    np.testing.assert_allclose(variance, 16, rtol=0.1)
    without = explain.noise_tunnel(MLP, signed)
    assert {a.name for n in without.graph.node for a in n.attribute}.isdisjoint({"seed"})


def test_stdevs_of_several_inputs() -> None:
    net = og.attach(
        MLP, lambda op, y: {"z": y * op.input("other", ["N", 3]) * op.input("third", ["N", 3])}
    )
    del net.graph.output[0]
    model = explain.noise_tunnel(
        net,
        signed,
        ["input", "other"],
        stdevs={"other": 0.5},
        seed="input",
        nt_samples=2,
        target=1,
    )
    assert [v.name for v in model.graph.input] == ["input", "other", "third", "other_noise"]
    a, b, noise = (RNG.standard_normal(s).astype(np.float32) for s in [(5, 3), (5, 3), (2, 5, 3)])
    found = run(model, {"input": X, "other": a, "third": b, "other_noise": noise})
    one = signed(net, ["input", "other"], target=1)
    expected = np.mean(
        [
            run(one, {"input": X, "other": a + 0.5 * e, "third": b})["input_attribution"]
            for e in noise
        ],
        axis=0,
    )
    closely(found["input_attribution"], expected, 1e-5)


def test_mistakes() -> None:
    tunnel = partial(explain.noise_tunnel, MLP)
    for method in (og.gradient, "saliency", partial(explain.saliency, "model")):
        with pytest.raises(og.ArgumentError, match="a method is a function of"):
            tunnel(method)
    with pytest.raises(og.ArgumentError, match="'target' belongs to what is around saliency"):
        tunnel(partial(explain.saliency, target=3))
    with pytest.raises(og.ArgumentError, match="nt_type"):
        tunnel(explain.saliency, nt_type="mean")
    with pytest.raises(og.ArgumentError, match="nt_samples is a whole number"):
        tunnel(explain.saliency, nt_samples=0)
    with pytest.raises(og.ArgumentError, match="stdevs"):
        tunnel(explain.saliency, stdevs=[0.1, 0.2])
    with pytest.raises(og.ArgumentError, match="seed"):
        tunnel(explain.saliency, seed="file")
    with pytest.raises(og.ArgumentError, match="convergence_delta"):
        tunnel(partial(explain.integrated_gradients, convergence_delta=True))


def test_captum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws, which captum orders by example."""
    captum = pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")
    import torch

    net = explained("resnet", activation=torch.nn.Softplus)  # no noise is near its kinks
    (x,) = net.inputs.values()
    target = net.module(x).argmax(1)
    n, s = len(x), 4
    torch.manual_seed(0)
    noise = torch.randn(s, *x.shape)
    pool = torch.randn(6, *x.shape[1:])
    choices, coefficients = RNG.integers(6, size=(s, n)), RNG.random((s, n))
    rows = noise.transpose(0, 1).flatten(0, 1)
    monkeypatch.setattr(torch, "normal", lambda mean, std: rows * std)
    monkeypatch.setattr(np.random, "choice", lambda size, count: choices.T.ravel())
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: coefficients.T.ravel())
    for kind in ("smoothgrad", "smoothgrad_sq", "vargrad"):
        expected = captum.NoiseTunnel(captum.Saliency(net.module)).attribute(
            x, nt_type=kind, nt_samples=s, stdevs=0.2, target=target
        )
        model = explain.noise_tunnel(
            net.model, explain.saliency, nt_type=kind, nt_samples=s, stdevs=0.2, seed="input"
        )
        found = run(model, {**net.feeds, "image_noise": noise.numpy()})
        closely(found["image_attribution"], expected.detach(), 1e-3 if kind == "vargrad" else 1e-4)
    expected = captum.GradientShap(net.module).attribute(
        x, pool, n_samples=s, stdevs=0.1, target=target
    )
    model = explain.gradient_shap(
        net.model, baselines=pool.numpy(), n_samples=s, stdevs=0.1, seed="input"
    )
    drawn = {
        "image_noise": noise.numpy(),
        "image_choices": choices,
        "coefficients": coefficients.astype(np.float32),
    }
    closely(run(model, {**net.feeds, **drawn})["image_attribution"], expected.detach())


def test_a_quantised_net() -> None:
    """Straight through the rounding, at each point."""

    def rounded(op: Any, y: Any) -> dict[str, Any]:
        scale, zero = op.const(0.05, like=y), op.const(0, dtype=np.int8)
        return {"q": op.DequantizeLinear(op.QuantizeLinear(y, scale, zero), scale, zero) * y}

    net = og.attach(MLP, rounded)
    del net.graph.output[0]
    for method in (
        explain.integrated_gradients,
        partial(explain.noise_tunnel, method=explain.input_x_gradient, seed=0),
    ):
        passes, stops = (
            run(method(net, straight_through=s, target=1), {"input": X})["input_attribution"]
            for s in (True, False)
        )
        assert np.abs(passes - stops).max() > 1e-3
    onnx.checker.check_model(explain.integrated_gradients(net, straight_through=True))
