"""Low-rank adapters: as peft defines them, by its formulas in PyTorch; on files as they are."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad import train
from tests.train.running import Loop

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
from tests.explained_nets import explained  # noqa: E402

F = torch.nn.functional

TYPES = {np.float16: "float16", np.float32: "float", np.float64: "double"}


def parsed(text: str, opset: int = 21, ir_version: int = 8, **weights: Any) -> onnx.ModelProto:
    """A net by its text, with weights that stand nowhere in it."""
    given = ", ".join(
        f"{TYPES.get(a.dtype.type, 'float')}[{','.join(map(str, a.shape))}] {name}"
        f" = {{{','.join(['0'] * a.size)}}}"
        for name, a in weights.items()
    )
    head, body = text.split("{", 1)
    model = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g {head} <{given}> {{ {body}'
    )
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return ir.to_proto(ir.from_proto(model))


def run(model: onnx.ModelProto, feeds: dict[str, Any], options: Any = None) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds, options)


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def matrices(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The adapters' own numbers."""
    listed = json.loads({p.key: p.value for p in model.metadata_props}["onnxgrad.adapters"])
    names = [name for a in listed.values() for name in (a["A"], a["B"])]
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {name: arrays[name] for name in names}


def drawn(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    """Other numbers for the adapters."""
    return {
        name: (0.3 * normal(*a.shape, seed=seed)).astype(a.dtype)
        for name, a in matrices(model).items()
    }


X = normal(3, 4)
IMAGE = normal(2, 3, 7, 8)
IDS = np.array([[0, 4, 4], [2, 1, 0]])


# Of a kind of layer: the file, what it is fed, and peft's forward in PyTorch, of W, A, B and s.
LAYERS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "MatMul": (
        lambda opset=21: parsed(
            "(float[N,4] x) => (float[N,5] y) { h = MatMul(x, w) y = Tanh(h) }",
            opset, w=normal(4, 5),
        ),
        {"x": X},
        lambda x, w, a, b, s: torch.tanh(x @ w + F.linear(F.linear(x, a), b) * s),
    ),
    "MatMul of three axes": (
        lambda opset=21: parsed(
            "(float[N,S,4] x) => (float[N,S,5] y) { y = MatMul(x, w) }", opset, w=normal(4, 5)
        ),
        {"x": normal(2, 3, 4)},
        lambda x, w, a, b, s: x @ w + F.linear(F.linear(x, a), b) * s,
    ),
    "transposed": (
        lambda opset=21: parsed(
            "(float[N,4] x) => (float[N,5] y) { t = Transpose <perm=[1,0]> (w) y = MatMul(x, t) }",
            opset, w=normal(5, 4),
        ),
        {"x": X},
        lambda x, w, a, b, s: F.linear(x, w) + F.linear(F.linear(x, a), b) * s,
    ),
    "Gemm": (
        lambda opset=21: parsed(
            "(float[N,4] x) => (float[N,5] y) { y = Gemm <transB=1> (x, w, c) }",
            opset, w=normal(5, 4), c=normal(5),
        ),
        {"x": X},
        lambda x, w, a, b, s: F.linear(x, w, torch.from_numpy(normal(5)))
        + F.linear(F.linear(x, a), b) * s,
    ),
    "Gemm with everything": (
        lambda opset=21: parsed(
            "(float[4,N] x) => (float[N,5] y)"
            " { y = Gemm <transA=1, alpha=0.5, beta=3.0> (x, w, c) }",
            opset, w=normal(4, 5), c=normal(5),
        ),
        {"x": np.ascontiguousarray(X.T)},
        lambda x, w, a, b, s: 0.5 * (x.T @ (w + s * (b @ a).T)) + 3 * torch.from_numpy(normal(5)),
    ),
    "Conv 1x1": (
        lambda opset=21: parsed(
            "(float[N,3,H,W] x) => (float[N,6,H,W] y) { y = Conv (x, w) }", opset,
            w=normal(6, 3, 1, 1),
        ),
        {"x": IMAGE},
        lambda x, w, a, b, s: F.conv2d(x, w) + F.conv2d(F.conv2d(x, a), b) * s,
    ),
    "Conv 3x3": (
        lambda opset=21: parsed(
            "(float[N,3,H,W] x) => (float[N,6,I,J] y)"
            " { y = Conv <strides=[2,1], pads=[1,0,1,0], kernel_shape=[3,3]> (x, w, c) }",
            opset, w=normal(6, 3, 3, 3), c=normal(6),
        ),
        {"x": IMAGE},
        lambda x, w, a, b, s: F.conv2d(x, w, torch.from_numpy(normal(6)), (2, 1), (1, 0))
        + F.conv2d(F.conv2d(x, a, None, (2, 1), (1, 0)), b) * s,
    ),
    "Conv of one axis, dilated": (
        lambda opset=21: parsed(
            "(float[N,3,L] x) => (float[N,6,M] y) { y = Conv <dilations=[2]> (x, w) }",
            opset, w=normal(6, 3, 3),
        ),
        {"x": normal(2, 3, 9)},
        lambda x, w, a, b, s: F.conv1d(x, w, dilation=2)
        + F.conv1d(F.conv1d(x, a, dilation=2), b) * s,
    ),
    "Gather": (
        lambda opset=21: parsed(
            "(int64[N,S] x) => (float[N,S,4] y) { y = Gather (w, x) }", opset, w=normal(5, 4)
        ),
        {"x": IDS},
        lambda x, w, a, b, s: F.embedding(x, w) + F.embedding(x, a.T) @ b.T * s,
    ),
}  # fmt: skip


