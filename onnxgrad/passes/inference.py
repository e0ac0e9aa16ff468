"""Infers dtypes and shapes of a whole model: by the standard's inference, and with corrections.

`graph.inference` infers one node, with the corrections by operator. This module adds what needs
the whole model: inner graphs see constants of the main graph, types and ranks follow from each
other until nothing new is found, and sizes get names.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.graph.constants import forget_constant
from onnxgrad.graph.corrections import complete_ranks, is_misjudged
from onnxgrad.graph.facts import Dim, dims_of, is_sequence, subgraphs
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.inference import Inference
from onnxgrad.graph.schemas import onnx_schema
from onnxgrad.graph.sizes import keeps_names, multiplies_names
from onnxgrad.graph.window_sizes import is_window
from onnxgrad.passes.example import declare_inputs, feeds_of, learn, pin, roots
from onnxgrad.passes.inner_shapes import agree_on_states, inner_states, see_outer_constants
from onnxgrad.passes.opsets import HIDDEN
from onnxgrad.passes.plain import make_plain
from onnxgrad.passes.types import type_own_operators, type_sequences
from onnxgrad.passes.written_sizes import write_sizes


def infer(model: ir.Model, example: Any = None) -> None:
    """Infer dtypes and shapes anew, whatever the file declares of inner values and outputs.

    Files hold wrong declarations, since runtimes only warn of them. A shape that does not follow
    from the operands stays open, unless an example tells its rank.

    Args:
        model: A model whose functions are inlined.
        example: None, or feeds from which ranks are learnt that nothing else tells.

    Raises:
        FeedError: The net cannot be run on the example.
    """
    if example is None:
        _infer_plain(model)
        return
    feeds = feeds_of(model.graph, example)
    declare_inputs(model.graph, feeds)
    _infer_plain(model)
    ranks = learn(model, feeds)
    if not ranks:
        return
    names = Names(model.graph)
    while found := roots(ranks):
        for v in found:
            pin(model.graph, v, ranks.pop(v), names)
        _infer_plain(model)


def _infer_plain(model: ir.Model) -> None:
    """Infer a model in which no node is left that inference would misjudge."""
    _infer_anew(model)
    while write_sizes(model.graph) or any(make_plain(node) for node in model.graph.all_nodes()):
        _infer_anew(model)  # after each rewrite: sizes that follow from a wrong one may be wrong
    nodes = [n for n in model.graph.all_nodes() if is_misjudged(n)]
    if nodes:  # infer anew with these hidden: inference is to use nothing but their ranks
        model.graph.opset_imports[HIDDEN] = 1
        for node in nodes:
            node.domain = HIDDEN
        _infer_anew(model)
        for node in nodes:
            node.domain = ""
        del model.graph.opset_imports[HIDDEN]


def _infer_anew(model: ir.Model) -> None:
    _forget_shapes(model.graph)
    _infer_until_all_is_told(model)
    if see_outer_constants(model.graph):
        _infer_until_all_is_told(model)
    _name_sizes(model.graph)


def _forget_shapes(graph: ir.Graph) -> None:
    """Forget all shapes, but for ranks that no inference tells: of hidden nodes and sequences."""
    for node in graph.all_nodes():
        hidden = node.domain == HIDDEN
        if hidden or onnx_schema(node.domain, node.op_type) is not None:
            for v in (*node.outputs, *inner_states(node)):
                # Inference tells little of a sequence's elements, so the file's rank is kept.
                kept = v.shape is not None and (hidden or is_sequence(v))
                v.shape = ir.Shape([None] * len(v.shape or ())) if kept else None


def _infer_until_all_is_told(model: ir.Model) -> None:
    standard = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    standard(model)
    more = (type_sequences, type_own_operators, _complete_all_ranks, agree_on_states)
    while any(pass_(model.graph) for pass_ in more):
        standard(model)


def _complete_all_ranks(graph: ir.Graph) -> bool:
    for node in graph.all_nodes():
        for v in node.outputs:
            forget_constant(v)  # more sizes may be known now
    completed = [complete_ranks(node) for node in graph.all_nodes()]
    return any(completed)


def _name_sizes(graph: ir.Graph) -> None:
    """Name sizes by formulas of named ones, behind windows and Reshapes, and infer what follows."""
    named = (_slides_along_names, multiplies_names, keeps_names)
    if not any(names_sizes(node) for node in graph for names_sizes in named):
        return
    inference, names = Inference(graph.opset_imports[""]), _Names(graph)
    for node in graph:
        before = {v: dims for v in node.outputs if (dims := dims_of(v)) is not None}
        if any(subgraphs(node)) or all(
            isinstance(d, int) for dims in before.values() for d in dims
        ):
            continue
        inference.infer_again(node, before)
        for v, dims in before.items():
            after = dims_of(v)
            if after is None or len(after) != len(dims):
                after = (None,) * len(dims)
            v.shape = ir.Shape([names.of(*d) for d in zip(dims, after, strict=True)])


def _slides_along_names(node: ir.Node) -> bool:
    x = node.inputs[0] if is_window(node) else None
    return x is not None and any(isinstance(d, str) for d in (dims_of(x) or ())[2:])


class _Names:
    """Better names for sizes whose names inference has made up."""

    def __init__(self, graph: ir.Graph) -> None:
        self.given = {d for v in graph.inputs for d in dims_of(v) or ()}
        self.better: dict[Dim, Dim] = {}

    def of(self, before: Dim, after: Dim) -> Dim:
        """The better of two names of one dimension, which inference gave before and after."""
        before = self.better.get(before, before)
        if after is None or before in self.given or isinstance(before, int):
            return before
        if before is not None and before != after:
            self.better[before] = after
        return after
