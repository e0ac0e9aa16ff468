"""The nets that explanations are compared on, and the libraries they are compared with.

The files compute what the nets do, and their layers' tensors are found. Captum's and Grad-CAM's
numbers are held to what a method promises, or to the same written out with `og.gradient`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
torch.set_num_threads(1)  # as many as the sessions have
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")  # that it sets hooks

from tests.explained_nets import CLASSES, EXAMPLES, NETS, ExplainedNet, every_value, explained  # noqa: E402
from tests.torchvision_stand_in import grad_cam  # noqa: E402

Array = np.ndarray
TARGETS = [1, 3, 4]
OF_IMAGES = ["resnet", "mobilenet", "vit"]
# What each kind is exported with beside its defaults.
VARIANTS: list[dict[str, Any]] = [
    {},
    {"activation": torch.nn.Softplus},
    {"probabilities": True},
    {"merged": True},
    {"opset": 20},
]


@pytest.fixture
def captum() -> Any:
    return pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")


def score(net: ExplainedNet, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The logit of each example's target."""
    return net.module(*inputs)[torch.arange(EXAMPLES), TARGETS]


def steps(net: ExplainedNet) -> tuple[Any, Any, torch.Tensor]:
    """The examples, baselines of zeros, and by how much the scores differ between them."""
    inputs = tuple(net.inputs.values())
    base = tuple(torch.zeros_like(x) for x in inputs)
    return inputs, base, score(net, inputs) - score(net, base)


