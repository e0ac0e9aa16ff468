"""The standard's training operators, which no runtime executes, in its plain ones.

Adam, Adagrad and Momentum are formulas (rules/training). Gradient names a part of the graph it lies
in: the part that computes y from xs and zs. Its operands are values for xs and zs; where they are
others than the named tensors themselves, that part is computed once more with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.declare.expansions import expansion
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import copy_into
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.flow import describe, operands
from onnxgrad.engine.reverse import pull
from onnxgrad.graph.errors import NoRuleError, RuleError
from onnxgrad.graph.facts import all_nodes, dims_of, inner_graphs, is_float, subgraphs
from onnxgrad.graph.marks import NOT_EXPANDED
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.options import transform

TRAINING = "ai.onnx.preview.training"


@transform
def lower(net: ir.Model, *, example: Any = None) -> None:
    """A model in which the training operators of the standard are replaced by its plain ones.

    These are Gradient, Adam, Adagrad and Momentum of the domain ai.onnx.preview.training, which no
    runtime executes. A Gradient is that of the sum of all elements of its `y` with respect to its
    `xs`, at the values that it is given for `xs` and `zs`; zero for one that `y` does not depend
    on. A Gradient of the result of another is of second order. The transforms do this by
    themselves.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        example: As for `gradient`.

    Returns:
        A model of the same kind (for a path a `ModelProto`) with the same inputs and outputs, in
        opset 18 or newer. As before any transform, functions are inlined, and operators of other
        domains that have an expansion are replaced too.

    Raises:
        ModelError: The model cannot be read or is not valid, or a Gradient names a tensor that is
            not there.
        NoRuleError: A Gradient has an operator without a rule on its path, or a node is not what
            the standard says.
    """
    normalise(net, [], example=example)
    for node in all_nodes(net.graph):
        if node.domain == TRAINING:
            raise NoRuleError(f"{describe(node)} cannot be lowered: {NOT_EXPANDED.of(node)}")
    optimise(net)


@expansion(
    f"{TRAINING}::Gradient",
    remark="a backward pass; `y` may have any shape, and its elements are summed",
    naming=("xs", "zs", "y"),
    on_cpu=False,
)
def _gradient(
    op: Builder, *given: Tensor | None, xs: Sequence[str], y: str, zs: Sequence[str] = ()
) -> tuple[Tensor, ...]:
    names = [*xs, *zs]
    present = [t for t in given if t is not None]
    if len(present) != 2 * len(names) + 1:  # the named tensors come after their values
        op.refuse(f"it needs a value for each of {', '.join(names)}")
    if len(set(names)) < len(names):
        op.refuse(f"a name is listed twice among {', '.join(names)}")
    at, named, target = present[: len(names)], present[len(names) : -1], present[-1]
    for name, t in zip([*xs, y], [*named[: len(xs)], target], strict=True):
        if not is_float(t.value):
            op.refuse(f"{name!r} is {t.dtype.name}; only floating-point tensors have a gradient")
    nodes = _between(op, [t.value for t in named], target.value)
    substitutes = {n.value: a for n, a in zip(named, at, strict=True) if n.value is not a.value}
    if substitutes:
        nodes, target, substitutes = _substitute(op, nodes, target, substitutes)
    sources = [substitutes.get(t.value, t) for t in named[: len(xs)]]
    seed = {target.value: shapes.full_like(target, 1)}
    try:
        found = pull(op, seed, [t.value for t in sources], nodes)
    except NoRuleError as e:
        op.refuse(str(e))
    return tuple(found.get(t.value) or shapes.full_like(t, 0) for t in sources)


def _between(op: Builder, cut: list[ir.Value], target: ir.Value) -> list[ir.Node]:
    """The nodes through which `target` depends on the values `cut`, in topological order."""
    graphs: list[ir.Graph] = []
    scope: Builder | None = op
    while scope is not None:
        graphs.insert(0, scope.graph)
        scope = scope.parent
    graphs[0].sort()  # an expansion emits at the end
    reached, nodes = set(cut), []
    for node in (n for graph in graphs for n in graph):
        if any(v in reached for v in operands(node)):
            if dependent := [v.name for v in node.outputs if v in cut]:
                op.refuse(f"{dependent[0]!r} is computed from another tensor of its xs and zs")
            nodes.append(node)
            reached.update(node.outputs)
    needed, between = {target}, []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            needed.update(v for v in operands(node) if v is not None)
            between.append(node)
    return between[::-1]


def _substitute(
    op: Builder, nodes: list[ir.Node], target: Tensor, substitutes: dict[ir.Value, Tensor]
) -> tuple[list[ir.Node], Tensor, dict[ir.Value, Tensor]]:
    """Compute anew what depends on values that have substitutes.

    Returns:
        The nodes between all sources and the target, the target, and the substitute of each value,
        a copy, because one tensor can be given for several, or be used by the nodes already.
    """
    for named, given in substitutes.items():
        if given.value.dtype != named.dtype or given.rank != op.tensor(named).rank:
            op.refuse(f"what it is given for {named.name!r} is of another dtype or rank")
    copies = {v: op.tensor(op.copied(t, f"{v.name}_given")) for v, t in substitutes.items()}
    affected, recomputed = set(substitutes), []
    for node in nodes:
        if any(v in affected for v in operands(node)):
            recomputed.append(node)
            affected.update(node.outputs)
    if not recomputed:
        return nodes, copies.get(target.value, target), copies
    made = {v for n in recomputed for v in n.outputs}
    reads = {
        v: op.tensor(v) for n in recomputed for v in operands(n) if v and v not in made
    } | copies
    opsets = dict(op.graph.opset_imports)
    view = ir.GraphView(
        list(reads), [target.value], nodes=recomputed, opset_imports=opsets, name="copy"
    )
    done, (target,) = copy_into(op, view.clone(), list(reads.values()))
    if any(dims_of(v) != t.shape for v, t in substitutes.items()):
        for node in done:
            _resize(op, node)
    return [n for n in nodes if n not in recomputed] + done, target, copies


def _resize(op: Builder, node: ir.Node) -> None:
    """Infer the sizes of a node's outputs anew, since those of its operands are others."""
    inner = [g for graph in subgraphs(node) for g in (graph, *inner_graphs(graph))]
    if inner:  # inference cannot tell them for one node alone
        for holder in (node, *(n for g in inner for n in g)):
            _forget_sizes(holder.outputs)
        for g in inner:
            _forget_sizes(g.inputs)
        return
    declared = [(v, v.type, v.shape) for v in node.outputs]
    for v in node.outputs:
        v.type = v.shape = None
    try:
        op.infer_outputs(node)
    except RuleError as e:
        op.refuse(f"the values that it is given do not fit: {e}")
    for v, kind, shape in declared:
        v.type = v.type or kind
        if v.shape is None:
            v.shape = shape
            _forget_sizes([v])


def _forget_sizes(values: Sequence[ir.Value]) -> None:
    for v in values:
        v.shape = v.shape and ir.Shape([None] * len(v.shape))
