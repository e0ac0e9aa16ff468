"""Nets that are pickled, copied and forked, and what they keep."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad import Net, NetPortGradient, Value
from onnxgrad.graph import protos
from onnxgrad.run import net as net_module
from onnxgrad.runtimes import weights

W = np.linspace(-1, 1, 600, dtype=np.float32).reshape(2, 300)
A, B = np.full((3, 2), 2, np.float32), np.full((3, 2), 3, np.float32)


def net() -> onnx.ModelProto:
    """y = (a b) @ w, and z = a + b."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["a", "b"], ["c"]),
            helper.make_node("MatMul", ["c", "w"], ["y"]),
            helper.make_node("Add", ["a", "b"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info(name, 1, ["N", 2]) for name in "ab"],
        [
            helper.make_tensor_value_info("z", 1, ["N", 2]),
            helper.make_tensor_value_info("y", 1, ["N", 300]),
        ],
        [numpy_helper.from_array(W, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


FEEDS = {"a": A, "b": B}
DA = B * W.sum(1)  # of y


@pytest.mark.parametrize("kind", ["path", "external", "proto", "ir in files", "in Constants"])
def test_a_pickled_net_is_opened_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.onnx"
    og.save(net(), path, external="copy" if kind in ("external", "ir in files") else None)
    model: Any = {"proto": net(), "ir in files": ir.load(path)}.get(kind, path)
    if kind == "in Constants":  # in an attribute, in half precision
        model = net()
        del model.graph.initializer[:]
        half = numpy_helper.from_array(W.astype(np.float16), "c")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["h"], value=half))
        model.graph.node.insert(1, helper.make_node("Cast", ["h"], ["w"], to=1))
    opened = Net(model, threads=1, constant=["b"])
    sent = pickle.dumps(opened)
    assert (len(sent) > W.nbytes / 2) == (kind in ("proto", "in Constants"))
    again = pickle.loads(sent)
    want, found = opened.gradient(FEEDS, og.ALL, of="y"), again.gradient(FEEDS, og.ALL, of="y")
    assert want.keys() == found.keys() and "b" not in found
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array)
    if kind in ("path", "external"):
        path.write_bytes(path.read_bytes() + b"\n\0")
        with pytest.raises(og.ModelError, match="not the file that it was"):
            pickle.loads(sent)
        with pytest.raises(og.ModelError, match="has changed"):
            pickle.dumps(opened)


def test_a_copy_shares_the_weights(tmp_path: Path) -> None:
    og.save(net(), tmp_path / "net.onnx")
    opened = Net(tmp_path / "net.onnx")
    for copied in (copy.copy(opened), copy.deepcopy(opened)):
        of = [n._model.graph.initializers["w"].const_value for n in (opened, copied)]
        assert np.shares_memory(*(tensor.numpy() for tensor in of))
        assert copied._sessions is not opened._sessions
        np.testing.assert_allclose(copied.gradient(FEEDS, "a", of="y"), DA, rtol=1e-5)
        assert len(pickle.dumps(copied)) < W.nbytes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process can be forked")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_net_runs() -> None:
    """The sessions of the parent, whose threads are not there, are neither used nor removed."""
    opened = Net(net(), threads=4, max_sessions=1)
    big = {name: np.repeat(array, 500, 0) for name, array in FEEDS.items()}
    want, bound = opened.gradient(big, "a", of="y"), opened.bind(big)
    opened(big)
    child = os.fork()
    if not child:
        good = False
        try:
            good = np.array_equal(opened.gradient(big, "a", of="y"), want)
            good &= opened.gradient(big, "b", of="y").shape == want.shape  # the other one goes
            good &= len(opened(big)) == 2
            bound()
        except og.ArgumentError as error:
            good &= "bind the net in this one" in str(error)
        finally:
            os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(opened.gradient(big, "a", of="y"), want)