def output_of_layer(net: ExplainedNet, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What the layer gives out, and what the net does."""
    kept: list[Any] = []
    hook = net.submodule().register_forward_hook(lambda _, __, y: kept.append(y))
    y = net.module(*inputs)
    hook.remove()
    return [kept[0] if isinstance(kept[0], torch.Tensor) else kept[0][0], y]


def close(one: Any, other: Any, tolerance: float = 1e-4) -> None:
    one, other = (t.detach().numpy() if hasattr(t, "detach") else t for t in (one, other))
    scale = np.abs(other).max()
    assert scale > 1e-3
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


# -- the nets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: next(iter(v), "plain"))
@pytest.mark.parametrize("kind", NETS)
def test_the_file_computes_what_the_net_does(kind: str, variant: dict[str, Any]) -> None:
    net = explained(kind, **variant)
    onnx.checker.check_model(net.model, full_check=True)
    (x,) = net.inputs.values()
    for some in (x, x[:1], torch.cat([x, x.flip(0)])):
        (found,) = runner(net.model)({next(iter(net.inputs)): some.numpy()})
        close(found, net.module(some))
    y = net.module(x)
    assert y.shape[:2] == (EXAMPLES, CLASSES)
    assert (y - y[:1])[1:].abs().amax() > 0.01 * y.abs().amax()  # it looks at its input


@pytest.mark.parametrize("kind", ["tokens", "lstm", "segmentation"])
def test_other_sizes(kind: str) -> None:
    net = explained(kind)
    (name, x) = next(iter(net.inputs.items()))
    x = x[..., 2:] if kind == "segmentation" else x[:, 2:]
    close(runner(net.model)({name: x.numpy()})[0], net.module(x))


@pytest.mark.parametrize("kind", NETS)
def test_each_layer_has_its_tensor(kind: str) -> None:
    net = explained(kind)
    assert set(net.tensors) == {name for name, _ in net.module.named_modules() if name}
    assert {node.op_type for node in net.model.graph.node} >= {
        "resnet": {"BatchNormalization", "Relu", "MaxPool", "GlobalAveragePool"},
        "mobilenet": {"BatchNormalization", "Clip", "HardSwish"},
        "vit": {"Conv", "LayerNormalization", "Softmax", "Erf", "Expand"},
        "tokens": {"Gather", "LayerNormalization", "Softmax", "Erf", "Tanh"},
        "lstm": {"LSTM"},
        "segmentation": {"Resize"},
    }[kind]
    layer, _ = output_of_layer(net, tuple(net.inputs.values()))
    close(every_value(net.model, net.feeds)[net.tensors[net.layer]], layer)


def test_variants_are_what_they_say() -> None:
    merged = {node.op_type for node in explained("resnet", merged=True).model.graph.node}
    assert "BatchNormalization" not in merged
    assert "Gelu" in {node.op_type for node in explained("vit", opset=20).model.graph.node}
    assert explained("vit", probabilities=True).model.graph.node[-1].op_type == "Softmax"
    smooth = {node.op_type for node in explained("resnet", torch.nn.Softplus).model.graph.node}
    assert "Softplus" in smooth and "Relu" not in smooth


@pytest.mark.parametrize("kind", NETS)
def test_gradients_at_the_input_and_at_the_layer(kind: str) -> None:
    net = explained(kind)
    inputs = {n: x.clone().requires_grad_(x.is_floating_point()) for n, x in net.inputs.items()}
    layer, y = output_of_layer(net, tuple(inputs.values()))
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    names = [n for n, x in inputs.items() if x.requires_grad]
    wanted = torch.autograd.grad(y, [*(inputs[n] for n in names), layer], seed)
    wrt = [*names, net.tensors[net.layer]]
    model = og.gradient(net.model, wrt, of="logits", ograd=True, forward=False)
    found = runner(model)({**net.feeds, "logits_ograd": seed.numpy()})
    for one, other in zip(found, wanted, strict=True):
        close(one, other)


# -- the libraries -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "vit", "lstm"])
def test_captums_integrated_gradients_are_complete(captum: Any, kind: str) -> None:
    net = explained(kind)
    inputs, base, change = steps(net)
    method = captum.IntegratedGradients(net.module)
    (found,) = method.attribute(inputs, base, target=TARGETS, n_steps=200)
    close(found.flatten(1).sum(1), change, 0.02)


def test_captums_deep_lift_is_complete(captum: Any) -> None:
    """Where it has a rule for each layer that is not linear."""
    net = explained("resnet")
    inputs, base, change = steps(net)
    (found,) = captum.DeepLift(net.module).attribute(inputs, base, target=TARGETS)
    close(found.flatten(1).sum(1), change, 1e-3)


def test_captums_guided_backprop_lets_no_negative_gradient_through_relu(captum: Any) -> None:
    first, last = torch.nn.Linear(6, 8), torch.nn.Linear(8, CLASSES)
    module = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    x = torch.randn(EXAMPLES, 6, generator=torch.Generator().manual_seed(2))
    found = captum.GuidedBackprop(module).attribute(x, target=TARGETS)
    close(found, (last.weight[TARGETS].clamp(min=0) * (first(x) > 0)) @ first.weight)


def test_captums_noise_tunnel_without_noise_is_the_method_itself(captum: Any) -> None:
    net = explained("resnet")
    inputs = tuple(net.inputs.values())
    plain = captum.Saliency(net.module)
    (alone,) = plain.attribute(inputs, target=TARGETS)
    tunnel = captum.NoiseTunnel(plain)
    (found,) = tunnel.attribute(inputs, nt_samples=3, stdevs=0.0, target=TARGETS)
    close(found, alone)
    (noisy,) = tunnel.attribute(inputs, nt_samples=3, stdevs=0.5, target=TARGETS)
    assert (noisy - alone).abs().max() > 0.05 * alone.abs().max()


def test_captums_layer_conductance_is_complete(captum: Any) -> None:
    net = explained("resnet")
    inputs, base, change = steps(net)
    method = captum.LayerConductance(net.module, net.submodule())
    found = method.attribute(inputs, base, target=TARGETS, n_steps=200)
    close(found.flatten(1).sum(1), change, 0.02)


def test_captums_layer_integrated_gradients_of_an_embedding_are_complete(captum: Any) -> None:
    net = explained("tokens")
    inputs, base, change = steps(net)
    method = captum.LayerIntegratedGradients(net.module, net.submodule())
    found = method.attribute(*inputs, *base, target=TARGETS, n_steps=200)
    close(found.flatten(1).sum(1), change, 0.02)


@pytest.mark.parametrize("kind", OF_IMAGES)
def test_grad_cam_is_the_one_written_out(kind: str) -> None:
    package = grad_cam()
    net = explained(kind)
    (x,) = net.inputs.values()

    def places(tokens: torch.Tensor) -> torch.Tensor:
        assert net.places
        return tokens[:, 1:].unflatten(1, net.places).permute(0, 3, 1, 2)

    targets = [package.utils.model_targets.ClassifierOutputTarget(t) for t in TARGETS]
    method = package.GradCAM(net.module, [net.submodule()], places if net.places else None)
    found = method(x, targets)
    assert found.shape == (EXAMPLES, *x.shape[2:])

    tensor = net.tensors[net.layer]
    model = og.gradient(net.model, tensor, of="logits", ograd=True, forward=False)
    seed = np.eye(CLASSES, dtype=np.float32)[TARGETS]
    slope, maps = (
        runner(model)({**net.feeds, "logits_ograd": seed})[0],
        every_value(net.model, net.feeds),
    )
    a, g = torch.tensor(maps[tensor]), torch.tensor(slope)
    if net.places:
        a, g = places(a), places(g)
    cam = (g.mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).relu()
    cam = cam - cam.amin((2, 3), keepdim=True)
    cam = cam / cam.amax((2, 3), keepdim=True)
    resized = torch.nn.functional.interpolate(cam, x.shape[2:], mode="bilinear")[:, 0]
    resized = resized - resized.amin((1, 2), keepdim=True)
    close(found, resized / resized.amax((1, 2), keepdim=True), 1e-3)


def test_the_stand_in_is_gone_after_the_import() -> None:
    grad_cam()
    assert "torchvision" not in sys.modules or sys.modules["torchvision"].__spec__
