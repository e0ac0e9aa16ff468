"""Heads and losses in `Net`, and values beside gradients: against numpy and finite differences."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad import ALL, Net, NetPortGradient, Value

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 4)).astype(np.float32)
V = RNG.standard_normal((4, 4)).astype(np.float32)
X = RNG.standard_normal((5, 3)).astype(np.float32)
T = np.array([2, 0, 1, 3, 2])
LABELS = RNG.standard_normal((5, 4)).astype(np.float32)


def mlp(batch: int | str | None = "N", opset: int = 17, kind: Any = np.float32) -> onnx.ModelProto:
    """h = tanh(x W), the choice k = argmax(h), y = h V; the weight V in a Constant node."""
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    v = numpy_helper.from_array(V.astype(kind), "v")
    nodes = [
        helper.make_node("Constant", [], ["v"], value=v),
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Tanh", ["xw"], ["h"]),
        helper.make_node("ArgMax", ["h"], ["k"], axis=1, keepdims=0),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", dtype, [batch, 3])],
        [helper.make_tensor_value_info("y", dtype, [batch, 4])],
        [numpy_helper.from_array(W.astype(kind), "w")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def hidden(x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ W.astype(x.dtype))


def score(x: np.ndarray) -> np.ndarray:
    """The scores of the classes T, in the dtype of x."""
    return (hidden(x) @ V.astype(x.dtype))[range(5), T]


def loss(x: np.ndarray) -> float:
    return float(np.mean((hidden(x) @ V.astype(x.dtype) - LABELS) ** 2))


def differences(f: Callable[[np.ndarray], Any], x: np.ndarray = X, step: float = 1e-5) -> Any:
    """df/dx of an array-valued function in float64, of shape [*f.shape, *x.shape]."""
    x = x.astype(np.float64)
    columns = []
    for k in range(x.size):
        move = np.zeros(x.size)
        move[k] = step
        move = move.reshape(x.shape)
        columns.append((np.asarray(f(x + move)) - np.asarray(f(x - move))) / (2 * step))
    columns = np.stack(columns, -1)
    return columns.reshape(*columns.shape[:-1], *x.shape)


def close(got: Any, want: Any, tolerance: float = 1e-4) -> None:
    assert np.shape(got) == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def by_input(axis: int | None = None) -> og.heads.Head:
    return og.heads.class_score("y", target="input", axis=axis)


FEEDS = {"x": X, "target": T}


@pytest.fixture(params=["onnxruntime", "reference"])
def net(request: pytest.FixtureRequest) -> Net:
    return Net(mlp(), runtime=request.param)


def test_every_method_takes_a_head_and_its_input(net: Net) -> None:
    jacobian = differences(score)  # [5, 5, 3]
    gradient = jacobian.sum(0)
    seed, tangent = np.arange(5, dtype=np.float32), np.ones_like(X)
    close(net(FEEDS, NetPortGradient("x"), of=by_input()), gradient)
    close(net.gradient(FEEDS, of=by_input()), gradient)
    close(net.vjp(FEEDS, seed, of=by_input()), np.tensordot(seed, jacobian, 1))
    close(net.jvp(FEEDS, tangent, of=by_input()), jacobian.sum((1, 2)))
    close(net.jacobian(FEEDS, of=by_input()), jacobian)
    rows = net.jacobian(FEEDS, "x", of=by_input(), batched=True)
    close(rows, jacobian[range(5), range(5)])
    hessian = differences(lambda x: differences(lambda z: score(z).sum(), x, 1e-4), step=1e-4)
    close(net.hessian(FEEDS, of=by_input()), hessian, 1e-3)
    close(net.hvp(FEEDS, {"x": tangent}, of=by_input())["x"], hessian.sum((2, 3)), 1e-3)
    outer = np.einsum("nk,nj->nkj", X, (1 - hidden(X) ** 2) * V[:, T].T)
    close(net.per_example_gradient(FEEDS, "w", of=by_input()), outer)


def test_seeds_are_imposed_at_heads(net: Net) -> None:
    one, other = by_input(), og.heads.norm("h")
    seeds = {other: np.ones(5, np.float32), one: np.arange(5, dtype=np.float32)}
    expected = differences(
        lambda x: score(x) @ np.arange(5) + np.linalg.norm(hidden(x), axis=1).sum()
    )
    close(net.vjp(FEEDS, seeds, of=[one, other]), expected)
    mixed = net.vjp(FEEDS, {"y": np.ones((5, 4), np.float32), one: seeds[one]}, of=[one, "y"])
    close(mixed, differences(lambda x: score(x) @ np.arange(5) + (hidden(x) @ V).sum()))
    alone = net.vjp(FEEDS, {one: seeds[one]}, of=[one, "y"])  # y contributes nothing
    close(alone, differences(lambda x: score(x) @ np.arange(5)))


def test_results_of_several_heads_are_by_name(net: Net) -> None:
    heads = ["y", by_input(), og.heads.class_score("y", target=1)]
    found = net.jvp(FEEDS, np.ones_like(X), of=heads)
    assert list(found) == ["y", "class_score", "class_score_1"]
    close(found["class_score_1"], found["y"][:, 1])
    close(found["class_score"], found["y"][range(5), T])


def test_equal_heads_share_a_session(net: Net) -> None:
    for _ in range(2):
        net.gradient(FEEDS, of=by_input())
        net(FEEDS, Value(by_input()))
        net.jacobian(FEEDS, of=by_input())
    assert len(net._sessions.transformed.items()) == 3
    assert len(net._sessions.modes.items()) == 1
    net.gradient(X, of=og.heads.class_score("y", target=2))
    assert len(net._sessions.transformed.items()) == 4


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        (X, "The net has 2 inputs: give a dict with the keys 'x', 'target'"),
        ({"x": X}, "No value for the input 'target'"),
        ({"x": X, "targt": T}, "The net has no input 'targt'. Nearest: 'target'"),
        ({"x": X, "target": T.astype(np.float32)}, "'target' takes int64, and float32 was given"),
        ({"x": X, "target": T[:3]}, r"'target' has the shape \(5\), and an array of shape \(3,\)"),
        ({"x": X, "target": T[:, None]}, r"'target' has the shape \(N\)"),
    ],
)
def test_inputs_of_heads_are_checked(net: Net, feeds: Any, message: str) -> None:
    with pytest.raises(og.FeedError, match=message):
        net.gradient(feeds, of=by_input())


def test_inputs_of_heads_belong_to_their_calls(net: Net) -> None:
    with pytest.raises(og.FeedError, match="no input 'target'"):
        net.gradient(FEEDS)
    close(net.gradient({"x": X, "target": T.tolist()}, of=by_input()), differences(score).sum(0))


@pytest.mark.parametrize("batch", [None, 5, "N"])
@pytest.mark.parametrize("opset", [13, 21])
def test_a_loss_in_one_run(batch: Any, opset: int) -> None:
    net = Net(mlp(batch, opset))
    feeds = {"x": X, "labels": LABELS}
    value, gradients = net.value_and_gradient(feeds, ALL, of=og.losses.mse("y"))
    close(value, loss(X))
    assert list(gradients) == ["x", "w", "v"]
    close(gradients["x"], differences(loss))
    value, gradient = net.value_and_gradient(X)
    close(value, hidden(X) @ V)
    close(gradient, differences(lambda x: (hidden(x) @ V).sum()))
    values, gradient = net.value_and_gradient(X, "x", of=["h", og.heads.norm("y")])
    close(values["h"], hidden(X))
    close(values["norm"], np.linalg.norm(hidden(X) @ V, axis=1))
    imposed = {"x": X, NetPortGradient("y"): LABELS}
    close(net.gradient(imposed, ["x"])["x"], differences(lambda x: (hidden(x) @ V * LABELS).sum()))


def test_half_precision() -> None:
    net = Net(mlp(kind=np.float16))
    half = X.astype(np.float16)
    value, gradient = net(
        {"x": half, "target": T}, [Value(by_input()), NetPortGradient("x")], of=by_input()
    )
    assert value.dtype == gradient.dtype == np.float16
    close(value, score(X), 1e-2)
    close(gradient, differences(score).sum(0), 1e-2)


def test_values_alone(net: Net) -> None:
    close(net(X, Value("h")), hidden(X))
    close(net(X, Value("k")), hidden(X).argmax(1))
    close(net(FEEDS, Value(by_input())), score(X))
    found = net(X, [Value(og.heads.norm("h")), Value("v"), Value("x"), Value(["w"]), Value("h")])
    assert list(found) == ["norm", "v", "x", "w", "h"]
    close(found["v"], V)
    close(found["x"], X)
    close(found["w"], W)
    close(found["norm"], np.linalg.norm(hidden(X), axis=1))
    assert np.array_equal(net(X, Value("y")), net(X))
    assert list(net(X, [Value("h")])) == ["h"]


def test_values_beside_gradients(net: Net) -> None:
    value, gradient = net(X, [Value("h"), NetPortGradient("h")])
    close(value, hidden(X))
    close(gradient, np.tile(V.sum(1), (5, 1)))
    gradient, value, also = net(X, [NetPortGradient("w"), Value("k"), Value("w")])
    close(gradient, X.T @ ((1 - hidden(X) ** 2) * V.sum(1)))
    close(value, hidden(X).argmax(1))
    close(also, W)
    feeds = {"x": X, "labels": LABELS}
    mse = og.losses.mse("y")
    found, gradients = net(feeds, [Value(mse), NetPortGradient(ALL)], of=mse)
    close(found, loss(X))
    assert list(gradients) == ["x", "w", "v"]
    bound = net.bind(feeds, [Value(mse), NetPortGradient("x")], of=mse)
    assert set(bound.inputs) == {"x", "labels"}
    close(bound()[0], loss(X))
    close(bound()[1], differences(loss))
    close(net.bind(X, Value("h"))(), hidden(X))


def test_a_value_alone_computes_no_gradient(net: Net) -> None:
    """A rule that is missing does not matter, nor an operator behind the tensor."""
    net(X, Value("h"))
    ((_, built),) = net._sessions.transformed.items()
    assert list(built.session.outputs) == ["h"]
    assert not built.seeds


def test_senseless_requests_are_refused(net: Net) -> None:
    for request in (None, Value("h")):
        with pytest.raises(og.ArgumentError, match="of says what to differentiate"):
            net(X, request, of=by_input())
    with pytest.raises(og.ArgumentError, match="A gradient is imposed"):
        net({"x": X, NetPortGradient("y"): LABELS}, Value("h"))
    with pytest.raises(og.ArgumentError, match="ask for it alone"):
        net(X, [Value("h"), NetPortGradient(ALL), NetPortGradient("x")])
    with pytest.raises(og.UnknownNameError, match="'hh'"):
        net(X, Value("hh"))
    with pytest.raises(og.ArgumentError, match="Value takes a tensor's name"):
        Value(3)  # type: ignore[arg-type]
    with pytest.raises(og.ArgumentError, match="give a list of Values"):
        Value([["h"], ["y"]])


def test_straight_through_and_constant() -> None:
    constant = Net(mlp(), constant="h")
    with pytest.raises(og.UnreachableError, match="constant"):
        constant.gradient(FEEDS, of=by_input())
    assert list(constant.gradient(FEEDS, ALL, of=by_input())) == ["x", "w", "v"]
    source = mlp()
    source.graph.node[2].op_type = "Round"
    net = Net(source, straight_through=["Round"])
    feeds = {"x": X, "target": T}
    value, gradient = net(feeds, [Value(by_input()), NetPortGradient("x")], of=by_input())
    close(value, (np.round(X @ W) @ V)[range(5), T])
    close(gradient, V[:, T].T @ W.T)


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_ranks_are_learnt_from_the_net_s_own_inputs(runtime: str) -> None:
    """A Squeeze without axes: only feeds tell the rank, which another shape changes."""
    nodes = [
        helper.make_node("Squeeze", ["x"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"], axis=-1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "squeeze", [info("x", 1, [None, None, None])], [info("y", 1, None)]
    )
    opsets = [helper.make_opsetid("", 17)]
    net = Net(helper.make_model(graph, opset_imports=opsets, ir_version=8), runtime=runtime)
    x = X[:, None, :]
    for shape in ((5, 1, 3), (5, 3, 1)):
        feeds = {"x": x.reshape(shape), "target": T % 3}
        value, gradient = net(feeds, [Value(by_input()), NetPortGradient("x")], of=by_input())
        y = np.exp(X) / np.exp(X).sum(1, keepdims=True)
        chosen = y[range(5), T % 3][:, None]
        close(value, chosen[:, 0])
        close(gradient.reshape(5, 3), chosen * (np.eye(3)[T % 3] - y))
        close(net(feeds, Value(by_input())), chosen[:, 0])
    single = {"x": x[:1, :, :], "target": [1]}  # of another rank, whose one axis may be either
    want = np.exp(X[0, 1]) / np.exp(X[0]).sum()
    classes = by_input(axis=0)
    close(net(single, [Value(classes), NetPortGradient("x")], of=classes)[0], [want])
    close(net(single, Value(classes)), [want])
    with pytest.raises(og.FeedError):
        net(single, Value(by_input()))  # a score for each example has no class 1


def test_a_runtime_without_an_operator_gives_inner_values() -> None:
    node = helper.make_node("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft")
    more = helper.make_node("Neg", ["y"], ["z"])
    info = helper.make_tensor_value_info
    bias = numpy_helper.from_array(np.ones(3, np.float32), "b")
    graph = helper.make_graph(
        [node, more], "g", [info("x", 1, ["N", 3])], [info("z", 1, None)], [bias]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    found = [Net(model, runtime=r)(X, Value("y")) for r in ("onnxruntime", "reference")]
    close(found[0], found[1])


def test_what_a_net_shows() -> None:
    assert repr(Net(mlp())).splitlines() == [
        "Net on onnxruntime",
        "  input  'x' float32 (N, 3)",
        "  output 'y' float32 (N, 4)",
        "  2 floating-point weights, 28 elements",
    ]
    net = Net(mlp("\x1b[31mN"))
    assert "\x1b" not in repr(net) and r"\x1b[31mN" in repr(net)


def test_the_example_of_value_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    globs = {"og": og}
    (test,) = doctest.DocTestFinder().find(Value, "Value", module=False, globs=globs)
    result = doctest.DocTestRunner().run(test)
    assert result.attempted and not result.failed
