"""Properties of a model's metadata that tell which inputs and outputs belong to its derivatives.

They are tables of names, in JSON, so that a consumer in any language can read them. They describe
the latest differentiation.
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
VALUES = "onnxgrad.values"
MINUS = "onnxgrad.minus"
ATTRIBUTIONS = "onnxgrad.attributions"
LAYERS = "onnxgrad.layers"
ADVERSARIALS = "onnxgrad.adversarials"

_RESULTS = (GRADIENTS, OGRADS, TANGENTS, HVPS, JACOBIANS, ATTRIBUTIONS, ADVERSARIALS)


def describe(model: ir.Model, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write tables of names by property, in the place of those of an earlier differentiation.

    The tables of values and of changed signs are left out where they are empty.
    """
    for key in (*_RESULTS, VALUES, MINUS, LAYERS):
        model.metadata_props.pop(key, None)
    model.metadata_props.update(
        {
            key: json.dumps(names)
            for key, names in tables.items()
            if names or key not in (VALUES, MINUS)
        }
    )


def results(model: ir.Model) -> list[str]:
    """The names of the outputs that the latest differentiation has added; empty without one."""
    listed: set[str] = set()
    for key in _RESULTS:
        for name in table(model, key).values():
            listed.update(name.values() if isinstance(name, dict) else [name])
    return list(dict.fromkeys(v.name for v in model.graph.outputs if v.name in listed))


def table(model: ir.Model, key: str) -> dict[str, Any]:
    """The table in a property; an empty one where another program has written something else."""
    try:
        table = json.loads(model.metadata_props.get(key, "{}"))
    except (ValueError, RecursionError):
        return {}
    names = key in _RESULTS
    return table if isinstance(table, dict) and (not names or _is_of_names(table)) else {}


def _is_of_names(table: Mapping[str, Any]) -> bool:
    """Whether a table holds names, or tables of names."""
    return all(
        isinstance(v, str) or (isinstance(v, dict) and _is_of_names(v)) for v in table.values()
    )


def names_of(inputs: Mapping[ir.Value, Tensor]) -> dict[str, str]:
    """The names of new inputs, by the names of the tensors that they belong to."""
    return {v.name or "": t.value.name or "" for v, t in inputs.items()}
