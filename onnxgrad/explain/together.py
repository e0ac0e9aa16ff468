"""Several explanations in one file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.explain.method import Explaining, ExplainOptions, called, explained, score_of
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import Dim, dims_of
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.names import resolve_all
from onnxgrad.heads.head import Head, parted
from onnxgrad.passes.clean_up import optimise
from onnxgrad.transforms.asked import float_inputs, outputs_of
from onnxgrad.transforms.metadata import ATTRIBUTIONS, describe, table
from onnxgrad.transforms.options import Of, Wrt, spelt_out, uncollected

# An explanation, or a `functools.partial` of one with arguments of its own.
Method: TypeAlias = Callable[..., Any]


@functools.partial(spelt_out, options=ExplainOptions)
def several(
    model: Any,
    methods: Sequence[Method] | Mapping[str, Method],
    wrt: Wrt = None,
    **options: Unpack[Explaining],
) -> Any:
    """A model that also gives several explanations of one score, which share the forward pass.

    Args:
        model, wrt, of, ...: As for `saliency`, for all of them.
        methods: Functions of `onnxgrad.explain`, where they have arguments of their own as
            `functools.partial`; or a dict of these by names for their outputs, which are else the
            functions' names.

    Returns:
        A model of the same kind, with an output `<x>_<name>` for each explanation and each tensor
        `x` that it is of. What an explanation gives besides is `<name>_convergence_delta` and the
        like. Inputs of the same name, dtype and shape, such as "target", are one. The metadata
        property "onnxgrad.attributions" maps, in JSON, each tensor's name to its outputs by the
        names of the explanations.

    Raises:
        OnnxGradError: As for the methods.
        ArgumentError: What is given is no explanation, or two have one name.

    Example:
        >>> from functools import partial
        >>> paths = partial(og.explain.integrated_gradients, n_steps=20)
        >>> model = og.explain.several("models/mlp.onnx", [og.explain.saliency, paths])
        >>> [y.name for y in model.graph.output]
        ['logits', 'input_saliency', 'input_integrated_gradients']
    """
    given = ExplainOptions(**options)
    calls = _by_name(methods)
    with uncollected():
        net = io.load(model)
        own = len(net.graph.outputs)
        inputs = {v.name for v in net.graph.inputs}
        wrt_names = float_inputs(net) if wrt is None else resolve_all(net, wrt)
        keywords = vars(given) | {
            "of": _named(net, score_of(net, given.of, given.target)),
            "target": None,
            "forward": True,
            "constant": resolve_all(net, given.constant) if given.constant else None,
        }
        layers = {name: _layer(net, call) for name, call in calls.items()}
        found: dict[str, dict[str, str]] = {}
        for name, call in calls.items():
            held = _hold(net.graph, inputs)
            before = len(net.graph.outputs)
            net = explained(call, net, wrt_names, {**layers[name], **keywords})
            _share(net.graph, held, name)
            for x, y in _rename(net, before, name).items():
                found.setdefault(x, {})[name] = y
        if not given.forward:
            del net.graph.outputs[:own]
            optimise(net)
        describe(net, {ATTRIBUTIONS: found})
        return io.like(net, model)


def _by_name(methods: Any) -> dict[str, functools.partial[ir.Model]]:
    """The explanations by the names of their outputs.

    Raises:
        ArgumentError: One is none, or two have one name.
    """
    if isinstance(methods, Mapping):
        return {name: called(method) for name, method in methods.items()}
    if not isinstance(methods, Sequence) or isinstance(methods, str):
        raise ArgumentError(
            f"methods is a list of functions of onnxgrad.explain, or a dict, not {methods!r}"
        )
    found: dict[str, functools.partial[ir.Model]] = {}
    for method in methods:
        call = called(method)
        if (name := call.func.__name__) in found:
            raise ArgumentError(f"there are two of {name}: give a dict with a name for each")
        found[name] = call
    return found


def _named(net: ir.Model, of: Of) -> Of:
    """What is explained, positions and defaults as names: they count the nodes of the file."""
    default = outputs_of(net)
    specs, heads = parted(of)
    names = default if of is None else resolve_all(net, specs) if specs else []
    fixed = [dataclasses.replace(h, of=tuple(h.resolve(net, default))) for h in heads]
    both: list[str | Head] = [*names, *fixed]
    return both[0] if len(both) == 1 else both


def _layer(net: ir.Model, call: functools.partial[ir.Model]) -> dict[str, list[str]]:
    """The tensors that an explanation is of, if it has been given any, by name."""
    layer = call.keywords.get("layer")
    return {} if layer is None else {"layer": resolve_all(net, layer)}


def _hold(graph: ir.Graph, own: Collection[str | None]) -> dict[str, str]:
    """Free the names of inputs that explanations have added: the names they have meanwhile."""
    names, held = Names(graph), {}
    for v in graph.inputs:
        if v.name not in own:
            held[v.name or ""] = name = names.fresh(f"{v.name}/held")
            v.name = name
    return held


def _share(graph: ir.Graph, held: Mapping[str, str], method: str) -> None:
    """Give held inputs their names back; one that was added again is the same, if it is alike."""
    inputs = {v.name: v for v in graph.inputs}
    added = {*held.values(), *held}
    own = {d for v in graph.inputs if v.name not in added for d in dims_of(v) or ()}
    for name, meanwhile in held.items():
        first, again = inputs[meanwhile], inputs.get(name)
        if again is not None and _alike(first, again, own):
            again.replace_all_uses_with(first, replace_graph_outputs=True)
            graph.inputs.remove(again)
        elif again is not None:
            again.name = Names(graph).suffixed(name, f"_{method}")
        first.name = name


def _alike(a: ir.Value, b: ir.Value, own: Collection[Dim]) -> bool:
    """Whether inputs have one dtype and shape; sizes that explanations have named count as equal.

    Args:
        own: The sizes of the net.
    """
    x, y = dims_of(a), dims_of(b)
    if a.dtype != b.dtype or x is None or y is None or len(x) != len(y):
        return a.dtype == b.dtype and x == y
    new = [isinstance(d, str) and d not in own for d in (*x, *y)]
    pairs = zip(x, y, new[: len(x)], new[len(x) :], strict=True)
    return all(d == e or (d_new and e_new) for d, e, d_new, e_new in pairs)


def _rename(net: ir.Model, before: int, method: str) -> dict[str, str]:
    """Name an explanation's outputs after it: those of its attributions by tensor."""
    tensors = table(net, ATTRIBUTIONS)
    names, renamed = Names(net.graph), {}
    for y in net.graph.outputs[before:]:
        of = next((x for x, name in tensors.items() if name == y.name), None)
        stem = f"{method}_{y.name}" if of is None else f"{of}_{method}"
        old, y.name = y.name, names.fresh(stem)
        renamed[old] = y.name
    return {x: renamed[name] for x, name in tensors.items()}
