"""A model that runs on arrays, without derivatives of its own: a list in, a list out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError
from onnxgrad.graph.facts import is_float, may_agree
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.holders import passed
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.runtimes.protocol import Runtime, Session
from onnxgrad.transforms.batch import vmap

T = TypeVar("T")


class Program:
    """A model that runs: a list of arrays in, a list of arrays out. Safe in several threads.

    Args:
        model: The model, which nobody else changes. Its inputs are those that must be given.
        runtime: What runs it.

    Attributes:
        inputs, outputs: Their ports, in order.
        float_inputs, float_outputs: The indices of those that are floating-point.
    """

    def __init__(self, model: ir.Model, runtime: Runtime) -> None:
        graph = model.graph
        self.model, self.runtime = model, runtime
        required = [v for v in graph.inputs if v.name not in graph.initializers]
        self.inputs = [Port.of(v) for v in required]
        self.outputs = [Port.of(v) for v in graph.outputs]
        self.float_inputs = [k for k, v in enumerate(required) if is_float(v)]
        self.float_outputs = [k for k, v in enumerate(graph.outputs) if is_float(v)]
        self._lock = threading.RLock()
        self._made: dict[Hashable, Any] = {}
        self._tried: dict[Hashable, list[tuple[int | None, ...]]] = {}  # by the inputs' shapes

    def __call__(self, arrays: Sequence[Any]) -> list[Array]:
        """The outputs, in order.

        Raises:
            FeedError: An array has another dtype or shape than its input, or the net cannot be run.
        """
        return self.session.run(self.feeds(arrays))

    def feeds(self, arrays: Sequence[Any]) -> dict[str, Array]:
        """The arrays by the names of the inputs, checked.

        Raises:
            FeedError: There are more or fewer, or one has another dtype or shape than its input.
        """
        if len(arrays) != len(self.inputs):
            named = ", ".join(repr(port.name) for port in self.inputs)
            raise FeedError(f"{len(self.inputs)} arrays are needed, {named}, not {len(arrays)}.")
        return {p.name: p.array(a) for p, a in zip(self.inputs, arrays, strict=True)}

    def shapes(self, shapes: Sequence[Sequence[int]]) -> list[tuple[int | None, ...]]:
        """The shapes of the outputs for inputs of these shapes; None where values decide on a size.

        They are those that the names of sizes tell, else those that runs on zeros and ones have in
        common, which `require_told` checks later.

        Raises:
            FeedError: The net cannot be run on zeros of these shapes.
        """
        told = [
            shape for shape in self.told_shapes(shapes) if shape is not None and None not in shape
        ]
        if len(told) == len(self.outputs):
            return told
        key = tuple(map(tuple, shapes))
        with self._lock:
            if key not in self._tried:
                self._tried[key] = self._try(shapes)
        return self._tried[key]

    def _try(self, shapes: Sequence[Sequence[int]]) -> list[tuple[int | None, ...]]:
        def run(value: int) -> list[tuple[int, ...]]:
            pairs = zip(self.inputs, shapes, strict=True)
            return [np.shape(y) for y in self([np.full(s, value, p.dtype) for p, s in pairs])]

        zeros = ones = run(0)
        with contextlib.suppress(FeedError):  # a net may not take ones, as indices
            ones = run(1)
        return [
            tuple(a if a == b else None for a, b in zip(*two, strict=True))
            for two in zip(zeros, ones, strict=True)
        ]

    def require_told(self, found: Sequence[Any], shapes: Sequence[Sequence[int]]) -> None:
        """Check that results have the shapes that `shapes` has told.

        Raises:
            FeedError: One has not, as values of inputs decide on it.
        """
        told = self._tried.get(tuple(map(tuple, shapes)), ()) if self._tried else ()
        for port, y, shape in zip(self.outputs, found, told, strict=False):
            if not may_agree(shape, y.shape):
                raise FeedError(
                    f"The sizes of {port.name!r} depend on the values of inputs: "
                    f"{tuple(y.shape)}, where {shape} was compiled for. Call the net outside of "
                    "what is compiled."
                )

    def told_shapes(self, shapes: Sequence[Sequence[T]]) -> list[tuple[int | T | None, ...] | None]:
        """The shapes of the outputs, as far as the names of the sizes of the inputs tell."""
        sizes = {
            str(name): size
            for port, shape in zip(self.inputs, shapes, strict=True)
            for name, size in zip(port.shape or (), shape, strict=False)
            if isinstance(name, str)
        }
        return [
            None
            if shape is None
            else tuple(d if isinstance(d, int) else sizes.get(str(d)) for d in shape)
            for shape in (port.shape for port in self.outputs)
        ]

    def vmapped(self, batched: Sequence[int]) -> Program:
        """The program with a new first axis on some inputs and on all outputs, by a Scan.

        Args:
            batched: The indices of these inputs; the others are the same for every element.

        Raises:
            OnnxGradError: As `vmap`.
        """
        names = [self.inputs[k].name for k in batched]
        return self.once(
            ("vmapped", *batched),
            lambda: Program(vmap(with_own_ends(self.model), batched=names), self.runtime),
        )

    def __deepcopy__(self, memo: Any) -> Program:
        return self  # nothing of it changes

    @property
    def session(self) -> Session:
        """What runs the model, loaded at first use."""
        return self.once("session", lambda: self.runtime.load(io.load(self.model)))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made at the first request for it, and kept."""
        if key not in self._made:
            with self._lock:
                if key not in self._made:
                    self._made[key] = make()
        return self._made[key]


def with_own_ends(model: ir.Model) -> ir.Model:
    """The model, where an output that is an input becomes a tensor of its own, a copy."""
    if not any(y.is_graph_input() for y in model.graph.outputs):
        return model
    model = io.load(model)
    graph, names = model.graph, Names(model.graph)
    for k, y in enumerate(graph.outputs):
        if y.is_graph_input():
            graph.outputs[k] = passed(graph, y, y, names)
    return model
