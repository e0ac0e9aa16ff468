"""Every call form of `Net`, against gradients worked out by hand."""

from __future__ import annotations

import builtins
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad.run import net as net_module
from onnxgrad.run.net import Net, NetPortGradient
from onnxgrad.runtimes import onnxruntime as runtime
from onnxgrad.runtimes import weights

RNG = np.random.default_rng(0)
W = RNG.standard_normal((3, 4)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)
X = RNG.standard_normal((2, 3)).astype(np.float32)
G = RNG.standard_normal((2, 4)).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray],
    dtype: int = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def linear() -> onnx.ModelProto:
    """y = (x @ W) * b, with b in a Constant node."""
    return model(
        [
            helper.make_node("Constant", [], ["fc.bias"], value=numpy_helper.from_array(B)),
            helper.make_node("MatMul", ["x", "layer1.0.weight"], ["h"], name="/layer1/MatMul"),
            helper.make_node("Mul", ["h", "fc.bias"], ["y"]),
        ],
        {"x": ["N", 3]},
        {"y": ["N", 4]},
        {"layer1.0.weight": W},
    )


def two() -> onnx.ModelProto:
    """p = a * b, q = a + a."""
    return model(
        [helper.make_node("Mul", ["a", "b"], ["p"]), helper.make_node("Add", ["a", "a"], ["q"])],
        {"a": [3], "b": [3]},
        {"p": [3], "q": [3]},
        {},
    )


def close(got: Any, want: Any) -> None:
    assert got.dtype == np.float32
    assert got.shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


DX = np.tile(W @ B, (2, 1))
DW = X.sum(0)[:, None] * B
DB = (X @ W).sum(0)


def test_forward() -> None:
    net = Net(linear())
    assert (net.inputs, net.outputs) == (("x",), ("y",))
    assert set(net.parameters) == {"layer1.0.weight", "fc.bias"}
    close(net(X), X @ W * B)
    close(net({"x": X}), X @ W * B)
    close(net([[1, 2, 3]]), np.array([[1, 2, 3]]) @ W * B)


@pytest.mark.parametrize(
    "spec, want",
    [
        ("x", DX),
        ("fc.bias", DB),
        ("layer1.0.weight", DW),
        (["layer1", 0, "weight"], DW),
        (("layer1", "0", "weight"), DW),
        (["/layer1/MatMul", "B"], DW),
        ([1, "A"], DX),
        (["fc", "bias"], DB),
        ([-1, 1], DB),
        ("h", np.tile(B, (2, 1))),
        ("y", np.ones((2, 4))),
    ],
    ids=str,
)
def test_gradient_at_one_tensor(spec: Any, want: np.ndarray) -> None:
    close(Net(linear())(X, NetPortGradient(spec)), want)


def test_several_gradients_in_one_run() -> None:
    net = Net(linear())
    found = net(X, [NetPortGradient(["layer1", 0, "weight"]), NetPortGradient("x")])
    assert list(found) == ["layer1.0.weight", "x"]
    close(found["layer1.0.weight"], DW)
    close(found["x"], DX)
    assert list(net(X, [NetPortGradient("x")])) == ["x"]


def test_all_gradients() -> None:
    found = Net(linear())(X, NetPortGradient(og.ALL))
    assert set(found) == {"x", "layer1.0.weight", "fc.bias"}
    close(found["x"], DX)
    close(found["layer1.0.weight"], DW)
    close(found["fc.bias"], DB)


def test_imposed_gradient_is_a_dot_product() -> None:
    net = Net(linear())
    close(net({"x": X, NetPortGradient("y"): G}, NetPortGradient("x")), (G * B) @ W.T)
    # At an inner tensor too.
    close(net({"x": X, NetPortGradient("h"): G}, NetPortGradient("x")), G @ W.T)
    lists = G.tolist()
    close(net({"x": X, NetPortGradient("y"): lists}, NetPortGradient("x")), (G * B) @ W.T)