def test_the_order_of_names_builds_no_other_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Net(net())
    a, b, y, z = NetPortGradient("a"), NetPortGradient("b"), Value("y"), Value("z")
    first = opened(FEEDS, [b, a], of=["y", "z"])
    assert list(first) == ["b", "a"]
    assert list(opened.gradient(FEEDS, ["a", "b"], of=["z", "y"])) == ["a", "b"]
    assert list(opened.gradient(FEEDS, ["b", [0, 0]], of=["z", "y"])) == ["b", "a"]
    assert len(opened._sessions.transformed.items()) == 1
    outputs, given = opened.value_and_gradient(FEEDS, ["b", "a"])
    assert list(outputs) == ["z", "y"] and list(given) == ["b", "a"]
    np.testing.assert_allclose(given["a"], DA + 1, rtol=1e-5)
    assert list(opened(FEEDS, [y, z])) == ["y", "z"] and list(opened(FEEDS, [z, y])) == ["z", "y"]
    jacobian = opened.jacobian(FEEDS, ["b", "a"], of=["z", "y"])
    assert {of: list(row) for of, row in jacobian.items()} == {key: ["b", "a"] for key in "zy"}
    assert list(jacobian) == ["z", "y"]
    opened.jacobian(FEEDS, ["a", "b"], of=["y", "z"])
    seconds = opened.hvp(FEEDS, {"b": B, "a": A}, of="y")
    assert list(seconds) == ["b", "a"]
    opened.hvp(FEEDS, {"a": A, "b": B}, of="y")
    assert len(opened._sessions.transformed.items()) == 5


def test_the_least_recently_used_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = net_module.gradient

    def counting(*arguments: Any, **options: Any) -> Any:
        built.append(arguments[1])
        return original(*arguments, **options)

    monkeypatch.setattr(net_module, "gradient", counting)
    opened = Net(net(), threads=np.int64(1), max_sessions=np.int64(2))
    for name in ("a", "b", "a", "w", "a", "b"):
        opened(FEEDS, NetPortGradient(name), of="y")
    assert built == [("a",), ("b",), ("w",), ("b",)]
    with pytest.raises(og.ArgumentError, match="max_sessions"):
        Net(net(), max_sessions=0)
    with pytest.raises(og.ArgumentError, match="threads"):
        Net(net(), threads=True)


def test_large_weights_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protos, "LIMIT", 1000)  # as if a message could not hold them
    monkeypatch.setattr(weights, "_COPY_LIMIT", 1000)
    opened = Net(net())
    np.testing.assert_allclose(opened(FEEDS)["y"], (A * B) @ W, rtol=1e-5)
    assert set(opened._sessions.forward().fed) == {"w"}


def test_a_file_of_weights_that_is_written_while_a_net_maps_it(tmp_path: Path) -> None:
    """Replaced or removed it is still there; what is written in place is never taken for a net."""
    path = tmp_path / "net.onnx"
    og.save(net(), path, external="copy")
    (data,) = tmp_path.glob("*.data")
    opened, other = Net(path), Net(path)
    y, g = opened(FEEDS)["y"], opened.gradient(FEEDS, "a", of="y")
    content = data.read_bytes()
    with open(data, "r+b") as file:
        file.write(bytes(len(content)))
    for call in (
        lambda: opened(FEEDS),
        lambda: opened.gradient(FEEDS, "a", of="y"),
        lambda: other.jvp(FEEDS, {"a": A}, of="y"),
        lambda: copy.copy(other),
    ):
        with pytest.raises(og.ModelError, match=r"has been written since .* Read the model anew"):
            call()
    data.write_bytes(content)
    again = Net(path)
    if os.name == "nt":
        return  # a mapped file stays there
    (tmp_path / "other").write_bytes(bytes(len(content)))
    os.replace(tmp_path / "other", data)
    np.testing.assert_array_equal(again(FEEDS)["y"], y)
    data.unlink()
    np.testing.assert_array_equal(again.gradient(FEEDS, "a", of="y"), g)
