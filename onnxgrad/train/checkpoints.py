"""Checkpoints: a model that gives the state, with metadata that say where the training stood."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.train.artifacts import state_model, state_of

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
}


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
