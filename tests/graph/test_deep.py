"""Nets deeper than Python's stack of calls: nothing recurs over the depth of the graph."""

from __future__ import annotations

import itertools
import sys
import time

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

DEPTH = 2 * sys.getrecursionlimit()
FLOAT = onnx.TensorProto.FLOAT


def chain(depth: int) -> list[onnx.NodeProto]:
    """y = Sin(Sin(... Sin(x)))"""
    values = ["x", *(f"h{k}" for k in range(1, depth)), "h"]
    return [onnx.helper.make_node("Sin", [a], [b]) for a, b in itertools.pairwise(values)]


def unrolled(depth: int) -> list[onnx.NodeProto]:
    """h = Tanh(h + x[t] / 1000) for each step t, from a constant."""
    nodes, h = [], "w"
    for t in range(depth):
        after = "h" if t == depth - 1 else f"h{t}"
        nodes += [
            onnx.helper.make_node("Mul", ["x", "small"], [f"x{t}"]),
            onnx.helper.make_node("Add", [h, f"x{t}"], [f"s{t}"]),
            onnx.helper.make_node("Tanh", [f"s{t}"], [after]),
        ]
        h = after
    return nodes


# What asks for the contents of a small tensor at the end of a deep net.
ENDS = {
    "gather": "i = ArgMax <axis = 0, keepdims = 0> (h)  p = Gather(h, i)  y = Mul(p, h)",
    "if": """s = ReduceMax <keepdims = 0> (h)  c = Less(s, zero)  y = If (c) <
        then_branch = a () => (float[3] t) { t = Neg(h) },
        else_branch = b () => (float[3] e) { e = Exp(h) }>""",
    "cast": "r = Floor(h)  i = Cast <to = 7> (r)  z = Sub(i, i)  p = Gather(h, z)  y = Mul(p, h)",
}


def model_of(nodes: list[onnx.NodeProto], end: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[3] x) => (float[3] y)'
        "<float[3] w = {1, 2, 3}, float zero = {0}, float small = {0.001}> {" + ENDS[end] + "}"
    )
    last = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *last])
    return model


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("net", [chain, unrolled])
def test_deep(net, end: str) -> None:
    model = model_of(net(DEPTH), end)
    (gradient,) = runner(og.gradient(model, forward=False))({"x": np.float32([0.1, -0.2, 0.3])})
    assert np.isfinite(gradient).all()


def test_deep_step() -> None:
    """A training step seeks what is cheap to compute again a few nodes back, not all the way."""
    nodes = chain(DEPTH)
    for node in nodes:
        node.op_type = "Neg"
    nodes[0].op_type = "Mul"
    nodes[0].input.append("w")
    step = og.train.step(model_of(nodes, "gather"), og.losses.mse("y"), og.train.SGD())
    assert "w_next" in [port.name for port in step.graph.output]


def test_linear_time() -> None:
    """Four times the nodes take four times as long to build, not sixteen."""

    def seconds(depth: int) -> float:
        model = model_of(chain(depth), "gather")
        start = time.process_time()
        og.gradient(model)
        return time.process_time() - start

    seconds(DEPTH)
    assert seconds(4 * DEPTH) < 8 * seconds(DEPTH)
