"""Writes the files of the matrix of runtimes, with inputs and right outputs.

    python -m tools.runtimes.files FOLDER

FOLDER/open has 50 files whose sizes are open, FOLDER/fixed the same of nets whose sizes are fixed,
and FOLDER/values.json for each the feeds of a run or two and what a runtime has to give:
what onnxruntime gives of the file for the target cpu. tests/runtimes/test_matrix.py holds these
numbers against finite differences in float64.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import onnxgrad as og
from tools.runtimes.nets import FLOATS, GRADIENTS, NETS, OTHERS, SIZES, TARGETS, Gradient

Arrays = dict[str, np.ndarray]


def differentiated(gradient: Gradient, target: str, fixed: bool) -> onnx.ModelProto:
    """The model of one of the 25, for a target."""
    model = NETS[gradient.net].model(gradient.dtype, SIZES if fixed else None)
    if gradient.of == "jacobian":
        return og.jacobian(model, gradient.wrt, target=target)
    if gradient.of == "hvp":
        return og.hvp(model, gradient.wrt, target=target)
    wrt = og.ALL if gradient.of == "all" else gradient.wrt
    return og.gradient(model, wrt, target=target)


def values(gradient: Gradient) -> list[tuple[Arrays, Arrays]]:
    """The feeds of the runs, and what onnxruntime gives."""
    model = differentiated(gradient, "cpu", fixed=False)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [o.name for o in session.get_outputs()]
    runs = []
    for sizes in (SIZES, OTHERS):
        feeds = NETS[gradient.net].feeds(sizes, gradient.dtype)
        rng = np.random.default_rng(2)
        for port in session.get_inputs():  # the tangents of an hvp
            if port.name not in feeds:
                like = feeds[port.name.split("_")[0]]
                feeds[port.name] = rng.standard_normal(like.shape).astype(FLOATS[gradient.dtype])
        runs.append((feeds, dict(zip(names, session.run(None, feeds), strict=True))))
    return runs


def written(arrays: Arrays) -> dict[str, Any]:
    """Arrays as JSON has them."""
    return {
        name: {"dtype": str(a.dtype), "shape": a.shape, "data": a.ravel().tolist()}
        for name, a in arrays.items()
    }


def main(folder: Path) -> None:
    """Write all files."""
    listed = {}
    for kind in ("open", "fixed"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for gradient in GRADIENTS:
        runs = [{"feeds": written(a), "outputs": written(b)} for a, b in values(gradient)]
        for target in TARGETS:
            listed[name := f"{gradient.name}-{target}"] = runs
            for kind in ("open", "fixed"):
                model = differentiated(gradient, target, kind == "fixed")
                onnx.save(model, folder / kind / f"{name}.onnx")
    (folder / "values.json").write_text(json.dumps(listed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
