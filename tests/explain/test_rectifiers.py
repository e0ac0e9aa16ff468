"""Guided backpropagation and deconvolution: against captum, and by hand where it does nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

import onnxgrad as og

captum = pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")

from tests.explained_nets import explained  # noqa: E402

METHODS = {"guided_backprop": "GuidedBackprop", "deconvolution": "Deconvolution"}
TARGETS = [2, 0, 4]


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString())
    (name,) = [o.name for o in session.get_outputs() if o.name.endswith("_attribution")]
    return session.run([name], feeds)[0]


def by_captum(method: str, module: Any, x: Any, target: Any) -> np.ndarray:
    with pytest.warns(UserWarning, match="backward hooks"):
        found = getattr(captum, METHODS[method])(module).attribute(x, target=target)
    return found.detach().numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "lstm", "vit"])
@pytest.mark.parametrize("opset", [13, 17])
def test_captum(method: str, kind: str, opset: int) -> None:
    net = explained(kind, torch.nn.ReLU, opset=opset)
    (x,) = net.inputs.values()
    model = getattr(og.explain, method)(net.model, target=TARGETS)
    expected = by_captum(method, net.module, x, torch.tensor(TARGETS))
    assert_close(run(model, net.feeds), expected)
    plain = run(og.explain.saliency(net.model, abs=False, target=TARGETS), net.feeds)
    assert np.abs(plain - expected).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_from_zero_is_a_rectifier(method: str) -> None:
    """Captum leaves nn.ReLU6 alone; it agrees where that is written as a ReLU and a bound."""

    class Bounded(torch.nn.Sequential):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(torch.nn.ReLU())

        def forward(self, x: Any) -> Any:
            return super().forward(x).clamp(max=6)

    net, twin = (explained("mobilenet", a) for a in (torch.nn.ReLU6, Bounded))
    (x,) = net.inputs.values()
    target = torch.tensor(TARGETS)
    found = run(getattr(og.explain, method)(net.model, target=TARGETS), net.feeds)
    assert_close(found, by_captum(method, twin.module, x, target))
    plain = run(og.explain.saliency(net.model, abs=False, target=TARGETS), net.feeds)
    assert_close(plain, by_captum(method, net.module, x, target))


HEAD = """<ir_version: 9, opset_import: ["" : 18]>
    g (float[N, 4] x) => (float[N, 4] y) <float zero = {0.0}, float half = {0.5}>"""
X = np.array([[-1.0, 0.2, 1.0, 3.0]], np.float32)
# y = f(x) times 1, 1, -1, -1: which cotangents f passes.
SIGNS = "s = Constant<value_floats = [1.0, 1.0, -1.0, -1.0]>() y = Mul(r, s)"
RULES = {
    "Relu(x)": ([0, 1, 0, 0], [1, 1, 0, 0]),
    "Max(x, zero)": ([0, 1, 0, 0], [1, 1, 0, 0]),
    "Max(zero, x)": ([0, 1, 0, 0], [1, 1, 0, 0]),
    "Max(x, half)": ([0, 0, -1, -1], [0, 0, -1, -1]),
    "Clip(x, zero)": ([0, 1, 0, 0], [1, 1, 0, 0]),
    "Clip(x, , half)": ([1, 1, 0, 0], [1, 1, 0, 0]),
    "ThresholdedRelu<alpha = 0.5>(x)": ([0, 0, 0, 0], [1, 1, 0, 0]),
    "LeakyRelu<alpha = 0.5>(x)": ([0.5, 1, -1, -1], [0.5, 1, -1, -1]),
}


@pytest.mark.parametrize("formula", RULES)
@pytest.mark.parametrize("wrap", ["", "If", "Loop"])
def test_which_operators_are_rectifiers(formula: str, wrap: str) -> None:
    body = {
        "": f"r = {formula}",
        "If": f"""c = Constant<value = bool {{1}}>() r = If (c) <
            then_branch = a () => (float[N, 4] p) {{ p = {formula} }},
            else_branch = b () => (float[N, 4] q) {{ q = Identity(x) }}>""",
        "Loop": f"""n = Constant<value_int = 1>() r = Loop (n, , x) <
            body = b (int64 i, bool go, float[N, 4] s) => (bool on, float[N, 4] t) {{
                on = Identity(go) t = {formula.replace("x)", "s)").replace("(x", "(s")} }}>""",
    }[wrap]
    net = onnx.parser.parse_model(f"{HEAD} {{ {body} {SIGNS} }}")
    for method, expected in zip(METHODS, RULES[formula], strict=True):
        model = getattr(og.explain, method)(net, "x", target=None)
        np.testing.assert_allclose(run(model, {"x": X})[0], expected, rtol=1e-6)


def test_quantised() -> None:
    """With straight-through gradients of what rounds."""
    net = onnx.parser.parse_model(
        f"""{HEAD} {{ k = Constant<value = float {{0.05}}>() z = Constant<value = int8 {{0}}>()
        q = QuantizeLinear(x, k, z) d = DequantizeLinear(q, k, z) r = Relu(d) {SIGNS} }}"""
    )
    model = og.explain.guided_backprop(net, "x", target=None, straight_through=True)
    np.testing.assert_allclose(run(model, {"x": X})[0], [0, 1, 0, 0])
