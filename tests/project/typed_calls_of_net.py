"""Calls of `Net` as a user writes them, for mypy. `test_types.py` checks this file."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import assert_type

import onnxgrad as og


def what_is_asked_for_decides(net: og.Net, x: np.ndarray) -> None:
    assert_type(net(x, og.NetPortGradient("x")), np.ndarray)
    assert_type(net(x, og.NetPortGradient(["layer1", 0, "weight"]), of="y"), np.ndarray)
    position = ["layer1", 0, "weight"]
    assert_type(net(x, og.NetPortGradient(position)), np.ndarray)
    assert_type(net(x, og.NetPortGradient(og.ALL)), dict[str, np.ndarray])
    several = [og.NetPortGradient("x"), og.NetPortGradient(["layer1", 0])]
    assert_type(net(x, several), dict[str, np.ndarray])
    assert_type(net({"x": x, og.NetPortGradient("y"): x}, og.NetPortGradient("x")), np.ndarray)
    assert_type(net.bind(x, several)(), dict[str, Any])


def values(net: og.Net, x: np.ndarray) -> None:
    score = og.heads.class_score("y", target=3)
    assert_type(net(x, og.Value("h")), np.ndarray)
    assert_type(net(x, og.Value(score)), np.ndarray)
    assert_type(net(x, [og.Value("h"), og.Value(["layer1", 0])]), dict[str, np.ndarray])
    both = net(x, [og.Value("h"), og.NetPortGradient("h")])
    assert_type(both, tuple[Any, ...])
    h, _ = net({"x": x, "labels": x}, [og.Value("h"), og.NetPortGradient(og.ALL)], of=score)
    assert_type(h, Any)
    assert_type(net.bind(x, [og.Value("h")])(), dict[str, Any])
    assert_type(net.bind(x, [og.Value("h"), og.NetPortGradient("h")])(), tuple[Any, ...])


def heads(net: og.Net, x: np.ndarray) -> None:
    loss = og.losses.mse("y")
    assert_type(net(x, og.NetPortGradient("x"), of=loss), np.ndarray)
    assert_type(net.gradient(x, "x", of=loss), np.ndarray)
    assert_type(net.gradient(x, og.ALL, of=[loss, "y"]), dict[str, np.ndarray])
    assert_type(net.gradient(x), Any)
    assert_type(net.value_and_gradient(x, "x", of=loss), tuple[np.ndarray, np.ndarray])
    every = net.value_and_gradient(x, og.ALL, of="y")
    assert_type(every, tuple[np.ndarray, dict[str, np.ndarray]])
    assert_type(net.value_and_gradient(x), Any)
    assert_type(net.jvp(x, x, of=loss), np.ndarray)
    assert_type(net.jacobian(x, "x", of=loss), np.ndarray)
    assert_type(net.vjp(x, {loss: x}, "x", of=[loss]), np.ndarray)


def what_the_net_decides_is_any(
    net: og.Net, x: np.ndarray, request: og.NetPortGradient | None
) -> None:
    assert_type(net(x), Any)
    assert_type(net(x, request), Any)
    assert_type(net.bind(x)(), Any)
    assert_type(net.jacobian(x), Any)
    assert_type(net.jvp(x, x), Any)


def transforms(net: og.Net, x: np.ndarray) -> None:
    nested = ["x", ["layer1", 0, "weight"]]
    assert_type(net.vjp(x, x, "x"), np.ndarray)
    assert_type(net.vjp(x, x, nested), dict[str, np.ndarray])
    assert_type(net.vjp(x, x, og.ALL), dict[str, np.ndarray])
    assert_type(net.jvp(x, {"x": x}, of="y"), np.ndarray)
    assert_type(net.jvp(x, x, of=["y"]), dict[str, np.ndarray])
    assert_type(net.hvp(x, x), np.ndarray)
    assert_type(net.hvp(x, {"x": x}), dict[str, np.ndarray])
    assert_type(net.jacobian(x, "x", of="y", mode="forward"), np.ndarray)
    assert_type(net.jacobian(x, nested, of="y"), dict[str, np.ndarray])
    assert_type(net.jacobian(x, "x", of=["y"]), dict[str, np.ndarray])
    assert_type(net.jacobian(x, nested, of=["y"]), dict[str, dict[str, np.ndarray]])
    assert_type(net.hessian(x, "x", batched=True), np.ndarray)
    assert_type(net.hessian(x, og.ALL), dict[str, dict[str, np.ndarray]])
    assert_type(net.per_example_gradient(x, "w"), np.ndarray)
    assert_type(net.per_example_gradient(x), dict[str, np.ndarray])


def mistakes_are_found(net: og.Net, x: np.ndarray) -> None:
    og.NetPortGradient(3)  # type: ignore[type-var]
    og.Value(3)  # type: ignore[arg-type]
    net(x, "x")  # type: ignore[arg-type]
    net.jacobian(x, "x", mode="sideways")  # type: ignore[call-overload]
    og.Net("net.onnx", runtime=3)  # type: ignore[arg-type]
