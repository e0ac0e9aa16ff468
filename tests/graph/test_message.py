"""The large weights of a file are read past the protobuf library, which gets all of the rest."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

import onnxgrad as og
from onnxgrad.graph import io, message, protos

RNG = np.random.default_rng(0)
SIZE = 2**15  # elements, of at least 16 bits but for int4


def tensors() -> list[onnx.TensorProto]:
    """One of each way to hold data."""
    floats = RNG.standard_normal(SIZE).astype(np.float32)
    found = [
        numpy_helper.from_array(floats.astype(dtype).reshape(2, -1), f"w_{dtype}")
        for dtype in ("float16", "float32", "float64", "complex64")
    ]
    found += [numpy_helper.from_array(RNG.integers(0, 9, [3, SIZE]), "w_int64")]
    found += [numpy_helper.from_array(floats[:9], "w_small")]
    for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4):
        name = f"w_{TensorProto.DataType.Name(kind).lower()}"
        made = helper.make_tensor(name, kind, [5 * SIZE], RNG.integers(0, 8, 5 * SIZE))
        raw = ir.from_proto(made).tobytes()
        found.append(helper.make_tensor(name, kind, [5 * SIZE], raw, raw=True))
    found.append(helper.make_tensor("w_fields", TensorProto.FLOAT, [SIZE], floats))
    found[1].doc_string = "a weight"
    return found


def model() -> onnx.ModelProto:
    """These as initializers, in Constant nodes, in a branch and in a function."""
    made = tensors()
    nodes = [helper.make_node("Constant", [], [f"c{k}"], value=t) for k, t in enumerate(made)]
    results = [helper.make_tensor_value_info("c1", 1, None)]
    branch = helper.make_graph(nodes, "branch", [], results, made)
    condition = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", 9, [], [1]))
    choice = helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch)
    opsets = [helper.make_opsetid("", 25), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", [], ["c0"], nodes, opsets)
    call = helper.make_node("F", [], ["y"], domain="own")
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in "yz"]
    graph = helper.make_graph([condition, choice, call], "g", [], outputs, made)
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=13)


def test_every_tensor_is_what_the_library_reads(tmp_path: Path) -> None:
    proto, path = model(), tmp_path / "model.onnx"
    onnx.save(proto, path)
    with open(path, "rb") as file:
        rest, _ = message.read(file)
    assert rest.ByteSize() < 6 * 4 * SIZE + 50_000 < path.stat().st_size / 6  # w_fields and names
    expected = list(io.tensors(ir.from_proto(proto)))
    for given in (path, path.read_bytes()):
        found = list(io.tensors(io.load(given)))
        assert len(found) == len(expected) == 6 * len(tensors()) + 1
        for tensor, other in zip(found, expected, strict=True):
            assert (tensor.name, tensor.dtype, tensor.shape, tensor.doc_string) == (
                other.name,
                other.dtype,
                other.shape,
                other.doc_string,
            )
            np.testing.assert_array_equal(tensor.numpy(), other.numpy())
            # Models share it, unless it is unpacked for each that asks.
            assert not tensor.numpy().flags.writeable or other.numpy().flags.writeable


def restored(content: bytes) -> bytes:
    """A message that was read, with its data again."""
    proto, data = message.read(BytesIO(content))
    for tensor in protos.walk(proto):
        if isinstance(tensor, onnx.TensorProto) and tensor.raw_data in data._arrays:
            tensor.raw_data = data._arrays[tensor.raw_data].tobytes()
    return proto.SerializeToString(deterministic=True)


def test_a_damaged_file_is_what_it_is_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte that is changed, cut off or put in: the same message, or refused by both."""
    monkeypatch.setattr(message, "_LARGE", 16)  # so that what is read apart is most of it
    draw, content = random.Random(0), bytearray(small().SerializeToString())
    assert restored(bytes(content)) == small().SerializeToString(deterministic=True)
    refused = 0
    for _ in range(4000):
        damaged, place = content.copy(), draw.randrange(len(content))
        damaged[place : place + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
        damaged = bytes(damaged[: draw.choice([None, None, place])])
        try:
            expected = onnx.ModelProto.FromString(damaged).SerializeToString(deterministic=True)
        except DecodeError:
            refused += 1
            with pytest.raises(DecodeError):
                restored(damaged)
        else:
            assert restored(damaged) == expected
    assert 500 < refused < 3500


def small() -> onnx.ModelProto:
    """A net whose weights lie in an initializer and in a branch."""
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32), "w")
    node = helper.make_node("Constant", [], ["c"], value=weight)
    results = [helper.make_tensor_value_info("c", 1, [6])]
    branch = helper.make_graph([node], "branch", [], results, [weight])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [helper.make_tensor_value_info("yes", TensorProto.BOOL, [])]
    graph = helper.make_graph([choice], "g", inputs, results, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_a_weight_of_another_size_than_its_shape_is_refused(tmp_path: Path) -> None:
    proto, path = model(), tmp_path / "model.onnx"
    proto.graph.initializer[1].dims[0] = 3
    onnx.save(proto, path)
    with pytest.raises(og.ModelError, match=r"'w_float32' .* has 131,072 bytes of data, not"):
        io.load(path)
