"""Heads: against numpy, in every transform that takes one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import onnxscript
import pytest
from onnxscript import opset18

import onnxgrad as og

MLP = "models/mlp.onnx"
X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
TARGETS = [2, 0, 1, 1, 2]


def run(model: onnx.ModelProto, **feeds: Any) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString())
    names = [v.name for v in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def log_softmax(y: np.ndarray) -> np.ndarray:
    return y - np.log(np.exp(y).sum(1, keepdims=True))


def others(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    y = y.copy()
    y[range(len(y)), target] = -np.inf
    return y.max(1)


VALUES = {
    "class_score": lambda y, t: y[range(5), t],
    "log_probability": lambda y, t: log_softmax(y)[range(5), t],
    "probability": lambda y, t: np.exp(log_softmax(y))[range(5), t],
    "margin": lambda y, t: y[range(5), t] - others(y, t),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("target", ["argmax", "input", 1, TARGETS])
def test_values_and_gradients(name: str, target: Any) -> None:
    """The value is numpy's; the gradient is the difference that a step makes."""
    head = getattr(og.heads, name)("logits", target=target)
    model = og.gradient(MLP, of=head, values=head)
    given = {"target": np.array(TARGETS)} if target == "input" else {}
    found = run(model, input=X, **given)
    y = found["logits"]
    index = {"argmax": y.argmax(1), 1: np.full(5, 1)}.get(str(target) if target == "argmax" else 1)
    index = np.array(TARGETS) if target in ("input", TARGETS) else index
    np.testing.assert_allclose(found[name], VALUES[name](y, index), rtol=1e-5, atol=1e-6)
    step = 1e-2 * np.random.default_rng(1).standard_normal(X.shape).astype(np.float32)
    moved = [
        VALUES[name](run(model, input=x, **given)["logits"], index) for x in (X + step, X - step)
    ]
    np.testing.assert_allclose(
        (found["input_grad"] * step).sum(1), (moved[0] - moved[1]) / 2, rtol=0.05, atol=1e-3
    )


def test_places_are_summed() -> None:
    """A map of classes [N, C, H, W]: the sum over its places; the class of the largest sum."""
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "g (float[N,3,2,2] x) => (float[N,3,2,2] y) { y = Identity(x) }"
    )
    x = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    top = og.heads.top_class()
    found = run(og.gradient(net, of=top, values=top), x=x)
    sums = x.sum((2, 3))
    np.testing.assert_allclose(found["top_class"], sums.max(1), rtol=1e-6)
    expected = np.zeros_like(x)
    expected[range(4), sums.argmax(1)] = 1
    np.testing.assert_array_equal(found["x_grad"], expected)


def test_softmax_is_not_taken_twice() -> None:
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>'
        "g (float[N,3] x) => (float[N,3] y) { y = Softmax <axis = -1> (x) }"
    )
    head = og.heads.log_probability(target=1)
    found = run(og.gradient(net, of=head, values=head), x=X[:, :3])
    np.testing.assert_allclose(
        found["log_probability"], log_softmax(X[:, :3])[:, 1], rtol=1e-5, atol=1e-6
    )


def test_heads_of_any_tensor() -> None:
    heads = [og.heads.norm("logits"), og.heads.weighted_sum("logits", [1, 2, 3])]
    found = run(og.gradient(MLP, of=heads, values=heads), input=X)
    y = found["logits"]
    np.testing.assert_allclose(found["norm"], np.linalg.norm(y, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["weighted_sum"], y @ [1, 2, 3], rtol=1e-4, atol=1e-5)
    both = [run(og.gradient(MLP, of=head), input=X)["input_grad"] for head in heads]
    np.testing.assert_allclose(found["input_grad"], sum(both), rtol=1e-4, atol=1e-5)


def test_weights_as_an_input() -> None:
    model = og.gradient(MLP, of=og.heads.weighted_sum("logits", "input"))
    v = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)
    found = run(model, input=X, weights=v)
    expected = run(og.vjp(MLP), input=X, logits_ograd=v)
    np.testing.assert_allclose(found["input_grad"], expected["input_grad"], rtol=1e-5, atol=1e-6)


