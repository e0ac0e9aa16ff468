"""The opset of a result: as old as its nodes allow, so that older runtimes take it.

Rules see nets raised to `opsets.FLOOR`. But hardly a node needs that opset: most operators have
changed only in the dtypes that they take, or by an attribute that nobody sets. So each node is
taken back, opset by opset, as far as it means the same there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of, is_random
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import all_nodes, dims_of, inner_graphs
from onnxgrad.graph.marks import READ_AS
from onnxgrad.graph.schemas import onnx_schema

# The opset of results of older nets: no operator that rules emit needs more.
USUAL = 18
# The oldest that can be asked for: before it Softmax, ReduceSum and Squeeze were others.
OLDEST = 13
# The newest whose random operators onnxruntime 1.32 runs: it has no kernels for those of opset 22.
_RANDOM = 21

# Operators that have the same form in the opset before this one, and another meaning.
_CHANGED = {("GroupNormalization", 21), ("RoiAlign", 16)}
# Values of attributes that the opset before does not have.
_NEW_VALUES = {
    ("Pad", 19): {"wrap"},
    ("Resize", 19): {"half_pixel_symmetric"},
    ("ScatterElements", 18): {"max", "min"},
    ("ScatterND", 18): {"max", "min"},
}


class Form(NamedTuple):
    """How a node is written in some opset."""

    node: ir.Node
    inputs: list[ir.Value | None]
    attributes: dict[str, ir.Attr]

    def constant(self, k: int) -> list[int] | None:
        """The numbers of an operand, if they are known; none for one that is absent."""
        v = self.inputs[k] if k < len(self.inputs) else None
        array = None if v is None else constant_of(v)
        return [int(n) for n in array.ravel()] if array is not None else None if v else []


# By operator and the opset that changed it: the form before, or None.
_FORMS: dict[tuple[str, int], Callable[[Form], Form | None]] = {}

F = Callable[[Form], Form | None]


def _form(since: int, *op_types: str) -> Callable[[F], F]:
    """Register how a node is written before opset `since`."""

    def register(function: F) -> F:
        _FORMS.update(dict.fromkeys(((op_type, since) for op_type in op_types), function))
        return function

    return register


def require_opset(opset: int) -> None:
    """Check that results can be written in an opset.

    Raises:
        ArgumentError: They cannot.
    """
    newest = onnx.defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST <= opset <= newest:
        raise ArgumentError(f"opset is a number from {OLDEST} to {newest}, not {opset!r}")


def write_opset(model: ir.Model, asked: int | None = None) -> None:
    """Write a model in the opset that was asked for, or in an old one, in place.

    That is the opset of the file that the model was read from, but at least `USUAL`, and `_RANDOM`
    where numbers are drawn; or the least that all nodes allow. The IR version is the oldest that
    has this opset.

    Raises:
        ArgumentError: A node is not possible in the opset that was asked for.
    """
    now, own = model.graph.opset_imports.get(""), READ_AS.of(model)
    if now is None or (own is None and asked is None):
        return
    wanted = min(now, asked or max(own or 0, USUAL))
    holders: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    plain = [n for holder in holders for n in all_nodes(holder) if not n.domain]
    if asked is None and any(is_random(n) and n.op_type != "Dropout" for n in plain):
        wanted = min(wanted, _RANDOM)
    changed = [n for n in plain if (_since(n.op_type, now) or 0) > wanted]
    least = {node: _least(node, now, wanted) for node in changed}
    opset = max(least.values(), default=wanted)
    if asked is not None and opset > asked:
        node = next(n for n in changed if least[n] == opset)
        raise ArgumentError(
            f"opset={asked}: {node.op_type}, node {node.name!r}, needs opset {opset}: ask for that "
            "or a newer one"
        )
    for node in changed:
        if (form := _at(node, now, opset)) is not None:
            dropped = node.inputs[len(form.inputs) :]
            node.resize_inputs(len(form.inputs))
            node.attributes.clear()
            node.attributes.update(form.attributes)
            for v in dropped:
                drop_unused(v)
    for holder in holders:
        for graph in (holder, *inner_graphs(holder)):
            if "" in graph.opset_imports:
                graph.opset_imports[""] = opset
    imports = [onnx.helper.make_opsetid(d, v) for d, v in model.graph.opset_imports.items()]
    least_ir = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    model.ir_version = max(least_ir, 8 if model.functions else least_ir)


def drop_unused(value: ir.Value | None) -> None:
    """Remove a constant that has just lost a use, if that was the last one."""
    if value is None or value.uses() or not value.is_initializer():
        return
    if value.graph is not None and not (value.is_graph_input() or value.is_graph_output()):
        del value.graph.initializers[value.name or ""]


def _least(node: ir.Node, now: int, wanted: int) -> int:
    """The oldest opset from `wanted` on in which a node can be written."""
    form, version = Form(node, list(node.inputs), dict(node.attributes)), now
    while (since := _since(node.op_type, version)) is not None and since > wanted:
        before = _before(form, since)
        if before is None:
            return since
        form, version = before, since - 1
    return wanted


def _at(node: ir.Node, now: int, opset: int) -> Form | None:
    """How a node is written in an opset; None if as it is."""
    form: Form | None = Form(node, list(node.inputs), dict(node.attributes))
    version = now
    while form and (since := _since(node.op_type, version)) is not None and since > opset:
        form, version = _before(form, since), since - 1
    return None if version == now else form


def _since(op_type: str, version: int) -> int | None:
    schema = onnx_schema("", op_type, version)
    return None if schema is None else schema.since_version


def _before(form: Form, since: int) -> Form | None:
    """The form before the opset that changed an operator; None if there is none."""
    op_type = form.node.op_type
    old, new = onnx_schema("", op_type, since - 1), onnx_schema("", op_type, since)
    if old is None or new is None or (op_type, since) in _CHANGED:
        return None
    values = _NEW_VALUES.get((op_type, since), set())
    strings = (a.as_string() for a in form.attributes.values() if a.type == ir.AttributeType.STRING)
    if not values.isdisjoint(strings) or not _has_types(form.node, op_type, since - 1):
        return None
    special = _FORMS.get((op_type, since))
    changed = form if special is None else special(form)
    if changed is None:
        return None
    inputs = list(changed.inputs)
    while inputs and inputs[-1] is None and len(inputs) > old.min_input:
        inputs.pop()
    if not old.min_input <= len(inputs) <= old.max_input:
        return None
    kept = {}
    for name, a in changed.attributes.items():
        if name in old.attributes:
            kept[name] = a
        elif not _is_default(a, new):
            return None
    return Form(form.node, inputs, kept)


def _is_default(attribute: ir.Attr, schema: onnx.defs.OpSchema) -> bool:
    """Whether an attribute that is set says what it would say unset."""
    if attribute.name not in schema.attributes:
        return False
    default: Any = schema.attributes[attribute.name].default_value
    return default.type != 0 and bool(
        ir.serde.deserialize_attribute(default).value == attribute.value
    )


def _has_types(node: ir.Node, op_type: str, version: int) -> bool:
    """Whether an operator takes and gives the types of a node in an opset."""
    for side, values in (("inputs", node.inputs), ("outputs", node.outputs)):
        for k, v in enumerate(values):
            name = None if v is None else _type_name(v.type)
            allowed = _types(op_type, version, side, k)
            if name is not None and allowed and name not in allowed:
                return False
    return True


@functools.cache
def _types(op_type: str, version: int, side: str, k: int) -> frozenset[str]:
    formal = getattr(onnx_schema("", op_type, version), side)
    return frozenset(formal[min(k, len(formal) - 1)].types) if formal else frozenset()


def _type_name(kind: ir.TypeProtocol | None) -> str | None:
    """A type as schemas write it; None for one that they write otherwise or that is not known."""
    if isinstance(kind, ir.TensorType):
        return f"tensor({kind.dtype.name.lower()})"
    inner = _type_name(kind.elem_type) if isinstance(kind, ir.SequenceType) else None
    return f"seq({inner})" if inner else None


# -- operators that were written otherwise ---------------------------------------------------------


@_form(20, "GridSample")
def _interpolations(form: Form) -> Form | None:
    """The modes of images had names of their own."""
    x = form.inputs[0]
    if x is None or len(dims_of(x) or ()) != 4:
        return None
    mode = form.attributes.get("mode")
    name = "linear" if mode is None else mode.as_string()
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(name, name)
    return form._replace(attributes={**form.attributes, "mode": ir.AttrString("mode", name)})


@_form(20, "DFT")
def _transformed_axis(form: Form) -> Form | None:
    """The axis was an attribute, with another default."""
    given = form.constant(2)
    if given is None:
        return None
    axis = ir.AttrInt64("axis", given[0] if given else -2)
    return form._replace(inputs=form.inputs[:2], attributes={**form.attributes, "axis": axis})


@_form(
    18,
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
def _reduced_axes(form: Form) -> Form | None:
    """The axes were an attribute, and over no axes was over all."""
    axes, idle = form.constant(1), form.attributes.get("noop_with_empty_axes")
    if axes is None or (not axes and idle is not None and idle.as_int()):
        return None
    kept = {n: a for n, a in form.attributes.items() if n != "noop_with_empty_axes"}
    if axes:
        kept["axes"] = ir.AttrInt64s("axes", axes)
    return form._replace(inputs=form.inputs[:1], attributes=kept)


@_form(18, "Split")
def _equal_parts(form: Form) -> Form | None:
    """The number of parts was that of the outputs, and the parts were equal."""
    number, x = form.attributes.get("num_outputs"), form.inputs[0]
    if number is None:
        return form
    axis = form.attributes["axis"].as_int() if "axis" in form.attributes else 0
    size = (dims_of(x) or (None,))[axis] if x is not None and dims_of(x) else None
    if not isinstance(size, int) or size % number.as_int():
        return None
    kept = {n: a for n, a in form.attributes.items() if n != "num_outputs"}
    return form._replace(attributes=kept)
