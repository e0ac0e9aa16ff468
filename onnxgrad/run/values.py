"""Tensors and heads of a net, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.emit.targets import TargetName
from onnxgrad.graph import io
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.names import resolve_all
from onnxgrad.heads.head import emit_heads, parted
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.metadata import VALUES, describe
from onnxgrad.transforms.options import Of, uncollected


def give(
    model: ir.Model, of: Of, *, target: TargetName = "cpu", example: Any = None, **_: Any
) -> ir.Model:
    """A model that gives tensors and heads, and nothing else.

    Without a head it computes them as the net itself does. The metadata property "onnxgrad.values"
    maps, in JSON, their names to those of the outputs.

    Args:
        model: The net, which stays as it is.
        of, target, example: As for `gradient`. It takes its other options too, and needs none.

    Raises:
        As `gradient`.
    """
    with uncollected():
        net = io.load(model)
        names = emit(net, of, target=target, example=example)
        common.LiftConstantsToInitializersPass(lift_all_constants=True)(net)
        if not by_name(net.graph).keys() >= set(names):  # a weight inside a branch or a loop
            normalise(net, names, example=example)
        values, fresh = by_name(net.graph), Names(net.graph)
        net.graph.outputs.clear()
        given = {}
        for name in names:
            value = values[name]
            if value.producer() is None:  # an input or a weight
                value = _copy(net.graph, value, fresh.suffixed(name, "_value"))
            net.graph.outputs.append(value)
            given[name] = value.name or ""
        common.RemoveUnusedNodesPass()(net)
        describe(net, {VALUES: given})
        return net


def emit(
    net: ir.Model,
    of: Of,
    keep: Sequence[str] = (),
    *,
    target: TargetName = "cpu",
    example: Any = None,
) -> list[str]:
    """Emit the heads in `of` and list them as outputs, in place: the names of all of `of`.

    A net without heads stays as it is; another is normalised, where the tensors `keep` survive.
    """
    specs, heads = parted(of)
    names = resolve_all(net, specs) if specs else []
    if heads:
        default = outputs_of(net)
        read = {head: head.resolve(net, default) for head in heads}
        kept = [*names, *keep, *(name for some in read.values() for name in some)]
        normalise(net, kept, example=example)
        found = emit_heads(net.graph, read, target)
        net.graph.outputs.extend(found.values())
        names += [value.name or "" for value in found.values()]
    return names


def _copy(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    node = ir.node("Identity", [value])
    copy = node.outputs[0]
    copy.name, copy.type, copy.shape = name, value.type, value.shape
    graph.append(node)
    return copy