def test_by_example() -> None:
    """The examples of a batch have each their own target."""
    head = og.heads.class_score(target="input")
    feeds = {"input": X, "target": np.array(TARGETS)}
    found = run(og.per_example_gradient(MLP, [["fc1", "weight"]], of=head), **feeds)
    whole = run(og.gradient(MLP, [["fc1", "weight"]], of=head), **feeds)
    np.testing.assert_allclose(
        found["fc1.weight_grad"].sum(0), whole["fc1.weight_grad"], rtol=1e-4, atol=1e-5
    )
    jacobian = run(og.jacobian(MLP, of=head, batched=True), **feeds)
    gradient = run(og.gradient(MLP, of=head), **feeds)["input_grad"]
    np.testing.assert_allclose(
        jacobian["class_score_input_jacobian"], gradient, rtol=1e-4, atol=1e-5
    )


def test_an_imposed_gradient() -> None:
    head = og.heads.class_score(target=1)
    v = np.arange(5, dtype=np.float32)
    found = run(og.vjp(MLP, of=head), input=X, class_score_ograd=v)["input_grad"]
    expected = run(og.gradient(MLP, of=head), input=X)["input_grad"] * v[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "head, says",
    [
        (lambda: og.heads.class_score("logits", target=3), "there are 3 classes"),
        (lambda: og.heads.class_score("logits", target=-1), "counted from 0"),
        (lambda: og.heads.class_score("logits", target="best"), "'argmax', 'input'"),
        (lambda: og.heads.class_score("logit"), "'logits'"),
        (lambda: og.heads.weighted_sum("logits", "weights"), "'input'"),
        (lambda: og.heads.weighted_sum("logits", [1, 2]), "weighted_sum does not fit 'logits'"),
        (lambda: og.heads.weighted_sum("logits", np.ones((2, 1, 3))), r"of shape \[2, 1, 3\]"),
        (lambda: og.heads.weighted_sum("logits", ["a"]), "numbers or 'input'"),
        (lambda: og.heads.weighted_sum("logits", [[1], [1, 2]]), "numbers or 'input'"),
        (lambda: og.heads.class_score("logits", axis=0), "the first is that of the examples"),
        (lambda: og.heads.class_score("logits", axis=2), "axis 2: 'logits' has 2 axes"),
        (lambda: og.heads.class_score("logits", [1, 5]), "there are 3 classes"),
        (lambda: og.heads.norm("logits").named(""), "named by a text"),
    ],
)
def test_mistakes(head: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        og.gradient(MLP, of=head())


def test_equal_heads_are_equal() -> None:
    assert og.heads.class_score("y", target=[1, 2]) == og.heads.class_score("y", np.array([1, 2]))
    assert len({og.heads.norm(["a", 0]), og.heads.norm(["a", 0]), og.heads.norm("a")}) == 2


def test_attach() -> None:
    """A formula, a head, a loss, a model, a function of onnxscript: its numbers are numpy's."""

    def energy(op: Any, y: Any, h: Any) -> dict[str, Any]:
        scale = op.input("scale", [], np.float32)
        return {"energy": op.ReduceSum(y * y, keepdims=0) * scale, "h": h, "scaled": scale}

    model = og.attach(MLP, energy, ["logits", "input"])
    found = run(model, input=X, scale=np.array(2, np.float32))
    np.testing.assert_allclose(found["energy"], 2 * (found["logits"] ** 2).sum(), rtol=1e-5)
    np.testing.assert_array_equal(found["h"], X)
    onnx.checker.check_model(model, full_check=True)
    assert [v.name for v in model.graph.output] == ["logits", "energy", "h", "scaled"]


def test_attach_weights() -> None:
    """Equal ones stay apart, and a step moves each by its own gradient, as numpy has it."""

    def scaled(op: Any, y: Any) -> dict[str, Any]:
        weights = [op.weight(name, np.ones(3), like=y) for name in ("scale", "shift")]
        return {"z": y * weights[0] + weights[1]}

    model = og.attach(MLP, scaled)
    onnx.checker.check_model(model, full_check=True)
    y = run(model, input=X)["logits"]
    trainer = og.train.Trainer(model, og.losses.mse("z"), og.train.SGD(lr=0.1), ["scale", "shift"])
    trainer.fit({"input": X, "labels": np.zeros_like(y)}, batch_size=len(X))
    z_grad = 2 * (y + 1) / y.size
    np.testing.assert_allclose(trainer.state["scale"], 1 - 0.1 * (z_grad * y).sum(0), rtol=1e-5)
    np.testing.assert_allclose(trainer.state["shift"], 1 - 0.1 * z_grad.sum(0), rtol=1e-5)


def test_attach_a_model() -> None:
    other = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[N,3] y, float[N] logits_more)'
        " => (float[N,3] z) <float[3] w = {1, 2, 3}>"
        " { h = Mul(y, w) one = Constant <value_ints = [1]> ()"
        " m = Unsqueeze(logits_more, one) z = Add(h, m) }"
    )
    model = og.attach(MLP, other, {"y": "logits"})
    onnx.checker.check_model(model, full_check=True)
    found = run(model, input=X, logits_more=np.ones(5, np.float32))
    np.testing.assert_allclose(found["z"], found["logits"] * [1, 2, 3] + 1, rtol=1e-5)
    with pytest.raises(og.ArgumentError, match="has a tensor 'logits' already"):
        og.attach(MLP, MLP)


