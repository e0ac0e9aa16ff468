"""The models of a training on a runtime, where they share the state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.runtimes.protocol import Runtime, Session, carry
from onnxgrad.train.artifacts import Parts, require_state
from onnxgrad.train.halves import Halves
from onnxgrad.train.privacy import NOISE

RATE = "learning_rate"


class Loaded:
    """The models of a training, loaded by a runtime.

    Attributes:
        shapes: The shape of each piece of state, by name.
        batch: The inputs of a step that are of its batch.
        noises: Those that are noise.
        labelled, unlabelled: Those of an evaluation, and of a prediction.
        carried: The step, with the state; whoever replaces it puts it back.
    """

    def __init__(self, made: Parts, runtime: Runtime) -> None:
        self._runtime, self._made = runtime, made
        self.shapes = {name: array.shape for name, array in made.state.items()}
        noises = set(json.loads(made.step.metadata_props.get(NOISE, "[]")))
        self.noises = {n: p for n, p in _ports(made.step, set()).items() if n in noises}
        self.batch = _ports(made.step, {*made.following, *noises, RATE})
        self.labelled = _ports(made.evaluate, set(made.following))
        self.unlabelled = _ports(made.infer, set(made.following))
        self._step = runtime.load(made.step, lean=True)
        self._evaluation = runtime.load(made.evaluate)
        self._inference: Session | None = None
        self.carried = carry(self._step, made.state, made.following)

    def go_on_from(self, state: Any) -> None:
        """Take a state, all of it or a part, in the place of the present one.

        Raises:
            ArgumentError: It is of another model or optimizer, or a number is not finite.
        """
        require_state(state, self.shapes, whole=False)
        now = self.carried.arrays()
        changed = {name: np.asarray(a, now[name].dtype) for name, a in state.items()}
        for name, array in changed.items():
            if not np.isfinite(array).all():
                raise ArgumentError(f"{name!r} of the state has numbers that are not finite")
        self.carried = carry(self._step, now | changed, self._made.following)

    def halves(self) -> Halves:
        """The step in two models.

        Raises:
            ArgumentError: An option of the step needs the whole batch in one place.
        """
        return self._made.halves()

    def labels_of(self, batch: Mapping[str, Any]) -> str:
        """What may be wrong with labels of a batch that name classes, for a message."""
        title, number = self._classes()
        own, found = self.unlabelled, []
        given = {n: np.asarray(batch[n]) for n in self.labelled if n in batch and n not in own}
        for name, a in given.items():
            if (
                a.dtype.kind not in "iu"
                or not a.size
                or (number and 0 <= a.min() <= a.max() < number)
            ):
                continue
            known = f", and {title!r} has {number} classes" if number else ""
            found.append(f" The labels {name!r} are from {a.min()} to {a.max()}{known}.")
        return "".join(found)

    def _classes(self) -> tuple[str, int]:
        """The net's one output, and its number of classes; 0 where that is not known."""
        outputs = self._made.infer.graph.outputs
        shape = outputs[0].shape if len(outputs) == 1 else None
        number = shape[1] if shape is not None and len(shape) > 1 else None
        return outputs[0].name or "", number if isinstance(number, int) else 0

    def weights(self) -> dict[str, Array]:
        """A copy of the weights of the net, by name."""
        state = self.carried.arrays()
        return {name: state[name] for name in self._made.weights}

    @property
    def inference(self) -> bool:
        """Whether the net, too, is to compute as in inference."""
        return self._made.inference

    def evaluate(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """The loss, the metrics and the net's outputs, by name."""
        return self._outputs(self._evaluation, feeds)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """The net's outputs, by name."""
        if self._inference is None:
            self._inference = self._runtime.load(self._made.infer)
        return self._outputs(self._inference, feeds)

    def _outputs(self, session: Session, feeds: Mapping[str, Array]) -> dict[str, Any]:
        weights = {name: self.carried.state[name] for name in self._made.weights}
        return dict(zip(session.outputs, session.run({**weights, **feeds}), strict=True))


def _ports(model: ir.Model, without: set[str]) -> dict[str, Port]:
    """The inputs of a batch."""
    return {
        value.name or "": Port.of(value)
        for value in model.graph.inputs
        if value.name not in without and value.name not in model.graph.initializers
    }
