"""One gradient file, the same numbers on every runtime.

`make test` runs this on onnxruntime, `make training-runtime` on onnxruntime-training; the other
side of each comparison is onnx's own ReferenceEvaluator.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import onnxgrad as og

# The net of photos takes the evaluator a minute, and some of its millions of units lie within
# rounding of a kink.
MODELS = sorted(
    path
    for path in (Path(__file__).parents[2] / "models").glob("*.onnx")
    if path.stem != "efficientnet_lite0"
)
SIZES = {"N": 3, "S": 5}


def feeds(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, np.ndarray]:
    result = {}
    for port in model.graph.input:
        dims = port.type.tensor_type.shape.dim
        shape = [d.dim_value or SIZES[d.dim_param] for d in dims]
        result[port.name] = rng.uniform(0.1, 0.9, shape).astype(np.float32)
    return result


@pytest.mark.parametrize("ograd", [False, True], ids=["sum", "ograd"])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_same_gradients_on_every_runtime(path: Path, ograd: bool) -> None:
    model = og.gradient(path, og.ALL, ograd=ograd)
    assert {opset.domain for opset in model.opset_import} == {""}
    sample = feeds(model, np.random.default_rng(0))
    names = [o.name for o in model.graph.output]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    fast = session.run(names, sample)
    reference = ReferenceEvaluator(model).run(names, sample)
    for name, one, other in zip(names, fast, reference, strict=True):
        # A key's bias has the gradient zero, which is what rounding leaves of terms of order one.
        scale = max(1.0, float(np.abs(other).max(initial=0)))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale, err_msg=name)
