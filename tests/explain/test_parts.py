"""Paths that are computed part by part: how many points a part has, and how it convolves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxgrad import explain

CNN = "models/cnn.onnx"


def image() -> tuple[str, np.ndarray]:
    """The net's input, by name: two examples."""
    (value,) = onnx.load(CNN).graph.input
    sizes = [d.dim_value for d in value.type.tensor_type.shape.dim][1:]
    return value.name, np.random.default_rng(0).standard_normal((2, *sizes), dtype=np.float32)


def session(model: onnx.ModelProto, kept: str = "") -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.optimized_model_filepath = kept
    return ort.InferenceSession(model.SerializeToString(), options)


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    """The inner graph of the only Scan."""
    (scan,) = (node for node in model.graph.node if node.op_type == "Scan")
    return next(a.g for a in scan.attribute if a.name == "body")


@pytest.mark.parametrize("target", ["argmax", 3])
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("runs_on", ["cpu", "portable"])
def test_parts_are_what_one_batch_is(runs_on: str, forward: bool, target: int | str) -> None:
    name, x = image()
    options = {"target": target, "forward": forward, "runs_on": runs_on, "n_steps": 7}
    models = [
        explain.integrated_gradients(CNN, internal_batch_size=rows, **options)
        for rows in (None, 1, 6, 100)
    ]
    whole, *parts = (session(model).run(None, {name: x})[-1] for model in models)
    for found in parts:
        np.testing.assert_allclose(found, whole, atol=1e-4 * np.abs(whole).max())
    sizes = [len(model.SerializeToString()) for model in models]
    assert max(sizes) < 1.3 * min(sizes)  # no weight is there twice


def test_a_part_convolves_as_the_main_graph_does(tmp_path: Path) -> None:
    """onnxruntime lays out filters in blocks only where they are constants of the graph itself."""
    layouts = []
    for rows in (None, 4):
        model = explain.integrated_gradients(CNN, internal_batch_size=rows)
        kept = str(tmp_path / f"{rows}.onnx")
        session(model, kept)
        graph = onnx.load(kept).graph if rows is None else body(onnx.load(kept))
        convolutions = Counter(n.domain for n in graph.node if "Conv" in n.op_type)
        blocked = convolutions["com.microsoft.nchwc"]
        layouts.append((blocked > 0, convolutions.total() - blocked))
    if not layouts[0][0]:
        pytest.skip("this processor has no blocked layout")
    assert layouts[1] == layouts[0]


def test_other_targets_share_filters() -> None:
    made = {}
    for runs_on in ("cpu", "portable"):
        model = explain.integrated_gradients(CNN, internal_batch_size=4, runs_on=runs_on)
        weights = {t.name for t in model.graph.initializer}
        made[runs_on] = [
            n for n in body(model).node if n.op_type == "Reshape" and n.input[0] in weights
        ]
    assert made["cpu"] and not made["portable"]


@pytest.mark.parametrize(("most", "rows"), [(16, 13), (8, 8), (25, 25), (26, 25), (49, 25)])
def test_parts_are_as_equal_as_their_number_allows(most: int, rows: int) -> None:
    """What fills the last part is computed too, so 50 points are not four parts of 16."""
    static = onnx.load("models/mlp.onnx")
    for value in (*static.graph.input, *static.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    model = explain.integrated_gradients(static, target=1, internal_batch_size=most)
    slices = body(model).input[-1].type.tensor_type.shape.dim
    assert slices[0].dim_value == rows
