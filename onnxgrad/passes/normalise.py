"""The passes before differentiation. Afterwards rules see one dialect.

These passes ensure, besides what `io.load` does:

- There are no model-local functions, but for those that the user has declared, and those that they
  call.
- The opset is FLOOR or newer, and the IR version one that has initializers apart from inputs.
- Weights are initializers of the main graph, not Constant nodes.
- Every node and value has a name, and nodes are in order.
- Values have the dtype that the standard can infer, and the shape as far as it follows from the
  inputs.
- There is no If whose condition is known when the graph is built.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.declare.registry import Asked, declared
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import all_nodes, dims_of, inner_graphs, invented, subgraphs
from onnxgrad.graph.fits import TOO_MANY, check_fit
from onnxgrad.graph.functions import inline_body
from onnxgrad.graph.holders import check_counts
from onnxgrad.graph.marks import DECLARED
from onnxgrad.passes.branches import choose_branches
from onnxgrad.passes.expand import bind, expand, needs_expansion
from onnxgrad.passes.flags import require_flags
from onnxgrad.passes.inference import infer
from onnxgrad.passes.opsets import FLOOR, inline, raise_opset

_IR_VERSION = 10

# Names that exporters write for "any size": two sizes of such a name need not be equal.
_ANONYMOUS = {"?", "", "None", "-1", "unk", "unknown", "dynamic", "Any"}

# Attributes whose default is written out, since libraries take another than the standard's.
_DEFAULTS: dict[str, ir.Attr] = {
    "ConstantOfShape": ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float32))),  # tract: float64
    "MeanVarianceNormalization": ir.AttrInt64s("axes", [0, 2, 3]),  # onnx's checker refuses it
    "STFT": ir.AttrInt64("onesided", 1),  # onnx's inference
}


def normalise(
    model: ir.Model,
    keep: list[str],
    straight_through: Asked = False,
    example: Any = None,
    hides: bool = False,
    opset: int | None = None,
) -> None:
    """Bring a model into the dialect of the rules, in place.

    Args:
        model: A private copy.
        keep: Names of tensors that must survive although nothing uses them.
        straight_through: The operators for which it is asked, as for `gradient`: their
            straight-through rules count as declared.
        example: None, or feeds from which ranks are learnt that nothing else tells.
        hides: Whether operators that are replaced may take their places again in the end.
        opset: The one that the result is to have, or None: a newer one than `FLOOR` is raised to.

    Raises:
        ModelError: The model is not valid, or its opset cannot be raised.
        FeedError: The net cannot be run on the example.
    """
    _check_inputs(model.graph)
    kept = _Kept(model.graph, keep)
    try:
        for pass_ in _passes(straight_through, example, hides, max(FLOOR, opset or 0)):
            pass_(model)
    except (ir.passes.PassError, ValueError, RuntimeError) as e:
        raise ModelError(f"the model cannot be normalised: {_root(e)}") from e
    kept.restore(model.graph)
    infer(model, example)
    while choose_branches(model.graph):
        infer(model, example)
    check_fit(model.graph)


def _passes(
    straight_through: Asked, example: Any, hides: bool, opset: int
) -> list[Callable[[ir.Model], object]]:
    """The passes, in this order."""
    return [
        part_constants_from_inputs,
        forget_anonymous_sizes,
        name_sizes_of_inputs,
        bind_named_tensors,
        require_all_flags,
        functools.partial(inline_functions, straight_through=straight_through),
        require_all_flags,  # those too that a call of a function has given
        functools.partial(raise_opset, target=opset),
        check_graphs,
        raise_ir_version,
        inline_holders,
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.NameFixPass(),
        common.TopologicalSortPass(),
        import_opsets_in_subgraphs,
        write_defaults,
        functools.partial(expand_operators, example=example, hides=hides),
    ]


class _Kept:
    """Tensors that have to survive the passes although nothing uses them.

    Inner tensors among them are outputs of the graph until `restore`.
    """

    def __init__(self, graph: ir.Graph, keep: list[str]) -> None:
        names = set(keep)
        # Before inference forgets them, and by place, as passes put others in outputs' places.
        self._declared = [_without_anonymous(v.shape) for v in graph.outputs]
        self._weights = {name: v for name, v in graph.initializers.items() if name in names}
        inner = names.difference(v.name for v in graph.outputs)
        for v in [v for node in graph for v in node.outputs if v.name in inner]:
            if ir.convenience.get_const_tensor(v) is None:
                graph.outputs.append(v)
            else:  # a Constant node gives it, which becomes an initializer
                self._weights[v.name or ""] = v

    def restore(self, graph: ir.Graph) -> None:
        """List the outputs of the file only, and again the weights that a pass has removed."""
        del graph.outputs[len(self._declared) :]
        for v, shape in zip(graph.outputs, self._declared, strict=True):
            if not DECLARED.on(v):
                DECLARED.set(v, shape)
        for name, v in self._weights.items():
            if name not in graph.initializers:
                tensor = ir.convenience.get_const_tensor(v)
                again = ir.Value(name=name, type=v.type, shape=v.shape, const_value=tensor)
                graph.register_initializer(again)


def _check_inputs(graph: ir.Graph) -> None:
    seen: set[str | None] = set()
    for v in graph.inputs:
        if v.name in seen:
            raise ModelError(f"the model lists the input {v.name!r} twice: leave one of them out")
        seen.add(v.name)
        sizes = [d for d in dims_of(v) or () if isinstance(d, int)]
        if odd := [d for d in sizes if d < -1]:
            raise ModelError(f"the input {v.name!r} has the size {odd[0]}, which no tensor has")
        if abs(math.prod(sizes)) > TOO_MANY:
            raise ModelError(f"the input {v.name!r} has the sizes {sizes}: no machine holds it")


# -- the passes ------------------------------------------------------------------------------------


def part_constants_from_inputs(model: ir.Model) -> None:
    """Remove initializers from the inputs of an old IR version, which lists all of them there."""
    if model.ir_version < 4:
        common.RemoveInitializersFromInputsPass()(model)


def forget_anonymous_sizes(model: ir.Model) -> None:
    """Forget names that exporters write for any size."""
    for graph in (model.graph, *inner_graphs(model.graph)):
        for v in [*graph.inputs, *graph.outputs]:
            v.shape = _without_anonymous(v.shape)


def _without_anonymous(shape: ir.Shape | None) -> ir.Shape | None:
    return shape and ir.Shape([None if _is_anonymous(d) else d for d in shape])


def _is_anonymous(dim: int | ir.SymbolicDim) -> bool:
    return str(dim.value if isinstance(dim, ir.SymbolicDim) else dim) in _ANONYMOUS


def name_sizes_of_inputs(model: ir.Model) -> None:
    """Name each size of an input that has no name, so that all sizes that follow have one too.

    The names are among those that inference makes up. `clean_up` takes them away again.
    """
    for v in model.graph.inputs:
        dims = dims_of(v)
        if dims is not None and None in dims:
            v.shape = ir.Shape([invented(v, k) if d is None else d for k, d in enumerate(dims)])


def bind_named_tensors(model: ir.Model) -> None:
    """Make operands of the tensors that attributes name."""
    for graph in _graphs(model):
        bind(graph)


def require_all_flags(model: ir.Model) -> None:
    """Check that attributes which have to be 0 or 1 are."""
    for graph in _graphs(model):
        require_flags(all_nodes(graph))


def inline_functions(model: ir.Model, straight_through: Asked) -> None:
    """Inline the model's functions, but for those that the user has declared a rule for."""
    inline(model, lambda f: declared(f.domain, f.name, straight_through))


