"""Reads and writes models, and the weights that lie beside them in files of their own.

Inside the package a model is always an `onnx_ir.Model`. `load` makes a private one from whatever
the caller has, `like` turns a result back into the caller's kind, `save` writes a file whole or
not at all.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from onnxgrad.graph import maps, protos
from onnxgrad.graph.data import embedded, place_data, referred, remove_unused, view, write_data
from onnxgrad.graph.errors import ArgumentError, ModelError, SaveError
from onnxgrad.graph.facts import inner_graphs
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.holders import check_sources, own_outputs, put_in_order
from onnxgrad.graph.marks import READ_AS
from onnxgrad.graph.message import Data, read
from onnxgrad.graph.nodes import check_names, check_nodes
from onnxgrad.graph.stage import root, staged

# Bytes have the content of a model's file.
ModelLike: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model
# What a written model does with weights that lie in files.
External: TypeAlias = Literal["refer", "copy"]


def load(model: ModelLike) -> ir.Model:
    """A private copy of the model's structure, which shares the data of its weights.

    Args:
        model: A path, a model in memory with its weights, the bytes of one, or an `onnx_ir.Model`.
            It is never changed, whatever is done to the result.

    Returns:
        The model. Weights in external files are mapped into memory when they are used.

    Raises:
        ModelError: The file is missing, truncated or not ONNX; a weight's file is missing, too
            short, or outside the model's folder; a `ModelProto` came without its external weights;
            a node takes a tensor that nothing gives or that follows from it, or is not of its
            operator's form.
    """
    private = _load(model)
    holders: list[ir.Graph | ir.Function] = [private.graph, *private.functions.values()]
    for holder in holders:
        check_names(holder)
    check_sources(private.graph)
    put_in_order(private.graph)
    for holder in holders:
        check_nodes(holder, private.functions)
    own_outputs(private)
    READ_AS.set(private, private.graph.opset_imports.get("", 0))
    return private


def _load(model: ModelLike) -> ir.Model:
    if isinstance(model, ir.Model):
        return _load_ir(model)
    if isinstance(model, bytes | bytearray | memoryview):
        return _load_bytes(bytes(model))
    if isinstance(model, onnx.ModelProto):
        return _load_proto(model)
    return _load_path(model)


def like(result: ir.Model, original: ModelLike) -> onnx.ModelProto | ir.Model:
    """`result` as the kind of model that `original` is; a path gives a `ModelProto` with weights.

    Where these take more than a `ModelProto` can hold (2 GB), a path gives an `onnx_ir.Model`,
    whose weights stay in their files.

    Raises:
        ModelError: The weights of a model in memory do not fit into a `ModelProto`.
    """
    large = weight_bytes(result) > protos.LIMIT
    if isinstance(original, ir.Model) or (large and isinstance(original, str | os.PathLike)):
        return result
    replace_tensors(result, embedded)
    if large:
        raise ModelError(
            "The weights take more than 2 GB, which a ModelProto cannot hold. Give an "
            "onnx_ir.Model (onnx_ir.load(path)) and write the result with onnxgrad.save."
        )
    return to_proto(result)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The message of a model, with all that was hidden from onnx_ir when it was read."""
    proto = ir.to_proto(model)
    if maps.hides(model):
        maps.show(proto)
    return proto


