"""A session of onnxruntime reads in place what nobody else can write, and copies the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

X = np.ones([2, 300], np.float32)


@pytest.mark.parametrize("held", ["by nobody else", "by the caller", "in a file"])
def test_what_a_session_copies(held: str, tmp_path: Path) -> None:
    """A net adds 5 to its input, by a weight that becomes 7 under the session's feet."""
    array = np.full([300], 5, np.float32)
    file = tmp_path / "weights.bin"
    if held == "in a file":
        array.tofile(file)
        kind, shape = ir.DataType.FLOAT, ir.Shape([300])
        tensor = ir.ExternalTensor(
            file.name, 0, None, kind, shape=shape, name="w", base_dir=tmp_path
        )
    else:
        array.flags.writeable = held != "by nobody else"
        shown = array.view()
        shown.flags.writeable = False
        tensor = ir.Tensor(shown, name="w")
    x, y = (helper.make_tensor_value_info(name, 1, [2, 300]) for name in "xy")
    node, weight = helper.make_node("Add", ["x", "w"], ["y"]), numpy_helper.from_array(array, "w")
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 21)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    model.graph.initializers["w"].const_value = tensor
    net = og.Net(model)
    session = net._sessions.forward()
    assert session.run({"x": X})[0].max() == 6
    array.flags.writeable = True
    array[:] = 7
    if held == "in a file":
        with open(file, "r+b") as opened:
            opened.write(array.tobytes())
    release = tuple(int(part) for part in ort.__version__.split(".")[:2])
    in_place = held == "by nobody else" and release >= (1, 32)
    assert session.run({"x": X})[0].max() == (8 if in_place else 6)
