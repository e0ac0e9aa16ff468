"""onnxruntime on the CPU, of whatever release is installed."""

from __future__ import annotations

from pathlib import Path

import judge
import onnxruntime


def load(path: Path) -> judge.Run:
    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


if __name__ == "__main__":
    judge.main(onnxruntime.__version__, load)
