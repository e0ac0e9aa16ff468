"""Writes the files of the matrix of runtimes, with inputs and right outputs.

    python -m tools.runtimes.files FOLDER

Of each gradient and target there is a file whose sizes are open, in FOLDER/open, and two of nets
whose sizes are fixed, in FOLDER/fixed and FOLDER/other. FOLDER/values.json has for each gradient
the feeds of two runs, one of either sizes, and what a runtime has to give: what onnxruntime gives
of the open file for the target cpu. tests/runtimes/test_matrix.py holds these numbers against
finite differences in float64.
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
from tools.runtimes.nets import FLOATS, GRADIENTS, KINDS, NETS, OTHERS, SIZES, TARGETS, Gradient

Arrays = dict[str, np.ndarray]


def differentiated(gradient: Gradient, target: str, kind: str) -> onnx.ModelProto:
    """The model of one of the 25, for a target."""
    model = NETS[gradient.net].model(gradient.dtype, KINDS[kind])
    if gradient.of == "jacobian":
        return og.jacobian(model, gradient.wrt, target=target)
    if gradient.of == "hvp":
        return og.hvp(model, gradient.wrt, target=target)
    wrt = og.ALL if gradient.of == "all" else gradient.wrt
    return og.gradient(model, wrt, target=target)


def values(gradient: Gradient) -> list[tuple[Arrays, Arrays]]:
    """The feeds of the runs, and what onnxruntime gives."""
    model = differentiated(gradient, "cpu", "open")
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
    for gradient in GRADIENTS:
        runs = [{"feeds": written(a), "outputs": written(b)} for a, b in values(gradient)]
        listed[gradient.name] = runs
        for target in TARGETS:
            for kind in KINDS:
                path = folder / kind / f"{gradient.name}-{target}.onnx"
                path.parent.mkdir(parents=True, exist_ok=True)
                onnx.save(differentiated(gradient, target, kind), path)
    (folder / "values.json").write_text(json.dumps(listed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
