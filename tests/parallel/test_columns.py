"""Rows of a table in, results of a net out, without an engine."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.parallel.columns import Columns

RNG = np.random.default_rng(0)
MLP = "models/mlp.onnx"
X = RNG.standard_normal((5, 4), dtype=np.float32)


def columns(model=MLP, request=None, of=None, **names) -> Columns:
    """As it arrives at a worker."""
    made = Columns.of_net(model, request, of, names.pop("columns", {}), {"threads": 1})
    return pickle.loads(pickle.dumps(made))


def test_gradients_of_a_loss_and_values() -> None:
    """The labels are a column too, and a column of lists is read."""
    loss = og.losses.cross_entropy("logits", reduction="sum")
    t = np.array([0, 1, 2, 0, 1])
    request = [og.Value("logits"), og.NetPortGradient("input")]
    found = columns(request=request, of=loss, columns={"input": "x"})
    lists = np.empty(5, object)
    lists[:] = [row.tolist() for row in X]
    given = found({"id": np.arange(5), "x": lists, "labels": t})
    assert list(given) == ["id", "x", "labels", "logits", "input_grad"]
    logits, gradient = og.Net(MLP)({"input": X, "labels": t}, request, of=loss)
    np.testing.assert_allclose(given["logits"], logits, rtol=1e-6)
    np.testing.assert_allclose(given["input_grad"], gradient, rtol=1e-6)


def test_an_imposed_gradient_is_a_column() -> None:
    seed = RNG.standard_normal((5, 3), dtype=np.float32)
    key = og.NetPortGradient("logits")
    found = columns(request=og.NetPortGradient("input"), columns={key: "g"})
    expected = og.Net(MLP)({"input": X, key: seed}, og.NetPortGradient("input"))
    np.testing.assert_allclose(found({"input": X, "g": seed})["input_grad"], expected, rtol=1e-6)


def test_a_model_of_fixed_batches_takes_fewer_rows() -> None:
    model = onnx.load(MLP)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    found = columns(model)
    assert found.batch == 8
    np.testing.assert_allclose(found({"input": X})["logits"], og.Net(MLP)(X), rtol=1e-6)


def test_what_is_no_column_is_refused() -> None:
    gradient = og.NetPortGradient("input")
    with pytest.raises(og.ArgumentError, match=r"weight 'fc1\.weight' is one for all rows"):
        columns(request=og.NetPortGradient("fc1.weight"))
    with pytest.raises(og.ArgumentError, match="ALL has weights"):
        columns(request=og.NetPortGradient(og.ALL))
    with pytest.raises(og.ArgumentError, match="reduction='sum'"):
        columns(request=gradient, of=og.losses.mse("logits"))
    with pytest.raises(og.ArgumentError, match="the net has no input 'x'"):
        columns(columns={"x": "a"})
    with pytest.raises(og.FeedError, match="no column 'input', only 'x'"):
        columns()({"x": X})
    with pytest.raises(og.ArgumentError, match="a column 'logits' already"):
        columns()({"input": X, "logits": X})
    with pytest.raises(og.FeedError, match="one element a row"):
        columns(og.gradient(MLP, "fc1.bias"))({"input": X})


@pytest.mark.parametrize("batch", ["N", 8])
def test_rows_that_influence_each_other_are_refused(batch: object) -> None:
    """Less the mean of all rows, those that fill a batch up too; not so for each by itself."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        f (float[{batch},4] x) => (float[{batch},4] y) {{
            first = Constant<value_ints = [0]>()
            m = ReduceMean(x, first)
            y = Sub(x, m)
        }}"""
    )
    with pytest.raises(og.FeedError, match="influence each other's 'y'"):
        columns(model)({"x": X})
    if batch == "N":
        assert not columns(model)({"x": X[:1]})["y"].any()
