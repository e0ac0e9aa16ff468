"""Checks nodes against the standard, before rules or onnx's own C++ trust what they say.

`check_names` looks at names, `check_nodes` at each node alone: its operands, and the kinds and
values of its attributes. What needs ranks and sizes is in `fits`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.errors import ModelError
from onnxgrad.graph.facts import all_nodes, dims_of, inner_graphs
from onnxgrad.graph.schemas import joined_name, onnx_schema

# How many activations each direction has.
_RECURRENT = {"RNN": 1, "GRU": 2, "LSTM": 3}
WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_SCATTER = ("ScatterElements", "ScatterND")
# The words that an attribute can be; runtimes take another word for one of them, or refuse it.
_WORDS: dict[tuple[str, str], str] = {
    **{(op, "auto_pad"): "NOTSET SAME_UPPER SAME_LOWER VALID" for op in WINDOWS},
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
# Dtypes; that of a quantised output may be 0, for the one that the operands tell.
_DTYPES = {"dtype", "output_datatype", "output_dtype", "softmax_precision", "stash_type", "to"}
_NO_PAD = ("auto_pad", "")
# Operands that list sizes, places or axes of a tensor, by operator and place: onnx takes a list
# apart whose length it knows, however long it is.
_LISTS = {
    *(("ConstantOfShape", 0), ("Expand", 1), ("Pad", 1), ("Reshape", 1), ("Squeeze", 1)),
    *(("Slice", 1), ("Slice", 2), ("Slice", 3), ("Slice", 4), ("Tile", 1), ("Unsqueeze", 1)),
}
_LONGEST = 2**16
_MOST_AXES = 64  # of an array of numpy
# Operators with the operand that tells how long what they give is, and those that give as much as
# they take.
_SIZED = {"ConstantOfShape": 0, "Expand": 1, "Pad": 1, "Range": 1, "Reshape": 1, "Tile": 1}
_ALONG = {"Abs", "Add", "Cast", "Concat", "Div", "Identity", "Max", "Min", "Mod", "Mul", "Neg"}
_ALONG |= {"Sub", "Transpose", "Where"}
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
        values = [*inner.inputs, *inner.outputs]
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


def check_nodes(
    graph: ir.Graph | ir.Function, functions: Collection[ir.OperatorIdentifier]
) -> None:
    """Check the nodes of a graph and of all graphs within it.

    Args:
        graph: What holds the nodes.
        functions: The model's own; a node that calls one has not the form of an operator.

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
            if a.is_ref() and isinstance(graph, ir.Graph):
                refuse(node, f"the attribute {name!r} is one of a function, and there is none here")
            if a.type == ir.AttributeType.UNDEFINED:
                refuse(node, f"the attribute {name!r} has no type")
            if a.type == ir.AttributeType.TENSOR and not a.is_ref() and not a.value.dtype:
                refuse(node, f"the attribute {name!r} has no tensor")
        if node.op_identifier() in functions:
            continue
        version = opsets.get(node.domain, 0)
        form = _form(node.domain, node.op_type, version)
        if form is None and version and (newest := onnx_schema(node.domain, node.op_type)):
            _require_known(node, version, newest.since_version)
        if form is not None:
            _check_operands(node, form)
            _check_kinds(node, form)
            if not node.domain:
                _check_values(node)
    _check_lengths(graph)


def _require_known(node: ir.Node, version: int, since: int) -> None:
    """Refuse an operator that came later than the opset; one that is gone is for passes."""
    if version < since:
        refuse(node, f"opset {version} has no such operator yet")


def refuse(node: ir.Node, reason: str) -> NoReturn:
    """Refuse the file for what it says of a node."""
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
            refuse(node, f"it has {len(values)} {what}, not {allowed}")
    for name, v in zip(form.needed, node.inputs, strict=False):
        if v is None and name is not None:
            refuse(node, f"the input {name!r} is left out, and has to be there")


def _check_kinds(node: ir.Node, form: _Form) -> None:
    for name in form.required:
        if name not in node.attributes:
            refuse(node, f"the attribute {name} is missing")
    for name, a in node.attributes.items():
        kind = form.attributes.get(name)
        if kind is not None and a.type != kind:
            wanted = ir.AttributeType(kind).name
            refuse(node, f"the attribute {name} is of the type {wanted}, not {a.type.name}")
    if node.op_type == "Constant" and len(node.attributes) != 1:
        refuse(node, f"it has one attribute with its value, not {len(node.attributes)}")


