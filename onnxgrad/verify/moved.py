"""A net whose tensors can be moved: each is the sum of itself and of a new input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.graph import io
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import Runtime, Session

# Suffixes of what is added to the net.
_MOVE, _MOVED, _COPY, _COMPUTED = "/move", "/moved", "/copy", "/computed"


@dataclass
class MovedNet:
    """The net with tensors moved off their values, on a runtime, in a precision.

    Attributes:
        session: Runs it.
        feeds: By input name.
        of: The tensors that are differentiated.
        still: By tensor to be moved, the move of no length.
        precision: A key of `STEPS`.
        runtime: Its title.
        seeds: What the scalar multiplies the tensors of `of` by.
        outputs, values: The values of `of`, and of the tensors that are not moved yet.
    """

    session: Session
    feeds: dict[str, Any]
    of: list[str]
    still: dict[str, Array]
    precision: str
    runtime: str
    seeds: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        moved = [f"{name}{_MOVED}" for name in self.still]
        found = self.session.run(self._inputs({}), [*self._fetched(), *moved])
        self.outputs = [np.asarray(y, np.float64) for y in found[: len(self.of)]]
        tensors = zip(self.still, found[len(self.of) :], strict=True)
        self.values = {name: np.asarray(v, np.float64) for name, v in tensors}

    def _inputs(self, moves: Mapping[str, Array]) -> dict[str, Any]:
        moves = self.still | dict(moves)
        return self.feeds | {f"{name}{_MOVE}": move for name, move in moves.items()}

    def at(self, moves: Mapping[str, Array]) -> list[Array]:
        """The tensors of `of` with some others moved."""
        return self.session.run(self._inputs(moves), self._fetched())

    def _fetched(self) -> list[str]:
        return [f"{name}{_COPY}" for name in self.of]

    def terms(self, name: str, move: Array) -> Array:
        """By how much each term of the scalar changes when a tensor moves; NaN if not in value."""
        found = self.at({name: np.asarray(move, self.still[name].dtype)})
        if any(np.shape(y) != before.shape for y, before in zip(found, self.outputs, strict=True)):
            return np.full(sum(y.size for y in self.outputs), np.nan)
        return np.concatenate(
            [
                ((np.asarray(y, np.float64) - before) * seed).ravel()
                for y, before, seed in zip(found, self.outputs, self.seeds, strict=True)
            ]
        )

    def size(self, changed: Array) -> float:
        """The size of the terms that change, which is what their rounding is relative to."""
        all_terms = [(y * g).ravel() for y, g in zip(self.outputs, self.seeds, strict=True)]
        return float(np.linalg.norm(np.concatenate(all_terms)[changed]))


def hold(runtime: Runtime, model: ir.Model, names: list[str], feeds: dict[str, Any]) -> None:
    """Let tensors keep the values that they have on these feeds, in place."""
    computed = [v for v in (value_of(model, name) for name in names) if v.producer() is not None]
    if not computed:
        return
    outputs = list(model.graph.outputs)
    model.graph.outputs[:] = computed
    found = runtime.load(io.load(model)).run(feeds, [v.name or "" for v in computed])
    model.graph.outputs[:] = outputs
    for v, array in zip(computed, found, strict=True):
        held = ir.Value(name=v.name, type=v.type, const_value=ir.tensor(array, name=v.name))
        v.name = f"{v.name}{_COMPUTED}"
        v.replace_all_uses_with(held, replace_graph_outputs=True)
        model.graph.register_initializer(held)


def move(model: ir.Model, names: list[str], of: list[str]) -> dict[str, Array]:
    """Add a new input to each tensor of `names`, in place; moves of no length by tensor name."""
    graph = model.graph
    graph.outputs.clear()
    for name in of:
        _output(model, f"{name}{_COPY}", value_of(model, name))
    still = {}
    for name in names:
        value = value_of(model, name)
        assert value.dtype is not None
        # Without a shape: a single zero stands for all that are not moved.
        shift = ir.Value(name=f"{name}{_MOVE}", type=ir.TensorType(value.dtype))
        add = ir.node("Add", [value, shift])
        moved = add.outputs[0]
        moved.type, moved.shape = value.type, value.shape
        ir.convenience.replace_all_uses_with(value, moved, replace_graph_outputs=True)
        add.replace_input_with(0, value)
        producer = value.producer()
        if producer is not None:
            producer.append(add)
        elif len(graph):
            graph[0].prepend(add)
        else:
            graph.append(add)
        graph.inputs.append(shift)
        _output(model, f"{name}{_MOVED}", moved)
        still[name] = np.zeros((), value.dtype.numpy())
    common.RemoveUnusedNodesPass()(model)  # such as have no kernel here
    return still


def value_of(model: ir.Model, name: str) -> ir.Value:
    """A tensor of the main graph by its name."""
    graph = model.graph
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.name == name:
            return value
    return next(v for node in graph for v in node.outputs if v.name == name)


def _output(model: ir.Model, name: str, value: ir.Value) -> None:
    node = ir.node("Identity", [value])
    output = node.outputs[0]
    output.name, output.type, output.shape = name, value.type, value.shape
    model.graph.append(node)
    model.graph.outputs.append(output)
