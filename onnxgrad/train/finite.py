"""Numbers that are not finite end a training, before its state has one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxgrad.graph.errors import TrainingError
from onnxgrad.train.schedules import Schedule

_LARGEST = float(np.finfo(np.float32).max)


def require_finite(results: Mapping[str, Any], where: str, *, scaled: bool) -> None:
    """Check what a step gives.

    Args:
        results: By name: the loss, "finite", and the norm of the gradients where it is given.
        where: The batch, for the message.
        scaled: The loss is scaled, and the step leaves out gradients that are not finite itself.

    Raises:
        TrainingError: The loss, the norm of the gradients, or the next state is not finite.
    """
    loss, norm = float(results["loss"]), float(results.get("grad_norm", 0))
    for what, number in (("loss", loss), ("gradient's norm", 0.0 if scaled else norm)):
        if not math.isfinite(number):
            raise TrainingError(
                f"The {what} is {number} at {where}. The state before this batch is kept. Lower "
                "the learning rate, or give clip_grad_norm; look at the batch for numbers that "
                "are not finite."
            )
    if not results["finite"]:
        raise TrainingError(
            f"The update has numbers that are not finite at {where}. The state before this batch "
            "is kept. Lower the learning rate, or give the optimizer a larger eps; a weight that "
            "is not finite in the model has to be frozen."
        )


def finite_rate(schedule: Schedule, step: int, where: str) -> float:
    """The learning rate of a step.

    Raises:
        TrainingError: The schedule gives no number, or one that is not finite in float32.
    """
    given = schedule(step)
    try:
        lr = float(given)
    except (TypeError, ValueError):
        lr = math.nan
    if not abs(lr) <= _LARGEST:
        raise TrainingError(
            f"The learning rate is {given!r} at {where} (step {step}): a schedule gives a finite "
            "number. The state before this batch is kept."
        )
    return lr