def _check_values(node: ir.Node) -> None:
    for name, a in node.attributes.items():
        if a.is_ref():
            continue
        numbers = a.value if a.type == ir.AttributeType.INTS else []
        numbers = [a.value] if a.type == ir.AttributeType.INT else numbers
        if name in _POSITIVE and (low := [n for n in numbers if n < 1]):
            refuse(node, f"the attribute {name} is 1 or more, not {low[0]}")
        if name in _AXES and (far := [n for n in numbers if not -(2**31) <= n < 2**31]):
            refuse(node, f"the attribute {name} is an axis, not {far[0]}")
        if name in _DTYPES and (odd := [n for n in numbers if not _is_dtype(n, name)]):
            refuse(node, f"the attribute {name} is a dtype, not {odd[0]}")
        words = _WORDS.get((node.op_type, name))
        # Some exporters write auto_pad = "", which all read as NOTSET.
        if words is not None and a.value not in words.split() and (name, a.value) != _NO_PAD:
            refuse(node, f"the attribute {name} is {_or(words)}, not {a.value!r}")
    _check_lists(node)


def _check_lists(node: ir.Node) -> None:
    """Check attributes whose elements belong together."""
    if (names := attribute(node, "activations")) and node.op_type in _RECURRENT:
        both = 2 if attribute(node, "direction") == "bidirectional" else 1
        if len(names) != (count := both * _RECURRENT[node.op_type]):
            refuse(node, f"the attribute activations has {len(names)} names, not {count}")
    if (attribute(node, "batch_dims") or 0) < 0:
        refuse(node, f"the attribute batch_dims is 0 or more, not {attribute(node, 'batch_dims')}")
    mode = attribute(node, "qk_matmul_output_mode") or 0
    if not 0 <= mode <= 3:
        refuse(node, f"the attribute qk_matmul_output_mode is 0 to 3, not {mode}")
    if node.op_type == "LpNormalization" and (p := attribute(node, "p") or 2) not in (1, 2):
        refuse(node, f"the attribute p is 1 or 2, not {p}")
    if node.op_type == "DFT" and len(node.inputs) > 1 and (length := node.inputs[1]) is not None:
        held = constant_of(length)
        if held is not None and np.min(held, initial=1) < 1:
            refuse(node, f"its operand 'dft_length' is 1 or more, not {held}")
    if node.op_type == "Split":
        for name, told in (
            ("num_outputs", attribute(node, "num_outputs")),
            ("split", None if (parts := attribute(node, "split")) is None else len(parts)),
        ):
            if told is not None and told != len(node.outputs):
                refuse(
                    node,
                    f"the attribute {name} tells of {told} outputs, of which there are "
                    f"{len(node.outputs)}",
                )
    perm = attribute(node, "perm") or ()
    if sorted(perm) != list(range(len(perm))):
        refuse(node, f"the attribute perm is an order of axes, not {list(perm)}")
    if node.op_type == "Einsum" and (equation := attribute(node, "equation")) is not None:
        if not isinstance(equation, str) or _EINSUM.fullmatch(equation) is None:
            refuse(node, f"the attribute equation is no equation of einsum: {equation!r}")
        terms = equation.partition("->")[0].count(",") + 1
        if terms != len(node.inputs):
            refuse(node, f"equation {equation!r} has {terms} terms for {len(node.inputs)} inputs")


def _is_dtype(number: int, name: str) -> bool:
    least = 0 if name == "output_dtype" else 1
    return number >= least and number in ir.DataType._value2member_map_


def _check_lengths(graph: ir.Graph | ir.Function) -> None:
    """Check that lists of sizes or axes are not longer than any tensor has axes."""
    lengths: dict[ir.Value, int] = {}
    for inner in (graph, *inner_graphs(graph)):
        weights = inner.initializers.values() if isinstance(inner, ir.Graph) else ()
        for v in (*inner.inputs, *weights):
            dims = dims_of(v) or ()
            if len(dims) > _MOST_AXES:
                raise ModelError(
                    f"{v.name!r} has {len(dims)} axes, more than {_MOST_AXES}: no tensor"
                )
            lengths[v] = dims[0] if len(dims) == 1 and isinstance(dims[0], int) else 0
    for node in all_nodes(graph):
        place = _SIZED.get(node.op_type)
        sizes = None if place is None or len(node.inputs) <= place else node.inputs[place]
        held = None if sizes is None else ir.convenience.get_const_tensor(sizes)
        if held is not None and held.dtype == ir.DataType.INT64 and held.size in (1, 2):
            lengths[node.outputs[0]] = int(held.numpy().max())
    waiting = [v for v, n in lengths.items() if n > _LONGEST]
    seen = set(waiting)
    while waiting:
        for node, k in (v := waiting.pop()).uses():
            if not node.domain and (node.op_type, k) in _LISTS:
                refuse(node, f"its operand {v.name!r} lists more than {_LONGEST} numbers")
            if node.op_type in _ALONG and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])


def _or(words: str) -> str:
    *first, last = words.split()
    return f"{', '.join(first)} or {last}"


def attribute(node: ir.Node, name: str) -> Any:
    """The value of an attribute; None where the node has none, or a function's caller tells it."""
    a = node.attributes.get(name)
    return None if a is None or a.is_ref() else a.value
