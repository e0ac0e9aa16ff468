"""What releases of runtimes take, against the one that is installed."""

from __future__ import annotations

import onnx
import pytest

from onnxgrad.runtimes.releases import RELEASES, first_releases

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def takes(opset: int, ir_version: int) -> bool:
    net = onnx.parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> '
        "g (float[2] x) => (float[2] y) { y = Neg(x) }"
    )
    try:
        onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def test_the_installed_release_takes_what_is_said_and_no_more() -> None:
    installed = version(onnxruntime.__version__)
    known = [r for r in RELEASES["onnxruntime"] if version(r.version) <= installed]
    row = known[-1]
    assert takes(row.opset, row.ir_version)
    assert takes(row.opset, 8) and takes(15, row.ir_version)
    if installed <= version(RELEASES["onnxruntime"][-1].version):
        assert not takes(row.opset + 1, 8)
        assert not takes(15, row.ir_version + 1)


def test_the_first_release() -> None:
    assert first_releases(21, 10) == {"onnxruntime": "1.18", "onnx.reference": "1.16.0"}
    assert first_releases(18, 10)["onnxruntime"] == "1.18"
    assert first_releases(999, 8) == {"onnxruntime": None, "onnx.reference": None}