def test_several_inputs_and_outputs() -> None:
    net = Net(two())
    a, b, g = (RNG.standard_normal(3).astype(np.float32) for _ in range(3))
    values = net({"a": a, "b": b})
    close(values["p"], a * b)
    close(values["q"], 2 * a)
    # The sum of both outputs.
    close(net({"a": a, "b": b}, NetPortGradient("a")), b + 2)
    # Where a gradient is imposed, the other output contributes nothing.
    close(net({"a": a, "b": b, NetPortGradient("p"): g}, NetPortGradient("a")), g * b)
    close(net({"a": a, "b": b, NetPortGradient("q"): g}, NetPortGradient("a")), 2 * g)
    both = {NetPortGradient("q"): g, NetPortGradient("p"): 3 * g}
    close(net({"a": a, "b": b} | both, NetPortGradient("a")), 3 * g * b + 2 * g)
    # Of one of them.
    close(net({"a": a, "b": b}, NetPortGradient("a"), of="p"), b)
    close(net({"a": a, "b": b}, NetPortGradient("a"), of=["q"]), np.full(3, 2, np.float32))
    close(net.bind({"a": a, "b": b}, NetPortGradient("a"), of="p")(), b)
    close(net.vjp({"a": a, "b": b}, g, "a", of="p"), g * b)
    with pytest.raises(og.ArgumentError, match="'p', which is not among of: q"):
        net({"a": a, "b": b, NetPortGradient("p"): g}, NetPortGradient("a"), of="q")
    # An output that does not depend on the tensor: refused alone, part of a sum otherwise.
    close(net({"a": a, "b": b}, NetPortGradient("b")), a)
    with pytest.raises(og.UnreachableError, match="'b'"):
        net({"a": a, "b": b, NetPortGradient("q"): g}, NetPortGradient("b"))


def test_ramp() -> None:
    ramp = model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]}, {})
    net = Net(ramp)
    close(net([0.5], NetPortGradient("x")), [1])
    close(net([-0.5], NetPortGradient("x")), [0])


@pytest.mark.parametrize("kind", ["path", "ir"])
def test_other_kinds_of_model(tmp_path: Path, kind: str) -> None:
    onnx.save(linear(), tmp_path / "m.onnx")
    net = Net(tmp_path / "m.onnx" if kind == "path" else ir.from_proto(linear()))
    close(net(X, NetPortGradient("x")), DX)


def test_overridable_initializers_may_be_given() -> None:
    proto = linear()
    proto.graph.input.append(helper.make_tensor_value_info("layer1.0.weight", 1, [3, 4]))
    net = Net(proto)
    assert net.inputs == ("x",)
    close(net(X), X @ W * B)
    close(net({"x": X, "layer1.0.weight": 2 * W}), X @ W * B * 2)
    close(net({"x": X, "layer1.0.weight": 2 * W}, NetPortGradient("x")), 2 * DX)


@pytest.mark.parametrize(
    "feeds, message",
    [
        (X.astype(np.float64), r"'x' takes float32, and float64 was given.*astype\(np.float32\)"),
        (X[:, :2], r"'x' has the shape \(N, 3\).*\(2, 2\)"),
        (X[0], r"\(3,\)"),
        ({"X": X}, "no input 'X'. Nearest: 'x'"),
        ({}, "No value for the input 'x'"),
        ([["a", "b", "c"]], "'x' takes float32"),
        ([[1, 2], [3]], "'x' needs an array"),
        ({"x": X, NetPortGradient("y"): G[:1]}, r"'y_ograd' has the shape \(2, 4\).*\(1, 4\)"),
        ({"x": X, NetPortGradient("y"): G.astype(np.float64)}, "'y_ograd' takes float32"),
    ],
)
def test_feeds_are_checked(feeds: Any, message: str) -> None:
    with pytest.raises(og.FeedError, match=message):
        Net(linear())(feeds, NetPortGradient("x"))


def test_lists_are_converted_only_if_nothing_is_lost() -> None:
    integers = model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": [2]},
        {"y": [2]},
        {},
        onnx.TensorProto.UINT8,
    )
    net = Net(integers)
    np.testing.assert_array_equal(net([1, 255]), np.array([1, 255], np.uint8))
    for value in ([1.5, 2], [1, 256], [-1, 0], [True, False]):
        with pytest.raises(og.FeedError, match="uint8"):
            net(value)


