"""A training step in two halves, whose gradients come from several places."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.parallel.replica import Plan, Replica, shares
from onnxgrad.train.halves import halves

RNG = np.random.default_rng(0)


def half_precision() -> onnx.ModelProto:
    """A net with weights of float16, which a step has as float32, and of float32."""
    w = RNG.standard_normal((4, 3)).astype(np.float16)
    text = """<ir_version: 10, opset_import: ["": 21]> net (float[N, 4] x) => (float[N, 2] y) {
        a = Cast<to=10>(x)  b = MatMul(a, w)  c = Cast<to=1>(b)  d = Tanh(c)  y = Gemm(d, v, u) }"""
    model = onnx.parser.parse_model(text)
    v, u = RNG.standard_normal((3, 2), dtype=np.float32), np.zeros(2, np.float32)
    arrays = {"w": w, "v": v, "u": u}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model


def test_workers_that_share_batches_go_the_way_of_the_trainer() -> None:
    """Three workers, one without examples in the last batch; all that an update can do."""
    model, loss = half_precision(), og.losses.mse("y")
    groups = [og.train.Group("u", frozen=True), og.train.Group("v*", 0.1, weight_decay=0.5)]
    options = {"groups": groups, "clip_grad_norm": 0.1, "clip_grad_value": 0.05, "accumulate": 2}
    alone = og.train.Trainer(model, loss, og.train.AdamW(lr=0.1), threads=1, **options)
    plan = Plan.of(halves(model, loss, og.train.AdamW(lr=0.1), **options), threads=1)
    state = alone.state
    workers = [Replica(plan, state, rank) for rank in range(3)]
    batches, losses = [], []
    for count in (7, 6, 6, 2):
        x, t = (RNG.standard_normal((count, n), dtype=np.float32) for n in (4, 2))
        batches.append({"x": x, "labels": t})
        parts = shares(batches[-1], ["x", "labels"], 3)
        found = [w.gradients(*part, 3) for w, part in zip(workers, parts, strict=False)]
        losses.append(sum(loss for loss, *_ in found))
        pieces = [w.sum(*(f[1 + k] for f in found)) for k, w in enumerate(workers)]
        for w in workers:
            w.update(np.array(0.1, np.float32), *pieces)
            w.advance()
    (record,) = alone.fit(batches)
    assert record["loss"] == pytest.approx(np.average(losses, weights=[7, 6, 6, 2]), rel=1e-3)
    for name, array in alone.state.items():
        np.testing.assert_allclose(workers[0].arrays()[name], array, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(workers[2].arrays()[name], workers[0].arrays()[name])
    assert not np.allclose(alone.state["w"], state["w"], atol=0.05)


def test_what_needs_the_whole_batch_is_refused() -> None:
    with pytest.raises(og.ArgumentError, match="batch_norm='train' needs the whole batch"):
        halves("models/cnn.onnx", og.losses.mse(), og.train.SGD(), batch_norm="train")
