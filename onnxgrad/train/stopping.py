"""When a training has been long enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.train.arguments import require_number


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when a number has not become better for some epochs.

    Args:
        monitor: A key of the records of epochs: "val_loss", "val_accuracy", "loss".
        patience: For how many epochs it may not become better.
        min_delta: By how much it has to, to count.
        mode: "min" where less is better, "max" where more is.
        restore_best: Go back to the state of the best epoch.

    Raises:
        ArgumentError: An argument has a value that it cannot have.
    """

    monitor: str = "val_loss"
    patience: int = 3
    min_delta: float = 0.0
    mode: Literal["min", "max"] = "min"
    restore_best: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ArgumentError(f"mode is 'min' or 'max', not {self.mode!r}")
        counted("patience", self.patience, 1)
        require_number("min_delta", self.min_delta)

    def waited(self, history: Sequence[Mapping[str, float]]) -> int:
        """For how many epochs the number has not become better.

        Raises:
            ArgumentError: The records do not have it.
        """
        best, since = math.inf, 0
        for record in history:
            if self.monitor not in record:
                known = ", ".join(map(repr, record))
                raise ArgumentError(f"monitor: no {self.monitor!r} in the records: {known}")
            value = record[self.monitor] * (1 if self.mode == "min" else -1)
            best, since = (value, 0) if value < best - self.min_delta else (best, since + 1)
        return since
