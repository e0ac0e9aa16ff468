"""Models come in whole or are refused with a reason, and go out whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad.graph import io, protos

WEIGHT = np.arange(600, dtype=np.float32).reshape(2, 300)


def net() -> onnx.ModelProto:
    """y = x * w + c, with the weight c in a Constant node."""
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(np.ones(300, np.float32), "c0")
    )
    nodes = [
        constant,
        helper.make_node("Mul", ["x", "w"], ["z"]),
        helper.make_node("Add", ["z", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 300])],
        [helper.make_tensor_value_info("y", 1, [2, 300])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def external(folder: Path, location: str = "weights.bin") -> Path:
    """The net with its weight in a file of its own, as if it lay at `location`."""
    model = net()
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def weight(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


def test_a_proto_is_not_changed() -> None:
    proto = net()
    before = proto.SerializeToString()
    model = io.load(proto)
    model.graph.initializers["w"].name = "renamed"
    next(iter(model.graph)).attributes["value"].as_tensor().name = "renamed too"
    model.graph.inputs[0].dtype = ir.DataType.DOUBLE
    model.graph.remove(model.graph[2])
    assert proto.SerializeToString() == before


def test_a_model_of_onnx_ir_is_not_changed() -> None:
    original = ir.from_proto(net())
    before = ir.to_proto(original).SerializeToString()
    model = io.load(original)
    model.graph.initializers["w"].name = "renamed"
    model.graph.inputs[0].dtype = ir.DataType.DOUBLE
    assert ir.to_proto(original).SerializeToString() == before


def test_weights_are_shared_with_the_original() -> None:
    original = ir.from_proto(net())
    original.graph.initializers["w"].const_value = ir.tensor(WEIGHT, name="w")
    assert np.shares_memory(weight(io.load(original)), WEIGHT)


def test_result_is_of_the_same_kind(tmp_path: Path) -> None:
    proto = net()
    onnx.save(proto, tmp_path / "m.onnx")
    for given in (proto, str(tmp_path / "m.onnx"), tmp_path / "m.onnx"):
        assert isinstance(og.gradient(given), onnx.ModelProto)
    assert isinstance(og.gradient(ir.from_proto(proto)), ir.Model)


def test_external_weights_are_read_and_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external(tmp_path)
    np.testing.assert_array_equal(weight(io.load(path)), WEIGHT)
    monkeypatch.chdir(tmp_path)  # where the folder's name is empty
    result = og.gradient("model.onnx", ["w", "x"])
    assert not any(t.external_data for t in result.graph.initializer)
    w = next(t for t in result.graph.initializer if t.name == "w")
    np.testing.assert_array_equal(numpy_helper.to_array(w), WEIGHT)


@pytest.mark.parametrize("content", [b"", b"ONNX? no.\n" * 20, bytes(range(256)) * 8, b"\x08\x0a"])
def test_what_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(og.ModelError, match=r"model\.onnx"):
        io.load(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    content = net().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(og.ModelError, match="truncated"):
        io.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(og.ModelError, match="No such file"):
        io.load(tmp_path / "none.onnx")
    with pytest.raises(og.ModelError, match="is a folder"):
        io.load(tmp_path)
    with pytest.raises(og.ArgumentError, match="not int"):
        io.load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["path", "ir"])
def test_a_location_that_names_no_file_is_refused(tmp_path: Path, place: str) -> None:
    path = external(tmp_path, "weights\0.bin")
    with pytest.raises(og.ModelError, match="names no file: a NUL character"):
        io.load(path if place == "path" else ir.load(path))


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (home / "link").symlink_to(tmp_path / "secret")
    for location in ("../secret", str(tmp_path / "secret"), "sub/../../secret", "link"):
        with pytest.raises(og.ModelError, match="outside the model's folder"):
            io.load(external(home, location))


def test_weights_that_are_missing_or_too_short_are_refused_at_once(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes()[:-1])
    with pytest.raises(og.ModelError, match=r"'w'.*too short"):
        io.load(path)
    (tmp_path / "weights.bin").unlink()
    where = re.escape(str(tmp_path))
    with pytest.raises(og.ModelError, match=rf"'w'.*'weights.bin'.*in '{where}'.*cannot be read"):
        io.load(path)


def test_a_proto_without_its_weights_is_refused(tmp_path: Path) -> None:
    proto = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(og.ModelError, match="which folder"):
        io.load(proto)


def test_more_than_a_proto_holds_is_refused(tmp_path: Path) -> None:
    model = ir.from_proto(net())
    big = ir.LazyTensor(
        lambda: pytest.fail("the weights are not needed to say no"),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape([2**29]),
        name="w",
    )
    model.graph.initializers["w"].const_value = big
    with pytest.raises(og.ModelError, match="2 GB"):
        io.like(model, net())
    assert io.like(model, model) is model


def test_a_large_model_by_path_refers_to_its_weights(tmp_path: Path) -> None:
    """A hole in a file stands for its 2.2 GB."""
    rows = 2**31 // 4 // 300 + 10**5
    path = external(tmp_path)
    with open(tmp_path / "weights.bin", "ab") as file:
        file.truncate(rows * 300 * 4)
    proto = onnx.load(path, load_external_data=False)
    (tensor,) = proto.graph.initializer
    del tensor.dims[:], tensor.external_data[1:]
    tensor.dims.extend([rows, 300])
    axis = numpy_helper.from_array(np.array([1]), "axis")
    proto.graph.initializer.append(axis)
    proto.graph.node.insert(0, helper.make_node("Gather", ["w", "axis"], ["row"]))
    del proto.graph.node[2].input[:]
    proto.graph.node[2].input.extend(["x", "row"])
    path.write_bytes(proto.SerializeToString())
    result = og.gradient(str(path), "x")
    assert isinstance(result, ir.Model)
    target = tmp_path / "gradient.onnx"
    og.save(result, target)
    assert sorted(os.listdir(tmp_path)) == ["gradient.onnx", "model.onnx", "weights.bin"]
    assert target.stat().st_size < 10**4
    x = np.ones((2, 300), np.float32)
    want = og.Net(path).gradient(x)
    np.testing.assert_array_equal(og.Net(target)(x)["x_grad"], want)
    (tmp_path / "other").mkdir()
    with pytest.raises(og.SaveError, match=r"weights\.bin"):
        og.save(result, tmp_path / "other" / "gradient.onnx", external="refer")


def test_weights_are_referred_to_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = external(tmp_path), tmp_path / "new.onnx"

    def lies_in() -> str:
        (tensor,) = onnx.load(target, load_external_data=False).graph.initializer
        np.testing.assert_array_equal(weight(io.load(target)), WEIGHT)
        return tensor.external_data[0].value if tensor.external_data else ""

    model = io.load(path)
    io.save(model, target)
    assert lies_in() == ""
    io.save(model, target, external="refer")
    assert lies_in() == "weights.bin"
    io.save(model, target, external="copy")
    assert re.fullmatch(r"new\.onnx\.[0-9a-f]{16}\.data", lies_in())
    monkeypatch.setattr(protos, "LIMIT", 100)  # as if it were large
    io.save(model, target)
    assert lies_in() == "weights.bin"
    target = tmp_path / "other" / "new.onnx"
    target.parent.mkdir()
    io.save(model, target)
    assert lies_in().startswith("new.onnx.")
    with pytest.raises(og.ArgumentError, match='"copy"'):
        io.save(model, target, external="link")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["proto", "ir"])
@pytest.mark.parametrize("apart", [False, True])
def test_save_and_load_give_the_same(tmp_path: Path, kind: str, apart: bool) -> None:
    model = net() if kind == "proto" else ir.from_proto(net())
    path = tmp_path / "m.onnx"
    io.save(model, path, external_data=apart)
    first, *others = sorted(os.listdir(tmp_path))
    assert first == "m.onnx" and len(others) == apart
    assert all(re.fullmatch(r"m\.onnx\.[0-9a-f]{16}\.data", name) for name in others)
    onnx.checker.check_model(path)
    assert (path.stat().st_size < WEIGHT.nbytes) == apart
    np.testing.assert_array_equal(weight(io.load(path)), WEIGHT)


def test_save_embeds_weights_that_lie_elsewhere(tmp_path: Path) -> None:
    model = ir.load(external(tmp_path))
    (tmp_path / "other").mkdir()
    io.save(model, tmp_path / "other" / "m.onnx")
    np.testing.assert_array_equal(weight(io.load(tmp_path / "other" / "m.onnx")), WEIGHT)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_save_over_the_file_that_the_weights_come_from(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    io.save(net(), path, external_data=True)
    io.save(io.load(path), path, external_data=True)
    np.testing.assert_array_equal(weight(io.load(path)), WEIGHT)


def test_a_failed_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"what was there")

    def full_disk(model: onnx.ModelProto, path: str, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save", full_disk)
    with pytest.raises(og.SaveError, match="No space left"):
        io.save(net(), path)
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert path.read_bytes() == b"what was there"


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(og.SaveError, match="no folder"):
        io.save(net(), tmp_path / "none" / "m.onnx")
    with pytest.raises(og.SaveError, match="is a folder"):
        io.save(net(), tmp_path)
    assert os.listdir(tmp_path) == []


def test_save_writes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    io.save(net(), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    np.testing.assert_array_equal(weight(io.load(tmp_path / "real.onnx")), WEIGHT)
