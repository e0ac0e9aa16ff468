"""The passes before differentiation. Afterwards rules see one dialect.

Ensured: no model-local functions, but for those that the user has declared, with all that they
call; opset FLOOR or newer; an IR version with initializers apart from inputs; weights in
initializers of the main graph, none in Constant nodes; every node and value named and in order; the
dtype of every value that the standard can infer, and its shape as far as it follows from the
inputs; no If whose condition follows from them. What `io.load` ensures holds too.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.declare.registry import Asked, declared, lookup
from onnxgrad.emit.builder import Builder
from onnxgrad.graph.constants import forget_constant
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import Dim, dims_of, is_sequence, subgraphs
from onnxgrad.graph.functions import inline_body
from onnxgrad.graph.holders import check_counts
from onnxgrad.graph.marks import DECLARED, RANK
from onnxgrad.graph.ranks import keep_rank
from onnxgrad.graph.schemas import onnx_schema
from onnxgrad.graph.window_sizes import is_window, misjudged
from onnxgrad.passes.branches import choose_branches
from onnxgrad.passes.example import learn
from onnxgrad.passes.expand import bind, expand, needs_expansion
from onnxgrad.passes.flags import require_flags
from onnxgrad.passes.inner_shapes import infer_inner, infer_states, inner_states
from onnxgrad.passes.opsets import FLOOR, HIDDEN, inline, raise_opset
from onnxgrad.passes.settle import settle

_IR_VERSION = 10

# What exporters write for "any size": two of them are not equal sizes.
_ANONYMOUS = {"?", "", "None", "-1", "unk", "unknown", "dynamic", "Any"}


def normalise(
    model: ir.Model, keep: list[str], straight_through: Asked = False, example: Any = None
) -> None:
    """Bring a model into the dialect of the rules, in place.

    Args:
        model: A private copy.
        keep: Names of tensors that must survive although nothing uses them.
        straight_through: What it is asked for, as for `gradient`: such rules count as declared.
        example: Feeds from which ranks are learnt that nothing else tells, if they are given.

    Raises:
        ModelError: The model is not valid, or its opset cannot be raised.
        FeedError: The net cannot be run on the example.
    """
    graph = model.graph
    _check_inputs(graph)
    outputs, kept = list(graph.outputs), set(keep)
    weights = {name: v for name, v in graph.initializers.items() if name in kept}
    inner = kept.difference(v.name for v in graph.outputs)
    for v in [v for node in graph for v in node.outputs if v.name in inner]:
        if ir.convenience.get_const_tensor(v) is None:
            graph.outputs.append(v)
        else:  # of a Constant node, which becomes an initializer
            weights[v.name or ""] = v
    try:
        _passes(model, straight_through, example)
    except (ir.passes.PassError, ValueError, RuntimeError) as e:
        raise ModelError(f"the model cannot be normalised: {_root(e)}") from e
    graph = model.graph
    del graph.outputs[len(outputs) :]
    for v in graph.outputs:
        if not DECLARED.on(v):
            DECLARED.set(v, v.shape)
    for name, v in weights.items():
        if name not in graph.initializers:  # nothing uses it, so a pass has removed it
            tensor = ir.convenience.get_const_tensor(v)
            again = ir.Value(name=name, type=v.type, shape=v.shape, const_value=tensor)
            graph.register_initializer(again)
    _infer_with(model, example)
    while choose_branches(model.graph):
        _infer_with(model, example)


def _check_inputs(graph: ir.Graph) -> None:
    seen: set[str | None] = set()
    for v in graph.inputs:
        if v.name in seen:
            raise ModelError(f"the model lists the input {v.name!r} twice: leave one of them out")
        seen.add(v.name)


def _passes(model: ir.Model, straight_through: Asked, example: Any) -> None:
    graph = model.graph
    if model.ir_version < 4:
        # There the runtime takes every initializer as a constant, listed as an input or not.
        common.RemoveInitializersFromInputsPass()(model)
    for g in (graph, *graph.subgraphs()):
        for v in [*g.inputs, *g.outputs]:
            _forget_anonymous(v)
    holders = (graph, *(f.graph for f in model.functions.values()))
    for g in holders:
        bind(g)
        require_flags(g.all_nodes())
    inline(model, lambda f: declared(f.domain, f.name, straight_through))
    require_flags(model.graph.all_nodes())  # those too that a call of a function has given
    raise_opset(model, FLOOR)
    check_counts(graph)
    model.ir_version = max(model.ir_version, _IR_VERSION)
    inline_holders(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.NameFixPass()(model)
    common.TopologicalSortPass()(model)
    for inner in model.graph.subgraphs():
        inner.opset_imports.update(model.graph.opset_imports)
    for node in model.graph.all_nodes():
        if node.op_type == "MeanVarianceNormalization" and not node.domain:
            # onnx's checker refuses its own default.
            node.attributes.setdefault("axes", ir.AttrInt64s("axes", [0, 2, 3]))
        if node.op_type == "STFT" and not node.domain:
            # onnx's inference takes another default than the standard's.
            node.attributes.setdefault("onesided", ir.AttrInt64("onesided", 1))
    if needs_expansion(model.graph):
        _infer_with(model, example)
        expand(model.graph)
        common.TopologicalSortPass()(model)


def inline_holders(model: ir.Model) -> None:
    """Replace operators outside the default domain that hold graphs by their bodies, in place.

    FlexAttention's graphs become nodes of its body, as in a runtime. What they need has to be in
    them, so this comes before constants are moved to the main graph.
    """
    holders = [n for n in model.graph.all_nodes() if n.domain and any(subgraphs(n))]
    if holders:
        infer(model)
    for node in holders:
        inline_body(node, model.graph.opset_imports[""])


def _infer_with(model: ir.Model, example: Any) -> None:
    infer(model)
    if example is not None and learn(model, example):
        infer(model)


def infer(model: ir.Model) -> None:
    """Infer dtypes and shapes anew, whatever the file declares of inner values and outputs.

    Runtimes only warn of a declaration that is wrong, and files hold such. What the operands do not
    tell stays open, but for ranks that an example has told.
    """
    _infer(model)
    while any(settle(node) for node in model.graph.all_nodes()):
        _infer(model)  # the first of them alone: what follows from a wrong size may be wrong
    nodes = [n for n in model.graph.all_nodes() if misjudged(n)]
    if nodes:  # anew, with them hidden from inference: their ranks are all it is to know
        model.graph.opset_imports[HIDDEN] = 1
        for node in nodes:
            node.domain = HIDDEN
        _infer(model)
        for node in nodes:
            node.domain = ""
        del model.graph.opset_imports[HIDDEN]


def _infer(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        hidden = node.domain == HIDDEN
        if hidden or onnx_schema(node.domain, node.op_type) is not None:
            for v in (*node.outputs, *inner_states(node)):
                # Inference tells little of a sequence's elements: there the file's rank is taken.
                kept = v.shape is not None and (hidden or is_sequence(v))
                v.shape = ir.Shape([None] * len(v.shape or ())) if kept else _learnt(v)
    _infer_all(model)
    if infer_inner(model.graph):
        _infer_all(model)
    _infer_names(model.graph)


def _learnt(value: ir.Value) -> ir.Shape | None:
    """The shape of a value as far as an example has told it."""
    rank = RANK.of(value)
    return None if rank is None else ir.Shape([None] * rank)


def _infer_all(model: ir.Model) -> None:
    infer_shapes = common.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer_shapes(model)
    more = (_type_sequences, _type_own_operators, _keep_ranks, infer_states)
    while any(pass_(model.graph) for pass_ in more):
        infer_shapes(model)


def _infer_names(graph: ir.Graph) -> None:
    """Name the sizes that windows leave of named ones, and infer what follows, node by node."""
    if not any(_slides_along_names(node) for node in graph):
        return
    op, names = Builder(graph), _Names(graph)
    for node in graph:
        before = {v: dims for v in node.outputs if (dims := dims_of(v)) is not None}
        if any(subgraphs(node)) or all(
            isinstance(d, int) for dims in before.values() for d in dims
        ):
            continue
        op.infer_again(node, before)
        for v, dims in before.items():
            after = dims_of(v)
            if after is None or len(after) != len(dims):
                after = (None,) * len(dims)
            v.shape = ir.Shape([names.of(*d) for d in zip(dims, after, strict=True)])


def _slides_along_names(node: ir.Node) -> bool:
    x = node.inputs[0] if is_window(node) else None
    return x is not None and any(isinstance(d, str) for d in (dims_of(x) or ())[2:])


class _Names:
    """What stands for the names that inference made up for sizes which now have another."""

    def __init__(self, graph: ir.Graph) -> None:
        self.given = {d for v in graph.inputs for d in dims_of(v) or ()}
        self.better: dict[Dim, Dim] = {}

    def of(self, before: Dim, after: Dim) -> Dim:
        """The dimension that was `before`, if it is found to be `after`, too."""
        before = self.better.get(before, before)
        if after is None or before in self.given or isinstance(before, int):
            return before
        if before is not None and before != after:
            self.better[before] = after
        return after


def _type_sequences(graph: ir.Graph) -> bool:
    """Set the types of sequences, of which onnx_ir's pass sees the elements' dtype alone."""
    found = False
    for node in graph:
        if node.op_type == "Loop" and not node.domain:  # its states, where its body declares none
            formal = next(iter(subgraphs(node))).inputs
            for v, given in zip(formal[2:], node.inputs[2:], strict=False):
                found |= given is not None and is_sequence(given) and _make_sequence(v)
        for inner in subgraphs(node):
            found |= _type_sequences(inner)
            for v in inner.inputs:
                _forget_names(v)
        for k, v in enumerate(node.outputs):
            _forget_names(v)
            found |= _gives_sequence(node, k) and _make_sequence(v)
    return found


def _make_sequence(value: ir.Value) -> bool:
    """Let a value whose elements' dtype is known be a sequence; whether it was none before."""
    if value.dtype is None or is_sequence(value):
        return False
    value.type = ir.SequenceType(ir.TensorType(value.dtype))
    return True


