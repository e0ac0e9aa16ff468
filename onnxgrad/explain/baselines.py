"""Baselines: the points at which nothing is said to be there, such as a black image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.method import Explanation
from onnxgrad.graph.errors import ArgumentError

# A number, an array, "input", one of these for each tensor, or one by the tensors' names.
Baselines: TypeAlias = Any


def baselines_of(
    at: Explanation, xs: Sequence[ir.Value], baselines: Baselines
) -> dict[ir.Value, Tensor]:
    """The baseline of each tensor, which broadcasts to it: zeros where none is given.

    Raises:
        ArgumentError: One does not fit its tensor, or belongs to none.
    """
    given = by_tensor(xs, baselines, "baselines")
    return {x: _baseline(at, x, given.get(x.name or "")) for x in xs}


def by_tensor(xs: Sequence[ir.Value], given: Any, argument: str) -> dict[str, Any]:
    """What is given by the tensors' names; it is one for all, one for each, or by name.

    Raises:
        ArgumentError: There are not as many as tensors, or a name is of none of them.
    """
    names = [x.name or "" for x in xs]
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in names]:
            raise ArgumentError(
                f"{argument}: {unknown[0]!r} is none of the tensors {', '.join(map(repr, names))}"
            )
        return dict(given)
    if isinstance(given, tuple):
        if len(given) != len(names):
            raise ArgumentError(f"{argument}: {len(given)} are given for {len(names)} tensors")
        return dict(zip(names, given, strict=True))
    return dict.fromkeys(names, given)


def _baseline(at: Explanation, x: ir.Value, given: Any) -> Tensor:
    op, like = at.op, at.op.tensor(x)
    if isinstance(given, str):
        if given != "input":
            raise ArgumentError(f"baselines: a number, an array or 'input', not {given!r}")
        return at.job.add_input(f"{x.name}_baseline", x)
    try:
        array = np.asarray(0 if given is None else given, like.dtype.numpy())
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"baselines: {given!r} is no number and no array") from error
    t = op.const(array, like=like)
    require_fit(t, like, "baselines")
    return t


def require_fit(t: Tensor, like: Tensor, argument: str) -> None:
    """Raise for a tensor that does not broadcast to the shape of another, as far as is known."""
    mine, its = t.shape or (), like.shape
    if its is None:
        return
    pairs = zip(reversed(mine), reversed(its), strict=False)
    known = ((a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int))
    if len(mine) > len(its) or any(a not in (1, b) for a, b in known):
        raise ArgumentError(
            f"{argument}: shape {list(mine)} does not fit {like.value.name!r} {list(its)}"
        )


def whole(b: Tensor, x: Tensor) -> Tensor:
    """A baseline in the shape of its tensor."""
    return shapes.expand_like(b, x)
