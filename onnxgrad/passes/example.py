"""Ranks learnt from an example: feeds for which the forward pass runs once.

Where neither the operators nor the ports tell how many axes a tensor has, as after a Squeeze
without axes, one run does. Its ranks are learnt, its sizes are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError, ModelError
from onnxgrad.graph.marks import RANK
from onnxgrad.runtimes.ports import Array, Port, arrays
from onnxgrad.runtimes.registry import on_cpu


def learn(model: ir.Model, example: Any) -> bool:
    """Note the ranks of tensors of the main graph that are open; whether there was one.

    Args:
        model: Its shapes are inferred, as far as they can be.
        example: The input's value where there is one, else a dict by input name.

    Raises:
        FeedError: The example does not fit the inputs, or the net cannot be run on it.
    """
    graph = model.graph
    ports = {v.name or "": Port.of(v) for v in graph.inputs}
    required = [name for name in ports if name not in graph.initializers]
    feeds = arrays(ports, required, example)
    free = [v for v in graph.inputs if v.name in feeds and _is_open(v)]
    for v in free:
        v.shape = ir.Shape([None] * np.ndim(feeds[v.name or ""]))
    inner = [v for node in graph for v in node.outputs if v.name and _is_open(v)]
    for v, array in zip(inner, _values(model, feeds, inner), strict=True):
        RANK.set(v, np.ndim(array))
    return bool(free or inner)


def _is_open(value: ir.Value) -> bool:
    return value.shape is None and (value.type is None or isinstance(value.type, ir.TensorType))


def _values(model: ir.Model, feeds: Mapping[str, Any], wanted: Sequence[ir.Value]) -> list[Array]:
    """The values of inner tensors, on onnxruntime where it takes the net, else on the reference."""
    if not wanted:
        return []
    names = [v.name or "" for v in wanted]
    probe = io.load(model)
    found = {v.name: v for node in probe.graph for v in node.outputs}
    probe.graph.outputs[:] = [found[name] for name in names]
    common.RemoveUnusedNodesPass()(probe)
    refusals = []
    for runtime in on_cpu().values():
        try:
            return runtime.load(io.load(probe)).run(feeds, names)
        except (ModelError, FeedError) as error:
            refusals.append(str(error))
    raise FeedError(f"The example cannot be run. {' '.join(refusals)}")