def test_attach_a_function_of_onnxscript() -> None:
    @onnxscript.script(default_opset=opset18)
    def scaled(logits: onnxscript.FLOAT[5, 3], scale: onnxscript.FLOAT[1]) -> onnxscript.FLOAT:
        return opset18.Mul(logits, scale)

    @onnxscript.script(default_opset=opset18)
    def untyped(a, b):  # type: ignore[no-untyped-def]
        return opset18.Add(a, b)

    model = og.attach(MLP, scaled)
    found = run(model, input=X, scale=np.full(1, 3, np.float32))
    np.testing.assert_allclose(list(found.values())[1], 3 * found["logits"], rtol=1e-6)
    model = og.attach(MLP, untyped, {"a": "logits", "b": ["fc3", "bias"]})
    found = run(model, input=X)
    bias = onnx.numpy_helper.to_array(
        next(w for w in onnx.load(MLP).graph.initializer if w.name == "fc3.bias")
    )
    np.testing.assert_allclose(list(found.values())[1], found["logits"] + bias, rtol=1e-6)
    with pytest.raises(og.ArgumentError, match="'b', which has no dtype"):
        og.attach(MLP, untyped, {"a": "logits"})


def test_an_input_of_another_name() -> None:
    model = og.attach(MLP, og.heads.class_score(target="input:class"))
    assert [v.name for v in model.graph.input] == ["input", "class"]
    with pytest.raises(og.ArgumentError, match=r"another name with target='input:NAME'"):
        og.attach(model, og.heads.class_score("logits", target="input:class").named("other"))
    with pytest.raises(og.ArgumentError, match=r"'input' already.*with weights='input:NAME'"):
        og.gradient(MLP, of=og.heads.weighted_sum("logits", "input:input"))
    with pytest.raises(og.ArgumentError, match="with labels='NAME'"):
        og.gradient(MLP, of=og.losses.mse(labels="input"))
    model = og.gradient(MLP, of=og.heads.weighted_sum("logits", "input:v"))
    assert [v.name for v in model.graph.input] == ["input", "v"]


def test_another_name() -> None:
    """A head whose name is taken says how to rename it, and the new name is that of its output."""
    model = og.attach(MLP, og.heads.norm("input"))
    with pytest.raises(og.ArgumentError, match=r"'norm' already.*\.named\('norm_2'\)"):
        og.attach(model, og.heads.norm("logits"))
    found = run(og.attach(model, og.heads.norm("logits").named("norm_2")), input=X)
    np.testing.assert_allclose(found["norm"], np.linalg.norm(X, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["norm_2"], np.linalg.norm(found["logits"], axis=1), rtol=1e-5)
    assert og.heads.norm().named("a") != og.heads.norm()


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("target", [-1, 3])
@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_an_input_of_classes_that_there_are_not(name: str, target: int, runtime: str) -> None:
    """The run fails; GatherElements alone would count -1 from the end in silence."""
    net = og.Net(og.attach(MLP, getattr(og.heads, name)(target="input")), runtime=runtime)
    with pytest.raises(og.FeedError):
        net({"input": X, "target": np.array([0, target, 0, 0, 0])})


def regression(batch: Any, opset: int = 21) -> onnx.ModelProto:
    """y = sum((w * x)^2) for each example, so each element's share of it is (w * x)^2."""
    axes = "p = Mul(x, w) s = Mul(p, p) y = ReduceSum <keepdims = 0> (s, a)"
    net = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,3] x) => (float[N] y) '
        f"<int64[1] a = {{1}}, float[3] w = {{1, 2, 3}}> {{ {axes} }}"
    )
    for value in (*net.graph.input, *net.graph.output):
        dim = value.type.tensor_type.shape.dim[0]
        dim.ClearField("dim_param")
        if isinstance(batch, int):
            dim.dim_value = batch
        elif batch:
            dim.dim_param = batch
    return net


