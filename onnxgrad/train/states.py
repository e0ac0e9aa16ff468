"""The pieces of state of a step: inputs, what they hold at first, and their next values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import Dim

STATE = "onnxgrad.state"
INITIAL = "onnxgrad.initial"


class States:
    """The pieces of state of one step, by name.

    Attributes:
        now: The inputs.
        next: What takes their places.
        initial: The number that each is filled with first; a tensor of the model has none.
        rate: The learning rate.
    """

    def __init__(self, op: Builder) -> None:
        self.op = op
        self.now: dict[str, Tensor] = {}
        self.next: dict[str, Tensor] = {}
        self.initial: dict[str, float] = {}
        self.rate = op.input("learning_rate", [], np.float32)
        self.added("step", [], np.int64)

    def given(self, name: str, value: ir.Value) -> Tensor:
        """A tensor of the model that is an input of it now."""
        self.now[name] = self.op.tensor(value)
        return self.now[name]

    def added(
        self, name: str, shape: Sequence[Dim] | None, dtype: Any, initial: float = 0
    ) -> Tensor:
        """A new input.

        Raises:
            ArgumentError: The net has a tensor of its name.
        """
        self.now[name] = self.op.input(name, shape, dtype)
        self.initial[name] = initial
        return self.now[name]

    def finite(self, sums: bool) -> Tensor:
        """Whether all numbers of the next state are finite, a bool scalar.

        A number less itself is 0, but NaN if it is not finite. A sum of the numbers would be
        infinite where large ones meet.

        Args:
            sums: The sums of gradients count too. A dynamic scale of the loss lets them overflow.
        """
        zeros = [
            self.op.cast(shapes.reduce_sum(t - t, shapes.axes_from(t)), ir.DataType.FLOAT)
            for name, t in self.next.items()
            if t.dtype.is_floating_point() and (sums or not self._is_sum(name))
        ]
        return ~self.op.IsNaN(self.op.sum(zeros))

    def _is_sum(self, name: str) -> bool:
        return name in self.initial and name.endswith(".grad")

    def note(self, model: ir.Model, outputs: Mapping[str, str]) -> None:
        """Write to the metadata which output follows on which input, and what comes first."""
        model.metadata_props[STATE] = json.dumps(outputs)
        model.metadata_props[INITIAL] = json.dumps(self.initial)
