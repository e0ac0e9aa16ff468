"""onnx's ReferenceEvaluator, as it is."""

from __future__ import annotations

from pathlib import Path

import judge
import onnx
from onnx.reference import ReferenceEvaluator


def load(path: Path) -> judge.Run:
    evaluator = ReferenceEvaluator(str(path))
    return lambda feeds: evaluator.run(None, feeds)


if __name__ == "__main__":
    judge.main(onnx.__version__, load)
