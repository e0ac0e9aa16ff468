"""DeepLIFT: against captum where that is complete, Shapley values, and sums that must come out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import onnxgrad as og

captum = pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")
torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")

from torch import nn  # noqa: E402

from tests.explained_nets import explained  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RNG = np.random.default_rng(0)
TARGETS = [1, 3, 0]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString())
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def parsed(text: str, opset: int = 20) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> {text}')


def assert_close(found: np.ndarray, expected: Any, tolerance: float = 1e-4) -> None:
    assert np.abs(expected).max() > 1e-4
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


# -- captum --------------------------------------------------------------------------------------


class Once(nn.Module):
    """Keeps captum's hooks of two modules apart, of which it calls the first too early else."""

    def forward(self, x: Any) -> Any:
        return x * 1.0


def cnn(activation: Any, apart: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), activation(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 16),
        activation(), nn.Linear(16, 4),
    ]  # fmt: skip
    net = nn.Sequential(*(m for one in layers for m in ((one, Once()) if apart else (one,))))
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 2  # so that activations differ by more than float32 loses
    return net.eval()


IMAGE, BASE = normal(3, 3, 8, 8), 0.3 * normal(1, 3, 8, 8)


def exported(net: nn.Module, opset: int = 17, symbolic: bool = True) -> onnx.ModelProto:
    file = io.BytesIO()
    axes = {"image": {0: "N"}, "logits": {0: "N"}} if symbolic else None
    torch.onnx.export(
        net, (torch.tensor(IMAGE),), file, dynamo=False, input_names=["image"],
        output_names=["logits"], dynamic_axes=axes, opset_version=opset,
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def by_captum(net: nn.Module, base: np.ndarray | None, **options: Any) -> np.ndarray:
    whole = None if base is None else torch.tensor(np.broadcast_to(base, IMAGE.shape).copy())
    lift = captum.DeepLift(net, **options)
    found = lift.attribute(torch.tensor(IMAGE), whole, target=torch.tensor(TARGETS))
    return found.detach().numpy()


ACTIVATIONS = [nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_captum(activation: Any) -> None:
    net = cnn(activation)
    model = exported(net)
    for base in (None, BASE):
        lift = og.explain.deep_lift(model, target=TARGETS, baselines=base)
        found = run(lift, {"image": IMAGE})["image_attribution"]
        assert_close(found, by_captum(net, base))
        derivative = og.explain.input_x_gradient(model, target=TARGETS)
        slope = run(derivative, {"image": IMAGE})["image_attribution"]
        assert np.abs(slope - found).max() > 0.01 * np.abs(found).max()


@pytest.mark.parametrize("symbolic", [True, False])
@pytest.mark.parametrize("opset", [9, 13, 18])
def test_files_of_each_kind(symbolic: bool, opset: int) -> None:
    net = cnn(nn.ReLU)
    model = exported(net, opset, symbolic)
    given: list[tuple[Any, dict[str, np.ndarray]]] = [
        (BASE, {}),
        (BASE[0], {}),
        ({"image": BASE}, {}),
        ("input", {"image_baseline": np.broadcast_to(BASE, IMAGE.shape).copy()}),
    ]
    for baselines, feeds in given:
        lift = og.explain.deep_lift(model, target="input", baselines=baselines)
        feeds = {"image": IMAGE, "target": np.array(TARGETS), **feeds}
        assert_close(run(lift, feeds)["image_attribution"], by_captum(net, BASE))
    lift = og.explain.deep_lift(model, target=TARGETS, baselines=0.5, multiply_by_inputs=False)
    expected = by_captum(net, np.full((1, 1, 1, 1), 0.5, np.float32), multiply_by_inputs=False)
    assert_close(run(lift, {"image": IMAGE})["image_attribution"], expected)


def test_where_captum_is_not_complete() -> None:
    """Relu and MaxPool in a row, and windows that overlap: there its own sums do not come out."""
    overlapping = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(96, 4)
    )
    for net in (cnn(nn.ReLU, apart=False), overlapping.eval()):
        lift = og.explain.deep_lift(
            exported(net), target=TARGETS, baselines=BASE, convergence_delta=True
        )
        assert np.abs(run(lift, {"image": IMAGE})["convergence_delta"]).max() < 1e-5
        whole = torch.tensor(np.broadcast_to(BASE, IMAGE.shape).copy())
        _, delta = captum.DeepLift(net).attribute(
            torch.tensor(IMAGE), whole, target=torch.tensor(TARGETS), return_convergence_delta=True
        )
        assert delta.abs().max() > 1e-2


def test_softmax() -> None:
    """Of one example captum's; it takes the mean over all others too, and we do not."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 7), nn.Tanh(), nn.Linear(7, 4), nn.Softmax(1))
    model = exported(net.eval())
    lift = og.explain.deep_lift(model, of="logits", target=TARGETS, baselines=BASE)
    found = run(lift, {"image": IMAGE})["image_attribution"]
    for k, target in enumerate(TARGETS):
        one = captum.DeepLift(net).attribute(
            torch.tensor(IMAGE[k : k + 1]), torch.tensor(BASE), target=target
        )
        assert_close(found[k : k + 1], one.detach().numpy())


def test_lstm_keeps_its_derivative_as_in_captum() -> None:
    net = explained("lstm", nn.ReLU)
    (x,) = net.inputs.values()
    expected = captum.DeepLift(net.module).attribute(x, target=torch.tensor(TARGETS))
    lift = og.explain.deep_lift(net.model, target=TARGETS)
    assert_close(run(lift, net.feeds)["signal_attribution"], expected.detach().numpy())


REFERENCES = 0.3 * normal(5, 3, 8, 8)


@pytest.mark.parametrize("symbolic", [True, False])
def test_shap(symbolic: bool) -> None:
    """Captum's, and the mean of those for each baseline."""
    net = cnn(nn.ReLU)
    model = exported(net, symbolic=symbolic)
    expected, deltas = captum.DeepLiftShap(net).attribute(
        torch.tensor(IMAGE), torch.tensor(REFERENCES), target=torch.tensor(TARGETS),
        return_convergence_delta=True,
    )  # fmt: skip
    given: list[tuple[Any, dict[str, np.ndarray]]] = [
        (REFERENCES, {}),
        ("input", {"image_baselines": REFERENCES}),
    ]
    for baselines, feeds in given:
        lift = og.explain.deep_lift_shap(
            model, target=TARGETS, baselines=baselines, convergence_delta=True
        )
        found = run(lift, {"image": IMAGE, **feeds})
        assert_close(found["image_attribution"], expected.detach().numpy())
        assert found["convergence_delta"].size == len(deltas)
        assert np.abs(found["convergence_delta"]).max() < 1e-5
    one = og.explain.deep_lift(model, target=TARGETS, baselines="input")
    feeds = [
        {"image": IMAGE, "image_baseline": np.broadcast_to(b, IMAGE.shape).copy()}
        for b in REFERENCES
    ]
    each = [run(one, f)["image_attribution"] for f in feeds]
    assert_close(found["image_attribution"], np.mean(each, 0))


# -- complete ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "segmentation", "vit"])
@pytest.mark.parametrize("runs_on", ["cpu", "portable"])
def test_sums_come_out(kind: str, runs_on: Any) -> None:
    """Of the class of the input, though that of the baseline is another."""
    net = explained(kind)
    lift = og.explain.deep_lift(net.model, convergence_delta=True, runs_on=runs_on)
    found = run(lift, net.feeds)
    (x,) = net.feeds.values()
    logits = [run(net.model, {"image": y})["logits"] for y in (x, 0 * x)]
    scores, base = (y.reshape(*y.shape[:2], -1).sum(-1) for y in logits)
    winner = scores.argmax(1)
    assert kind == "vit" or (winner != base.argmax(1)).any()
    change = (scores - base)[range(len(x)), winner]
    sums = found["image_attribution"].reshape(len(x), -1).sum(1)
    assert_close(sums, change)
    np.testing.assert_allclose(found["convergence_delta"], 0, atol=1e-4 * np.abs(change).max())
    by_standard = ReferenceEvaluator(lift).run(["image_attribution"], net.feeds)[0]
    # Quotients of small differences, of which float32 keeps few places, are many in the last.
    assert_close(by_standard, found["image_attribution"], 1e-3 if kind == "vit" else 1e-4)


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "segmentation", "vit", "lstm"])
def test_where_nothing_differs_multipliers_are_derivatives(kind: str) -> None:
    net = explained(kind)
    ((name, x),) = net.feeds.items()
    lift = og.explain.deep_lift(net.model, baselines="input", multiply_by_inputs=False)
    found = run(lift, {name: x, f"{name}_baseline": x})[f"{name}_attribution"]
    slope = run(og.explain.saliency(net.model, abs=False), net.feeds)[f"{name}_attribution"]
    assert_close(found, slope)


