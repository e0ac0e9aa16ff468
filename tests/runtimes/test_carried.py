"""A state that stays on the runtime's side: it is never copied, and a run alone changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxgrad.graph.errors import FeedError
from onnxgrad.runtimes.protocol import Handed, carry
from onnxgrad.runtimes.registry import start

FOLLOWING = {"w": "w_next"}


def loaded(runtime: str) -> Any:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[2] w, float[N] x) => '
        "(float[2] w_next, float s, float[N] y) "
        "{ s = ReduceSum<keepdims = 0>(x) w_next = Add(w, s) y = Add(x, s) }"
    )
    return start(runtime).load(ir.from_proto(model))


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_runs_and_advances(runtime: str) -> None:
    first = np.array([1, 2], np.float32)
    carried = carry(loaded(runtime), {"w": first}, FOLLOWING)
    assert list(carried.outputs) == ["s", "y"]
    for size, total in ((3, 3), (1, 4), (2, 6)):  # the batch may have any size
        x = np.ones(size, np.float32)
        s, y = carried.run({"x": x})
        assert s == size and (y == size + 1).all() and y.shape == x.shape
        before = carried.arrays()["w"]
        carried.run({"x": 5 * x})  # the state is not gone on to
        np.testing.assert_array_equal(carried.arrays()["w"], before)
        carried.run({"x": x})
        carried.advance()
        np.testing.assert_array_equal(carried.arrays()["w"], [1 + total, 2 + total])
    np.testing.assert_array_equal(first, [1, 2])
    with pytest.raises(FeedError):
        carried.run({"x": np.array(["one"])})
    np.testing.assert_array_equal(carried.arrays()["w"], [7, 8])


def test_two_places_are_read_and_written_in_turn() -> None:
    carried = carry(loaded("onnxruntime"), {"w": np.zeros(2, np.float32)}, FOLLOWING)
    places = []
    for _ in range(6):
        places.append(carried.state["w"].data_ptr())
        carried.run({"x": np.ones(1, np.float32)})
        carried.advance()
    assert places[::2] == [places[0]] * 3 and places[1::2] == [places[1]] * 3
    assert places[0] != places[1]
    copy = carried.arrays()["w"]
    copy[:] = 100
    assert (carried.arrays()["w"] == 6).all()


def test_a_state_is_among_the_feeds_of_other_sessions() -> None:
    session = loaded("onnxruntime")
    carried = carry(session, {"w": np.ones(2, np.float32)}, FOLLOWING)
    w, s, _ = session.run({**carried.state, "x": np.ones(3, np.float32)})
    assert s == 3 and (w == 4).all()


def test_a_runtime_that_has_no_places_hands_it_over() -> None:
    assert isinstance(carry(loaded("reference"), {"w": np.ones(2)}, FOLLOWING), Handed)