def adapted(name: str, opset: int = 21, **options: Any) -> onnx.ModelProto:
    make, _, _ = LAYERS[name]
    model = train.lora(make(opset), 2, 3, "w", **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def by_peft(name: str, state: dict[str, np.ndarray], scale: float = 1.5) -> tuple[Any, Any, Any]:
    """The output, and the gradients of A and B of half of the sum of its squares."""
    make, feeds, forward = LAYERS[name]
    arrays = {t.name: numpy_helper.to_array(t) for t in make().graph.initializer}
    w = torch.from_numpy(arrays["w"].copy())
    a, b = (torch.tensor(state[f"w.lora_{k}"], requires_grad=True) for k in "AB")
    y = forward(torch.from_numpy(feeds["x"]), w, a, b, scale)
    (y * y / 2).sum().backward()
    return y.detach().numpy(), a.grad.numpy(), b.grad.numpy()


@pytest.mark.parametrize("name", LAYERS)
def test_unchanged_at_first(name: str) -> None:
    make, feeds, _ = LAYERS[name]
    np.testing.assert_allclose(
        run(adapted(name), feeds)[0], run(make(), feeds)[0], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("name", LAYERS)
def test_as_peft(name: str, opset: int) -> None:
    """The output with A and B fed, the default values aside; the file keeps its opset."""
    model = adapted(name, opset)
    assert [o.version for o in model.opset_import] == [opset]
    state = drawn(model)
    found = run(model, {**LAYERS[name][1], **state})[0]
    np.testing.assert_allclose(found, by_peft(name, state)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name: str) -> None:
    model = adapted(name)
    state = drawn(model)
    _, a, b = by_peft(name, state)
    y = run(model, {**LAYERS[name][1], **state})[0]
    gradient = og.vjp(model, list(state))
    feeds = {**LAYERS[name][1], **state, "y_ograd": y}
    found = run(gradient, feeds)[-2:]
    np.testing.assert_allclose(found[0], a, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[1], b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
def test_merged(name: str) -> None:
    """The merged file has the nodes that it had, and the outputs with the adapter."""
    make, feeds, _ = LAYERS[name]
    model = adapted(name)
    state = drawn(model)
    merged = train.merge(model, {**state, "step": np.array(3)})
    assert merged.graph.node == make().graph.node
    assert [t.name for t in merged.graph.initializer] == [t.name for t in make().graph.initializer]
    assert train.merge(model).SerializeToString() == make().SerializeToString()
    expected = run(model, {**feeds, **state})[0]
    np.testing.assert_allclose(run(merged, feeds)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_only_adapters_are_trained(name: str) -> None:
    """A step of SGD changes them as their gradients say; all else is constant."""
    model = adapted(name)
    state = drawn(model)
    step = train.step(model, og.losses.mse("y"), train.SGD())
    listed = json.loads({p.key: p.value for p in step.metadata_props}["onnxgrad.state"])
    assert set(listed) == {"step", "w.lora_A", "w.lora_B"}
    y, a, b = by_peft(name, state)
    feeds = {
        **LAYERS[name][1], **state, "labels": np.zeros_like(y), "step": np.array(0),
        "learning_rate": np.array(0.1, np.float32),
    }  # fmt: skip
    names = [v.name for v in step.graph.output]
    found = dict(zip(names, run(step, feeds), strict=True))
    np.testing.assert_allclose(found["loss"], np.mean(y * y), rtol=1e-4)
    for key, g in (("w.lora_A", a), ("w.lora_B", b)):
        expected = state[key] - 0.1 * 2 / y.size * g
        np.testing.assert_allclose(found[listed[key]], expected, rtol=1e-4, atol=1e-5)


def test_first_values_as_peft() -> None:
    """The same distributions: of a uniform one the bound, of a normal one the moments."""
    for name, axis in (("MatMul", 4), ("Gemm", 4), ("Conv 3x3", 27)):
        a, b = matrices(train.lora(LAYERS[name][0](), 200, 3, "w")).values()
        like = torch.empty(a.shape)
        torch.nn.init.kaiming_uniform_(like, a=math.sqrt(5))
        assert np.abs(a).max() <= 1 / math.sqrt(axis) and not b.any()
        np.testing.assert_allclose(a.std(), like.numpy().std(), rtol=0.1)
    a, b = matrices(train.lora(LAYERS["Gather"][0](), 500, 3, "w")).values()
    assert not a.any() and abs(b.std() - 1) < 0.05
    assert a.shape == (500, 5) and b.shape == (4, 500)


def test_seed_and_scale() -> None:
    one, two, other = (matrices(adapted("Gemm", seed=s))["w.lora_A"] for s in (1, 1, 2))
    assert (one == two).all() and (one != other).all()
    model = adapted("Gemm", rslora=True)
    state = drawn(model)
    found = run(model, {"x": X, **state})[0]
    np.testing.assert_allclose(found, by_peft("Gemm", state, 3 / math.sqrt(2))[0], rtol=1e-4)


# -- which weights ---------------------------------------------------------------------------------


def tower() -> onnx.ModelProto:
    model = parsed(
        "(int64[N,S] ids) => (float[N,S,5] y, float[N,S,4] h)"
        " { e = Gather (emb, ids) q = MatMul (e, wq) k = MatMul (e, wk)"
        " s = Add (q, k) h = Relu (s) t = Transpose <perm=[1,0]> (emb) y = MatMul (h, t) }",
        emb=normal(5, 4),
        wq=normal(4, 4),
        wk=normal(4, 4, seed=3),
    )
    for node in model.graph.node:
        node.name = {"q": "q/MatMul", "k": "k/MatMul", "y": "head"}.get(node.output[0], "")
    return model


@pytest.mark.parametrize(
    "targets, names",
    [
        (None, ["wq", "wk"]),
        ("MatMul", ["emb", "wq", "wk"]),
        ("Gather", ["emb"]),
        ("w*", ["wq", "wk"]),
        (["k/*"], ["wk"]),
        (["wq", "head"], ["emb", "wq"]),
    ],
)
def test_targets(targets: Any, names: list[str]) -> None:
    model = train.lora(tower(), 2, 4, targets)
    assert list(matrices(model)) == [f"{n}.lora_{k}" for n in names for k in "AB"]


def test_tied_weights() -> None:
    """One adapter for the embedding and the head: both see the same W + s BA."""
    model = train.lora(tower(), 2, 3, ["emb", "wk"])
    state, arrays = (
        drawn(model),
        {t.name: numpy_helper.to_array(t) for t in tower().graph.initializer},
    )
    emb = arrays["emb"] + 1.5 * (state["emb.lora_B"] @ state["emb.lora_A"]).T
    wk = arrays["wk"] + 1.5 * (state["wk.lora_B"] @ state["wk.lora_A"]).T
    h = np.maximum(emb[IDS] @ arrays["wq"] + emb[IDS] @ wk, 0)
    found = run(model, {"ids": IDS, **state})
    np.testing.assert_allclose(found[1], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0], h @ emb.T, rtol=1e-4, atol=1e-5)
    merged = run(train.merge(model, state), {"ids": IDS})
    np.testing.assert_allclose(merged[0], h @ emb.T, rtol=1e-4, atol=1e-5)


def test_added_twice() -> None:
    """To other weights a second time; to the same one it is refused."""
    model = train.lora(train.lora(tower(), 2, 3, "wq"), 4, 3, "wk")
    assert list(matrices(model)) == ["wq.lora_A", "wq.lora_B", "wk.lora_A", "wk.lora_B"]
    with pytest.raises(og.ArgumentError, match="'wk' has an adapter already"):
        train.lora(model, 2, 3, "w?")


@pytest.mark.parametrize(
    "text, weights, says",
    [
        ("y = Conv <group=3> (x, w) }", {"w": normal(3, 1, 1, 1)}, "Conv, has groups"),
        ("y = Mul (x, w) }", {"w": normal(3, 1, 1)}, "no weight that can have one"),
        (
            "u = MatMul (x, w) v = Add (u, w) y = Relu (v) }",
            {"w": normal(4, 4)},
            "Add, uses it too",
        ),
        ("y = MatMul (x, w) }", {"w": normal(3, 4, 4)}, "no matrix"),
    ],
)
def test_weights_that_cannot(text: str, weights: Any, says: str) -> None:
    model = parsed("(float[N,3,4,4] x) => (float[N,3,4,4] y) { " + text, **weights)
    with pytest.raises(og.ArgumentError, match=says):
        train.lora(model, 2, 2, "w")
    with pytest.raises(og.ArgumentError, match="no layer is linear"):
        train.lora(model)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: train.lora(tower(), 2, 2, "wz"), "Nearest: 'wq', 'wk'.*Gather .1., MatMul .2."),
        (lambda: train.lora(tower(), 2, 2, []), "targets is empty"),
        (lambda: train.lora(tower(), 0), "rank"),
        (lambda: train.lora(tower(), 2, math.nan), "alpha"),
        (lambda: train.lora(tower(), 2, 2, [3]), "not 3"),
        (lambda: train.merge(tower()), "no adapter"),
        (
            lambda: train.merge(
                train.step(train.lora(tower(), 2), og.losses.mse("h"), train.SGD())
            ),
            "does not hold 'wq.lora_A'",
        ),
        (lambda: train.merge(train.lora(tower(), 2), {}), "lacks 'wq.lora_A'"),
        (
            lambda: train.merge(train.lora(tower(), 2), drawn(train.lora(tower(), 3))),
            "of another rank",
        ),
    ],
)
def test_mistakes(make: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        make()


# -- files as they are -----------------------------------------------------------------------------


@pytest.mark.parametrize("cast", [False, True])
def test_half_precision(cast: bool) -> None:
    """A and B are float32 as peft's are; a Cast of stored halves is looked through."""
    if cast:
        model = parsed(
            "(float[N,4] x) => (float[N,5] y) { c = Cast <to=1> (w) y = MatMul (x, c) }",
            w=normal(4, 5, dtype=np.float16),
        )
        x = X
    else:
        model = parsed(
            "(float16[N,4] x) => (float16[N,5] y) { y = MatMul (x, w) }",
            w=normal(4, 5, dtype=np.float16),
        )
        x = X.astype(np.float16)
    tuned = train.lora(model, 2, 3)
    onnx.checker.check_model(tuned, full_check=True)
    np.testing.assert_array_equal(run(tuned, {"x": x})[0], run(model, {"x": x})[0])
    state = drawn(tuned)
    assert {a.dtype for a in state.values()} == {np.dtype(np.float32)}
    w = normal(4, 5, dtype=np.float16).astype(np.float32)
    expected = x.astype(np.float32) @ (w + 1.5 * (state["w.lora_B"] @ state["w.lora_A"]).T)
    np.testing.assert_allclose(run(tuned, {"x": x, **state})[0], expected, rtol=5e-3, atol=5e-3)
    merged = train.merge(tuned, state)
    assert merged.graph.initializer[0].data_type == onnx.TensorProto.FLOAT16
    np.testing.assert_allclose(run(merged, {"x": x})[0], expected, rtol=5e-3, atol=5e-3)
    step = train.step(tuned, og.losses.mse("y"), train.SGD())
    assert [v.name for v in step.graph.input][1:3] == ["w.lora_A", "w.lora_B"]


def test_double_precision_and_constants() -> None:
    model = parsed(
        "(double[N,2] x) => (double[N,2] y)"
        " { w = Constant <value = double[2,2] {1, 2, 3, 4}> () y = MatMul (x, w) }"
    )
    tuned = train.lora(model, 1, 1)
    state = drawn(tuned)
    x = normal(3, 2, dtype=np.float64)
    w = np.array([[1, 2], [3, 4]]) + (state["w.lora_B"] @ state["w.lora_A"]).T
    np.testing.assert_allclose(run(tuned, {"x": x, **state})[0], x @ w, rtol=1e-12)
    np.testing.assert_allclose(run(train.merge(tuned, state), {"x": x})[0], x @ w, rtol=1e-12)


def test_weights_of_eight_bits() -> None:
    """Behind a DequantizeLinear: an adapter beside it, which cannot be merged."""
    model = parsed(
        "(float[N,4] x) => (float[N,4] y) { d = DequantizeLinear (w, s) y = MatMul (x, d) }",
        s=np.full(4, 0.1, np.float32),
    )
    w = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    tuned = train.lora(model, np.int64(2), 3)
    state = drawn(tuned)
    # onnxruntime's kernel for the product rounds x to 8 bits: what the adapter adds is exact.
    added = run(tuned, {"x": X, **state})[0] - run(model, {"x": X})[0]
    expected = 1.5 * X @ (state["w.lora_B"] @ state["w.lora_A"]).T
    np.testing.assert_allclose(added, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(og.ArgumentError, match="'w' is quantized"):
        train.merge(tuned)


def test_in_a_branch() -> None:
    model = parsed(
        "(float[N,4] x, bool c) => (float[N,4] y) { y = If (c) <"
        " then_branch = a () => (float[N,4] u) { u = MatMul (x, w) },"
        " else_branch = b () => (float[N,4] v) { v = Sin (x) }> }",
        w=normal(4, 4),
    )
    tuned = train.lora(model, 2, 2)
    onnx.checker.check_model(tuned, full_check=True)
    state = drawn(tuned)
    feeds = {"x": X, "c": np.array(True)}
    expected = X @ (normal(4, 4) + (state["w.lora_B"] @ state["w.lora_A"]).T)
    np.testing.assert_allclose(run(tuned, {**feeds, **state})[0], expected, rtol=1e-5, atol=1e-6)
    merged = train.merge(tuned, state)
    np.testing.assert_allclose(run(merged, feeds)[0], expected, rtol=1e-5, atol=1e-6)
    assert len(merged.graph.node[0].attribute[0].g.node) == 1


def test_an_old_file_that_lists_weights_as_inputs() -> None:
    model = parsed("(float[3,4] x) => (float[3,5] y) { y = MatMul (x, w) }", 11, 3, w=normal(4, 5))
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 5]))
    tuned = train.lora(model, 2, 2)
    state = drawn(tuned)
    expected = X @ (normal(4, 5) + (state["w.lora_B"] @ state["w.lora_A"]).T)
    np.testing.assert_allclose(run(train.merge(tuned, state), {"x": X})[0], expected, rtol=1e-4)
    step = train.step(tuned, og.losses.mse("y"), train.SGD())
    assert [v.name for v in step.graph.input][:3] == ["x", "w.lora_A", "w.lora_B"]


