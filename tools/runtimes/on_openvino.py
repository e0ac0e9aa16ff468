"""OpenVINO on the CPU. Without the hint it may compute in bfloat16 where the processor can."""

from __future__ import annotations

from pathlib import Path

import judge
import openvino


def load(path: Path) -> judge.Run:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    return lambda feeds: list(compiled(feeds).values())


if __name__ == "__main__":
    judge.main(openvino.__version__.split("-")[0], load)
