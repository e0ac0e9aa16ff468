"""tract, by its package for Python."""

from __future__ import annotations

from pathlib import Path

import judge
import tract


def load(path: Path) -> judge.Run:
    model = tract.onnx().load(path)
    inputs = [model.input_name(k) for k in range(model.input_count())]
    runnable = model.into_model().into_runnable()

    return lambda feeds: [r.to_numpy() for r in runnable.run([feeds[name] for name in inputs])]


if __name__ == "__main__":
    judge.main(tract.version(), load)