@pytest.mark.parametrize("batch", ["N", None, 1, 4])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_score_for_each_example(batch: Any, opset: int) -> None:
    """A vector with the size of the batch holds no classes, but one score for each example."""
    net, w = regression(batch, opset), np.arange(1, 4)
    x = np.random.default_rng(0).standard_normal((batch or 4, 3) if batch != "N" else (4, 3))
    x = x.astype(np.float32)
    shares, derivative = (w * x) ** 2, 2 * x * w**2
    for target in ("argmax", 0):
        head = og.heads.class_score(target=target)
        found = run(og.gradient(net, of=head, values=head), x=x)
        np.testing.assert_allclose(found["class_score"], shares.sum(1), rtol=1e-5)
        np.testing.assert_allclose(found["x_grad"], derivative, rtol=1e-5)
    explain = og.explain
    for method, expected in (
        (explain.saliency, abs(derivative)),
        (explain.integrated_gradients, shares),
        (explain.deep_lift, shares),
    ):
        found = run(method(net), x=x)["x_attribution"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    delta = run(explain.deep_lift(net, convergence_delta=True), x=x)["convergence_delta"]
    np.testing.assert_allclose(delta, np.zeros(len(x)), atol=1e-5)
    by_example = run(og.per_example_gradient(net, "w", of=og.heads.top_class()), x=x)["w_grad"]
    np.testing.assert_allclose(by_example, 2 * x**2 * w, rtol=1e-5)
    with pytest.raises(og.ArgumentError, match="there are 1 classes"):
        og.explain.saliency(net, target=1)
    with pytest.raises(og.ArgumentError, match=r"'y.*has one class"):
        og.attach(net, og.heads.margin())


def test_classes_without_a_batch() -> None:
    """[C] are classes, as far as C is known or the axis is told; no input has C examples."""
    y = np.array([1, 4, 2], np.float32)
    for size, axis in (("3", None), ("C", 0), ("C", -1)):
        net = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]>'
            f"g (float[{size}] x) => (float[{size}] y) {{ y = Identity(x) }}"
        )
        found = run(og.gradient(net, of=og.heads.top_class(axis=axis)), x=y)
        np.testing.assert_array_equal(found["x_grad"], [0, 1, 0])


def test_a_scalar_has_no_classes() -> None:
    net = og.attach(MLP, lambda op, y: {"s": op.ReduceSum(y, keepdims=0)}, "logits")
    with pytest.raises(og.ArgumentError, match=r"'s' is a scalar.*target=None"):
        og.explain.saliency(net, of="s")
    assert og.explain.saliency(net, of="s", target=None)


@pytest.mark.parametrize("name", VALUES)
def test_classes_along_the_last_axis(name: str) -> None:
    """As in language models, [N, S, V]: the same as of the transposed scores."""
    y = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    results = []
    for dims, perm, axis in (("N,2,3", [0, 1, 2], -1), ("N,2,3", [0, 2, 1], None)):
        net = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]>'
            f"g (float[{dims}] x) => (float[a,b,c] y) {{ y = Transpose <perm = {perm}> (x) }}"
        )
        head = getattr(og.heads, name)(target="input", axis=axis)
        model = og.gradient(net, of=head, values=head)
        results.append(run(model, x=y, target=np.array([2, 0, 1, 1])))
    for key in (name, "x_grad"):
        np.testing.assert_allclose(results[0][key], results[1][key], rtol=1e-5, atol=1e-6)
    assert results[0][name].shape == (4,) and np.abs(results[0]["x_grad"]).max() > 1e-3


