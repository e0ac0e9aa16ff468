"""Steps: what is minimised, which weights, accumulation, scales of the loss, modes, privacy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad import train
from tests.train.running import Arrays, Loop, metadata

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((8, 4)), RNG.standard_normal((8, 3))
W, B = RNG.standard_normal((4, 3)), RNG.standard_normal(3)
SGD = train.SGD()


def tensor(name: str, array: Any, dtype: Any = np.float64) -> onnx.TensorProto:
    if dtype == "bfloat16":
        return onnx.helper.make_tensor(name, onnx.TensorProto.BFLOAT16, array.shape, array.ravel())
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def net(
    body: str, kind: str = "double", weights: Arrays | None = None, head: str = "<ir_version: 10,"
) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'{head} opset_import: ["" : 21]> g ({kind}[N,4] x) => ({kind}[N,3] y) {{ {body} }}'
    )
    dtype = {"double": np.float64, "float": np.float32, "float16": np.float16}.get(kind, kind)
    given = {"w": W, "b": B} if weights is None else weights
    model.graph.initializer.extend(tensor(k, v, dtype) for k, v in given.items())
    return model


BODY = "h = MatMul(x, w) s = Add(h, b) y = Tanh(s)"


def gradients(w: Any, b: Any, x: Any = X, y: Any = Y) -> tuple[float, Any, Any]:
    """The mean squared error of tanh(x w + b), and its gradients, by hand."""
    t = np.tanh(x @ w + b)
    d = 2 * (t - y) / y.size * (1 - t * t)
    return float(((t - y) ** 2).mean()), x.T @ d, d.sum(0)


def after(step: onnx.ModelProto, model: Any, lr: float = 1, times: int = 1, **feeds: Any) -> Loop:
    loop = Loop(step, model)
    given = {"x": X, "labels": Y} | feeds
    for _ in range(times):
        loop(lr, **given)
    return loop


# -- the loss ------------------------------------------------------------------------------------


def formula(op: Any, y: Any) -> Any:
    target = op.input("labels", y.shape, y.dtype)
    return {"anything": op.ReduceMean((y - target) * (y - target), keepdims=0)}


@pytest.mark.parametrize(
    "loss, of",
    [
        (og.losses.mse("y"), None),
        (og.losses.mse(), None),
        (og.losses.mse(), "y"),
        (formula, None),
        (formula, "y"),
    ],
)
def test_losses(loss: Any, of: Any) -> None:
    model = net(BODY)
    loop = Loop(train.step(model, loss, SGD, of=of), model)
    found = loop(1, x=X, labels=Y)
    expected, gw, gb = gradients(W, B)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(loop.state["w"], W - gw, rtol=1e-12)
    np.testing.assert_allclose(loop.state["b"], B - gb, rtol=1e-12)


def test_a_tensor_and_a_list() -> None:
    model = net(BODY + " loss = ReduceSum<keepdims=0>(y)")
    loop = Loop(train.step(model, ["loss", og.losses.mse("y")], SGD, forward=True), model)
    t = np.tanh(X @ W + B)
    found = loop(1, x=X, labels=Y)
    np.testing.assert_allclose(found["loss"], t.sum() + gradients(W, B)[0], rtol=1e-12)
    np.testing.assert_allclose(found["y"], t, rtol=1e-12)
    np.testing.assert_allclose(
        loop.state["b"], B - gradients(W, B)[2] - (1 - t * t).sum(0), rtol=1e-12
    )


@pytest.mark.parametrize("forward", [False, True])
def test_an_output_of_the_name_of_the_loss(forward: bool) -> None:
    model = net(BODY + " loss = ReduceSum<keepdims=0>(y)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("loss", 11, []))
    loop = Loop(train.step(model, "loss", SGD, forward=forward), model)
    t = np.tanh(X @ W + B)
    np.testing.assert_allclose(loop(1, x=X)["loss"], t.sum(), rtol=1e-12)
    np.testing.assert_allclose(loop.state["b"], B - (1 - t * t).sum(0), rtol=1e-12)
    assert loop.outputs.count("loss") == 1


@pytest.mark.parametrize("forward", [False, True])
def test_a_loss_of_the_package_is_given_beside_the_outputs(forward: bool) -> None:
    model = net(BODY)
    loop = Loop(train.step(model, og.losses.mse("y"), SGD, forward=forward), model)
    assert loop.outputs[: -len(loop.names)] == (["y"] if forward else []) + ["loss"]
    np.testing.assert_allclose(loop(1, x=X, labels=Y)["loss"], gradients(W, B)[0], rtol=1e-12)


@pytest.mark.parametrize(
    "body",
    [
        "b_next = MatMul(x, w) s = Add(b_next, b) y = Tanh(s)",
        BODY + " total = ReduceSum<keepdims = 0>(x) c = IsNaN(total) z = If (c) <"
        "then_branch = t () => (n) { n = Neg(y) }, "
        "else_branch = e () => (b_next) { b_next = Abs(y) }>",
    ],
)  # fmt: skip
def test_next_values_are_found_by_name(body: str) -> None:
    """Whatever inner tensors are called: in JavaScript a runtime does not show the metadata."""
    model = net(body)
    assert "b_next" in str(model)
    of = "z" if "z =" in body else "y"
    loop = Loop(train.step(model, og.losses.mse(of), train.Adam()), model)
    assert loop.names == {name: f"{name}_next" for name in loop.names} and len(loop.names) == 7
    before = loop.state["b"]
    loop(1, x=X, labels=Y)
    assert np.abs(loop.state["b"] - before).max() > 0.1


def test_what_is_not_finite_shows() -> None:
    model = net(BODY)
    found = Loop(train.step(model, og.losses.mse(), SGD), model)(1, x=X * np.nan, labels=Y)
    assert np.isnan(found["loss"])


def test_labels_out_of_range_fail() -> None:
    model = net(BODY)
    loop = Loop(train.step(model, og.losses.cross_entropy(), SGD), model)
    with pytest.raises(Exception, match=r"(?i)gather|index|bounds"):
        loop(1, x=X, labels=np.full(8, 3))


def test_empty_batch() -> None:
    model = net(BODY)
    loop = Loop(train.step(model, og.losses.mse(reduction="sum"), SGD), model)
    assert loop(1, x=X[:0], labels=Y[:0])["loss"] == 0
    np.testing.assert_array_equal(loop.state["w"], W)


# -- which weights ---------------------------------------------------------------------------------


IN_CONSTANTS = (
    "w = Constant<value = double[4,3] {"
    + ",".join(map(str, W.ravel()))
    + "}>() b = Constant<value = double[3] {"
    + ",".join(map(str, B))
    + "}>() "
)


def in_branches() -> onnx.ModelProto:
    return net(
        "k = Constant<value = bool {1}>() n = Size(x) zero = Constant<value = int64 {0}>()"
        "c = Greater(n, zero)"
        f"y = If(c) <then_branch = a () => (double[N,3] ya) {{ {IN_CONSTANTS} h = MatMul(x, w)"
        " s = Add(h, b) ya = Tanh(s) }, else_branch = o () => (double[N,3] yb) {"
        " w = Constant<value = double[4,3] {0,0,0,0,0,0,0,0,0,0,0,0}>() yb = MatMul(x, w) }>",
        weights={},
    )


@pytest.mark.parametrize(
    "model",
    [
        net(BODY),
        net(IN_CONSTANTS + BODY, weights={}),
        net("i = Identity(w) h = MatMul(x, i) s = Add(h, b) y = Tanh(s)"),
        net("h = Gemm<transB=1>(x, w, b) y = Tanh(h)", weights={"w": W.T.copy(), "b": B}),
    ],
    ids=["initializers", "constants", "identity", "transposed"],
)
def test_where_weights_are(model: onnx.ModelProto) -> None:
    loop = after(train.step(model, og.losses.mse(), SGD), model)
    _, gw, gb = gradients(W, B)
    found = loop.state["w"]
    np.testing.assert_allclose(found if found.shape == W.shape else found.T, W - gw, rtol=1e-12)
    np.testing.assert_allclose(loop.state["b"], B - gb, rtol=1e-12)


def test_in_branches() -> None:
    """Of equal names in two branches, the second is numbered."""
    model = in_branches()
    step = train.step(model, og.losses.mse(), SGD)
    assert set(metadata(step, "onnxgrad.state")) == {"step", "w", "b", "w_1"}
    loop = after(step, {"w": W, "b": B, "w_1": W})
    _, gw, gb = gradients(W, B)
    np.testing.assert_allclose(loop.state["b"], B - gb, rtol=1e-12)
    np.testing.assert_allclose(loop.state["w"], W - gw, rtol=1e-12)
    np.testing.assert_array_equal(loop.state["w_1"], W)


def test_weights_that_are_inputs_too() -> None:
    for head in ("<ir_version: 3,", "<ir_version: 10,"):
        model = net(BODY, head=head)
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in model.graph.initializer
        )
        loop = after(train.step(model, og.losses.mse(), SGD), model)
        np.testing.assert_allclose(loop.state["w"], W - gradients(W, B)[1], rtol=1e-12)


def test_tied_weights_have_one_gradient() -> None:
    model = net("a = MatMul(x, v) t = Tanh(a) h = MatMul(t, v) y = MatMul(h, w)",
                weights={"v": W @ W.T / 4, "w": W})  # fmt: skip
    loop = after(train.step(model, og.losses.mse(), SGD), model)
    eps, v = 1e-6, W @ W.T / 4

    def loss(v: Any) -> Any:
        return ((np.tanh(X @ v) @ v @ W - Y) ** 2).mean()

    for at in ((0, 0), (1, 2), (3, 1)):
        d = np.zeros((4, 4))
        d[at] = eps
        slope = (loss(v + d) - loss(v - d)) / (2 * eps)
        np.testing.assert_allclose(v[at] - loop.state["v"][at], slope, rtol=1e-6)


def test_by_position() -> None:
    """Positions count the nodes of the file, in which Constant nodes stand first."""
    model = net(IN_CONSTANTS + BODY, weights={})
    model.graph.node[2].name = "product"
    step = train.step(model, og.losses.mse([4, "input"]), SGD, [["product", "B"], [3, 1]])
    assert set(metadata(step, "onnxgrad.state")) == {"step", "w", "b"}
    t = X @ W + B
    np.testing.assert_allclose(
        Loop(step, model)(1, x=X, labels=Y)["loss"], ((t - Y) ** 2).mean(), rtol=1e-12
    )


def test_what_the_loss_does_not_depend_on() -> None:
    model = net(BODY + " z = MatMul(x, u)", weights={"w": W, "b": B, "u": W})
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 11, ["N", 3]))
    step = train.step(model, og.losses.mse("y"), train.AdamW())
    assert "u" not in metadata(step, "onnxgrad.state")
    with pytest.raises(og.UnreachableError, match="'u'"):
        train.step(model, og.losses.mse("y"), SGD, ["w", "u"])


def test_constant_tensors() -> None:
    model = net("h = MatMul(x, v) t = Tanh(h) s = MatMul(t, w) y = Add(s, b)",
                weights={"v": W @ W.T, "w": W, "b": B})  # fmt: skip
    step = train.step(model, og.losses.mse(), SGD, constant="t")
    assert set(metadata(step, "onnxgrad.state")) == {"step", "w", "b"}
    step = train.step(model, og.losses.mse(), SGD, og.ALL, constant=["w"])
    assert set(metadata(step, "onnxgrad.state")) == {"step", "v", "b"}


def test_nothing_of_the_files_weights_is_left() -> None:
    """Weights that would be folded, whose signs and bounds would be known, are other ones."""
    body = (
        "a = Abs(x) e = Mul(a, v) q = Div(e, u) c = Clip(q, low) l = Log(c) j = Neg(k)"
        " i = Neg(j) p = Pow(c, i) f = Sum(l, p) r = Reshape(m, shape)"
        " t = Transpose<perm = [1,0]>(r) h = MatMul(f, t)"
        " z = Sqrt(d) s = Mul(h, z) y = Sub(s, b)"
    )
    first = {
        "v": np.ones(4), "u": np.full(4, 2.0), "low": np.array(0.1), "k": np.full(4, 2.0),
        "m": np.zeros(12), "d": np.ones(3), "b": np.zeros(3),
    }  # fmt: skip
    other = {
        "v": np.array([3.0, 0.2, 5, 1]), "u": np.array([0.5, 1, 2, 4]), "low": np.array(0.1),
        "k": np.array([1.5, 3, 2, 0.5]), "m": W.ravel(), "d": np.array([4.0, 0.25, 9]), "b": B,
    }  # fmt: skip

    def built(weights: Arrays) -> onnx.ModelProto:
        model = net(body, weights=weights)
        model.graph.initializer.append(tensor("shape", [3, 4], np.int64))
        names = [n for n in weights if n != "low"]
        return train.step(model, og.losses.mse(), SGD, names)

    found, expected = after(built(first), other, 0.1), after(built(other), other, 0.1)
    assert found.state.keys() == expected.state.keys()
    for name in found.state:
        np.testing.assert_allclose(found.state[name], expected.state[name], rtol=1e-12)
        if name != "step":
            assert np.abs(found.state[name] - other[name]).max() > 1e-6
    left = {t.name for t in built(first).graph.initializer}
    assert not left & {n for n in first if n != "low"}


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["step", "learning_rate", "grad_norm", "loss_scale", "loss"])
def test_inner_tensors_of_the_steps_names(name: str) -> None:
    model = net(f"{name} = MatMul(x, w) s = Add({name}, b) y = Tanh(s)")
    step = train.step(model, og.losses.mse(), SGD, grad_norm=True, loss_scale="dynamic")
    loop = after(step, model)
    np.testing.assert_allclose(loop.state["w"], W - gradients(W, B)[1], rtol=1e-9)
    assert {"loss", "grad_norm", "step_next"} <= set(loop.outputs)


@pytest.mark.parametrize("name", ["step", "learning_rate", "labels"])
def test_inputs_of_the_steps_names(name: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] {name}) => (float[N,3] y)'
        f" {{ y = MatMul({name}, w) }}"
    )
    model.graph.initializer.append(tensor("w", W, np.float32))
    with pytest.raises(og.ArgumentError, match=name):
        train.step(model, og.losses.mse(), SGD)
    if name == "labels":
        train.step(model, og.losses.mse(labels="truth"), SGD)


# -- accumulation and scales -----------------------------------------------------------------------


def test_accumulation_is_one_large_batch() -> None:
    model = net(BODY)
    options: dict[str, Any] = {"clip_grad_norm": 0.1, "grad_norm": True}
    whole = Loop(train.step(model, og.losses.mse(), train.AdamW(), **options), model)
    parts = Loop(train.step(model, og.losses.mse(), train.AdamW(), accumulate=4, **options), model)
    for k in range(3):
        norm = whole(0.1, x=X, labels=Y)["grad_norm"]
        for at in range(4):
            rows = slice(2 * at, 2 * at + 2)
            before = parts.state["w"]
            found = parts(0.1, x=X[rows], labels=Y[rows])
            assert parts.state["accumulated"] == (at + 1) % 4
            assert np.array_equal(before, parts.state["w"]) == (at < 3)
        np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-12)
        assert parts.state["step"] == whole.state["step"] == k + 1
        assert not parts.state["w.grad"].any()
    for name, value in whole.state.items():
        np.testing.assert_allclose(parts.state[name], value, rtol=1e-9)


@pytest.mark.parametrize("scale", [1024.0, "dynamic"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_scaled_losses(scale: Any, accumulate: int) -> None:
    model = net(BODY, "float")
    options: dict[str, Any] = {"clip_grad_value": 0.05, "accumulate": accumulate}
    plain = Loop(train.step(model, og.losses.mse(), train.Adam(), **options), model)
    scaled = Loop(
        train.step(model, og.losses.mse(), train.Adam(), loss_scale=scale, **options), model
    )
    x, y = X.astype(np.float32), Y.astype(np.float32)
    for _ in range(4):
        a, b = (loop(0.1, x=x, labels=y) for loop in (plain, scaled))
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    for name, value in plain.state.items():
        np.testing.assert_allclose(scaled.state[name], value, rtol=1e-4, atol=1e-7)


def test_steps_that_are_not_finite_are_left_out() -> None:
    """The scale is that of torch.amp.GradScaler."""
    model = net(BODY, "float")
    loop = Loop(train.step(model, og.losses.mse(), train.Adam(), loss_scale="dynamic"), model)
    x, y = X.astype(np.float32), Y.astype(np.float32)
    loop(0.1, x=x, labels=y)
    before = dict(loop.state)
    loop(0.1, x=x, labels=y * np.inf)
    assert loop.state["loss_scale"] == before["loss_scale"] / 2
    assert loop.state["growth_tracker"] == 0 and before["growth_tracker"] == 1
    for name in ("step", "w", "b", "w.exp_avg", "w.exp_avg_sq"):
        np.testing.assert_array_equal(loop.state[name], before[name])
    loop.state["growth_tracker"] = np.array(1999)
    loop(0.1, x=x, labels=y)
    assert loop.state["loss_scale"] == before["loss_scale"]
    assert loop.state["growth_tracker"] == 0 and loop.state["step"] == 2


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_trained_in_single(kind: str) -> None:
    model = net(BODY, kind)
    step = train.step(model, og.losses.mse(), train.Adam(), loss_scale=128.0)
    dtypes = {v.name: v.type.tensor_type.elem_type for v in step.graph.input}
    assert dtypes["w"] == dtypes["w.exp_avg"] == onnx.TensorProto.FLOAT
    if kind == "bfloat16":  # no kernels
        onnx.checker.check_model(step, full_check=True)
        return
    loop = after(step, model, 1e-4, 20, x=X.astype(np.float16), labels=Y.astype(np.float16))
    w, moved = W.astype(np.float16).astype(np.float32), loop.state["w"]
    assert 1.5e-3 < np.abs(moved - w).max() < 2.5e-3  # which float16 would have rounded away
    assert gradients(moved, loop.state["b"])[0] < gradients(W, B)[0]


# -- modes -----------------------------------------------------------------------------------------


NORMALISED = (
    "n = BatchNormalization<epsilon=0.1, momentum=0.8>(x, s, o, mean, var)"
    " h = MatMul(n, w) y = Add(h, b)"
)
STATISTICS = {
    "s": np.array([1.0, 2, 0.5, 1]), "o": np.ones(4), "mean": np.full(4, 0.3),
    "var": np.array([1.0, 2, 3, 4]), "w": W, "b": B,
}  # fmt: skip


def test_batch_norm() -> None:
    model = net(NORMALISED, weights=STATISTICS)
    frozen = Loop(train.step(model, og.losses.mse(), SGD), model)
    assert "mean" not in frozen.state
    n = (X - 0.3) / np.sqrt(STATISTICS["var"] + 0.1) * STATISTICS["s"] + 1
    found = frozen(1, x=X, labels=Y)["loss"]
    np.testing.assert_allclose(found, ((n @ W + B - Y) ** 2).mean(), rtol=1e-7)
    loop = Loop(train.step(model, og.losses.mse(), SGD, batch_norm="train"), model)
    n = (X - X.mean(0)) / np.sqrt(X.var(0) + 0.1) * STATISTICS["s"] + 1
    found = loop(1, x=X, labels=Y)["loss"]
    np.testing.assert_allclose(found, ((n @ W + B - Y) ** 2).mean(), rtol=1e-7)
    np.testing.assert_allclose(loop.state["mean"], 0.8 * 0.3 + 0.2 * X.mean(0), rtol=1e-7)
    expected = 0.8 * STATISTICS["var"] + 0.2 * X.var(0, ddof=1)  # PyTorch's
    np.testing.assert_allclose(loop.state["var"], expected, rtol=1e-7)


def test_dropout() -> None:
    model = net("d = Dropout(x, ratio) h = MatMul(d, w) y = Add(h, b)", "float")
    model.graph.initializer.append(tensor("ratio", np.float32(0.5), np.float32))
    feeds = {"x": X.astype(np.float32), "labels": Y.astype(np.float32)}
    frozen = Loop(train.step(model, og.losses.mse(), SGD), model)
    assert frozen(0, **feeds)["loss"] == frozen(0, **feeds)["loss"]
    runs = []
    for seed in (1, 1, 2):
        loop = Loop(train.step(model, og.losses.mse(), SGD, dropout="train", seed=seed), model)
        runs.append([float(loop(0, **feeds)["loss"]) for _ in range(3)])
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == 3


# -- privacy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_private_gradients(accumulate: int) -> None:
    model = net(BODY)
    size = None if accumulate == 1 else 16.0
    privacy = train.DPSGD(
        noise_multiplier=0.7, max_grad_norm=0.4, noise="input", expected_batch_size=size
    )
    step = train.step(model, og.losses.mse(), SGD, privacy=privacy, accumulate=accumulate)
    noise = {"w.noise": RNG.standard_normal((4, 3)), "b.noise": RNG.standard_normal(3)}
    sums, clipped = [np.zeros((4, 3)), np.zeros(3)], 0
    for k in range(8):
        _, *gs = gradients(W, B, X[k : k + 1], Y[k : k + 1])
        norm = np.sqrt(sum((g**2).sum() for g in gs))
        clipped += norm > 0.4
        sums = [s + g / max(1, norm / 0.4) for s, g in zip(sums, gs, strict=True)]
    assert 0 < clipped < 8
    loop = after(step, model, 1, accumulate, **noise)
    for name, value, total in (("w", W, sums[0]), ("b", B, sums[1])):
        expected = (accumulate * total + 0.7 * 0.4 * noise[f"{name}.noise"]) / (size or 8)
        np.testing.assert_allclose(value - loop.state[name], expected, rtol=1e-9)


def test_drawn_noise() -> None:
    weights = {"w": RNG.standard_normal((4, 3)), "b": np.zeros(3)}
    model = net(BODY, "float", weights)
    found = []
    for seed in (1, 1, 2):
        privacy = train.DPSGD(noise_multiplier=1000, max_grad_norm=1, noise="drawn", seed=seed)
        loop = Loop(train.step(model, og.losses.mse(), SGD, privacy=privacy), model)
        moved = []
        for _ in range(100):
            before = loop.state["w"]
            loop(1e-6, x=X.astype(np.float32), labels=Y.astype(np.float32))
            moved.append((before - loop.state["w"]) / 1e-6 * 8 / 1000)
        found.append(np.array(moved))
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])
    assert abs(found[0].std() - 1) < 0.07 and abs(found[0].mean()) < 0.1


def test_inputs_of_the_noise_are_listed() -> None:
    privacy = train.DPSGD(noise_multiplier=1, max_grad_norm=1)
    step = train.step(net(BODY), og.losses.mse(), SGD, privacy=privacy)
    names = metadata(step, "onnxgrad.noise")
    assert names == [v.name for v in step.graph.input if v.name.endswith(".noise")] != []


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        ({"accumulate": 0}, "accumulate"),
        ({"loss_scale": "static"}, "loss_scale"),
        ({"clip_grad_norm": -1}, "clip_grad_norm"),
        ({"batch_norm": "on"}, "batch_norm"),
        ({"batch_norm": "train"}, "no BatchNormalization"),
        ({"dropout": "train"}, "no Dropout"),
        ({"privacy": train.DPSGD(noise_multiplier=1, max_grad_norm=1), "loss_scale": 2}, "scale"),
        ({"loss": None}, "loss is one of"),
        ({"accumulate": True}, "accumulate is a whole number, 1 or more"),
        ({"accumulate": 2.0}, "accumulate"),
        ({"clip_grad_norm": "1"}, "clip_grad_norm"),
        ({"clip_grad_value": math.nan}, "clip_grad_value"),
        ({"loss_scale": math.inf}, "loss_scale"),
        ({"seed": -1}, "seed"),
        ({"groups": ["w"]}, "groups are of onnxgrad.train"),
        ({"groups": train.Group("encodr.*")}, "no weight fits 'encodr.*'"),
        ({"groups": train.Group(["w", "W"])}, r"no weight fits 'W'\. Nearest: 'w'"),
        ({"loss": lambda op, y: {"a": y, "b": y}}, "one tensor"),
    ],
)
def test_mistakes(options: dict[str, Any], says: str) -> None:
    loss = options.pop("loss", og.losses.mse())
    with pytest.raises(og.ArgumentError, match=says):
        train.step(net(BODY), loss, SGD, **options)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: train.Adam(betas=(0.9,)), "two numbers"),  # type: ignore[arg-type]
        (lambda: train.Adam(betas=0.9), "two numbers"),  # type: ignore[arg-type]
        (lambda: train.Adam(betas=(0.9, 1)), "below 1"),
        (lambda: train.Lion(betas=("a", 0.9)), "betas"),  # type: ignore[arg-type]
        (lambda: train.SGD(lr=math.nan), "lr is a finite number"),
        (lambda: train.SGD(lr=math.inf), "lr is a finite number"),
        (lambda: train.SGD(lr=True), "lr is a finite number"),
        (lambda: train.SGD(nesterov="yes"), "True or False"),  # type: ignore[arg-type]
        (lambda: train.Group("w", lr_scale=-1), "lr_scale"),
        (lambda: train.Group("w", lr_scale=math.nan), "lr_scale"),
        (lambda: train.Group("w", weight_decay=-1), "weight_decay"),
        (lambda: train.Group([]), "patterns"),
        (lambda: train.Group([1]), "patterns"),  # type: ignore[list-item]
        (lambda: train.DPSGD(noise_multiplier=math.inf, max_grad_norm=1), "noise_multiplier"),
        (lambda: train.DPSGD(noise_multiplier=1, max_grad_norm=math.nan), "max_grad_norm"),
        (lambda: train.DPSGD(noise_multiplier=1, max_grad_norm=1, seed=-1), "seed"),
        (lambda: train.lora(net(BODY), alpha="8"), "alpha"),
        (lambda: train.lora(net(BODY), rank=True), "rank"),
        (lambda: train.export(net(BODY), {"w": np.full((4, 3), "a")}), "not real numbers"),
        (lambda: train.export(net(BODY), {"w": [[1.0], [2.0, 3.0]]}), "no array"),
    ],
)
def test_mistaken_numbers(make: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        make()


def test_a_scalar_input_has_no_example() -> None:
    model = net("h = MatMul(x, w) p = Mul(h, c) y = Add(p, b)")
    model.graph.input.append(onnx.helper.make_tensor_value_info("c", 11, []))
    privacy = train.DPSGD(noise_multiplier=1, max_grad_norm=1)
    with pytest.raises(og.ArgumentError, match="'c' is a scalar"):
        train.step(model, og.losses.mse(), SGD, privacy=privacy)


def test_an_input_of_the_name_of_an_output() -> None:
    model = net("h = MatMul(x, w) p = Mul(h, loss) y = Add(p, b)")
    model.graph.input.append(onnx.helper.make_tensor_value_info("loss", 11, []))
    with pytest.raises(og.ArgumentError, match=r"an input 'loss', .*: rename it$"):
        train.step(model, og.losses.mse(), SGD)


def test_one_group_and_names_with_brackets() -> None:
    model = net(BODY.replace("w)", "v)"), weights={"v": W, "b": B})
    model.graph.node[0].input[1] = model.graph.initializer[0].name = "v[0]"
    step = train.step(model, og.losses.mse(), SGD, groups=train.Group("v[0]", frozen=True))
    assert [v.name for v in step.graph.output] == ["loss", "step_next", "b_next"]


def test_shared_statistics() -> None:
    body = NORMALISED.replace("(n, w)", "(n2, w)").replace(
        " h =", " n2 = BatchNormalization(n, s, o, mean, var) h ="
    )
    with pytest.raises(og.ArgumentError, match="'mean'"):
        train.step(net(body, weights=STATISTICS), og.losses.mse(), SGD, batch_norm="train")


def test_statistics_that_calls_of_a_function_share() -> None:
    constants = " ".join(f"{name} = Constant<value = float[2] {{1, 2}}>()" for name in "sbmv")
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21, "f" : 1]> '
        "g (float[N,2] x) => (float[N,2] y) { h = f.layer(x) y = f.layer(h) }"
        '<domain: "f", opset_import: ["" : 21]> '
        f"layer (x) => (y) {{ {constants} y = BatchNormalization(x, s, b, m, v) }}"
    )
    with pytest.raises(og.ArgumentError, match="share the running statistic 'm_2'"):
        train.step(model, og.losses.mse(), SGD, batch_norm="train")
    assert "m_next" not in [v.name for v in train.step(model, og.losses.mse(), SGD).graph.output]