def _forget_names(value: ir.Value) -> None:
    """Elements of a sequence may differ in a size that has a name."""
    if is_sequence(value) and value.shape is not None:
        value.shape = ir.Shape([d if isinstance(d, int) else None for d in value.shape])


def _gives_sequence(node: ir.Node, k: int) -> bool:
    if node.domain:
        return False
    if node.op_type in ("Loop", "If"):  # a Loop's body gives its condition first
        inner = next(iter(subgraphs(node))).outputs
        return is_sequence(inner[k + 1 if node.op_type == "Loop" else k])
    if node.op_type == "Identity" and (source := node.inputs[0]) is not None:
        return is_sequence(source)
    return _always_gives_sequence(node.op_type)


@functools.cache
def _always_gives_sequence(op_type: str) -> bool:
    schema = onnx_schema("", op_type)
    kinds = schema.outputs[0].types if schema and schema.outputs else set()
    return bool(kinds) and all(kind.startswith("seq(") for kind in kinds)


def _keep_ranks(graph: ir.Graph) -> bool:
    for node in graph.all_nodes():
        for v in node.outputs:
            forget_constant(v)  # more sizes may be known now
    kept = [keep_rank(node) for node in graph.all_nodes()]
    return any(kept)


def _type_own_operators(graph: ir.Graph) -> bool:
    """Give outputs a type where neither inference nor the file tells it.

    It is what the schema says, or without one that of the first operand; and its shape too where
    the operator is element-wise in one.
    """
    found = False
    for node in graph.all_nodes():
        entry = lookup(node.domain, node.op_type)
        source = next((v for v in node.inputs if v is not None), None)
        if entry is None or source is None or source.type is None:
            continue
        schema = onnx_schema(node.domain, node.op_type)
        for k, v in enumerate(node.outputs):
            if v.type is None:
                v.type = source.type if schema is None else _schema_type(schema, node, k)
                v.shape = source.shape if entry.broadcast and len(node.inputs) == 1 else None
                found |= v.type is not None
    return found


def _schema_type(schema: onnx.defs.OpSchema, node: ir.Node, k: int) -> ir.TypeProtocol | None:
    """The type of an output by the schema: the only one, or an operand's; None for a choice."""
    kind = schema.outputs[min(k, len(schema.outputs) - 1)].type_str
    if kind.startswith("tensor("):
        return ir.TensorType(ir.DataType[kind[len("tensor(") : -1].upper()])
    if node.op_type == "ConcatFromSequence" and (source := node.inputs[0]) is not None:
        return None if source.dtype is None else ir.TensorType(source.dtype)
    same = (v for p, v in zip(schema.inputs, node.inputs, strict=False) if p.type_str == kind)
    return next((v.type for v in same if v is not None), None)


def _forget_anonymous(value: ir.Value) -> None:
    if value.shape is not None:
        value.shape = ir.Shape(
            [
                None if str(d.value if isinstance(d, ir.SymbolicDim) else d) in _ANONYMOUS else d
                for d in value.shape
            ]
        )


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