def test_several_inputs_need_names() -> None:
    with pytest.raises(og.FeedError, match=r"2 inputs.*'a', 'b'"):
        Net(two())(np.ones(3, np.float32))


@pytest.mark.parametrize("request_", ["x", [], ["x"], 3, [NetPortGradient("x"), "x"]])
def test_requests_are_checked(request_: Any) -> None:
    with pytest.raises(og.ArgumentError, match="NetPortGradient or a list"):
        Net(linear())(X, request_)


def test_senseless_arguments_are_refused() -> None:
    net = Net(linear())
    with pytest.raises(og.ArgumentError, match="imposed, but no gradient is asked for"):
        net({"x": X, NetPortGradient("y"): G})
    with pytest.raises(og.ArgumentError, match=r"of says .* but no gradient is asked for"):
        net(X, of="y")
    with pytest.raises(og.ArgumentError, match="not at ALL"):
        net({"x": X, NetPortGradient(og.ALL): G}, NetPortGradient("x"))
    with pytest.raises(og.ArgumentError, match="ask for it alone"):
        net(X, [NetPortGradient(og.ALL), NetPortGradient("x")])
    with pytest.raises(og.ArgumentError, match="NetPortGradient takes"):
        NetPortGradient(3)  # type: ignore[arg-type]
    with pytest.raises(og.ArgumentError, match="no provider 'Abacus'"):
        Net(linear(), providers=["Abacus"])


@pytest.mark.parametrize(
    "spec, message",
    [
        ("layer1.0.wieght", "Nearest: 'layer1.0.weight'"),
        (["layer1", 1, "weight"], "Nearest: 'layer1.0.weight'"),
        (["/layer1/MatMul", "C"], "no input 'C'.*'A', 'B'"),
        (["/layer1/MatMul", 2], "indices 0 to 1"),
        ([9, "A"], "no parameter at the position"),
        ([], "names and indices, is needed"),
        ([1.5], "names and indices, is needed"),
    ],
    ids=str,
)
def test_unknown_names_offer_the_nearest(spec: Any, message: str) -> None:
    with pytest.raises(og.UnknownNameError, match=message):
        Net(linear())(X, NetPortGradient(spec))


def test_a_position_is_told_from_a_list() -> None:
    with pytest.raises(og.UnknownNameError, match=r"position write \[\['layer1', 0, 'weight'\]\]"):
        og.gradient(linear(), ["layer1", 0, "weight"])
    with pytest.raises(og.UnknownNameError, match="no tensor 'layer1'") as unknown:
        og.gradient(linear(), ["layer1", "bias"])
    assert "position" not in str(unknown.value)
    assert len(og.gradient(linear(), [["layer1", 0, "weight"]]).graph.output) == 2


def test_ambiguous_positions_are_refused() -> None:
    proto = model(
        [
            helper.make_node("Mul", ["x", "a.w"], ["h"], name="same"),
            helper.make_node("Mul", ["h", "a/w"], ["y"], name="same"),
        ],
        {"x": [3]},
        {"y": [3]},
        {"a.w": np.ones(3, np.float32), "a/w": np.ones(3, np.float32)},
    )
    net = Net(proto)
    with pytest.raises(og.UnknownNameError, match=r"'a\.w' or 'a/w'"):
        net([1, 2, 3], NetPortGradient(["a", "w"]))
    with pytest.raises(og.UnknownNameError, match="ambiguous"):
        net([1, 2, 3], NetPortGradient(["same", "B"]))
    close(net([1, 2, 3], NetPortGradient("a/w")), [1, 2, 3])


def test_port_gradients_are_keys() -> None:
    assert NetPortGradient(["a", 0]) == NetPortGradient(("a", 0))
    assert hash(NetPortGradient(["a", 0])) == hash(NetPortGradient(("a", 0)))
    assert NetPortGradient("a") != NetPortGradient(["a"])
    assert repr(NetPortGradient(["a", 0])) == "NetPortGradient(['a', 0])"
    assert repr(NetPortGradient(og.ALL)) == "NetPortGradient(ALL)"


