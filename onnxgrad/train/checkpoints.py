"""Checkpoints: a model that gives the state, with metadata that say where the training stood."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import all_nodes, subgraphs
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.train.artifacts import Parts, require_state, state_model, state_of
from onnxgrad.train.optimizers import Optimizer

# The property of a checkpoint that says where the training stood.
TRAINER = "onnxgrad.trainer"

_NUMBER = (int, float)
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "epoch": int,
    "batch": int,
    "steps": int,
    "sum": _NUMBER,
    "seen": int,
    "seed": int,
    "since": int,
    "history": list,
    "best": dict,
    "training": dict,
}

# Constants up to this size belong to the computation, larger ones are weights.
_CONSTANT_BYTES = 1024


Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """What a training goes on from.

    Attributes:
        state: By name.
        best: The state of the best epoch, where early stopping keeps one.
        stood: Where the training stood, as JSON has it.
    """

    state: dict[str, Array]
    best: dict[str, Array] | None
    stood: dict[str, Any]

    def model(self) -> ir.Model:
        """The model without inputs that gives the state; the metadata name what is of the best."""
        given, names = dict(self.state), {}
        for name, array in (self.best or {}).items():
            names[name] = f"{name}.best"
            while names[name] in given:
                names[name] += "_"
            given[names[name]] = array
        return state_model(given, {TRAINER: json.dumps(self.stood | {"best": names})})

    @classmethod
    def read(cls, model: ir.Model, runtime: Runtime, title: str) -> Checkpoint:
        """The checkpoint that a model is.

        Raises:
            ArgumentError: It is none, or it is damaged.
        """
        if TRAINER not in model.metadata_props:
            raise ArgumentError(f"{title!r} is no checkpoint: `Trainer.checkpoint` writes one")
        stood = _stood(model.metadata_props[TRAINER], title)
        found = state_of(model, runtime)
        names = stood.pop("best")
        if missing := [name for name in names.values() if name not in found]:
            raise ArgumentError(f"the checkpoint {title!r} is damaged: it gives no {missing[0]!r}")
        best = {name: found.pop(kept) for name, kept in names.items()}
        return cls(found, best or None, stood)


def training(made: Parts, optimizer: Optimizer) -> dict[str, str]:
    """What tells trainings of one state apart: the optimizer but for its rate, and the step.

    Args:
        made: The models, before a runtime loads them.
    """
    fields = [f.name for f in dataclasses.fields(optimizer) if f.name != "lr"]
    settings = ", ".join(f"{name}={getattr(optimizer, name)!r}" for name in fields)
    named = f"{type(optimizer).__name__}({settings})"
    return {"optimizer": named, "step": _digest(made.step)}


def require_same(found: Checkpoint, here: Mapping[str, str], shapes: Shapes, title: str) -> None:
    """Check that a checkpoint is of this training.

    Args:
        here: What `training` gives.
        shapes: The shape of each piece of its state.

    Raises:
        ArgumentError: It is of another one.
    """
    there = found.stood["training"]
    instead = "Resume it with the trainer that wrote it, or take its weights alone, with `export`."
    if there.get("optimizer") != here["optimizer"]:
        raise ArgumentError(
            f"{title!r} is a checkpoint of another optimizer: {there.get('optimizer')}, and this "
            f"trainer has {here['optimizer']}. {instead}"
        )
    for state in filter(None, (found.state, found.best)):
        require_state(state, shapes, whole=True)
    if there.get("step") != here["step"]:
        raise ArgumentError(
            f"{title!r} is a checkpoint of another model, another loss, other options of the step, "
            f"or another version of onnxgrad. {instead}"
        )


def _digest(model: ir.Model) -> str:
    """A hash of what a model computes, without its weights and seeds."""
    found = hashlib.sha256()
    graph = model.graph
    ports = [(v.name, str(v.dtype), str(v.shape)) for v in (*graph.inputs, *graph.outputs)]
    found.update(repr(ports).encode())
    for name, value in sorted(graph.initializers.items()):
        found.update(repr((name, _content(value.const_value))).encode())
    for node in all_nodes(graph):
        names = [[v and v.name for v in values] for values in (node.inputs, node.outputs)]
        attributes = [(a.name, _setting(a)) for a in node.attributes.values() if a.name != "seed"]
        found.update(repr((node.op_identifier(), names, sorted(attributes))).encode())
        for inner in subgraphs(node):
            for name, value in sorted(inner.initializers.items()):
                found.update(repr((name, _content(value.const_value))).encode())
    return found.hexdigest()


def _setting(attribute: ir.Attr) -> str:
    if attribute.type == ir.AttributeType.TENSOR:
        return _content(attribute.value)
    plain = attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return repr(attribute.value) if plain else ""


def _content(tensor: ir.TensorProtocol | None) -> str:
    if tensor is None:
        return ""
    small = tensor.nbytes <= _CONSTANT_BYTES and tensor.dtype != ir.DataType.STRING
    return f"{tensor.dtype}{tensor.shape}{tensor.tobytes().hex() if small else ''}"


def state_in(model: ir.Model, runtime: Runtime, title: str) -> dict[str, Array]:
    """The state that a model without inputs gives, such as a checkpoint, or an ``init.onnx``.

    Raises:
        ArgumentError: It has inputs, or it is a damaged checkpoint.
    """
    if TRAINER in model.metadata_props:
        return Checkpoint.read(model, runtime, title).state
    return state_of(model, runtime)


def _stood(text: str, title: str) -> dict[str, Any]:
    """What the metadata of a checkpoint say.

    Raises:
        ArgumentError: It is not what a trainer writes.
    """
    try:
        stood = json.loads(text)
    except ValueError:
        stood = None
    kinds = _KINDS.items()
    if not isinstance(stood, dict) or (
        odd := [key for key, kind in kinds if not isinstance(stood.get(key), kind)]
    ):
        what = f" ({odd[0]!r})" if isinstance(stood, dict) else ""
        raise ArgumentError(
            f"the checkpoint {title!r} is damaged: its metadata {TRAINER!r}{what} are not those "
            "that a trainer writes"
        )
    return stood