def test_a_file_of_ir_version_3_becomes_one_of_version_4(tmp_path: Path) -> None:
    model = parsed("(float[3,4] x) => (float[3,5] y) { y = MatMul (x, w) }", 7, 3, w=normal(4, 5))
    model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 5]))
    onnx.checker.check_model(model)
    tuned = train.lora(model, 2, 2)
    onnx.checker.check_model(tuned)
    state, path = drawn(tuned), tmp_path / "a.onnx_adapter"
    train.save_adapter(tuned, path, state)
    adapter, options = ort.LoraAdapter(), ort.RunOptions()
    adapter.Load(str(path))
    options.add_active_adapter(adapter)
    (found,) = ort.InferenceSession(tuned.SerializeToString()).run(None, {"x": X}, options)
    expected = X @ (normal(4, 5) + (state["w.lora_B"] @ state["w.lora_A"]).T)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# -- .onnx_adapter ---------------------------------------------------------------------------------


def test_adapters_of_one_file(tmp_path: Path) -> None:
    """Each active adapter gives the outputs of its merged file; none, those of the base."""
    model = train.lora(tower(), 2, 3, ["MatMul", "Gather"])
    session = ort.InferenceSession(model.SerializeToString())
    base = run(tower(), {"ids": IDS})
    for seed in (1, 2):
        state, path = drawn(model, seed), tmp_path / f"{seed}.onnx_adapter"
        train.save_adapter(model, path, state)
        adapter, options = ort.LoraAdapter(), ort.RunOptions()
        adapter.Load(str(path))
        options.add_active_adapter(adapter)
        found = session.run(None, {"ids": IDS}, options)
        for one, other, first in zip(
            found, run(train.merge(model, state), {"ids": IDS}), base, strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
            assert np.abs(one - first).max() > 0.1
        for one, other in zip(session.run(None, {"ids": IDS}), base, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.onnx_adapter", "2.onnx_adapter"]


def test_where_an_adapter_is_written(tmp_path: Path) -> None:
    model = train.lora(tower(), 2)
    with pytest.raises(og.SaveError, match="no folder"):
        train.save_adapter(model, tmp_path / "none" / "a.onnx_adapter")
    with pytest.raises(og.ArgumentError, match="no adapter"):
        train.save_adapter(tower(), tmp_path / "a.onnx_adapter")


@pytest.mark.parametrize("limit", [0, 100, 500])
def test_a_full_disk_leaves_the_adapter_that_was_there(limit: int, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    model, path = train.lora(tower(), 8), tmp_path / "a.onnx_adapter"
    train.save_adapter(model, path)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(before) > 500
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(og.SaveError, match="disk may be full"):
            train.save_adapter(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.onnx_adapter"]


# -- what they are for -----------------------------------------------------------------------------


def test_a_transformer_learns_another_task() -> None:
    """The third word tells the class: of held-back texts the tuned net knows it, the base not."""
    net = explained("tokens")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 20, (640, 7))
    labels = ids[:, 2] % 5
    model = train.lora(net.model, 8, 16, ["MatMul", "Gemm"])
    step = train.step(model, og.losses.cross_entropy(), train.Adam())
    loop = Loop(step, model)
    for k in range(160):
        batch = slice(64 * (k % 8), 64 * (k % 8) + 64)
        loop(5e-3, ids=ids[batch], labels=labels[batch])

    def accuracy(tuned: onnx.ModelProto) -> float:
        return float((run(tuned, {"ids": ids[512:]})[0].argmax(1) == labels[512:]).mean())

    tuned = train.merge(model, loop.state)
    assert accuracy(net.model) < 0.4 and accuracy(tuned) > 0.9
