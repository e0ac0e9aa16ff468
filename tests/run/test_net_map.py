"""`Net.map` gives what calls for each item give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxgrad as og
from onnxgrad import Net, NetPortGradient, Value, heads, losses

RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3)).astype(np.float32)
X = NetPortGradient("x")


def net(mixes: bool = False, batch: Any = "N") -> onnx.ModelProto:
    """y = tanh(x) @ w; where it mixes examples, less its mean over them."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["h" if mixes else "y"]),
    ]
    if mixes:
        nodes += [
            helper.make_node("ReduceMean", ["h", "axis"], ["m"]),
            helper.make_node("Sub", ["h", "m"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [batch, 4])],
        [helper.make_tensor_value_info("y", 1, [batch, 3])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.array([0]), "axis")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_progress_is_a_bar_or_calls_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich", reason="the bar is drawn by rich: pip install onnxgrad[cli]")
    made, given, calls = Net(net()), items(1, 2, 1), []
    results = made.map(given, batch=2, progress=lambda done, total: calls.append((done, total)))
    next(results)
    assert calls == [(1, 3)]
    list(results)
    list(made.map(iter(given), progress=lambda done, total: calls.append((done, total))))
    assert calls == [(1, 3), (2, 3), (3, 3), (1, None), (2, None), (3, None)]
    list(made.map(given))
    list(made.map(given, progress=None))  # the standard error is no terminal
    assert not capsys.readouterr().err
    list(made.map(given, progress=True))
    shown = capsys.readouterr().err
    assert "3/3" in shown and "items/s" in shown and "loss" not in shown


def items(*rows: int) -> list[np.ndarray]:
    return [RNG.standard_normal((n, 4)).astype(np.float32) for n in rows]


class Counted(Net):
    """A net that counts its calls."""

    calls = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return super().__call__(*arguments, **options)


def same(found: Any, want: Any) -> None:
    if isinstance(want, dict | tuple):
        assert type(found) is type(want) and len(found) == len(want)
        pairs = (
            zip(found, want, strict=True)
            if isinstance(want, tuple)
            else ((found[k], want[k]) for k in want)
        )
        for one, other in pairs:
            same(one, other)
    else:
        assert found.dtype == want.dtype and found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "of", "runs"),
    [
        (None, None, 2),
        (X, None, 2),
        ([X, Value("t")], heads.class_score("y"), 2),
        ([X, NetPortGradient("t")], "y", 2),
        (NetPortGradient("w"), None, 5),  # the sum over all examples
        (og.NetPortGradient(og.ALL), None, 5),
        (X, losses.mse("y"), 5),  # the mean over all examples
    ],
)
def test_items_are_joined_where_it_changes_nothing(request_: Any, of: Any, runs: int) -> None:
    counted, given = Counted(net()), items(1, 2, 0, 1, 3)
    if isinstance(of, og.heads.Head) and of.inputs:
        given = [{"x": x, "labels": np.zeros((len(x), 3), np.float32)} for x in given if len(x)]
        runs = 4
    want = [counted(item, request_, of=of) for item in given]
    counted.calls = 0
    found = list(counted.map(given, request_, of=of, batch=3, workers=2))
    assert counted.calls == runs
    for one, other in zip(found, want, strict=True):
        same(one, other)


@pytest.mark.parametrize("kind", ["mixed", "fixed"])
def test_items_are_not_joined_where_it_would_matter(kind: str) -> None:
    fixed = kind == "fixed"
    counted = Counted(net(mixes=not fixed, batch=2 if fixed else "N"))
    given = items(2, 2, 2)
    want = [counted(item) for item in given]
    for one, other in zip(counted.map(given, batch=3), want, strict=True):
        np.testing.assert_array_equal(one, other)
    assert counted.calls == 6


def test_a_failing_item_is_named_after_the_results_before_it() -> None:
    given = items(1, 1, 1, 1, 1)
    given[3] = np.zeros((1, 5), np.float32)
    found = Net(net()).map(given, batch=2)
    assert [next(found).shape for _ in range(3)] == [(1, 3)] * 3
    with pytest.raises(og.FeedError, match="Item 3: 'x' has the shape"):
        next(found)


def test_items_are_read_as_they_are_needed() -> None:
    read = []

    def reading() -> Iterator[np.ndarray]:
        for k, item in enumerate(items(*[1] * 100)):
            read.append(k)
            yield item
            if k == 50:
                raise OSError("the disk is gone")

    found = Net(net()).map(reading(), batch=2)
    next(found)
    assert len(read) < 12
    with pytest.raises(OSError, match="the disk is gone"):
        for count, _ in enumerate(found, 2):
            assert count <= 51
    assert count == 51
    assert list(Net(net()).map([], batch=2)) == []
    with pytest.raises(og.ArgumentError, match="workers"):
        Net(net()).map([], workers=0)