def check_graphs(model: ir.Model) -> None:
    """Check that inner graphs fit the nodes that hold them."""
    check_counts(model.graph)


def raise_ir_version(model: ir.Model) -> None:
    """Raise the IR version to one that allows what is emitted."""
    model.ir_version = max(model.ir_version, _IR_VERSION)


def inline_holders(model: ir.Model) -> None:
    """Replace operators outside the default domain that hold graphs by their bodies, in place.

    FlexAttention's graphs become nodes of its body, as in a runtime. Making the body needs graphs
    that hold their own constants, so this comes before constants are moved to the main graph.
    """
    holders = [n for n in all_nodes(model.graph) if n.domain and any(subgraphs(n))]
    if holders:
        infer(model)
    for node in holders:
        inline_body(node, model.graph.opset_imports[""])


def import_opsets_in_subgraphs(model: ir.Model) -> None:
    """Let inner graphs import what the main graph does."""
    for inner in inner_graphs(model.graph):
        inner.opset_imports.update(model.graph.opset_imports)


def write_defaults(model: ir.Model) -> None:
    """Write out the standard's default where libraries take another."""
    for node in all_nodes(model.graph):
        default = None if node.domain else _DEFAULTS.get(node.op_type)
        if default is not None:
            node.attributes.setdefault(default.name, default)


def expand_operators(model: ir.Model, example: Any, hides: bool) -> None:
    """Replace the operators that have an expansion."""
    if needs_expansion(model.graph):
        infer(model, example)
        expand(model.graph, hides)
        common.TopologicalSortPass()(model)


def _graphs(model: ir.Model) -> list[ir.Graph]:
    """The main graph, and those of functions."""
    return [model.graph, *(f.graph for f in model.functions.values())]


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