def test_a_session_is_built_once_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = net_module.gradient

    def counting(*args: Any, **kwargs: Any) -> Any:
        built.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(net_module, "gradient", counting)
    net = Net(linear())
    barrier = threading.Barrier(4)

    def call(_: int) -> np.ndarray:
        barrier.wait()
        return net(X, NetPortGradient("x"))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(4)):
            close(found, DX)
    net(X, NetPortGradient([1, "A"]))  # the same tensor by another name
    assert built == [("x",)]
    net({"x": X, NetPortGradient("y"): G}, NetPortGradient("x"))
    assert len(built) == 2


def test_names_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second call of a kind on, the graph is not walked."""
    net = Net(linear())
    calls = [
        lambda: net(X, NetPortGradient([1, "A"])),
        lambda: net({"x": X, NetPortGradient("y"): G}, [NetPortGradient("x")])["x"],
        lambda: net.gradient(X, ["x"], of=["y"])["x"],
        lambda: net.vjp(X, {"y": G}),
        lambda: net.value_and_gradient(X)[1],
        lambda: net(X, og.Value("h")),
    ]
    first = [call() for call in calls]
    monkeypatch.setattr(net, "_model", None)
    monkeypatch.setattr(net._feeder, "_model", None)
    monkeypatch.setattr(net._sessions, "_model", None)
    for call, found in zip(calls, first, strict=True):
        close(call(), found)


@pytest.mark.parametrize("limit", [2**28, 0], ids=["constants", "inputs"])
def test_sessions_share_the_weights(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """The forward and the gradient session take a weight from the same memory."""
    monkeypatch.setattr(weights, "_COPY_LIMIT", limit)
    size = weights.SHARE_BYTES // 4
    weight = RNG.standard_normal(size).astype(np.float32)
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight * 2))
    nodes = [
        constant,
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "c"], ["y"]),
    ]
    given: list[dict[str, int]] = []

    def recording(model: ir.Model, shared: weights.Weights) -> tuple[dict[str, Any], bool]:
        taken, fixed = weights.take_out(model, shared)
        given.append({name: value.data_ptr() for name, value in taken.items()})
        return taken, fixed

    monkeypatch.setattr(runtime, "take_out", recording)
    net = Net(model(nodes, {"x": [size]}, {"y": [size]}, {"w": weight}))
    x = np.ones(size, np.float32)
    close(net(x), weight * weight * 2)
    close(net(x, NetPortGradient("x")), weight * weight * 2)
    forward, backward = given
    assert set(forward) == {"w", "c"}
    assert forward == backward


@pytest.mark.parametrize("limit", [2**28, 0], ids=["constants", "inputs"])
def test_shared_weights_survive_the_optimizer(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A transposed weight, which onnxruntime transposes ahead of time under its own name."""
    monkeypatch.setattr(weights, "_COPY_LIMIT", limit)
    weight = RNG.standard_normal((16, 24)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Mul", ["t", "w"], ["m"]),
        helper.make_node("Transpose", ["m"], ["y"], perm=[0, 2, 1]),
    ]
    net = Net(model(nodes, {"x": ["N", 24, 16]}, {"y": ["N", 24, 16]}, {"w": weight}))
    x = RNG.standard_normal((2, 24, 16)).astype(np.float32)
    close(net(x), x * weight.T)
    close(net(x, NetPortGradient("x")), np.tile(weight.T, (2, 1, 1)))
    close(net(x, NetPortGradient("w")), x.sum(0).T)


