"""Maps, the values that classical classifiers give (ZipMap), for which onnx_ir has no type.

No gradient flows through a map. So a node that takes or gives one is hidden: it gets a domain of
its own, where inference and rules leave it alone. Inputs and outputs of the model that are maps,
or hold some, become sequences of strings. `show` restores both before a model is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import onnx
import onnx.inliner
import onnx_ir as ir
from google.protobuf.message import Message

from onnxgrad.graph.protos import walk

# The domain of a hidden node begins with this.
_HIDDEN = "onnxgrad.maps:"
# The property of the model that holds the types of its inputs and outputs, by name.
_TYPES = "onnxgrad.maps"
_STAND_IN = onnx.helper.make_sequence_type_proto(
    onnx.helper.make_tensor_type_proto(onnx.TensorProto.STRING, None)
)
_OPERATORS = {("ai.onnx.ml", op_type) for op_type in ("ZipMap", "DictVectorizer", "CastMap")}


def has_maps(messages: Iterable[Message]) -> bool:
    """Whether a value of one of them is a map, or holds one."""
    return any(
        (message.domain, message.op_type) in _OPERATORS
        if isinstance(message, onnx.NodeProto)
        else isinstance(message, onnx.GraphProto) and any(map(_is_map, _declared(message)))
        for message in messages
    )


def hide(proto: onnx.ModelProto) -> None:
    """Hide the maps of a model, in place."""
    if giving := _functions_with_maps(proto):  # a call of such a function can give a map too
        proto.CopyFrom(onnx.inliner.inline_selected_functions(proto, giving))
    _declare(proto)
    graphs = [m for m in walk(proto) if isinstance(m, onnx.GraphProto)]
    maps = {v.name for graph in graphs for v in _declared(graph) if _is_map(v)}
    nodes = [node for graph in graphs for node in graph.node]
    hidden = [n for n in nodes if _touches(n, maps)]
    imports = {entry.domain: entry.version for entry in proto.opset_import}
    for domain in sorted({node.domain for node in hidden}):
        proto.opset_import.add(domain=_HIDDEN + domain, version=imports.get(domain, 1))
    for node in hidden:
        node.domain = _HIDDEN + node.domain
    ports = [v for v in (*proto.graph.input, *proto.graph.output) if _is_map(v)]
    types = {v.name: v.type.SerializeToString().hex() for v in ports}
    proto.metadata_props.add(key=_TYPES, value=json.dumps(types))
    for graph in graphs:
        for value in filter(_is_map, _declared(graph)):
            value.ClearField("type")
    for value in ports:
        value.type.CopyFrom(_STAND_IN)


def hides(model: ir.Model) -> bool:
    """Whether a model hides maps."""
    return _TYPES in model.metadata_props


def domain_of(domain: str) -> str:
    """The domain of an operator as the file has it, of a hidden one too."""
    return domain.removeprefix(_HIDDEN)


def source_of(value: ir.Value) -> str | None:
    """The name of the tensor that the maps of a value are made of, where its node makes them."""
    node = value.producer()
    made = node is not None and node.domain.startswith(_HIDDEN) and node.op_type == "ZipMap"
    return node.inputs[0].name if made and node.inputs and node.inputs[0] else None  # type: ignore[union-attr]


def show(proto: onnx.ModelProto) -> None:
    """Show the maps of a model that were hidden, in place."""
    kept = next(p for p in proto.metadata_props if p.key == _TYPES)
    types = json.loads(kept.value)
    proto.metadata_props.remove(kept)
    known = {entry.domain for entry in proto.opset_import}
    for entry in [e for e in proto.opset_import if e.domain.startswith(_HIDDEN)]:
        entry.domain = entry.domain.removeprefix(_HIDDEN)
        if entry.domain in known:
            proto.opset_import.remove(entry)
    for message in walk(proto):
        if isinstance(message, onnx.NodeProto):
            message.domain = message.domain.removeprefix(_HIDDEN)
    for value in _declared(proto.graph):
        if value.name in types:
            value.type.ParseFromString(bytes.fromhex(types[value.name]))


def _functions_with_maps(proto: onnx.ModelProto) -> list[tuple[str, str]]:
    """The functions that hold an operator of maps, or call one that does."""
    operators = {
        (f.domain, f.name): {
            (m.domain, m.op_type) for m in walk(f) if isinstance(m, onnx.NodeProto)
        }
        for f in proto.functions
    }
    known = set(_OPERATORS)
    while more := {key for key, used in operators.items() if used & known} - known:
        known |= more
    return sorted(known - _OPERATORS)


def _declare(proto: onnx.ModelProto) -> None:
    """Declare all types that inference finds, so that the outputs of hidden nodes keep theirs."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except Exception:  # onnx's errors share no base class; the file's declarations have to do
        return
    declared = {value.name for value in _declared(proto.graph) if value.HasField("type")}
    proto.graph.value_info.extend(v for v in inferred.graph.value_info if v.name not in declared)


def _declared(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    return [*graph.input, *graph.output, *graph.value_info]


def _touches(node: onnx.NodeProto, maps: set[str]) -> bool:
    return (node.domain, node.op_type) in _OPERATORS or any(
        name in maps for name in (*node.input, *node.output)
    )


def _is_map(value: onnx.ValueInfoProto) -> bool:
    kind = value.type
    while (holder := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, holder).elem_type
    return holder == "map_type"
