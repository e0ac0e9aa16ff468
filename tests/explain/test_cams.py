"""Class-activation maps equal those of pytorch-grad-cam and captum, on what people's files are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxgrad as og
from tests.oracle import accept, reference, runner

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")  # that it sets hooks

from onnxgrad.explain import cams  # noqa: E402
from tests.explained_nets import EXAMPLES, ExplainedNet, explained  # noqa: E402
from tests.torchvision_stand_in import grad_cam  # noqa: E402

Array = np.ndarray
TARGETS = [1, 3, 4]
PEERS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "x_grad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_element_wise": "GradCAMElementWise",
}
# Kinds of nets with their layers: the last, and one at which no two methods agree. The tokens
# between blocks would not do: the gradient of a LayerNormalization is orthogonal to them, so that
# HiResCAM's map is rounding noise.
LAYERS = [
    ("resnet", "layer2"),
    ("resnet", "layer1.bn2"),
    ("mobilenet", "head"),
    ("mobilenet", "block1.project"),
    ("vit", "blocks.1.norm1"),
    ("vit", "blocks.0.norm2"),
    ("segmentation", "middle"),
]
SIZED: dict[str, Any] = {"interpolate": True, "scale": True}


def peer(method: str, net: ExplainedNet, layers: list[str], targets: Any = TARGETS) -> Array:
    """The map of pytorch-grad-cam."""
    package, reshape = grad_cam(), None
    if net.places and layers:
        from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform

        height, width = net.places
        reshape = functools.partial(vit_reshape_transform, height=height, width=width)
    parts = [net.submodule(name) for name in layers]
    made = getattr(package, PEERS.get(method, "FullGrad"))(net.module, parts, reshape)
    scores: Any = None
    if targets is not None:
        scores = [lambda y, t=t: y[t].sum() for t in targets]
    (x,) = net.inputs.values()
    return made(x, scores)


def last(model: onnx.ModelProto, feeds: Any, run: Any = runner) -> Array:
    return run(model)(feeds)[-1]


def ours(method: str, net: ExplainedNet, *layers: str, **options: Any) -> Array:
    named = [net.tensors[name] for name in layers] or None
    options = {"target": TARGETS, "tokens": net.places} | SIZED | options
    return last(getattr(og.explain, method)(net.model, named, **options), net.feeds)


def close(one: Array, other: Array, tolerance: float = 1e-4) -> None:
    assert one.shape == other.shape
    scale = np.abs(other).max()
    assert scale > 1e-3 and np.isfinite(other).all()
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(("kind", "layer"), LAYERS)
@pytest.mark.parametrize("method", PEERS)
def test_equals_that_of_the_peer(method: str, kind: str, layer: str) -> None:
    net = explained(kind)
    close(ours(method, net, layer), peer(method, net, [layer]))


def test_methods_differ() -> None:
    maps = [ours(method, explained("resnet"), "layer1.bn2") for method in PEERS]
    for k, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 0.01 for other in maps[:k])


def test_of_the_class_that_wins() -> None:
    for kind, layer in (("resnet", "layer1.bn2"), ("vit", "blocks.1.norm1")):
        net = explained(kind)
        close(ours("grad_cam", net, layer, target="argmax"), peer("grad_cam", net, [layer], None))


def test_the_mean_over_layers() -> None:
    net, layers = explained("resnet"), ["layer1", "layer2"]
    close(ours("layer_cam", net, *layers), peer("layer_cam", net, layers))
    same = ["layer1.bn1", "layer1.bn2"]
    apart = [ours("grad_cam", net, name, interpolate=False, scale=False) for name in same]
    joint = ours("grad_cam", net, *same, interpolate=False, scale=False)
    close(joint, np.mean(apart, axis=0))
    with pytest.raises(og.ArgumentError, match="pass interpolate=True"):
        ours("grad_cam", net, *layers, interpolate=False)


def test_neither_scaled_nor_resized() -> None:
    """By hand, of the gradient at the layer."""
    net = explained("resnet")
    name = net.tensors["layer1"]
    head = og.heads.class_score(target=TARGETS)
    model = og.gradient(net.model, name, of=head, values=name, forward=False)
    layer, slope = runner(model)(net.feeds)
    expected = np.maximum((slope.mean((2, 3), keepdims=True) * layer).sum(1), 0)
    close(ours("grad_cam", net, "layer1", interpolate=False, scale=False), expected, 1e-5)
    nearest = ours("grad_cam", net, "layer1", interpolate="nearest", scale=False)
    close(nearest, expected.repeat(4, 1).repeat(4, 2), 1e-5)


@pytest.mark.parametrize(
    ("kind", "merged"),
    [
        ("resnet", False),
        ("resnet", True),
        ("mobilenet", True),
        ("vit", False),
        ("segmentation", False),
    ],
)
def test_full_gradients(kind: str, merged: bool) -> None:
    net = explained(kind, merged=merged)
    model = og.explain.full_grad(net.model, target=TARGETS, scale=True)
    close(last(model, net.feeds), peer("full_grad", net, []))


def test_full_gradients_of_a_bias_that_is_added() -> None:
    net = explained("segmentation")
    model, seen = onnx.ModelProto(), 0
    model.CopyFrom(net.model)
    for k, node in enumerate(list(model.graph.node)):
        if node.op_type == "Conv":
            bias = node.input.pop()
            (array,) = (
                onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == bias
            )
            wide = onnx.numpy_helper.from_array(array.reshape(-1, 1, 1), f"{bias}_wide")
            model.graph.initializer.append(wide)
            out, node.output[0] = node.output[0], f"{node.output[0]}_bare"
            operands = [node.output[0], wide.name][:: -1 if seen else 1]
            model.graph.node.insert(k + seen + 1, onnx.helper.make_node("Add", operands, [out]))
            seen += 1
    assert seen == 3
    found = last(og.explain.full_grad(model, target=TARGETS, scale=True), net.feeds)
    close(found, peer("full_grad", net, []))


@pytest.mark.parametrize("interpolate", ["nearest", "linear"])
@pytest.mark.parametrize("kind", ["resnet", "segmentation"])
def test_guided(kind: str, interpolate: Any) -> None:
    captum = pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")
    net = explained(kind)
    (x,) = net.inputs.values()

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.module

        def forward(self, x: Any) -> Any:
            y = self.net(x)
            return y.flatten(2).sum(2) if y.ndim > 2 else y

    mode = {"nearest": "nearest", "linear": "bilinear"}[interpolate]
    expected = captum.GuidedGradCam(Scores(), net.submodule()).attribute(
        x, TARGETS, interpolate_mode=mode
    )
    model = og.explain.guided_grad_cam(
        net.model, net.tensors[net.layer], target=TARGETS, interpolate=interpolate
    )
    close(last(model, net.feeds), expected.detach().numpy())
    said = {p.key: p.value for p in model.metadata_props}
    assert said["onnxgrad.attributions"] == '{"image": "image_attribution"}'
    assert said["onnxgrad.layers"] == f'{{"image": ["{net.tensors[net.layer]}"]}}'


def test_a_wrong_formula_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    net, right = explained("resnet"), cams._grad_cam
    monkeypatch.setattr(cams, "_grad_cam", lambda a, g: right(a * a * 1e-3 + a, g))
    with pytest.raises(AssertionError):
        close(ours("grad_cam", net, "layer1"), peer("grad_cam", net, ["layer1"]))


def test_another_class_and_other_weights_give_another_map() -> None:
    """The sanity check of Adebayo et al. 2018: a map that stays says nothing of the net."""
    net = explained("resnet")
    before = ours("grad_cam", net, "layer1")
    assert np.abs(ours("grad_cam", net, "layer1", target=[0, 0, 0]) - before).max() > 0.1
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    (weight,) = (t for t in model.graph.initializer if t.name == "fc.weight")
    drawn = np.random.default_rng(0).standard_normal(tuple(weight.dims)).astype(np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(drawn, weight.name))
    after = last(
        og.explain.grad_cam(model, net.tensors["layer1"], target=TARGETS, **SIZED), net.feeds
    )
    assert (np.abs(after - before).max((1, 2)) > 0.3).all()


# -- what files are ------------------------------------------------------------------------------


METHODS: dict[str, Callable[..., onnx.ModelProto]] = {
    name: getattr(og.explain, name) for name in [*PEERS, "full_grad", "guided_grad_cam"]
}


def explain(method: str, model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """The explanation for the TARGETS, of a layer that is found."""
    sized = {"full_grad": {"scale": True}, "guided_grad_cam": {}}.get(method, SIZED)
    return METHODS[method](model, **{"target": TARGETS} | sized | options)


@pytest.mark.parametrize("method", METHODS)
def test_on_other_runtimes_and_settings(method: str) -> None:
    net = explained("resnet")
    expected = last(explain(method, net.model), net.feeds)
    portable = explain(method, net.model, runs_on="portable")
    accept(portable)
    close(last(portable, net.feeds), expected, 1e-5)
    close(last(portable, net.feeds, reference), expected, 1e-5)
    given = explain(method, net.model, target="input")
    close(last(given, net.feeds | {"target": np.array(TARGETS)}), expected, 1e-6)
    static = onnx.ModelProto()
    static.CopyFrom(net.model)
    static.graph.input[0].type.tensor_type.shape.dim[0].dim_value = EXAMPLES
    close(last(explain(method, static), net.feeds), expected, 1e-6)
    one = {"image": net.feeds["image"][:1]}
    close(last(explain(method, net.model, target=TARGETS[0]), one), expected[:1], 1e-4)


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_opsets(opset: int) -> None:
    for kind in ("resnet", "segmentation"):
        net, other = explained(kind), explained(kind, opset=opset)
        for method in ("grad_cam", "full_grad", "guided_grad_cam"):
            expected = last(explain(method, net.model), net.feeds)
            close(last(explain(method, other.model), net.feeds), expected, 1e-5)


def test_images_of_any_size() -> None:
    net = explained("segmentation")
    image = np.random.default_rng(0).standard_normal((2, 3, 20, 12)).astype(np.float32)
    for method in METHODS:
        model = explain(method, net.model, target=[1, 2])
        dims = [d.dim_param for d in model.graph.output[-1].type.tensor_type.shape.dim]
        assert dims[-2:] == ["H", "W"]
        found = last(model, {"image": image})
        assert found.shape[-2:] == (20, 12)
        other = explained("segmentation").model
        for k, size in enumerate(image.shape[2:], 2):
            fixed = onnx.ModelProto()
            fixed.CopyFrom(other)
            fixed.graph.input[0].type.tensor_type.shape.dim[k].dim_value = size
        close(last(explain(method, fixed, target=[1, 2]), {"image": image}), found, 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method: str) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    net = explained("resnet")
    half = convert_float_to_float16(net.model, keep_io_types=False)
    found = last(explain(method, half), {"image": net.feeds["image"].astype(np.float16)})
    assert found.dtype == np.float16
    # Each map of a full gradient is scaled by the range of its own, which may be small.
    tolerance = 0.05 if method == "full_grad" else 0.005
    close(found.astype(np.float32), last(explain(method, net.model), net.feeds), tolerance)


def test_quantised_and_optimised_files(tmp_path: Path) -> None:
    from onnxruntime import quantization

    net = explained("resnet", merged=True)
    expected = last(explain("grad_cam", net.model), net.feeds)
    plain, made = str(tmp_path / "plain.onnx"), str(tmp_path / "made.onnx")
    onnx.save(net.model, plain)

    class Examples(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([net.feeds])

        def get_next(self) -> Any:
            return next(self.feeds, None)

    for style in quantization.QuantFormat:
        quantization.quantize_static(plain, made, Examples(), quant_format=style)
        found = last(explain("grad_cam", onnx.load(made), straight_through=True), net.feeds)
        assert np.abs(found - expected).mean() < 0.02
        with pytest.raises(og.UnreachableError, match="straight_through"):
            explain("grad_cam", onnx.load(made))
    options = ort.SessionOptions()
    options.optimized_model_filepath = made
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
    fused = onnx.load(made)
    assert "FusedConv" in {node.op_type for node in fused.graph.node}
    for method in METHODS:
        expected = last(explain(method, net.model), net.feeds)
        close(last(explain(method, fused), net.feeds), expected, 1e-5)


def test_a_transformer_asks_for_its_layer() -> None:
    net = explained("vit")
    with pytest.raises(og.ArgumentError, match=r"attention: .* candidates are .*norm1"):
        og.explain.grad_cam(net.model)
    layer = net.tensors["blocks.1.norm1"]
    with pytest.raises(og.ArgumentError, match="pass tokens=True"):
        og.explain.grad_cam(net.model, layer)
    with pytest.raises(og.ArgumentError, match="do not make 3 x 5 places"):
        og.explain.grad_cam(net.model, layer, tokens=(3, 5))
    square = og.explain.grad_cam(net.model, layer, tokens=True, target=TARGETS, **SIZED)
    close(last(square, net.feeds), peer("grad_cam", net, ["blocks.1.norm1"]))
    line = og.explain.grad_cam(net.model, layer, tokens=(17,), class_tokens=0)
    assert last(line, net.feeds).shape == (EXAMPLES, 17)


def test_the_layer_that_is_found_is_the_one_to_name_by_hand() -> None:
    for kind, layer in (("resnet", "layer2"), ("mobilenet", "head"), ("segmentation", "up")):
        net = explained(kind)
        model = og.explain.grad_cam(net.model)
        assert model.graph.output[-1].name == f"{net.tensors[layer]}_attribution"


def test_a_layout_of_one_machine_is_named() -> None:
    """A net that onnxruntime has optimised for one machine has no layers of the standard."""
    net = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21, "com.microsoft.nchwc" : 1]>
        g (float[N, 8, 4, 4] x, float[8, 8, 1, 1] w) => (float[N, 128] y) {
        h = com.microsoft.nchwc.Conv(x, w) y = Flatten(h) }"""
    )
    with pytest.raises(og.NoRuleError, match="ORT_ENABLE_ALL"):
        og.explain.grad_cam(net)
