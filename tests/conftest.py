"""What to expect on an onnxruntime that is older than the one the samples are written for.

Python 3.10 has none later than 1.23. The gradient files themselves, which `test_runtimes.py` runs,
are to work there like anywhere.
"""

from __future__ import annotations

from collections.abc import Generator

import onnxruntime
import pytest

VERSION = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
OLD = VERSION < (1, 32)

# Parts of the names of tests that older releases, or onnx's evaluator in their place, get wrong.
WRONG = {
    "[MatMul[0,": "no kernel in double precision, and onnx's evaluator cannot flatten nothing",
    "noop_with_empty_axes": "reduces over other axes than given",
    "test_reference_ops.py::test_gradient[LRN": "LRN is wrong",
    "[AffineGrid[": "no kernel in double precision, and onnx's evaluator mixes precisions",
    "[DeformConv[": "no kernel in double precision, and onnx's evaluator is wrong",
    "[LpNormalization[": "no kernel at opset 22, and onnx's evaluator sums without absolute values",
    "[STFT[": "complex input is misread",
    "lens=[2,0]": "a sequence of length 0 is not left at zero",
    "test_control_flow.py::test_against_differences": "onnx's evaluator scans forward only",
    "GroupQueryAttention-local_window_size": "a window holds one key more",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if OLD else ():
        for part, reason in WRONG.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skip what an older runtime refuses: it lacks kernels and the newest operators."""
    try:
        return (yield)
    except Exception as error:
        refused = "[ONNXRuntimeError]" in str(error)
        if OLD and refused and item.path.name != "test_runtimes.py":
            pytest.skip(f"onnxruntime {onnxruntime.__version__}: {error}")
        raise
