"""The layer with places that is found in a net, and where its channels lie."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import onnxgrad as og
from onnxgrad.explain import layers
from tests.oracle import reference, runner

POOLED = "p = GlobalAveragePool(r)\n f = Flatten(p)\n y = Gemm(f, F)"
WEIGHTS = {"K": (4, 3, 3, 3), "L": (4, 4, 3, 3), "F": (4, 5)}


def net(body: str, inputs: str = "float[N,3,9,8] x", y: str = "float[N,5] y", **more: Any) -> Any:
    """A net of some of the weights, drawn from a seed, and of constants.

    Its last weights are positive, so that no map is empty.
    """
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({inputs}) => ({y}) {{\n{body}\n}}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(s).astype(np.float32) for name, s in WEIGHTS.items()}
    drawn["F"] = np.abs(drawn["F"])
    used = {name for node in model.graph.node for name in node.input}
    for name, array in (drawn | more).items():
        if name in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return model


def found(model: onnx.ModelProto, **options: Any) -> str:
    explained = og.explain.grad_cam(model, **options)
    (table,) = (json.loads(p.value) for p in explained.metadata_props)
    (layer,) = table
    assert table == {layer: f"{layer}_attribution"}
    return layer


FOUND = {
    "pooled": (f"c = Conv(x, K)\n r = Relu(c)\n{POOLED}", "r"),
    "means over axes": ("r = Conv(x, K)\n f = ReduceMean<keepdims=0>(r, A)\n y = Gemm(f, F)", "r"),
    "convolved behind the pool": (
        "r = Conv(x, K)\n p = GlobalAveragePool(r)\n q = Conv(p, M)\n s = Relu(q)\n"
        "f = Flatten(s)\n y = Gemm(f, F)",
        "r",
    ),
    "pooled by a window": (
        "r = Conv(x, K)\n p = AveragePool<kernel_shape=[7,6]>(r)\n f = Flatten(p)\n y = Gemm(f, F)",
        "r",
    ),
    "pooled by windows, then flattened": (
        "r = Conv(x, K)\n p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r)\n f = Flatten(p)\n"
        "y = Gemm(f, H)",
        "r",
    ),
    "flattened": ("c = Conv(x, K)\n r = Relu(c)\n f = Flatten(r)\n y = Gemm(f, G)", "r"),
    "reshaped": ("r = Conv(x, K)\n f = Reshape(r, S)\n y = Gemm(f, G)", "r"),
    "squeeze and excite": (
        "c = Conv(x, K)\n m = GlobalAveragePool(c)\n q = Conv(m, M)\n s = Sigmoid(q)\n"
        f"r = Mul(c, s)\n{POOLED}",
        "r",
    ),
    "residual": (f"a = Conv(x, K)\n b = Conv<pads=[1,1,1,1]>(a, L)\n r = Add(a, b)\n{POOLED}", "r"),
    "a branch around the last": (
        "a = Conv(x, K)\n r = Conv(a, L)\n p = GlobalAveragePool(r)\n q = GlobalAveragePool(a)\n"
        "s = Add(p, q)\n f = Flatten(s)\n y = Gemm(f, F)",
        "a",
    ),
    "a gate by attention to places": (
        "a = Conv(x, K)\n m = ReduceMax<keepdims=1>(a, O)\n g = Sigmoid(m)\n"
        f"r = Mul(a, g)\n{POOLED}",
        "r",
    ),
    "maps of classes": (
        "a = Conv(x, K)\n r = Conv(a, C)\n p = GlobalAveragePool(r)\n y = Flatten(p)",
        "a",
    ),
    "transposed, then pooled": (
        "r = Conv(x, K)\n t = Transpose<perm=[0,2,3,1]>(r)\n f = ReduceMean<keepdims=0>(t, B)\n"
        "y = Gemm(f, F)",
        "r",
    ),
    "channels last": (
        "c = Conv(x, K)\n t = Transpose<perm=[0,2,3,1]>(c)\n n = LayerNormalization(t, V)\n"
        "m = MatMul(n, W)\n r = Relu(m)\n f = ReduceMean<keepdims=0>(r, B)\n y = Gemm(f, F)",
        "r",
    ),
    "a shape beside": (
        "c = Conv(x, K)\n s = Shape<end=1>(x)\n t = Concat<axis=0>(s, T)\n f = Reshape(c, t)\n"
        "y = Gemm(f, G)",
        "c",
    ),
}
MORE = {
    "A": np.array([2, 3]),
    "B": np.array([1, 2]),
    "O": np.array([1]),
    "S": np.array([0, -1]),
    "T": np.array([168]),
    "M": np.ones((4, 4, 1, 1), np.float32),
    "C": np.ones((5, 4, 3, 3), np.float32),
    "G": np.random.default_rng(1).uniform(0, 1, (168, 5)).astype(np.float32),
    "H": np.random.default_rng(1).uniform(0, 1, (36, 5)).astype(np.float32),
    "V": np.ones(4, np.float32),
    "W": np.eye(4, dtype=np.float32)[::-1],
}
X = np.random.default_rng(2).standard_normal((2, 3, 9, 8)).astype(np.float32)


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    body, layer = FOUND[name]
    model = net(body, **MORE)
    assert found(model) == layer
    explained = og.explain.grad_cam(model, interpolate=True, scale=True, target=1)
    first, second = (run(explained)({"x": X})[-1] for run in (runner, reference))
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert first.shape == (2, 9, 8)
    assert first.min() == 0 and 0.99 < first.max() <= 1
    dims = explained.graph.output[-1].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 9, 8]


def test_of_a_head_on_inner_maps() -> None:
    body, _ = FOUND["maps of classes"]
    head = og.heads.class_score("r", target=1)
    assert found(net(body, **MORE), of=head) == "a"
    residual = FOUND["residual"][0]
    assert found(net(residual), of=og.heads.norm("b")) == "a"


def test_channels_last_are_those_of_the_same_net_with_channels_first() -> None:
    """The last image but one: a net of NHWC, from its input to its pool, and its twin."""
    body = "r = Conv(x, K)\n" + POOLED
    twin = (
        "u = Mul(z, two)\n v = Transpose<perm=[0,3,1,2]>(u)\n c = Conv(v, K)\n"
        "t = Transpose<perm=[0,2,3,1]>(c)\n r = Mul(t, half)\n"
        "f = ReduceMean<keepdims=0>(r, B)\n y = Gemm(f, F)"
    )
    numbers = {"two": np.float32(2), "half": np.float32(0.5)}
    last = net(twin, "float[N,9,8,3] z", **MORE, **numbers)
    for method in (og.explain.grad_cam, og.explain.hires_cam, og.explain.grad_cam_plus_plus):
        a = runner(method(net(body), interpolate=True, scale=True))({"x": X})[-1]
        b = runner(method(last, interpolate=True, scale=True))({"z": X.transpose(0, 2, 3, 1)})[-1]
        np.testing.assert_allclose(a, b, atol=1e-5)
    a = runner(og.explain.full_grad(net(body)))({"x": X})[-1]
    b = runner(og.explain.full_grad(last))({"z": X.transpose(0, 2, 3, 1)})[-1]
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    a = runner(og.explain.guided_grad_cam(net(body)))({"x": X})[-1]
    b = runner(og.explain.guided_grad_cam(last))({"z": X.transpose(0, 2, 3, 1)})[-1]
    np.testing.assert_allclose(a, b.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-6)


def test_places_in_one_and_three_dimensions() -> None:
    body = "c = Conv(x, Q)\n r = Relu(c)\n" + POOLED
    rng = np.random.default_rng(0)
    for sizes in ([12], [7, 6, 5]):
        kernel = rng.standard_normal((4, 2, *[3] * len(sizes))).astype(np.float32)
        names = ",".join(f"D{k}" for k in range(len(sizes)))
        model = net(body, f"float[N,2,{names}] x", Q=kernel)
        x = rng.standard_normal((2, 2, *sizes)).astype(np.float32)
        assert found(model) == "r"
        y = runner(og.explain.grad_cam(model, interpolate=True))({"x": x})[-1]
        assert y.shape == (2, *sizes)
        plain = runner(og.explain.grad_cam(model))({"x": x})[-1]
        assert plain.shape == (2, *(s - 2 for s in sizes))
        assert plain.max() == pytest.approx(y.max(), rel=0.5)


def test_a_signal_without_an_axis_of_channels() -> None:
    body = "u = Unsqueeze(x, O)\n c = Conv(u, Q)\n r = Relu(c)\n" + POOLED
    model = net(body, "float[N,S] x", O=np.array([1]), Q=np.ones((4, 1, 3), np.float32))
    x = np.random.default_rng(0).standard_normal((2, 20)).astype(np.float32)
    explained = og.explain.grad_cam(model, interpolate=True)
    assert runner(explained)({"x": x})[-1].shape == (2, 20)
    guided = og.explain.guided_grad_cam(model)
    assert runner(guided)({"x": x})[-1].shape == (2, 20)


TWO = (
    "a = Conv(x, K)\n b = Conv(z, K)\n p = GlobalAveragePool(a)\n q = GlobalAveragePool(b)\n"
    "r = Mul(p, q)\n f = Flatten(r)\n y = Gemm(f, F)"
)


def test_several_inputs() -> None:
    model = net(TWO, "float[N,3,9,8] x, float[N,3,7,7] z")
    with pytest.raises(og.ArgumentError, match="'a' and 'b': name the layer, or in input"):
        og.explain.grad_cam(model)
    assert found(model, input="x") == "a"
    assert found(model, input="z") == "b"
    with pytest.raises(og.ArgumentError, match="'w' is none of the inputs 'x', 'z'"):
        og.explain.grad_cam(model, input="w")
    explained = og.explain.grad_cam(model, input="z", interpolate=True)
    feeds = {"x": X, "z": X[:, :, :7, :7]}
    assert runner(explained)(feeds)[-1].shape == (2, 7, 7)
    state = (
        "c = Conv(x, K)\n p = GlobalAveragePool(c)\n f = Flatten(p)\n g = Add(f, h)\ny = Gemm(g, F)"
    )
    assert found(net(state, "float[N,3,9,8] x, float[N,4] h")) == "c"


def test_integers_as_pixels() -> None:
    body = "v = Cast<to=1>(x)\n r = Conv(v, K)\n" + POOLED
    explained = og.explain.grad_cam(net(body, "uint8[N,3,9,8] x"), interpolate=True)
    y = runner(explained)({"x": (255 * np.abs(X)).astype(np.uint8)})[-1]
    assert y.shape == (2, 9, 8)


def test_no_places() -> None:
    with pytest.raises(og.ArgumentError, match="no tensor with places"):
        og.explain.grad_cam("models/mlp.onnx")
    with pytest.raises(og.ArgumentError, match=r"candidates are .*LayerNormalization"):
        og.explain.grad_cam("models/transformer_block.onnx")
    with pytest.raises(og.ArgumentError, match=r"'f' .* has no places"):
        og.explain.grad_cam(net(FOUND["pooled"][0]), "f")
    with pytest.raises(og.ArgumentError, match="no operator tells which axes of 'x'"):
        og.explain.grad_cam(net(FOUND["pooled"][0]), "x")
    assert found(net(FOUND["pooled"][0]), layer="x", tokens=False) == "x"
    with pytest.raises(og.ArgumentError, match="name the layer that holds the tokens"):
        og.explain.grad_cam(net(FOUND["pooled"][0]), tokens=True)
    with pytest.raises(og.ArgumentError, match="interpolate is"):
        og.explain.grad_cam(net(FOUND["pooled"][0]), interpolate="cubic")
    with pytest.raises(og.ArgumentError, match="interpolate is 'nearest' or 'linear'"):
        og.explain.guided_grad_cam(net(FOUND["pooled"][0]), interpolate=False)
    with pytest.raises(og.ArgumentError, match="one input with channels and places"):
        og.explain.full_grad("models/mlp.onnx")


def test_what_separates_inputs_from_the_score() -> None:
    """By the definition, on nets drawn at random: without the tensor no way is left."""
    rng = np.random.default_rng(0)
    separating = 0
    for _ in range(200):
        names, nodes = ["x", "z"], []
        for k in range(rng.integers(2, 9)):
            operands = rng.choice(names[-4:], 2)
            nodes.append(onnx.helper.make_node("Add", operands, [f"v{k}"]))
            names.append(f"v{k}")
        ports = [onnx.helper.make_tensor_value_info(n, 1, ["N"]) for n in ("x", "z", names[-1])]
        graph = ir.from_proto(onnx.helper.make_graph(nodes, "g", ports[:2], ports[2:]))
        found = layers._separating(graph, graph.outputs)
        for v in [out for node in graph for out in node.outputs]:
            before = {u for u in layers._reaching(graph, [v]) if u in graph.inputs}
            rest = set(graph.outputs) - {v}
            for node in reversed(graph):
                if not rest.isdisjoint(node.outputs):
                    rest.update(u for u in node.inputs if u is not v)
            used = v in layers._reaching(graph, graph.outputs)
            assert (v in found) == (used and before.isdisjoint(rest))
            assert v not in found or found[v] == before
            separating += v in found
    assert 200 < separating < 700
