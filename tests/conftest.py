"""What to expect on an onnxruntime that is older than the one the samples are written for.

Python 3.10 has none later than 1.23. The gradient files themselves, which `test_runtimes.py` runs,
are to work there like anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import onnxruntime
import pytest

VERSION = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
OLD = VERSION < (1, 32)

HANGS = "a convolution of no images does not return"

# Tests, by patterns of their names, that older releases get wrong, or onnx's evaluator in the place
# of a kernel that they lack.
WRONG = {
    r"order\[AffineGrid\[|vjp\[AffineGrid\[": "onnx's evaluator mixes precisions",
    r"first_order\[DeformConv\[.*-const\]": "onnx's evaluator is wrong",
    r"first_order\[Reduce(L1|LogSum|SumSquare)\[.*x\[0\]noop_with": "does nothing at all",
    r"second_order\[ReduceLogSum\[.*x\[0\]noop_with": "does nothing at all",
    r"order\[LpNormalization\[.*p=1-.*-const\]": "onnx's evaluator sums without absolute values",
    r"first_order\[STFT\[.*onesided=0": "complex input is misread",
    r"test_reference_ops.py::test_gradient\[LRN\[.*size=[35]": "LRN is wrong",
    r"test_reference_ops.py::test_gradient\[.*lens=\[2,0\]": "a sequence of length 0 is not zero",
    r"test_control_flow.py::.*loop of no step\]": "onnx's evaluator cannot concatenate no slices",
    r"at_run_time\[(map-|grow(?! while short-1)|read in|collect onto)": "onnx's evaluator fails",
    r"at_run_time\[(collect|collect in a branch|chunks and all)-2": "it inserts into all copies",
    r"LinearClassifier-classlabels_ints=\[0,1\].*int1-": "other probabilities",
    r"SVMClassifier-post_transform=LOGISTIC,classlabels_ints=\[4,7\]": "other probabilities",
    r"GroupQueryAttention-num_heads=4,kv_num_heads=2-2-3-0-0-0False": "a shorter cache is misread",
    r"GroupQueryAttention-local_window_size": "a window holds one key more",
    r"test_empty_batch.py::test_no_images\[Conv-operands3": HANGS,
}

# Tests that an older runtime has to pass.
FOR_OLD = {"test_runtimes.py", "test_training_runtime.py"}

# What onnxruntime says, and CasADi of it.
REFUSALS = ["[ONNXRuntimeError]", "Failed to create ONNX Runtime session"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if OLD else ():
        for pattern, reason in WRONG.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.xfail(reason=reason, run=reason != HANGS, strict=False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skip what an older runtime refuses: it lacks kernels and the newest operators."""
    try:
        return (yield)
    except Exception as error:
        refused = any(words in str(error) for words in REFUSALS)
        if OLD and refused and item.path.name not in FOR_OLD:
            pytest.skip(f"onnxruntime {onnxruntime.__version__}: {error}")
        raise
