"""Commands that make something of a file, as they can be pasted."""

from __future__ import annotations

import os
import shlex

from onnxgrad.verify.diagnosis import Diagnosis


def suggestions(found: Diagnosis) -> tuple[str, ...]:
    """The commands, for a file on disk of which something can be differentiated."""
    outputs = [p for p in found.outputs if p.name in _differentiated(found)]
    if not found.file or not outputs:
        return ()
    output = min(outputs, key=lambda p: (p.name != found.classes, p.name not in found.softmax))
    scores = found.softmax.get(output.name, output.name)
    classes, several = output.name == found.classes, len(outputs) > 1
    of = ["--of", scores] if several or scores != output.name else []
    rounds = found.straight_through is not None and found.straight_through.possible
    through = ["--straight-through", "all"] if rounds else []
    lines = []
    if found.inputs_gradient.possible or rounds:
        wrt = [part for name in _wrt(found) for part in ("--wrt", name)]
        head = ["--of-class", scores] if classes else of
        target = [] if classes else ["--target", "none"]
        lines += [
            ["gradient", *_files(found, "gradient"), *head, *wrt, *through],
            ["explain", *_files(found, "explain"), *of, *wrt, *target, *through],
        ]
    if found.weights_gradient.possible:
        loss = ["--loss", "cross_entropy" if classes else "mse", "--loss-of", scores]
        if output.shape == ():  # a loss already
            loss = ["--loss", output.name]
        lines.append(["train", "step", *_files(found, "step"), *loss, *through])
    return tuple(shlex.join(["onnxgrad", *line]) for line in lines)


def _differentiated(found: Diagnosis) -> tuple[str, ...]:
    return found.inputs_gradient.of or found.weights_gradient.of


def _wrt(found: Diagnosis) -> list[str]:
    """The tensors to name in --wrt: those that are no inputs, as they are not the default."""
    own = {p.name for p in found.inputs}
    gradient = found.inputs_gradient
    reached = [name for name in gradient.wrt if name not in gradient.unreached]
    return reached if gradient.unreached or not set(reached) <= own else []


def _files(found: Diagnosis, what: str) -> list[str]:
    """The file, and where to write to: beside where the command is typed."""
    stem = os.path.splitext(os.path.basename(found.file))[0]
    return [found.file, "-o", f"{stem}_{what}.onnx"]