def test_a_missing_runtime_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return original(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(og.RuntimeMissingError) as caught:
        Net(linear())
    for extra in ("onnxgrad[cpu]", "onnxgrad[gpu]", "onnxgrad[training]"):
        assert extra in str(caught.value)
    og.gradient(linear())  # needs none


def test_bound_runs_are_in_place() -> None:
    net, x = Net(linear()), X.copy()
    bound = net.bind(x, NetPortGradient("x"))
    gradient = bound()
    np.testing.assert_allclose(gradient, net(X, NetPortGradient("x")), rtol=1e-6)
    assert np.shares_memory(bound.inputs["x"], x)
    forward = net.bind(x)
    y = forward()
    x += 1
    assert forward() is y and bound() is gradient
    np.testing.assert_allclose(y, net(X + 1), rtol=1e-6)


def test_bound_runs_give_what_calls_give() -> None:
    net = Net(linear())
    several = [NetPortGradient("x"), NetPortGradient("layer1.0.weight")]
    for request in (several, NetPortGradient(og.ALL)):
        feeds = {"x": X.copy(), NetPortGradient("y"): G.copy()}
        bound = net.bind(feeds, request)
        bound.inputs["y_ograd"][...] *= 2
        feeds[NetPortGradient("y")] = 2 * G
        expected, found = net(feeds, request), bound()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_an_array_that_cannot_be_used_in_place_is_copied_once() -> None:
    x = np.asfortranarray(np.tile(X, (1, 1)))
    bound = Net(linear()).bind(x)
    assert not np.shares_memory(bound.inputs["x"], x)
    bound.inputs["x"][...] = 0
    np.testing.assert_array_equal(bound(), np.zeros((2, 4)))


@pytest.mark.parametrize("limit", [1, 2**40], ids=["fed", "held"])
def test_bound_gradients_with_shared_weights(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(weights, "_COPY_LIMIT", limit)
    monkeypatch.setattr(weights, "SHARE_BYTES", 1)
    net = Net(linear())
    bound = net.bind(X, NetPortGradient("x"))
    np.testing.assert_allclose(bound(), net(X, NetPortGradient("x")), rtol=1e-6)


def test_only_arrays_of_numbers_can_be_bound() -> None:
    strings = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.STRING, [1])],
    )
    net = Net(
        helper.make_model(strings, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )
    with pytest.raises(og.FeedError, match="'x' cannot be bound"):
        net.bind(np.array(["a"], object))


def test_what_the_runtime_refuses_is_a_feed_error() -> None:
    reshape = model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        {"x": ["N"]},
        {"y": [2, 2]},
        {"shape": np.array([2, 2], np.int64)},
    )
    net = Net(reshape)
    close(net([1, 2, 3, 4]), [[1, 2], [3, 4]])
    with pytest.raises(og.FeedError, match="onnxruntime cannot run"):
        net([1, 2, 3])


MLP_FILE = Path(__file__).parents[2] / "models" / "mlp.onnx"


def test_options_of_the_runtime(tmp_path: Path) -> None:
    """They reach the session and its runs; what onnxruntime does not have is refused at once."""
    net = og.Net(
        MLP_FILE, options={"enable_profiling": True, "profile_file_prefix": str(tmp_path / "p")}
    )
    assert np.shape(net(np.zeros((1, 4), np.float32))) == (1, 3)
    profile = Path(net._sessions.forward().inner.end_profiling())
    assert profile.stat().st_size > 0
    plain = og.Net(MLP_FILE, run_options={"memory.enable_memory_arena_shrinkage": "cpu:0"})
    bound = plain.bind(np.zeros((1, 4), np.float32))
    np.testing.assert_array_equal(bound(), net(np.zeros((1, 4), np.float32)))
    stopped = og.Net(MLP_FILE, run_options={"terminate": True})
    with pytest.raises(og.FeedError, match="terminate"):
        stopped(np.zeros((1, 4), np.float32))
    with pytest.raises(og.ArgumentError, match="enable_mem_pattern"):
        og.Net(MLP_FILE, options={"enable_mem_patern": True})
    with pytest.raises(og.ArgumentError, match="does not take 'yes'"):
        og.Net(MLP_FILE, options={"enable_mem_pattern": "yes"})
    with pytest.raises(og.ArgumentError, match="options"):
        og.Net(MLP_FILE, runtime="reference", options={"enable_mem_pattern": True})


def test_gradients_keep_no_buffers_but_where_that_is_asked_for() -> None:
    def options(net: og.Net, *request: Any) -> Any:
        session, _, _ = net._prepared(np.zeros((1, 4), np.float32), *request, of=None)
        return session.inner.get_session_options()

    net, asked = og.Net(MLP_FILE), og.Net(MLP_FILE, options={"enable_mem_reuse": True})
    gradient = options(net, og.NetPortGradient("input"))
    assert not gradient.enable_mem_pattern and not gradient.enable_mem_reuse
    assert options(net, None).enable_mem_reuse
    assert options(asked, og.NetPortGradient("input")).enable_mem_reuse
