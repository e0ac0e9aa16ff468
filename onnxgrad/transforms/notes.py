"""What a model with derivatives says of itself: which of its inputs and outputs belong to what.

The notes stand in the model's metadata, as JSON, so that a consumer in any language finds them.
They are those of the latest differentiation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxgrad.emit.tensor import Tensor

GRADIENTS = "onnxgrad.gradients"
OGRADS = "onnxgrad.ograds"
TANGENTS = "onnxgrad.tangents"
HVPS = "onnxgrad.hvps"
JACOBIANS = "onnxgrad.jacobians"

_ALL = (GRADIENTS, OGRADS, TANGENTS, HVPS, JACOBIANS)


def note(model: ir.Model, notes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write notes in the place of those of an earlier differentiation."""
    for key in _ALL:
        model.metadata_props.pop(key, None)
    model.metadata_props.update({key: json.dumps(names) for key, names in notes.items()})


def results(model: ir.Model) -> list[str]:
    """The outputs that the latest differentiation has added, by name; none where there was none."""
    noted: set[str] = set()
    for key in _ALL:
        for name in _read(model, key).values():
            noted.update(name.values() if isinstance(name, dict) else [name])
    return list(dict.fromkeys(v.name for v in model.graph.outputs if v.name in noted))


def _read(model: ir.Model, key: str) -> dict[str, Any]:
    """A note; none where another has written what is no table of names."""
    try:
        table = json.loads(model.metadata_props.get(key, "{}"))
    except ValueError:
        return {}
    return table if isinstance(table, dict) else {}


def names_of(inputs: Mapping[ir.Value, Tensor]) -> dict[str, str]:
    """The names of new inputs by those of the tensors that they belong to."""
    return {v.name or "": t.value.name or "" for v, t in inputs.items()}
