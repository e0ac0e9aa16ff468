"""Checks nodes against the standard, before rules or onnx's own C++ trust what they say.

`check_names` looks at names, `check_nodes` at each node alone: its operands, and the kinds and
values of its attributes. `check_axes` looks at axes and windows once ranks are known.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import all_nodes, dims_of, inner_graphs
from onnxgrad.graph.schemas import joined_name, onnx_schema, schema_of

# How many activations each direction has.
_RECURRENT = {"RNN": 1, "GRU": 2, "LSTM": 3}
_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_SCATTER = ("ScatterElements", "ScatterND")
# The words that an attribute can be; runtimes take another word for one of them, or refuse it.
_WORDS: dict[tuple[str, str], str] = {
    **{(op, "auto_pad"): "NOTSET SAME_UPPER SAME_LOWER VALID" for op in _WINDOWS},
    **{(op, "direction"): "forward reverse bidirectional" for op in _RECURRENT},
    **{(op, "reduction"): "none add mul max min" for op in _SCATTER},
    ("SoftmaxCrossEntropyLoss", "reduction"): "none mean sum",
    ("NegativeLogLikelihoodLoss", "reduction"): "none mean sum",
    ("BitShift", "direction"): "LEFT RIGHT",
    ("DepthToSpace", "mode"): "DCR CRD",
    ("Gelu", "approximate"): "none tanh",
    ("GridSample", "mode"): "linear bilinear nearest cubic bicubic",
    ("GridSample", "padding_mode"): "zeros border reflection",
    ("Pad", "mode"): "constant reflect edge wrap",
    ("Resize", "mode"): "nearest linear cubic",
    ("Resize", "keep_aspect_ratio_policy"): "stretch not_larger not_smaller",
    ("Resize", "nearest_mode"): "round_prefer_floor round_prefer_ceil floor ceil",
    ("Resize", "coordinate_transformation_mode"): "half_pixel half_pixel_symmetric "
    "pytorch_half_pixel align_corners asymmetric tf_half_pixel_for_nn tf_crop_and_resize",
    ("RoiAlign", "mode"): "avg max",
    ("RoiAlign", "coordinate_transformation_mode"): "half_pixel output_half_pixel",
}
# Counts and sizes, of which there is at least one.
_POSITIVE = {
    "blocksize",
    "dilations",
    "group",
    "hidden_size",
    "kernel_shape",
    "num_groups",
    "num_outputs",
    "offset_group",
    "output_height",
    "output_width",
    "p",
    "strides",
}
# Axes count the dimensions of a tensor: onnx keeps them in 32 bits and crashes beyond.
_AXES = {"axes", "axis", "batch_axis", "batch_dims", "perm", "time_axis"}
# Operators whose attribute is an axis of the first operand, counted from either end.
_WITHIN = {
    "ArgMax",
    "ArgMin",
    "Compress",
    "Concat",
    "Gather",
    "GatherElements",
    "Hardmax",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "RMSNormalization",
    "ScatterElements",
    "Softmax",
    "Split",
    "SplitToSequence",
    "TopK",
}
_NO_PAD = ("auto_pad", "")
# What onnx reads of Einsum; it never ends at another character.
_EINSUM = re.compile(r"[A-Za-z ,.]*(->[A-Za-z .]*)?")
_Kind = onnx.defs.OpSchema.FormalParameterOption


@dataclass(frozen=True)
class _Form:
    """What the standard says of every node of an operator.

    Attributes:
        needed: The names of the operands that have to be there, None for others.
        inputs, outputs: The least and the most of both.
        attributes: Their kinds by name, and which of them have to be there.
    """

    needed: tuple[str | None, ...]
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    required: tuple[str, ...]


@functools.cache
def _form(domain: str, op_type: str, version: int) -> _Form | None:
    s = onnx_schema(domain, op_type, version)
    if s is None:
        return None
    return _Form(
        tuple(p.name if p.option == _Kind.Single else None for p in s.inputs),
        (s.min_input, s.max_input),
        (s.min_output, s.max_output),
        # onnx's stubs leave out the numbers of its enumerations.
        {name: a.type.value for name, a in s.attributes.items()},  # type: ignore[attr-defined]
        tuple(name for name, a in s.attributes.items() if a.required),
    )


def check_names(graph: ir.Graph | ir.Function) -> None:
    """Check that the names in a graph and in all graphs within it are UTF-8.

    Raises:
        ModelError: A name is not.
    """
    for inner in (graph, *inner_graphs(graph)):
        values = [*inner.inputs]
        if isinstance(inner, ir.Graph):
            values += inner.initializers.values()
        _require_utf8([v.name for v in values])
    for node in all_nodes(graph):
        _require_utf8([node.name, node.op_type, node.domain, node.overload, *node.attributes])
        _require_utf8([v.name for v in (*node.inputs, *node.outputs) if v is not None])


def _require_utf8(names: Iterable[object]) -> None:
    for name in names:
        if isinstance(name, bytes):  # protobuf gives them as they are
            raise ModelError(f"The model holds the name {name!r}, which is not UTF-8: rename it.")


def check_nodes(graph: ir.Graph | ir.Function) -> None:
    """Check the nodes of a graph and of all graphs within it.

    Raises:
        ModelError: A node has too few or too many operands, or an attribute of another kind or
            value than the standard allows; the message names the node and the attribute.
    """
    opsets = graph.opset_imports
    for domain, version in opsets.items():
        if not 0 < version < 2**31:
            raise ModelError(f"The model is of opset {version} of the domain {domain!r}: no such.")
    for node in all_nodes(graph):
        for name, a in node.attributes.items():
            if a.type == ir.AttributeType.UNDEFINED:
                _refuse(node, f"the attribute {name!r} has no type")
            if a.type == ir.AttributeType.TENSOR and not a.is_ref() and not a.value.dtype:
                _refuse(node, f"the attribute {name!r} has no tensor")
        form = _form(node.domain, node.op_type, opsets.get(node.domain, 0))
        if form is not None:
            _check_operands(node, form)
            _check_kinds(node, form)
            if not node.domain:
                _check_values(node)


def _refuse(node: ir.Node, reason: str) -> NoReturn:
    name = joined_name(node.domain, node.op_type)
    raise ModelError(
        f"operator {name}, node {node.name!r}: {reason}. The file is not valid; export it anew"
    )


def _check_operands(node: ir.Node, form: _Form) -> None:
    for what, values, (least, most) in (
        ("inputs", node.inputs, form.inputs),
        ("outputs", node.outputs, form.outputs),
    ):
        if not least <= len(values) <= most:
            allowed = str(least) if least == most else f"{least} to {most}"
            _refuse(node, f"it has {len(values)} {what}, not {allowed}")
    for name, v in zip(form.needed, node.inputs, strict=False):
        if v is None and name is not None:
            _refuse(node, f"the input {name!r} is left out, and has to be there")


def _check_kinds(node: ir.Node, form: _Form) -> None:
    for name in form.required:
        if name not in node.attributes:
            _refuse(node, f"the attribute {name} is missing")
    for name, a in node.attributes.items():
        kind = form.attributes.get(name)
        if kind is not None and a.type != kind:
            wanted = ir.AttributeType(kind).name
            _refuse(node, f"the attribute {name} is of the type {wanted}, not {a.type.name}")
    if node.op_type == "Constant" and len(node.attributes) != 1:
        _refuse(node, f"it has one attribute with its value, not {len(node.attributes)}")


def _check_values(node: ir.Node) -> None:
    for name, a in node.attributes.items():
        if a.is_ref():
            continue
        numbers = a.value if a.type == ir.AttributeType.INTS else []
        numbers = [a.value] if a.type == ir.AttributeType.INT else numbers
        if name in _POSITIVE and (low := [n for n in numbers if n < 1]):
            _refuse(node, f"the attribute {name} is 1 or more, not {low[0]}")
        if name in _AXES and (far := [n for n in numbers if not -(2**31) <= n < 2**31]):
            _refuse(node, f"the attribute {name} is an axis, not {far[0]}")
        words = _WORDS.get((node.op_type, name))
        # Some exporters write auto_pad = "", which all read as NOTSET.
        if words is not None and a.value not in words.split() and (name, a.value) != _NO_PAD:
            _refuse(node, f"the attribute {name} is {_or(words)}, not {a.value!r}")
    _check_lists(node)


def _check_lists(node: ir.Node) -> None:
    """Check attributes whose elements belong together."""
    if (names := _value(node, "activations")) and node.op_type in _RECURRENT:
        both = 2 if _value(node, "direction") == "bidirectional" else 1
        if len(names) != (count := both * _RECURRENT[node.op_type]):
            _refuse(node, f"the attribute activations has {len(names)} names, not {count}")
    if (_value(node, "batch_dims") or 0) < 0:
        _refuse(node, f"the attribute batch_dims is 0 or more, not {_value(node, 'batch_dims')}")
    mode = _value(node, "qk_matmul_output_mode") or 0
    if not 0 <= mode <= 3:
        _refuse(node, f"the attribute qk_matmul_output_mode is 0 to 3, not {mode}")
    if node.op_type == "LpNormalization" and (p := _value(node, "p") or 2) not in (1, 2):
        _refuse(node, f"the attribute p is 1 or 2, not {p}")
    if node.op_type == "DFT" and len(node.inputs) > 1 and (length := node.inputs[1]) is not None:
        held = constant_of(length)
        if held is not None and np.min(held, initial=1) < 1:
            _refuse(node, f"its operand 'dft_length' is 1 or more, not {held}")
    if node.op_type == "Split":
        for name, told in (
            ("num_outputs", _value(node, "num_outputs")),
            ("split", None if (parts := _value(node, "split")) is None else len(parts)),
        ):
            if told is not None and told != len(node.outputs):
                _refuse(
                    node,
                    f"the attribute {name} tells of {told} outputs, of which there are "
                    f"{len(node.outputs)}",
                )
    perm = _value(node, "perm") or ()
    if sorted(perm) != list(range(len(perm))):
        _refuse(node, f"the attribute perm is an order of axes, not {list(perm)}")
    if node.op_type == "Einsum" and (equation := _value(node, "equation")) is not None:
        if not isinstance(equation, str) or _EINSUM.fullmatch(equation) is None:
            _refuse(node, f"the attribute equation is no equation of einsum: {equation!r}")
        terms = equation.partition("->")[0].count(",") + 1
        if terms != len(node.inputs):
            _refuse(node, f"equation {equation!r} has {terms} terms for {len(node.inputs)} inputs")


def _or(words: str) -> str:
    *first, last = words.split()
    return f"{', '.join(first)} or {last}"


def _value(node: ir.Node, name: str) -> Any:
    a = node.attributes.get(name)
    return None if a is None or a.is_ref() else a.value


def check_axes(nodes: Iterable[ir.Node]) -> None:
    """Check axes and windows against the ranks of operands, as far as they are known.

    Raises:
        ModelError: An axis is out of range, or a window is of other axes than its operand; the
            message names the node and the attribute or operand.
    """
    for node in nodes:
        dims = None if not node.inputs or node.inputs[0] is None else dims_of(node.inputs[0])
        if node.domain or dims is None:
            continue
        rank = len(dims)
        if (axis := _value(node, "axis")) is not None:
            if node.op_type in _WITHIN:
                _require_axes(node, "the attribute axis", [axis], rank)
            if node.op_type in ("Flatten", "OneHot") and not -rank - 1 <= axis <= rank:
                _refuse(node, f"the attribute axis is {axis}, and the operand has {rank} axes")
        for what, axes in _constant_axes(node):
            more = len(axes) if node.op_type == "Unsqueeze" else 0
            _require_axes(node, what, axes, rank + more)
        if (perm := _value(node, "perm")) is not None and len(perm) != rank:
            _refuse(node, f"the attribute perm has {len(perm)} axes, and the operand {rank}")
        if node.op_type in _WINDOWS:
            _check_window(node, rank - 2)
        if node.op_type == "Attention":
            _check_heads(node)


def _constant_axes(node: ir.Node) -> Iterable[tuple[str, Sequence[int]]]:
    """The axes that operands tell, with how to call them."""
    schema = schema_of("", node.op_type)
    for name, v in zip(schema.inputs if schema else (), node.inputs, strict=False):
        if name in ("axes", "axis") and v is not None and (held := constant_of(v)) is not None:
            if held.dtype.kind not in "iu":
                _refuse(node, f"its operand {name!r} is {held.dtype}, not an integer")
            yield f"its operand {name!r}", [int(k) for k in held.flat]


def _require_axes(node: ir.Node, what: str, axes: Sequence[int], rank: int) -> None:
    for axis in axes:
        if not -rank <= axis < max(rank, 1):  # a scalar may be told its axis 0
            _refuse(node, f"{what} is {axis}, which is none of {rank} axes")


def _check_heads(node: ir.Node) -> None:
    ranks = [len(dims) for v in node.inputs[:3] if v is not None and (dims := dims_of(v))]
    if len(set(ranks)) > 1 or ranks[0] not in (3, 4):
        _refuse(node, f"Q, K and V have 3 axes or 4, all as many, not {ranks}")
    for name in ("q_num_heads", "kv_num_heads"):
        if ranks[0] == 3 and (_value(node, name) or 0) < 1:
            _refuse(node, f"the attribute {name} is 1 or more for operands of 3 axes")


def _check_window(node: ir.Node, spatial: int) -> None:
    weight = node.inputs[1] if node.op_type.startswith("Conv") else None
    kernel = _value(node, "kernel_shape")
    if spatial < 1:
        _refuse(node, f"its operand has {spatial + 2} axes, fewer than a batch of channels")
    for name in ("kernel_shape", "strides", "dilations", "pads"):
        found = _value(node, name)
        wanted = spatial * (2 if name == "pads" else 1)
        if found is not None and len(found) != wanted:
            _refuse(node, f"the attribute {name} has {len(found)} numbers, not {wanted}")
    if weight is not None and (its := dims_of(weight)) is not None:
        if len(its) != spatial + 2:
            _refuse(node, f"its weight has {len(its)} axes, and its operand {spatial + 2}")
        sizes = its[2:]
        if kernel and any(
            isinstance(s, int) and s != k for s, k in zip(sizes, kernel, strict=True)
        ):
            _refuse(
                node, f"the attribute kernel_shape is {list(kernel)}, the weight's {list(sizes)}"
            )