@pytest.mark.parametrize("opset", [17, 20])
def test_sums_come_out_for_embeddings(opset: int) -> None:
    net = explained("tokens", opset=opset)
    tensor = net.tensors["embedding"]
    found = run(og.explain.deep_lift(net.model, tensor, convergence_delta=True), net.feeds)
    assert np.abs(found[f"{tensor}_attribution"]).max() > 0.1
    np.testing.assert_allclose(found["convergence_delta"], np.zeros(3), atol=1e-4)


X, B = normal(3, 5), normal(5)
W = ", ".join(f"{w:.3f}" for w in normal(25))
ROW = "float[5] v = {1, 2, 3, -1, 0.5}, float[1, 5] row = {1, 2, 3, -1, 0.5}"
DEFINED = f"<float[5,5] w = {{{W}}}, float one = {{1.0}}, int64[1] last = {{-1}}, {ROW}>"
FORMULAS = [
    "a = MatMul(x, w) s = Sigmoid(a) y = Mul(a, s)",
    "y = Mul(x, x)",
    "e = Exp(x) y = Div(x, e)",
    "e = Exp(x) y = Div(one, e)",
    "e = Exp(x) s = ReduceSum<keepdims = 1>(e, last) y = Div(e, s)",
    "e = Exp(x) s = ReduceSum<keepdims = 1>(e, last) y = Mul(e, s)",
    "a = MatMul(x, w) b = Tanh(x) y = Max(a, b)",
    "a = MatMul(x, w) b = Tanh(x) y = Min(a, b, x)",
    "s = ReduceMax<keepdims = 1>(x, last) a = Tanh(x) y = Max(a, s)",
    "y = ReduceMin<keepdims = 1>(x, last)",
    "y = ReduceSumSquare<keepdims = 1>(x, last)",
    'y = Einsum<equation = "ni,nj->nij">(x, x)',
    "u = Unsqueeze(x, last) h = Tanh(u) t = Transpose<perm = [0, 2, 1]>(h) y = MatMul(u, t)",
    "u = Unsqueeze(x, last) y = GlobalMaxPool(u)",
    "a = Gemm<transA = 1>(x, x) y = Reshape(a, last)",
    "y = LayerNormalization(x, v, v)",
    "y = RMSNormalization(x, v)",
    "y = LogSoftmax<axis = 1>(x)",
    "y = LogSoftmax<axis = 0>(x)",
    "n = ReduceL2<keepdims = 1>(x, last) y = Div(x, n)",
    "y = ReduceL1<keepdims = 1>(x, last)",
    "u = Unsqueeze(x, last) a = MatMul(u, row) y = GroupNormalization<num_groups = 1>(a, v, v)",
    "u = Unsqueeze(x, last) a = MatMul(u, row) y = Softmax<axis = 1>(a)",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_of_several_activations(formula: str) -> None:
    net = parsed(f"g (float[N, 5] x) => (float[] y) {DEFINED} {{ {formula} z = Mul(y, y) }}", 23)
    net.graph.output[0].name = "z"  # of sums that are constant by themselves
    net.graph.output[0].type.tensor_type.ClearField("shape")
    found = run(og.explain.deep_lift(net, target=None, baselines=B), {"x": X})["x_attribution"]
    change = [run(net, {"x": x})["z"].sum(dtype=np.float64) for x in (X, np.tile(B, (3, 1)))]
    np.testing.assert_allclose(
        found.sum(dtype=np.float64), change[0] - change[1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("batch", ["3", "N"])
@pytest.mark.parametrize(
    "formula",
    [
        "h = Gelu(x) k = Gelu(h) y = Sigmoid(k)",
        'h = Tanh(x) y = Gelu<approximate = "tanh">(h)',
        "u = Unsqueeze(x, last) a = MatMul(u, row) h = GroupNormalization<num_groups = 1>(a, v, v) "
        "y = Sigmoid(h)",
    ],
)
def test_where_onnx_has_no_evaluator_for_the_operator(formula: str, batch: str) -> None:
    """Functions that depend on their operands' dtypes, at a baseline that is a constant."""
    net = parsed(f"g (float[{batch}, 5] x) => (float[] y) {DEFINED} {{ {formula} }}", 21)
    net.graph.output[0].type.tensor_type.ClearField("shape")
    found = run(og.explain.deep_lift(net, target=None, baselines=B), {"x": X})["x_attribution"]
    change = [run(net, {"x": x})["y"].sum(dtype=np.float64) for x in (X, np.tile(B, (3, 1)))]
    np.testing.assert_allclose(
        found.sum(dtype=np.float64), change[0] - change[1], rtol=1e-5, atol=1e-5
    )
    constant = parsed("g (float[3, 5] x) => (float[3, 5] y) <float[5] v = {1,1,1,1,1}> "
                      "{ h = Gelu(v) y = Div(x, h) }", 21)  # fmt: skip
    gelu = 0.8413447
    np.testing.assert_allclose(run(og.gradient(constant), {"x": X})["x_grad"], 1 / gelu, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["zeros", "flat", "any"])
def test_mean_variance_normalization(baseline: str) -> None:
    """For equal elements onnxruntime gives NaN, where the standard has 0."""
    net = parsed(
        "g (float[N, 2, 3] x) => (float[N, 2, 3] y) "
        "{ n = MeanVarianceNormalization<axes = [2]>(x) s = Sigmoid(n) y = Mul(s, s) }",
        21,
    )
    x, b = normal(3, 2, 3), normal(3, 2, 3)
    x[0, 1], b[1, 0] = 2, 3  # a channel of equal elements, here and there
    b = {"zeros": 0 * x, "flat": b[:, :, :1] + 0 * x, "any": b}[baseline]
    lift = og.explain.deep_lift(net, target=None, baselines="input")
    found = ReferenceEvaluator(lift).run(["x_attribution"], {"x": x, "x_baseline": b})[0]

    def score(a: np.ndarray) -> np.ndarray:
        c = a.astype(np.float64) - a.astype(np.float64).mean(2, keepdims=True)
        n = c / np.maximum(np.sqrt((c * c).mean(2, keepdims=True)), 1e-9)
        return (1 / (1 + np.exp(-n)) ** 2).sum(2)

    np.testing.assert_allclose(found.sum(2), score(x) - score(b), rtol=1e-4, atol=1e-5)
    on_ort = run(lift, {"x": x + 1e-3 * normal(3, 2, 3), "x_baseline": b})["x_attribution"]
    assert np.isfinite(on_ort).all()


DOMAINS = {"Acos": 0.2, "Asin": 0.2, "Atanh": 0.2}
POSITIVE = {"Acosh": 1.1, "Log": 0.1, "Sqrt": 0.1, "Pow": 0.1}
FUNCTIONS = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Clip", "Cos", "Cosh", "Elu",
    "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "PRelu", "Pow",
    "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
]  # fmt: skip
MORE = {"Clip": ", low, high", "PRelu": ", low", "Pow": ", high"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_operand(name: str) -> None:
    """The attribution is the change of the function, and its derivative where nothing changes."""
    x, b = X * DOMAINS.get(name, 1), B * DOMAINS.get(name, 1)
    if name in POSITIVE:
        x, b = np.abs(x) + POSITIVE[name], np.abs(b) + POSITIVE[name]
    x, b = x.astype(np.float32), np.tile(b.astype(np.float32), (3, 1))
    b[0] = x[0]
    net = parsed(
        f"g (float[N, 5] x) => (float[N, 5] y) <float low = {{-0.1}}, float high = {{0.6}}>"
        f"{{ y = {name}(x{MORE.get(name, '')}) }}"
    )
    lift = og.explain.deep_lift(net, target=None, baselines="input")
    found = run(lift, {"x": x, "x_baseline": b})["x_attribution"]
    expected = run(net, {"x": x})["y"] - run(net, {"x": b})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    lift = og.explain.deep_lift(net, target=None, baselines="input", multiply_by_inputs=False)
    slope = run(og.gradient(net), {"x": x})["x_grad"]
    found = run(lift, {"x": x, "x_baseline": b})["x_attribution"]
    np.testing.assert_allclose(found[0], slope[0], rtol=1e-6)
    assert np.isfinite(found).all()


def test_products_and_quotients_have_shapley_values() -> None:
    """The mean of what each operand changes when it comes first, and when it comes second."""
    for name in ("Mul", "Div"):
        net = parsed(f"g (float[5] a, float[5] b) => (float[5] y) {{ y = {name}(a, b) }}")
        given = {"a": normal(5), "b": 1 + np.abs(normal(5))}
        base = {"a": normal(5), "b": 1 + np.abs(normal(5))}
        lift = og.explain.deep_lift(net, target=None, baselines=base)
        found = run(lift, given)

        def y(a: np.ndarray, b: np.ndarray, net: Any = net) -> np.ndarray:
            return run(net, {"a": a, "b": b})["y"]

        first = y(given["a"], base["b"]) - y(base["a"], base["b"])
        second = y(given["a"], given["b"]) - y(base["a"], given["b"])
        np.testing.assert_allclose(
            found["a_attribution"], (first + second) / 2, rtol=1e-4, atol=1e-6
        )
        whole = y(given["a"], given["b"]) - y(base["a"], base["b"])
        both = found["a_attribution"] + found["b_attribution"]
        np.testing.assert_allclose(both, whole, rtol=1e-4, atol=1e-6)


TWO = parsed(
    f"g (float[N, 5] x, float[N, 5] z) => (float[N, 5] y) {DEFINED}"
    "{ a = MatMul(x, w) r = Relu(a) t = Tanh(z) y = Mul(r, t) }"
)
Z = normal(3, 5)


@pytest.mark.parametrize(
    ("wrt", "options"),
    [
        (["x", "z"], {"baselines": {"x": B}}),
        (["x"], {"baselines": B}),
        (["r", "z"], {"baselines": {"r": 0.2, "z": B}}),
        (["x"], {"constant": "t"}),
        (["x", "z"], {"of": og.heads.margin("y")}),
        (["x", "z"], {"target": None}),
    ],
)
def test_tensors_of_every_kind(wrt: list[str], options: Any) -> None:
    lift = og.explain.deep_lift(TWO, wrt, **{"target": 1} | options, convergence_delta=True)
    found = run(lift, {"x": X, "z": Z})
    total = sum(np.abs(found[f"{x}_attribution"]).sum() for x in wrt)
    assert total > 1
    np.testing.assert_allclose(found["convergence_delta"], np.zeros(3), atol=1e-5)


@pytest.mark.parametrize(
    "softmax",
    [
        "e = Exp(m) n = ReduceSum<keepdims = 1>(e, last) p = Div(e, n)",
        "p = Softmax<axis = -1>(m)",
    ],
)
def test_masked_attention(softmax: str) -> None:
    """Numbers that are not finite on both sides do not differ."""
    net = parsed(
        f"g (float[N, 4, 5] x) => (float[N, 4, 5] y) {DEFINED} {{ q = MatMul(x, w)"
        f"t = Transpose<perm = [0, 2, 1]>(x) s = MatMul(q, t) m = Add(s, mask) {softmax}"
        "y = MatMul(p, x) }"
    )
    masked = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    net.graph.initializer.append(onnx.numpy_helper.from_array(masked, "mask"))
    lift = og.explain.deep_lift(net, target=None, baselines=0.1, convergence_delta=True)
    found = run(lift, {"x": 0.3 * normal(3, 4, 5)})
    assert np.abs(found["x_attribution"]).max() > 0.1
    np.testing.assert_allclose(found["convergence_delta"], np.zeros(3), atol=1e-4)


# -- in other settings ---------------------------------------------------------------------------


def test_half_precision() -> None:
    net = parsed(
        "g (float16[N, 4] x) => (float16[N, 2] y)"
        "{ r = Relu(x) s = Sigmoid(r) a = MatMul(s, w) y = Tanh(a) }"
    )
    weight = np.array([[0.5, -1], [1, 0.5], [-1, 1], [0.5, -1]], np.float16)
    net.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x = X[:, :4].astype(np.float16)
    for explain, base in (("deep_lift", 0.25), ("deep_lift_shap", normal(2, 4))):
        model = getattr(og.explain, explain)(net, target=0, baselines=base, convergence_delta=True)
        found = run(model, {"x": x})
        assert found["x_attribution"].dtype == np.float16
        assert np.abs(found["x_attribution"]).max() > 0.05
        assert np.abs(found["convergence_delta"].astype(np.float32)).max() < 5e-3


def test_quantised() -> None:
    """Steps and bounds are functions like others: here the bound at 0 is a Relu."""
    net = parsed(
        f"g (float[N, 5] x) => (float[N, 5] y) {DEFINED} {{ k = Constant<value = float {{0.02}}>()"
        "z = Constant<value = int8 {-128}>() a = MatMul(x, w) q = QuantizeLinear(a, k, z)"
        "d = DequantizeLinear(q, k, z) y = Sigmoid(d) }"
    )
    lift = og.explain.deep_lift(
        net, target=1, baselines=B, straight_through=True, convergence_delta=True
    )
    found = run(lift, {"x": X})
    assert np.abs(found["x_attribution"]).max() > 0.05
    np.testing.assert_allclose(found["convergence_delta"], np.zeros(3), atol=1e-5)
    plain = onnx.parser.parse_model(onnx.printer.to_text(net))
    del plain.graph.node[3:5]
    plain.graph.node.insert(3, onnx.helper.make_node("Relu", ["a"], ["d"]))
    exact = run(og.explain.deep_lift(plain, target=1, baselines=B), {"x": X})["x_attribution"]
    assert_close(found["x_attribution"], exact, 0.05)


BODIES = {
    "If": """y = If (c) <then_branch = a () => (float[N, 5] p) { p = Tanh(x) },
                         else_branch = b () => (float[N, 5] q) { q = Identity(x) }>""",
    "If in If": """y = If (c) <then_branch = a () => (float[N, 5] p) {
            p = If (c) <then_branch = d () => (float[N, 5] r) { r = Tanh(x) },
                        else_branch = e () => (float[N, 5] s) { s = Identity(x) }> },
        else_branch = b () => (float[N, 5] q) { q = Identity(x) }>""",
    "Loop": """n = Constant<value_int = 1>() k = Sub(x, x)
        y = Loop (n, , k) <body = b (int64 i, bool go, float[N, 5] s) => (bool on, float[N, 5] t) {
            on = Identity(go) u = Tanh(x) t = Add(s, u) }>""",
}


@pytest.mark.parametrize("name", BODIES)
def test_branches_and_loops_keep_their_derivative(name: str) -> None:
    """The baseline goes through them, as the sum tells."""
    net = parsed(f"g (float[N, 5] x, bool c) => (float[N, 5] y) {{ {BODIES[name]} }}")
    lift = og.explain.deep_lift(net, "x", target=None, baselines=B, convergence_delta=True)
    found = run(lift, {"x": X, "c": np.array(True)})
    expected = (1 - np.tanh(X) ** 2) * (X - B)
    np.testing.assert_allclose(found["x_attribution"], expected, rtol=1e-4, atol=1e-6)
    off = (expected - np.tanh(X) + np.tanh(B)).sum(1)
    np.testing.assert_allclose(found["convergence_delta"], off, rtol=1e-3, atol=1e-5)


def test_it_leaks_into_nothing() -> None:
    before = og.gradient(TWO)
    lift = og.explain.deep_lift(TWO, baselines=B)
    assert og.gradient(TWO) == before
    second = og.gradient(lift, "x", of="x_attribution")
    assert og.check(lift, {"x": X, "z": Z}, wrt="x", of="x_attribution")
    assert [o.name for o in second.graph.output][-1] == "x_grad"


def test_mistakes() -> None:
    def fails(words: str, error: type[Exception] = og.ArgumentError, **options: Any) -> None:
        with pytest.raises(error, match=words):
            og.explain.deep_lift(TWO, **options)

    fails("'b'", og.UnknownNameError, baselines={"b": 0})
    fails(r"\[4\] does not fit", baselines=np.zeros(4))
    fails("no array of numbers", baselines=["x", "y"])
    fails("a number, an array or 'input', not 'z'", baselines="z")
    fails("eps", eps=0)
    fails("'w' are not the examples", wrt="w", convergence_delta=True)
    for given in (None, 0, np.zeros(5)):
        with pytest.raises(og.ArgumentError, match="one more baseline in each row"):
            og.explain.deep_lift_shap(TWO, baselines=given)
    with pytest.raises(og.ArgumentError, match="not as many"):
        og.explain.deep_lift_shap(TWO, baselines={"x": np.zeros((2, 5)), "z": np.zeros((3, 5))})
    with pytest.raises(TypeError, match="baselines"):
        og.explain.deep_lift_shap(TWO)
