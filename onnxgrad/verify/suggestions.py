"""What makes something of a file, as it can be pasted: commands, and calls in Python."""

from __future__ import annotations

import os
import shlex

from onnxgrad.verify.diagnosis import Diagnosis


def suggested_calls(found: Diagnosis) -> tuple[str, ...]:
    """The calls, for a file on disk of which something can be differentiated."""
    if not suggested_commands(found):
        return ()
    through = ", straight_through=True" if _rounds(found) else ""
    return (f"onnxgrad.bridges.torch.layer({found.file!r}{through})",)


def suggested_commands(found: Diagnosis) -> tuple[str, ...]:
    """The commands, for such a file."""
    outputs = [p for p in found.outputs if p.name in _differentiated(found)]
    if not found.file or not outputs:
        return ()
    output = min(outputs, key=lambda p: (p.name != found.classes, p.name not in found.softmax))
    scores = found.softmax.get(output.name, output.name)
    classes, several = output.name == found.classes, len(outputs) > 1
    of = ["--of", scores] if several or scores != output.name else []
    rounds = _rounds(found)
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
        if classes and _moves_one_input(found):
            lines.append(["pgd", *_files(found, "attack"), *of, "--eps", "input", *through])
    if found.weights_gradient.possible:
        loss = ["--loss", "cross_entropy" if classes else "mse", "--loss-of", scores]
        if output.shape == ():  # a loss already
            loss = ["--loss", output.name]
        lines.append(["train", "step", *_files(found, "step"), *loss, *through])
    return tuple(shlex.join(["onnxgrad", *line]) for line in lines)


def _rounds(found: Diagnosis) -> bool:
    """Whether gradients need straight_through=True."""
    return found.straight_through is not None and found.straight_through.possible


def _moves_one_input(found: Diagnosis) -> bool:
    """Whether an attack knows what to move: the one input in floating point, which is a batch."""
    floats = [p for p in found.inputs if p.dtype is not None and p.dtype.kind in "fV"]
    return len(floats) == 1 and found.inputs_gradient.wrt == (floats[0].name,)


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
