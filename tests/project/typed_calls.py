"""Calls as a user writes them, for mypy: what is given, what comes back, and what is refused.

`test_types.py` checks this file; nothing runs it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from typing_extensions import assert_type

import onnxgrad as og


def a_model_of_the_same_kind_comes_back(proto: onnx.ModelProto, model: ir.Model) -> None:
    assert_type(og.gradient("net.onnx"), onnx.ModelProto)
    assert_type(og.gradient(Path("net.onnx")), onnx.ModelProto)
    assert_type(og.gradient(b"net"), onnx.ModelProto)
    assert_type(og.gradient(proto), onnx.ModelProto)
    assert_type(og.gradient(model), ir.Model)
    assert_type(og.vjp(proto), onnx.ModelProto)
    assert_type(og.vjp(model), ir.Model)
    assert_type(og.jvp(proto), onnx.ModelProto)
    assert_type(og.jvp(model), ir.Model)
    assert_type(og.hvp(proto), onnx.ModelProto)
    assert_type(og.hvp(model), ir.Model)
    assert_type(og.jacobian(proto), onnx.ModelProto)
    assert_type(og.jacobian(model), ir.Model)
    assert_type(og.hessian(proto), onnx.ModelProto)
    assert_type(og.hessian(model), ir.Model)
    assert_type(og.per_example_gradient(proto), onnx.ModelProto)
    assert_type(og.per_example_gradient(model), ir.Model)
    assert_type(og.vmap(proto), onnx.ModelProto)
    assert_type(og.vmap(model), ir.Model)
    assert_type(og.to_double(proto), onnx.ModelProto)
    assert_type(og.lower(proto), onnx.ModelProto)
    assert_type(og.lower(model), ir.Model)
    assert_type(og.family(model, Path("folder")), list[str])


def tensors_are_named_in_many_ways(model: ir.Model) -> None:
    og.gradient(model, "x")
    og.gradient(model, ("x", "w"))
    og.gradient(model, og.ALL)
    og.gradient(model, wrt=[["fc1", "weight"]])
    og.gradient(model, wrt=["x", ["layer1", 0, "weight"]], ograd=["y"], checkpoints=[["h", 0]])
    wrt = ["x", ["layer1", 0, "weight"]]
    og.gradient(model, wrt, of="y")
    og.jacobian(model, mode="forward", batched=["x"])
    og.per_example_gradient(model, [["layer1", 0, "weight"]], batched="x")


def mistakes_are_found(model: ir.Model) -> None:
    og.gradient(model, 3)  # type: ignore[call-overload]
    og.gradient(model, [3])  # type: ignore[list-item]
    og.gradient(3)  # type: ignore[call-overload]
    og.gradient(model, off="y")  # type: ignore[call-overload]
    og.gradient(model, target="abacus")  # type: ignore[call-overload]
    og.jvp(model, ograd=True)  # type: ignore[call-overload]
    og.vmap(model, wrt="x")  # type: ignore[call-overload]
    og.jacobian(model, batched=[["layer1", 0]])  # type: ignore[list-item]