def writable(path: str | os.PathLike[str]) -> str:
    """The whole path of a file to write.

    Raises:
        ArgumentError: It is no path.
        SaveError: There is no such folder, or the path is one.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(
            f"The place to write to is a path, not {type(path).__name__}: save(model, path)."
        )
    path = os.path.realpath(os.fspath(path))  # through a link, not over it
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SaveError(f"Cannot write {path!r}: there is no folder {folder!r}.")
    if os.path.isdir(path):
        raise SaveError(f"Cannot write {path!r}: it is a folder.")
    return path


def require_apart(
    model: object, files: set[str], paths: Iterable[str | os.PathLike[str]], what: str
) -> None:
    """Check that files to write are neither a model nor what it refers to.

    Args:
        model: The model as it was given, which may be a path.
        files: The files of its weights.
        paths: Where to write.
        what: What is written there, for the message.

    Raises:
        SaveError: One of them is.
    """
    own = {os.path.realpath(model)} if isinstance(model, str | os.PathLike) else set()
    for path in paths:
        if os.path.realpath(path) in own | files:
            kind = "the model itself" if os.path.realpath(path) in own else "the model's weights"
            raise SaveError(
                f"Cannot write {what} to {os.fspath(path)!r}: it is {kind}, which would be lost. "
                "Write elsewhere."
            )


@guarded
def save(
    model: onnx.ModelProto | ir.Model,
    path: str | os.PathLike[str],
    *,
    external: External | None = None,
    external_data: bool = False,
) -> None:
    """Write a model file, whole or not at all. An existing file is replaced at once.

    Args:
        model: The model; it is not changed.
        path: Where to write. The suffix decides the format as `onnx.save` does (.onnx, .json, ...).
        external: "copy" to write weights of 1 KiB and more beside the model, to
            `<name>.<digits>.data`. The digits tell the content, so that a model never reads other
            weights than its own, however many write at once. Such files of `name` that no file in
            the folder refers to any more are removed; no other file is.
            "refer" to leave weights in the files where they lie, which have to be in the folder of
            `path`; they belong to several models then. Other weights become part of the file.
            None for one file with all weights; if these take more than 2 GB, for "refer" where
            they lie in that folder, and "copy" of the others.
        external_data: The same as ``external="copy"``.

    Raises:
        ArgumentError: `path` is no path, or `external` another word.
        SaveError: The folder is missing or cannot be written, or the disk is full; or weights to
            refer to lie elsewhere.
        ModelError: The model cannot be read, as in `load`.

    Example:
        >>> og.save(og.gradient("models/mlp.onnx"), "gradient.onnx")
    """
    if external not in (None, *get_args(External)):
        raise ArgumentError(f'external is "refer", "copy" or None, not {external!r}')
    external = external or ("copy" if external_data else None)
    path = writable(path)
    folder, name = os.path.split(path)
    private = load(model)
    read = data_files(private)
    refers = external == "refer" or (external is None and weight_bytes(private) > protos.LIMIT)
    replace_tensors(private, referred(folder, strict=external == "refer") if refers else embedded)
    with staged(folder, path) as stage:
        if external == "copy" or bytes_by_file(private).get("", 0) > protos.LIMIT:
            write_data([private], stage, name)
        write(private, stage / name)
        for file in [*stage.iterdir()]:
            if file.name != name:
                place_data(file, folder)
        os.replace(stage / name, path)
        remove_unused(Path(folder), name, stage, read)


def write(model: ir.Model, path: Path) -> None:
    """Write a model to a file, with all that was hidden from onnx_ir when it was read."""
    ir.save(model, path)
    if maps.hides(model):
        proto = onnx.load(path, load_external_data=False)
        maps.show(proto)
        onnx.save(proto, path)


def data_files(model: ir.Model) -> set[str]:
    """The files of a model's weights."""
    return set(bytes_by_file(model)) - {""}


def bytes_by_file(model: ir.Model) -> dict[str, int]:
    """How many bytes of a model's weights lie in each file; "" stands for the model itself."""
    found: dict[str, int] = {}
    for tensor in tensors(model):
        file = os.path.realpath(tensor.path) if isinstance(tensor, ir.ExternalTensor) else ""
        found[file] = found.get(file, 0) + tensor.nbytes
    return found


def _load_path(source: str | os.PathLike[str]) -> ir.Model:
    try:
        path = os.fspath(source)
    except TypeError:
        raise ArgumentError(
            "A model is a path, an onnx.ModelProto, its bytes or an onnx_ir.Model, "
            f"not {type(source).__name__}."
        ) from None
    if os.path.isdir(path):
        raise ModelError(f"{path!r} is a folder, not a model file.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ModelError(f"{path!r} is a pipe or a device, not a model file.")
    try:
        with open(path, "rb") as file:
            _require_onnx(repr(path), start := file.read(8))
            if not start:
                raise ModelError(f"{path!r} is an empty file.")
            file.seek(0)
            proto, data = read(file, os.path.splitext(path)[1])
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"Cannot read {path!r}: {error.strerror or error}.") from error
    except Exception as error:  # the protobuf libraries' own errors share no base class
        raise ModelError(f"{path!r} is not an ONNX file, or it is truncated: {error}") from error
    folder = os.path.dirname(os.path.abspath(path))
    messages = list(protos.walk(proto))
    for name, location in protos.external(messages):
        protos.require_inside(name, location, folder)
    model = deserialize(proto, messages, repr(path), folder, data)
    for tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = folder
            _require_whole(tensor)
    return model


def _require_onnx(what: str, start: bytes) -> None:
    """Check that a file, of which these are the first 8 bytes, is not of onnxruntime's format."""
    if start[4:8] == b"ORTM":
        raise ModelError(
            f"{what} is of onnxruntime's own format (.ort), which lacks what a gradient needs. "
            "Take the .onnx file that it was made of, and make an .ort file of the gradient by "
            "python -m onnxruntime.tools.convert_onnx_models_to_ort."
        )


def _load_bytes(content: bytes) -> ir.Model:
    _require_onnx(f"The {len(content)} bytes given", content[:8])
    try:
        proto, data = read(BytesIO(content))
    except Exception as error:  # the protobuf libraries' own errors share no base class
        raise ModelError(
            f"The {len(content)} bytes given are no ONNX model, or a truncated one. "
            "Of a file give the path, as a str."
        ) from error
    return _load_proto(proto, data)


def _load_proto(proto: onnx.ModelProto, data: Data | None = None) -> ir.Model:
    messages = list(protos.walk(proto))
    for name, location in protos.external(messages):
        raise ModelError(
            f"The weight {name!r} lies in the file {location!r}, and a ModelProto does not say in "
            "which folder. Give the model's path instead, or load it with onnx.load(path), which "
            "brings the weights."
        )
    private = deserialize(proto, messages, "the ModelProto", data=data)
    replace_tensors(private, _detached)
    return private


