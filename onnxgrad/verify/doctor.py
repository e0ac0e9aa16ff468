"""What to know of a file before anything is built of it: what it is, and what can be made of it."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.declare.expansions import expandable
from onnxgrad.declare.registry import lookup
from onnxgrad.graph import io
from onnxgrad.graph.constants import draws, is_random
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.graph.facts import all_nodes, is_float
from onnxgrad.graph.maps import domain_of
from onnxgrad.graph.names import ALL, parameters
from onnxgrad.graph.schemas import joined_name, split_name
from onnxgrad.runtimes.ports import Port
from onnxgrad.runtimes.releases import first_releases
from onnxgrad.transforms.asked import float_inputs
from onnxgrad.transforms.options import Of, Traced, Wrt, spelt_out
from onnxgrad.transforms.probabilities import scores_of
from onnxgrad.verify.diagnosis import Blocked, Diagnosis, Differentiated, Weights
from onnxgrad.verify.inspect import InspectReport, OperatorRow, inspect
from onnxgrad.verify.suggestions import suggested_calls, suggested_commands

# What tells how a net was quantised, by the operators that it then has.
_QUANTISED = {
    "QDQ": {"QuantizeLinear", "DequantizeLinear"},
    "QOperator": {"ConvInteger", "MatMulInteger", "QGemm", "QLinearConv", "QLinearMatMul"},
    "dynamic": {
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat",
    },
    "4-bit": {"GatherBlockQuantized", "MatMulBnb4", "MatMulNBits"},
}
_FOUR_BITS = {ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT4E2M1}


@spelt_out
def doctor(model: Any, wrt: Wrt = None, of: Of = None, **options: Unpack[Traced]) -> Diagnosis:
    """What to know of a file before anything is built of it, in a page to read.

    It says what the file is, what can be differentiated and what stands in the way, where a
    gradient would mean nothing, which runtimes take what is written, and what to type next.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        wrt, of, straight_through, constant, example: As for `gradient`; the inputs where `wrt` is
            left out, and what their integers pick from tables where no input is in floating point.

    Returns:
        The diagnosis. `print` shows the page, `as_dict` gives it as JSON has it.

    Raises:
        ModelError: The model cannot be read or is not valid.

    Example:
        >>> print(og.doctor("models/mlp.onnx").inputs_gradient.nodes)
        {'Gemm': 3, 'Relu': 1, 'Tanh': 1}
    """
    net = io.load(model)
    embeddings = _embeddings(net)
    given = {"of": of, **options}
    asked = wrt is not None or any(one is not None and one is not False for one in given.values())
    if wrt is None and not float_inputs(net) and embeddings:
        wrt = [*embeddings.values()]
    first, inputs = _differentiated(net, wrt, given)
    second, weights = _differentiated(net, ALL, given)
    weights = _of_weights(weights, net)
    found = first or second
    nodes = [*all_nodes(net.graph), *(n for f in net.functions.values() for n in all_nodes(f))]
    beyond, quantised, through = _beyond(net, nodes), _quantised(net, nodes), None
    if quantised and (not inputs.possible or (first is not None and first.rounds)):
        _, through = _differentiated(net, wrt, {**given, "straight_through": True})
    outputs = tuple(Port.of(v) for v in net.graph.outputs)
    softmax = {v.name or "": name for v in net.graph.outputs if (name := scores_of(v))}
    diagnosis = Diagnosis(
        file=os.fspath(model) if isinstance(model, str | os.PathLike) else "",
        producer=" ".join(filter(None, [net.producer_name, net.producer_version])),
        opsets={domain_of(domain): version for domain, version in net.opset_imports.items()},
        ir_version=net.ir_version,
        nodes=len(nodes),
        inputs=tuple(Port.of(v) for v in net.graph.inputs if v.name not in net.graph.initializers),
        outputs=outputs,
        weights=_weights(net, weights),
        quantised=quantised,
        softmax=softmax,
        classes=_classes(outputs, softmax) if found and not found.unranked else "",
        embeddings=embeddings,
        random=_count(n for n in nodes if draws(n)),
        dropouts=sum(is_random(n) and not draws(n) for n in nodes),
        beyond=beyond,
        unknown=tuple(name for name in beyond if not _known(name)),
        inputs_gradient=inputs,
        weights_gradient=weights,
        unranked=found.unranked if found else (),
        straight_through=through,
        result_opset=found.opset if found else None,
        result_ir_version=found.ir_version if found else None,
        runtimes=first_releases(found.opset, found.ir_version) if found else {},
    )
    return diagnosis if asked else _advised(diagnosis)


def _advised(found: Diagnosis) -> Diagnosis:
    """The same, with what to type and to call next."""
    commands, calls = suggested_commands(found), suggested_calls(found)
    return dataclasses.replace(found, commands=commands, calls=calls)


def _differentiated(
    net: ir.Model, wrt: Wrt, options: dict[str, Any]
) -> tuple[InspectReport | None, Differentiated]:
    """What comes of it, with the report where there is one."""
    try:
        report = inspect(net, wrt, **options)
    except OnnxGradError as error:
        return None, Differentiated(error=str(error).rstrip("."))
    rows = [row for row in report if row.state == "none"]
    return report, Differentiated(
        wrt=report.wrt,
        of=report.of,
        possible=not rows and len(report.unreached) < len(report.wrt),
        nodes=_sum((row.operator, row.count) for row in report if row.state == "rule"),
        blocked=tuple(map(_blocked, sorted(rows, key=lambda row: row.lack == "type"))),
        unreached=report.unreached,
        caution=report.caution,
    )


def _sum(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in counts:
        found[name] = found.get(name, 0) + count
    return found


def _blocked(row: OperatorRow) -> Blocked:
    name = joined_name(row.domain, row.operator)
    if row.lack == "type":
        advice = "That operator comes first."
    elif row.lack == "rank":
        advice = "Pass feeds in example=, with which the net runs once."
    elif not _known(name):
        advice = f"Declare its gradient with onnxgrad.rule({name!r}, ...)."
    else:
        advice = "Name tensors that lie behind it in wrt, or before it in of."
    return Blocked(name, row.nodes, row.reason.rstrip("."), advice)


def _of_weights(found: Differentiated, net: ir.Model) -> Differentiated:
    """The same without the inputs, which `ALL` has too."""
    inputs = {v.name for v in net.graph.inputs if v.name not in net.graph.initializers}
    wrt = tuple(name for name in found.wrt if name not in inputs)
    unreached = tuple(name for name in found.unreached if name not in inputs)
    if not wrt and not found.error:
        return Differentiated(error="the model has no trainable weight")
    possible = found.possible and len(unreached) < len(wrt)
    return dataclasses.replace(found, wrt=wrt, unreached=unreached, possible=possible)


def _weights(net: ir.Model, trained: Differentiated) -> Weights:
    held = list(io.tensors(net))
    names = parameters(net)
    trainable = [ir.convenience.get_const_tensor(names[n]) for n in trained.wrt if n in names]
    return Weights(
        tensors=len(held),
        numbers=sum(t.size for t in held),
        bytes=sum(t.nbytes for t in held),
        dtypes=_sum((_dtype(t), t.nbytes) for t in sorted(held, key=_dtype)),
        files=io.bytes_by_file(net),
        trainable_tensors=len(trainable),
        trainable_numbers=sum(t.size for t in trainable if t is not None),
    )


def _dtype(tensor: ir.TensorProtocol) -> str:
    """The name of its numpy dtype; strings have none of their own."""
    return "string" if tensor.dtype == ir.DataType.STRING else tensor.dtype.numpy().name


def _quantised(net: ir.Model, nodes: Sequence[ir.Node]) -> dict[str, int]:
    """By kind, how many nodes tell that a net was quantised."""
    found = {
        kind: sum(n.op_type in operators for n in nodes) for kind, operators in _QUANTISED.items()
    }
    if found["dynamic"]:  # its products are those of the other kind
        found["QOperator"] = 0
    found["4-bit"] += sum(
        n.op_type == "DequantizeLinear" and n.inputs[0] is not None
        and n.inputs[0].dtype in _FOUR_BITS for n in nodes
    )  # fmt: skip
    return {kind: count for kind, count in found.items() if count}


def _embeddings(net: ir.Model) -> dict[str, str]:
    """By input of integers, the tensor of what its numbers pick from a table of weights."""
    tables = parameters(net)
    found: dict[str, str] = {}
    for v in net.graph.inputs:
        if is_float(v) or v.name in net.graph.initializers:
            continue
        gathered = (u.node for u in v.uses() if u.node.op_type == "Gather" and u.idx == 1)
        for node in gathered:
            if node.inputs[0] is not None and node.inputs[0].name in tables:
                found.setdefault(v.name or "", node.outputs[0].name or "")
    return found


def _classes(outputs: Sequence[Port], softmax: Collection[str]) -> str:
    """The output that seems to score classes, a Softmax before others; "" for none."""
    names = [p.name for p in outputs if _has_classes(p, softmax)]
    return next((name for name in names if name in softmax), next(iter(names), ""))


def _has_classes(output: Port, softmax: Collection[str]) -> bool:
    """Whether an output seems to give a score for each class: [N, C], C not 1."""
    shape = output.shape
    if shape is None or len(shape) != 2 or output.dtype is None or output.dtype.kind not in "fV":
        return False
    return output.name in softmax or (isinstance(shape[1], int) and shape[1] > 1)


def _count(nodes: Iterable[ir.Node]) -> dict[str, int]:
    return dict(collections.Counter(joined_name(n.domain, n.op_type) for n in nodes))


def _beyond(net: ir.Model, nodes: Sequence[ir.Node]) -> dict[str, int]:
    """The nodes of operators that neither the standard nor the model defines."""
    return _count(
        n
        for n in nodes
        if n.domain != ""
        and not domain_of(n.domain).startswith("ai.onnx")
        and n.op_identifier() not in net.functions
    )


def _known(name: str) -> bool:
    """Whether an operator has a rule here, or is replaced by others."""
    domain, op_type = split_name(name)
    entry = lookup(domain, op_type)
    return (domain, op_type) in expandable() or (entry is not None and entry.state[0] != "none")
