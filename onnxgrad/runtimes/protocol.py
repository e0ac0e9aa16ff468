"""The protocols of runtimes: a runtime loads models, and a loaded model runs and can be bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.errors import FeedError


class Binding(Protocol):
    """A loaded model with its inputs and outputs at fixed places.

    Attributes:
        inputs: By name, the places that runs read; the caller writes into them.
        outputs: In order, the places that runs write.
    """

    inputs: Mapping[str, Any]
    outputs: Sequence[Any]

    def run(self) -> None:
        """Run on what `inputs` hold now; the results are in `outputs`.

        Raises:
            FeedError: The net cannot be run on these values.
        """


class Carrying(Protocol):
    """A loaded model some outputs of which become inputs of its next run: its state.

    Attributes:
        outputs: The names of the other outputs, in order.
    """

    outputs: Sequence[str]

    @property
    def state(self) -> Mapping[str, Any]:
        """The state by input name, where the runtime has it.

        A session of the same runtime takes it among the feeds of a run.
        """

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The values of `outputs`, in order; the state stays as it is.

        Raises:
            FeedError: The net cannot be run on these values.
        """

    def advance(self) -> None:
        """Go on to the state that the latest run gave."""

    def arrays(self) -> dict[str, Any]:
        """The state by input name, copied."""


class Session(Protocol):
    """A loaded model.

    Attributes:
        outputs: The names of the outputs, in order.
    """

    outputs: Sequence[str]

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """The values of `outputs` (all when None), in order.

        Raises:
            FeedError: The net cannot be run on these values.
        """

    def bind(self, feeds: Mapping[str, Any]) -> Binding:
        """The model at fixed places; it runs once for the sizes of the outputs.

        A runtime without places of its own returns `Copied`.

        Raises:
            FeedError: The net cannot be run on these values, or they cannot be bound.
        """


class Runtime(Protocol):
    """A runtime. The models that it loads may share memory with each other.

    Attributes:
        title: Its name in messages and reports.
        target: The name of the target for which gradients that run on it are formulated.
    """

    title: str
    target: str

    def load(self, model: ir.Model, *, lean: bool = False) -> Session:
        """A model that runs.

        Args:
            model: A private model, which may be changed. Its tensors may lie in files, from which
                `graph.data.embedded` takes them.
            lean: Keep no copy of large weights where that can be avoided, at some cost in speed.

        Raises:
            ModelError: The runtime cannot load the model.
        """


class Copied:
    """The `Binding` of a runtime without places of its own: results are copied into arrays.

    Raises:
        FeedError: The net cannot be run on `feeds`, or an input or output is no tensor of numbers.
    """

    def __init__(self, session: Session, feeds: Mapping[str, Any]) -> None:
        self._session = session
        for name, value in feeds.items():
            require_numbers(name, value)
        self.inputs: Mapping[str, Any] = dict(feeds)
        results = session.run(feeds)
        for name, value in zip(session.outputs, results, strict=True):
            require_numbers(name, value)
        self.outputs: Sequence[Any] = list(map(np.array, results))

    def run(self) -> None:
        """Run on what `inputs` hold now; the results are in `outputs`.

        Raises:
            FeedError: The net cannot be run on these values, or a result has another shape.
        """
        for place, value in zip(self.outputs, self._session.run(self.inputs), strict=True):
            if np.shape(value) != place.shape:
                raise FeedError(
                    f"An output is bound at the shape {place.shape} and got {np.shape(value)}: "
                    "call the net instead."
                )
            place[...] = value


@runtime_checkable
class Carrier(Protocol):
    """A session of a runtime that has places of its own for a state."""

    def carry(self, state: Mapping[str, Any], following: Mapping[str, str]) -> Carrying:
        """As the function `carry`."""


def carry(session: Session, state: Mapping[str, Any], following: Mapping[str, str]) -> Carrying:
    """A loaded model with a state that stays on the runtime's side from run to run.

    Args:
        session: The loaded model. One that has no method `carry` hands the state over.
        state: The first state by input name, arrays that are copied.
        following: By input name, the output that is its next value, of the same dtype and shape.
    """
    if isinstance(session, Carrier):
        return session.carry(state, following)
    return Handed(session, state, following)


class Handed:
    """The `Carrying` of a runtime without places of its own: it hands over what a run has given."""

    def __init__(
        self, session: Session, state: Mapping[str, Any], following: Mapping[str, str]
    ) -> None:
        self._session, self._following = session, following
        self.outputs: Sequence[str] = [o for o in session.outputs if o not in following.values()]
        self.state: Mapping[str, Any] = {name: np.array(value) for name, value in state.items()}
        self._next = self.state

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """As of any `Carrying`."""
        found = self._session.run({**feeds, **self.state})
        results = dict(zip(self._session.outputs, found, strict=True))
        self._next = {name: results[output] for name, output in self._following.items()}
        return [results[name] for name in self.outputs]

    def advance(self) -> None:
        """As of any `Carrying`."""
        self.state = self._next

    def arrays(self) -> dict[str, Any]:
        """As of any `Carrying`."""
        return {name: np.array(value) for name, value in self.state.items()}


def require_numbers(name: str, array: Any) -> None:
    """Check that a value to be bound is an array of numbers.

    Raises:
        FeedError: It is not.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise FeedError(
            f"{name!r} cannot be bound: it is no tensor of numbers that numpy has. Call the "
            "net instead."
        )