def _load_ir(model: ir.Model) -> ir.Model:
    for tensor in tensors(model):
        if tensor.__class__ is not ir.Tensor and isinstance(tensor, ir.ExternalTensor):
            folder = os.path.abspath(os.fspath(tensor.base_dir))
            protos.require_inside(tensor.name, os.fspath(tensor.location), folder)
    try:
        private = model.clone()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"The onnx_ir.Model is not consistent: {root(error)}") from error
    for value in _values(private):
        value.type = _own_type(value.type)  # clone() shares it, and it is mutable
    replace_tensors(private, _detached)
    return private


def deserialize(
    proto: onnx.ModelProto,
    messages: Sequence[Message],
    what: str,
    folder: str = "",
    data: Data | None = None,
) -> ir.Model:
    """The model in a message.

    Args:
        proto: The message.
        messages: All messages in it that hold tensors: `protos.walk`.
        what: Where it is from, for errors.
        folder: Where the files of its sparse tensors lie.
        data: The data that are missing in the message.

    Raises:
        ModelError: It is no model.
    """
    data = data or Data()
    protos.check_tensors(messages, data.size)
    # Bytes that are not ONNX can be a valid message of unknown fields.
    if not proto.HasField("graph") or not proto.opset_import:
        missing = "graph" if not proto.HasField("graph") else "opset"
        raise ModelError(f"{what} is not an ONNX model, or it is truncated: it has no {missing}.")
    proto = _readable(proto, messages, folder)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # whatever a malformed graph leads to
        raise ModelError(f"{what} is not a valid ONNX model: {root(error)}") from error
    replace_tensors(model, data.attached)
    return model


def _readable(proto: onnx.ModelProto, messages: Sequence[Message], folder: str) -> onnx.ModelProto:
    """The model as onnx_ir can read it: sparse tensors made dense, maps hidden."""
    sparse, with_maps = protos.has_sparse(messages), maps.has_maps(messages)
    if sparse or with_maps:
        proto, given = onnx.ModelProto(), proto  # the caller's stays as it is
        proto.CopyFrom(given)
    if sparse:
        protos.make_dense(proto, folder)
    if with_maps:
        maps.hide(proto)
    return proto


def _require_whole(tensor: ir.ExternalTensor) -> None:
    weight, folder = f"The weight {tensor.name!r} lies in {str(tensor.location)!r}", tensor.base_dir
    try:
        found = os.stat(tensor.path)
    except OSError as error:
        raise ModelError(
            f"{weight}, which has to be in {folder!r} and cannot be read: {error.strerror}."
        ) from error
    if not os.path.isfile(tensor.path):
        raise ModelError(f"{weight}, which is no file in {folder!r}.")
    end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if end > found.st_size or (tensor.length is not None and tensor.length < tensor.nbytes):
        raise ModelError(f"{weight}, which is too short: {found.st_size} bytes. It is truncated.")


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the graphs of functions, and all graphs that nodes in these hold."""
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        yield graph
        yield from inner_graphs(graph)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in _graphs(model):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _attributes(model: ir.Model) -> Iterator[MutableMapping[str, ir.Attr]]:
    """The attributes of each node, and those of each function, which hold defaults."""
    for function in model.functions.values():
        yield function.attributes
    for graph in _graphs(model):
        for node in graph:
            yield node.attributes


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor that a model holds: its initializers, and those in attributes."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for attributes in _attributes(model):
        for attribute in attributes.values():
            yield from _held(attribute)


def _held(attribute: ir.Attr) -> Sequence[ir.TensorProtocol]:
    """The tensors that an attribute holds."""
    if attribute.is_ref() or attribute.value is None:
        return ()
    if attribute.type == ir.AttributeType.TENSOR:
        return (attribute.as_tensor(),)
    return attribute.as_tensors() if attribute.type == ir.AttributeType.TENSORS else ()


def replace_tensors(model: ir.Model, new: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    """Replace each tensor of a model by `new` of it, in functions and attributes too."""
    for value in _values(model):
        if value.const_value is not None:
            value.const_value = new(value.const_value)
    for attributes in _attributes(model):
        for name, attribute in list(attributes.items()):
            if tensors := [new(tensor) for tensor in _held(attribute)]:
                one = attribute.type == ir.AttributeType.TENSOR
                attributes[name] = ir.Attr(name, attribute.type, tensors[0] if one else tensors)


def weight_bytes(model: ir.Model) -> int:
    """How many bytes the tensors of a model take."""
    return sum(tensor.nbytes for tensor in tensors(model))


def _own_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(kind, ir.TensorType):  # most are
        return ir.TensorType(kind.dtype, denotation=kind.denotation)
    return copy.deepcopy(kind)


def _detached(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data in another tensor: to rename it leaves the caller's tensor alone."""
    # The name of a tensor read from a proto is stored in the proto, which copies would share.
    if tensor.__class__ is not ir.Tensor and isinstance(tensor, ir.TensorProtoTensor):
        return view(tensor)
    return copy.copy(tensor)
