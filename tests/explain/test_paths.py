"""Explanations along paths: against captum, against sums of gradients, and what files vary."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

import onnxgrad as og
from onnxgrad import explain

MLP = "models/mlp.onnx"
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
LAYER = "v_Relu_3"
RULES = (
    "gausslegendre",
    "riemann_left",
    "riemann_right",
    "riemann_middle",
    "riemann_trapezoid",
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")  # that it sets hooks


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def closely(found: np.ndarray, expected: Any, tolerance: float = 1e-4) -> None:
    """As near as a share of the largest number."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(initial=0), 1e-9)
    )


def double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The net in float64."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del made.graph.value_info[:]
    return made


def static(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The net with a batch of a fixed size."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    del made.graph.value_info[:]
    return made


# -- against sums of gradients -------------------------------------------------------------------


def on_a_line(rule: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of a rule lie, and their weights, written anew."""
    if rule == "gausslegendre":
        at, weights = np.polynomial.legendre.leggauss(n)
        return (at + 1) / 2, weights / 2
    shift = {"left": 0.0, "middle": 0.5, "right": 1.0}
    name = rule.removeprefix("riemann_")
    if name in shift:
        return (np.arange(n) + shift[name]) / n, np.full(n, 1 / n)
    weights = np.full(n, 1 / n)
    weights[0] = weights[-1] = 0.5 / n
    return np.arange(n) / (n - 1), weights


@pytest.mark.parametrize("rule", RULES)
def test_integrals_are_sums_of_gradients(rule: Any) -> None:
    net = double(onnx.load(MLP))
    x, start = X.astype(np.float64), np.full([1, 4], 0.5)
    gradient = explain.saliency(net, abs=False, target="input")
    classes = run(explain.saliency(net), {"input": x})["logits"].argmax(1)
    total = np.zeros_like(x)
    for at, weight in zip(*on_a_line(rule, 7), strict=True):
        feeds = {"input": start + at * (x - start), "target": classes}
        total += weight * run(gradient, feeds)["input_attribution"]
    integral = functools.partial(
        explain.integrated_gradients, net, baselines=start, n_steps=7, method=rule
    )
    closely(run(integral(), {"input": x})["input_attribution"], total * (x - start), 1e-12)
    means = run(integral(multiply_by_inputs=False), {"input": x})["input_attribution"]
    closely(means, total, 1e-12)


def test_they_are_complete() -> None:
    """They sum up to the difference of the scores, here of smooth ones; the output tells it."""
    net, smooth = double(onnx.load(MLP)), "v_fc2.Gemm_2"
    model = explain.integrated_gradients(
        net, of=smooth, baselines="input", convergence_delta=True, target=1
    )
    x, start = X.astype(float), X[::-1].astype(float)
    found = run(model, {"input": x, "input_baseline": start})
    values = og.gradient(net, of=smooth, values=smooth)
    here, there = (run(values, {"input": at})[smooth][:, 1] for at in (x, start))
    sums = found["input_attribution"].sum(1)
    np.testing.assert_allclose(sums, here - there, atol=1e-9)
    few = explain.integrated_gradients(
        net, of=smooth, baselines="input", convergence_delta=True, target=1, n_steps=1
    )
    found = run(few, {"input": x, "input_baseline": start})
    left = found["input_attribution"].sum(1) - (here - there)
    assert np.abs(left).max() > 1e-3
    np.testing.assert_allclose(found["convergence_delta"], left, atol=1e-12)


@pytest.mark.parametrize("baselines", [0.5, X[:1], X[0], X[::-1], {"input": X[0]}])
def test_baselines(baselines: Any) -> None:
    found = run(explain.integrated_gradients(MLP, baselines=baselines), {"input": X})
    model = explain.integrated_gradients(MLP, baselines="input")
    given = baselines["input"] if isinstance(baselines, dict) else baselines
    whole = np.broadcast_to(np.asarray(given, np.float32), X.shape)
    expected = run(model, {"input": X, "input_baseline": whole})
    closely(found["input_attribution"], expected["input_attribution"], 1e-6)


METHODS: dict[str, Callable[..., onnx.ModelProto]] = {
    "inputs": explain.integrated_gradients,
    "layer": functools.partial(explain.layer_integrated_gradients, layer=LAYER),
    "conductance": functools.partial(explain.layer_conductance, layer=[LAYER, "v_Tanh_1"]),
}


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_parts_of_a_path(kind: str, size: int) -> None:
    """A Scan over parts gives the same, for any number of examples; none among them."""
    method = METHODS[kind]
    whole = method(MLP, target="input", n_steps=9, convergence_delta=True)
    parts = method(MLP, target="input", n_steps=9, convergence_delta=True, internal_batch_size=size)
    assert [n.op_type for n in parts.graph.node].count("Scan") == 1
    for x in (X, X[:1], X[:0]):
        feeds = {"input": x, "target": np.arange(len(x)) % 3}
        expected = run(whole, feeds)
        for name, found in run(parts, feeds).items():
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", METHODS)
def test_one_point_at_a_time(kind: str) -> None:
    """Where no input has a batch, as for a net of one example."""
    method = METHODS[kind]
    found = run(method(MLP, batched=[], target=1), {"input": X})
    for name, expected in run(method(MLP, target=1), {"input": X}).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)


def test_a_tensor_itself() -> None:
    """An inner tensor moves from its own baseline; a weight too, point by point."""
    found = run(explain.integrated_gradients(MLP, LAYER, baselines=0.1), {"input": X})
    assert found[f"{LAYER}_attribution"].shape == (5, 16)
    weight = next(v.name for v in onnx.load(MLP).graph.initializer if "fc1" in v.name)
    model = explain.integrated_gradients(MLP, weight, target=1, n_steps=300)
    product = run(model, {"input": X})[f"{weight}_attribution"]
    none = onnx.load(MLP)
    for tensor in none.graph.initializer:
        if tensor.name == weight:
            zeros = np.zeros_like(onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, weight))
    difference = run(model, {"input": X})["logits"] - run(none, {"input": X})["logits"]
    np.testing.assert_allclose(product.sum(), difference[:, 1].sum(), rtol=1e-2)


def test_the_size_of_the_file() -> None:
    """It does not grow with the number of steps, and holds each weight once."""
    sizes = [
        len(explain.integrated_gradients(MLP, n_steps=n).SerializeToString()) for n in (2, 200)
    ]
    assert sizes[1] - sizes[0] < 12 * 200
    model = explain.integrated_gradients(MLP)
    large = [t.name for t in model.graph.initializer if np.prod(t.dims) > 50]
    assert len(large) == len([t for t in onnx.load(MLP).graph.initializer if np.prod(t.dims) > 50])


HEADS = {
    "a class for each": og.heads.probability("logits", [0, 1, 2, 1, 0]),
    "margin": og.heads.margin("logits", "input"),
    "argmax": og.heads.log_probability("logits"),
    "no class": og.heads.norm("logits"),
    "numbers": og.heads.weighted_sum("logits", "input"),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [None, 12])
def test_heads(name: str, size: int | None) -> None:
    """Of any head the sum of an example comes out, with the class of the example."""
    options: Any = {"n_steps": 400, "convergence_delta": True, "internal_batch_size": size}
    model = explain.integrated_gradients(MLP, of=HEADS[name], **options)
    feeds: dict[str, Any] = {"input": X, "target": np.array([0, 1, 2, 1, 0])}
    feeds["weights"] = X[:, :3]
    found = run(model, {v.name: feeds[v.name] for v in model.graph.input})
    assert np.abs(found["input_attribution"]).max() > 0.01
    assert found["convergence_delta"].shape == (5,)
    assert np.abs(found["convergence_delta"]).max() < 4e-3


@pytest.mark.parametrize("method", [explain.saliency, explain.integrated_gradients])
def test_a_class_for_each_example(method: Any) -> None:
    """As many as examples, else the run fails: none is left out in silence."""
    given = run(method(MLP, target=[0, 1, 2, 1, 0]), {"input": X})
    asked = run(method(MLP, target="input"), {"input": X, "target": np.array([0, 1, 2, 1, 0])})
    closely(given["input_attribution"], asked["input_attribution"], 1e-6)
    for targets in ([0, 1], [0] * 7):
        with pytest.raises(Exception, match="Reshape"):
            run(method(MLP, target=targets), {"input": X})


def test_a_loss() -> None:
    """A loss by example, and its mean over the batch, which is taken point by point."""
    each = og.losses.cross_entropy("logits", reduction="none")
    mean = og.losses.cross_entropy("logits")
    feeds = {"input": X, "labels": np.array([0, 1, 2, 1, 0])}
    of_each, of_mean = (
        run(explain.integrated_gradients(MLP, of=of), feeds)["input_attribution"]
        for of in (each, mean)
    )
    closely(of_mean, of_each / 5)


def test_a_rank_that_only_a_run_tells() -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 1] x) => (float[N, 4] y)'
        "{ s = Squeeze(x) y = Tanh(s) }"
    )
    feeds = {"x": X[..., None]}
    for method in (
        explain.integrated_gradients,
        functools.partial(explain.layer_integrated_gradients, layer="s"),
        functools.partial(explain.integrated_gradients, internal_batch_size=7),
    ):
        found = run(method(net, target=1, example=feeds, convergence_delta=True), feeds)
        assert np.abs(found["convergence_delta"]).max() < 1e-5


def test_what_is_constant() -> None:
    """No gradient flows through it, at no point."""
    net = og.attach(
        MLP,
        lambda op, x, y: {"z": y * op.ReduceMean(op.Tanh(x), op.const([1]))},
        ["input", "logits"],
    )
    del net.graph.output[0]
    found = run(explain.integrated_gradients(net, target=1, constant=["logits"]), {"input": X})
    gradient = explain.saliency(net, abs=False, target=1, constant=["logits"])
    total = np.zeros_like(X)
    for at, weight in zip(*on_a_line("gausslegendre", 50), strict=True):
        x = (at * X).astype(np.float32)
        total += weight * run(gradient, {"input": x})["input_attribution"]
    closely(found["input_attribution"], total * X)


def test_inputs_without_the_batch() -> None:
    """A table and a number are the same at all points; other inputs are repeated."""

    def formula(op: Any, y: Any) -> dict[str, Any]:
        table, number = op.input("table", [1, 3]), op.input("number", [])
        return {"z": op.Tanh(y * table * op.input("each", ["N", 1])) * number}

    net = og.attach(MLP, formula)
    del net.graph.output[0]
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {"input": X, "number": np.array(2, np.float32)}
    feeds |= {"table": rng.random((1, 3), np.float32), "each": rng.random((5, 1), np.float32)}
    for size in (None, 12):
        model = explain.integrated_gradients(
            net, "input", target=1, convergence_delta=True, internal_batch_size=size, n_steps=400
        )
        assert [n.op_type for n in model.graph.node].count("Scan") == (size is not None)
        found = run(model, feeds)
        assert np.abs(found["convergence_delta"]).max() < 4e-3
    moved = explain.integrated_gradients(net, ["input", "table"], target=1)
    assert run(moved, feeds)["table_attribution"].shape == (1, 3)


def test_they_are_differentiated_again() -> None:
    whole, parts = (
        run(
            og.gradient(explain.integrated_gradients(MLP, n_steps=4, internal_batch_size=size)),
            {"input": X},
        )["input_grad"]
        for size in (None, 7)
    )
    closely(parts, whole)


def test_one_example_influences_the_batch() -> None:
    """A score of the whole batch: its points are taken one after the other."""
    net = og.attach(MLP, lambda op, y: {"mean": op.ReduceMean(op.Tanh(y), keepdims=0)})
    del net.graph.output[0]
    found = run(explain.integrated_gradients(net, target=None, n_steps=20), {"input": X})
    gradient = og.gradient(net)
    total = np.zeros_like(X)
    for at, weight in zip(*on_a_line("gausslegendre", 20), strict=True):
        total += weight * run(gradient, {"input": (at * X).astype(np.float32)})["input_grad"]
    closely(found["input_attribution"], total * X, 1e-5)


def test_conductance_of_a_loss() -> None:
    """Its labels, an input that the loss adds, do not move."""
    feeds = {"input": X, "labels": np.zeros((5, 3), np.float32)}
    default, named = (
        run(explain.layer_conductance(MLP, LAYER, of=og.losses.mse(), wrt=wrt), feeds)
        for wrt in (None, "input")
    )
    np.testing.assert_array_equal(default[f"{LAYER}_attribution"], named[f"{LAYER}_attribution"])
    assert default[f"{LAYER}_attribution"].any()


def test_mistakes() -> None:
    with pytest.raises(og.ArgumentError, match="method is one of gausslegendre"):
        explain.integrated_gradients(MLP, method="simpson")
    with pytest.raises(og.ArgumentError, match="n_steps"):
        explain.integrated_gradients(MLP, n_steps=0)
    with pytest.raises(og.ArgumentError, match="n_steps"):
        explain.layer_conductance(MLP, LAYER, n_steps=0)
    with pytest.raises(og.ArgumentError, match="internal_batch_size"):
        explain.integrated_gradients(MLP, internal_batch_size=0)
    with pytest.raises(og.ArgumentError, match="does not fit"):
        explain.integrated_gradients(MLP, baselines=np.zeros(3))
    with pytest.raises(og.ArgumentError, match="no graph input"):
        explain.integrated_gradients(MLP, batched="image")


# -- against captum --------------------------------------------------------------------------------


@pytest.fixture
def captum() -> Any:
    return pytest.importorskip("captum.attr", reason="Captum is not installed: make explainers")


def explained(kind: str, **options: Any) -> Any:
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    from tests.explained_nets import explained

    return explained(kind, **options)


def score(net: Any, kind: str) -> Callable[..., Any]:
    """What is explained, by class: of a segmentation the sum over its places."""
    module: Callable[..., Any] = net.module
    return (lambda x: module(x).sum((2, 3))) if kind == "segmentation" else module


KINDS = ("resnet", "mobilenet", "vit", "lstm", "segmentation")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 7])
def test_captums_integrated_gradients(captum: Any, kind: str, size: int | None) -> None:
    net = explained(kind)
    (name, x), *_ = net.inputs.items()
    f = score(net, kind)
    target, start = f(x).argmax(1), 0.3 * x.flip(0)
    expected, delta = captum.IntegratedGradients(f).attribute(
        x, start, target=target, n_steps=20, return_convergence_delta=True
    )
    model = explain.integrated_gradients(
        net.model,
        baselines=start.numpy(),
        n_steps=20,
        convergence_delta=True,
        internal_batch_size=size,
    )
    found = run(model, net.feeds)
    closely(found[f"{name}_attribution"], expected)
    np.testing.assert_allclose(found["convergence_delta"], delta, atol=3e-5)


@pytest.mark.parametrize("kind", ["resnet", "mobilenet", "vit", "tokens"])
def test_captums_layers(captum: Any, kind: str) -> None:
    net = explained(kind)
    (x,) = net.inputs.values()
    layer, name = net.submodule(), net.tensors[net.layer]
    target = net.module(x).argmax(1)
    expected, delta = captum.LayerIntegratedGradients(net.module, layer).attribute(
        x, target=target, n_steps=20, return_convergence_delta=True
    )
    model = explain.layer_integrated_gradients(net.model, name, n_steps=20, convergence_delta=True)
    found = run(model, net.feeds)
    closely(found[f"{name}_attribution"], expected.detach())
    np.testing.assert_allclose(found["convergence_delta"], delta, atol=3e-5)
    product = captum.LayerGradientXActivation(net.module, layer).attribute(x, target=target)
    found = run(explain.layer_gradient_x_activation(net.model, name), net.feeds)
    closely(found[f"{name}_attribution"], product.detach())


@pytest.mark.parametrize("kind", ["resnet", "vit"])
@pytest.mark.parametrize("size", [None, 7])
def test_captums_conductance(captum: Any, kind: str, size: int | None) -> None:
    net = explained(kind)
    (x,) = net.inputs.values()
    layer, name = net.submodule(), net.tensors[net.layer]
    expected, delta = captum.LayerConductance(net.module, layer).attribute(
        x, target=2, n_steps=20, return_convergence_delta=True
    )
    model = explain.layer_conductance(
        net.model, name, target=2, n_steps=20, convergence_delta=True, internal_batch_size=size
    )
    found = run(model, net.feeds)
    closely(found[f"{name}_attribution"], expected.detach())
    np.testing.assert_allclose(found["convergence_delta"], delta, atol=3e-5)


# -- what files vary -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resnet", "vit", "lstm"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_fixed_batch(kind: str, size: int) -> None:
    """Of a file that declares it, and of one that was made for it: constants insist on it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    net = explained(kind)
    ((name, x),) = net.feeds.items()
    feeds = {name: x[:size]}
    file = io.BytesIO()
    torch.onnx.export(net.module, (torch.tensor(x[:size]),), file, dynamo=False, input_names=[name])
    expected = run(explain.integrated_gradients(net.model, target=1, n_steps=6), feeds)
    for model in (static(net.model, size), onnx.load_from_string(file.getvalue())):
        for most in (None, 4):
            made = explain.integrated_gradients(
                model, target=1, n_steps=6, internal_batch_size=most
            )
            found = run(made, feeds)[f"{name}_attribution"]
            closely(found, expected[f"{name}_attribution"])
    scans = [node.op_type for node in made.graph.node].count("Scan")
    assert scans or kind != "vit"


@pytest.mark.parametrize("opset", [13, 18, 20])
def test_opsets(opset: int) -> None:
    expected, found = (
        run(explain.layer_integrated_gradients(net.model, net.tensors["embedding"]), net.feeds)
        for net in (explained("tokens"), explained("tokens", opset=opset))
    )
    *_, a = expected.values()
    *_, b = found.values()
    closely(b, a)


def test_constant_nodes_and_half_precision() -> None:
    net = explained("resnet")
    model = explain.integrated_gradients(net.model, target=1)
    expected = run(model, net.feeds)["image_attribution"]
    constants = onnx.ModelProto()
    constants.CopyFrom(net.model)
    nodes = [
        onnx.helper.make_node("Constant", [], [t.name], value=t)
        for t in net.model.graph.initializer
    ]
    del constants.graph.initializer[:], constants.graph.node[:]
    constants.graph.node.extend([*nodes, *net.model.graph.node])
    made = explain.integrated_gradients(constants, target=1)
    closely(run(made, net.feeds)["image_attribution"], expected)
    assert made.ByteSize() < 1.01 * model.ByteSize()

    half = explained("lstm")
    expected = run(explain.integrated_gradients(half.model, target=1), half.feeds)
    narrow = onnx.ModelProto()
    narrow.CopyFrom(half.model)
    for tensor in narrow.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*narrow.graph.input, *narrow.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for node in narrow.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
                array = onnx.numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array))
    del narrow.graph.value_info[:]
    feeds = {name: x.astype(np.float16) for name, x in half.feeds.items()}
    found = run(explain.integrated_gradients(narrow, target=1), feeds)["signal_attribution"]
    assert found.dtype == np.float16
    closely(found.astype(np.float32), expected["signal_attribution"], 1e-2)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("size", [None, 7])
def test_the_reference_and_portable(kind: str, size: int | None) -> None:
    model = METHODS[kind](MLP, target=1, n_steps=5, internal_batch_size=size, runs_on="portable")
    onnx.checker.check_model(model, full_check=True)
    found = ReferenceEvaluator(model).run(None, {"input": X})
    expected = run(METHODS[kind](MLP, target=1, n_steps=5), {"input": X})
    for a, b in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_weights_matter() -> None:
    """The map is another one where the last weights are drawn anew."""
    net = explained("resnet")
    expected = run(explain.integrated_gradients(net.model, target=1), net.feeds)
    other = onnx.ModelProto()
    other.CopyFrom(net.model)
    rng = np.random.default_rng(0)
    for tensor in other.graph.initializer:
        if tensor.name == "fc.weight":
            array = rng.permuted(onnx.numpy_helper.to_array(tensor), axis=1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    found = run(explain.integrated_gradients(other, target=1), net.feeds)
    a, b = (r["image_attribution"].ravel() for r in (expected, found))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.9