def test_weights_for_more_examples_than_there_are() -> None:
    """Of a single example, the weights of five would otherwise make five."""
    net = og.Net(og.attach(MLP, og.heads.weighted_sum("logits", np.ones((5, 3)))))
    np.testing.assert_allclose(net(X)["weighted_sum"], net(X)["logits"].sum(1), rtol=1e-4)
    with pytest.raises(og.FeedError):
        net(X[:1])


@pytest.mark.parametrize("batch", ["N", 5])
def test_listed_classes_by_example(batch: Any) -> None:
    """A class for each example, of a net that is run for one example at a time."""
    net = onnx.load(MLP)
    if isinstance(batch, int):
        net.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    wrt, feed = [["fc1", "weight"]], {"target": np.array(TARGETS)}
    for name in VALUES:
        listed, given = (getattr(og.heads, name)(target=t) for t in (TARGETS, "input"))
        found = run(og.per_example_gradient(net, wrt, of=[listed, given]), input=X, **feed)
        one = run(og.per_example_gradient(net, wrt, of=given), input=X, **feed)
        key = "fc1.weight_grad"
        np.testing.assert_allclose(found[key], 2 * one[key], rtol=1e-5, atol=1e-6)


def test_attach_gives_the_same_kind() -> None:
    net = ir.load(MLP)
    assert isinstance(og.attach(net, og.heads.norm()), ir.Model)
    assert isinstance(og.attach(MLP, og.heads.norm()), onnx.ModelProto)


@pytest.mark.parametrize(
    "function, inputs, says",
    [
        (lambda op, y: {"logits": y + 1}, None, "'logits' already"),
        (lambda op, y: y, None, "a dict of tensors"),
        (
            lambda op, y: {"z": op.MatMul(y, op.const(np.ones((2, 2)), like=y))},
            None,
            "does not fit",
        ),
        (lambda op, y: {"z": op.Add(op.Shape(y), op.const([0.5]))}, None, "without their dtype"),
        (lambda op, y: {"z": y}, "logit", "'logits'"),
        (lambda op, y: {"": y + 1}, None, "a dict of tensors by name"),
        (lambda op, y: {3: y + 1}, None, "a dict of tensors by name"),
        (lambda op, x: {"input": x}, "input", "'input' already: give the new output"),
        (lambda op, y: {"z": y + op.input("input", [3], np.float32)}, None, "another name"),
        (lambda op, y: {"z": y + op.weight("fc3.bias", [3], like=y)}, None, "the weight otherwise"),
    ],
)
def test_attach_mistakes(function: Any, inputs: Any, says: str) -> None:
    with pytest.raises(og.OnnxGradError, match=says):
        og.attach(MLP, function, inputs)


@pytest.mark.parametrize("name", ["logits", "v_Tanh_1"])
def test_attach_a_tensor_under_its_own_name(name: str) -> None:
    """An output is listed once, and an inner tensor becomes one."""
    model = og.attach(MLP, lambda op, y: {name: y, "other": y}, name)
    onnx.checker.check_model(model, full_check=True)
    found = run(model, input=X)
    assert list(found) == list(dict.fromkeys(["logits", name, "other"]))
    np.testing.assert_array_equal(found[name], found["other"])


def other_model(shape: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float{shape} q) => (float{shape} z) '
        "{ z = Relu(q) }"
    )


@pytest.mark.parametrize("shape", ["[B,5]", "[B]", "[B,3,1]"])
def test_attach_a_model_of_another_shape(shape: str) -> None:
    with pytest.raises(og.ArgumentError, match=r"'q' of the other model.*'logits'"):
        og.attach(MLP, other_model(shape), {"q": "logits"})


@pytest.mark.parametrize("shape", ["[B,3]", "[B,C]", "[2,3]"])
def test_attach_a_model_of_a_shape_that_may_fit(shape: str) -> None:
    found = run(og.attach(MLP, other_model(shape), {"q": "logits"}), input=X)
    np.testing.assert_array_equal(found["z"], np.maximum(found["logits"], 0))


@pytest.mark.parametrize("inputs", ["logits", ["logits"], [("q", "logits")]])
def test_attach_a_model_takes_a_dict(inputs: Any) -> None:
    with pytest.raises(og.ArgumentError, match="a dict of tensors by its inputs' names"):
        og.attach(MLP, other_model("[B,3]"), inputs)
