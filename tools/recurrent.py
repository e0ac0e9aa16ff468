"""What the backward pass of RNN, GRU and LSTM costs beside the forward one, on one thread.

CPU time of the process, the least of many runs in turns. The backward pass is the gradient's file
less its forward node, with respect to the input alone and to all operands.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxgrad as og

STEPS = 256
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OPERATORS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("LSTM", {"direction": "bidirectional"}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1}),
    ("RNN", {}),
]
SIZES = [(batch, width) for width in (64, 128) for batch in (1, 8)]


def net(op: str, width: int, attributes: dict[str, Any]) -> onnx.ModelProto:
    """One node with constant weights, as many units as inputs, steps and batch symbolic."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op] * width
    shapes = {
        "W": (directions, rows, width),
        "R": (directions, rows, width),
        "B": (directions, 2 * rows),
    }
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array((rng.standard_normal(s) / 8).astype(np.float32), name)
        for name, s in shapes.items()
    ]
    node = onnx.helper.make_node(op, ["X", "W", "R", "B"], ["Y"], hidden_size=width, **attributes)
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        op,
        [info("X", onnx.TensorProto.FLOAT, ["steps", "batch", width])],
        [info("Y", onnx.TensorProto.FLOAT, ["steps", directions, "batch", width])],
        weights,
    )
    opset = onnx.helper.make_opsetid("", 21)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)


def runner(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """Runs a model on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


def least(runs: list[Callable[[], object]], turns: int = 60) -> list[float]:
    """The least CPU time of each, in milliseconds."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(turns):
        for run, own in zip(runs, times, strict=True):
            start = time.process_time()
            run()
            own.append(time.process_time() - start)
    return [min(own) * 1e3 for own in times]


def main() -> None:
    table = Table("operator", "batch", "width", "forward, ms", "backward, X", "backward, all")
    for op, attributes in OPERATORS:
        for batch, width in SIZES:
            model = net(op, width, attributes)
            directions = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
            rng = np.random.default_rng(1)
            feeds = {
                "X": rng.standard_normal((STEPS, batch, width)),
                "Y_ograd": rng.standard_normal((STEPS, directions, batch, width)),
            }
            feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
            files = [model] + [
                og.gradient(model, wrt, ograd=True, forward=False)
                for wrt in (["X"], ["X", "W", "R", "B"])
            ]
            forward, *both = least([runner(file, feeds) for file in files])
            name = " ".join([op, *(f"{k}={v}" for k, v in attributes.items())])
            ratios = [f"{(t - forward) / forward:.1f} times" for t in both]
            table.add_row(name, str(batch), str(width), f"{forward:.2f}", *ratios)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
