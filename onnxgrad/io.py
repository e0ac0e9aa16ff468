"""Reading and writing models, and the weights that lie beside them in files of their own.

Inside the package a model is always an `onnx_ir.Model`. `load` makes a private one from whatever
the caller has, `like` turns a result back into the caller's kind, `save` writes a file whole or
not at all.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

import onnx
import onnx_ir as ir

from onnxgrad.errors import ArgumentError, ModelError, SaveError

ModelLike: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | ir.Model

# A protobuf message holds less than 2 GiB. The rest of the message takes its part of that.
_PROTO_LIMIT = 2**31 - 2**24


def load(model: ModelLike) -> ir.Model:
    """A private copy of the model's structure, which shares the data of its weights.

    Args:
        model: A path, a model in memory with its weights, or an `onnx_ir.Model`. It is never
            changed, whatever is done to the result.

    Returns:
        The model. Weights in external files are mapped into memory when they are used.

    Raises:
        ModelError: The file is missing, truncated or not ONNX; a weight's file is missing, too
            short, or outside the model's folder; a `ModelProto` came without its external weights.
    """
    if isinstance(model, ir.Model):
        try:
            private = model.clone()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"The onnx_ir.Model is not consistent: {_root(error)}") from error
        for value in _values(private):
            value.type = _own_type(value.type)  # clone() shares it, and it is mutable
        replace_tensors(private, _detached)
        return private
    if isinstance(model, onnx.ModelProto):
        private = _deserialize(model, "the ModelProto")
        for tensor in _tensors(private):
            if isinstance(tensor, ir.ExternalTensor):
                raise ModelError(
                    f"The weight {tensor.name!r} lies in the file {str(tensor.location)!r}, and a "
                    "ModelProto does not say in which folder. Give the model's path instead, or "
                    "load it with onnx.load(path), which brings the weights."
                )
        replace_tensors(private, _detached)
        return private
    return _load_path(model)


def like(result: ir.Model, original: ModelLike) -> onnx.ModelProto | ir.Model:
    """`result` as the kind of model that `original` is; a path gives a `ModelProto` with weights.

    Raises:
        ModelError: The weights do not fit into a `ModelProto` (2 GB).
    """
    if isinstance(original, ir.Model):
        return result
    replace_tensors(result, _embedded)
    if _weight_bytes(result) > _PROTO_LIMIT:
        raise ModelError(
            "The weights take more than 2 GB, which a ModelProto cannot hold. Give an "
            "onnx_ir.Model (onnx_ir.load(path)) and write the result with onnxgrad.save."
        )
    return ir.to_proto(result)


def writable(path: str | os.PathLike[str]) -> str:
    """The whole path of a file to write.

    Raises:
        SaveError: There is no such folder, or the path is one.
    """
    path = os.path.realpath(os.fspath(path))  # through a link, not over it
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SaveError(f"Cannot write {path!r}: there is no folder {folder!r}.")
    if os.path.isdir(path):
        raise SaveError(f"Cannot write {path!r}: it is a folder.")
    return path


def save(
    model: onnx.ModelProto | ir.Model, path: str | os.PathLike[str], *, external_data: bool = False
) -> None:
    """Write a model file, whole or not at all. An existing file is replaced at once.

    Args:
        model: The model; it is not changed.
        path: Where to write. The suffix decides the format as `onnx.save` does (.onnx, .json, ...).
        external_data: Write the weights to `<name>.data` beside the model. Always done where they
            take more than 2 GB.

    Raises:
        SaveError: The folder is missing or cannot be written, or the disk is full.
        ModelError: The model cannot be read, as in `load`.
    """
    path = writable(path)
    folder, name = os.path.split(path)
    private = load(model)
    replace_tensors(private, _embedded)
    data = f"{name}.data" if external_data or _weight_bytes(private) > _PROTO_LIMIT else None
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".onnxgrad-") as stage:
            ir.save(private, os.path.join(stage, name), external_data=data)
            # Only whole files leave the stage. Small models have no weights to set apart.
            if data is not None and os.path.exists(os.path.join(stage, data)):
                os.replace(os.path.join(stage, data), os.path.join(folder, data))
            os.replace(os.path.join(stage, name), path)
    except OSError as error:
        raise SaveError(f"Cannot write {path!r}: {error.strerror or error}.") from error
    except Exception as error:  # the protobuf libraries' own errors share no base class
        raise SaveError(f"Cannot write {path!r}: {_root(error)}") from error


def _load_path(source: str | os.PathLike[str]) -> ir.Model:
    try:
        path = os.fspath(source)
    except TypeError:
        raise ArgumentError(
            "A model is a path, an onnx.ModelProto or an onnx_ir.Model, "
            f"not {type(source).__name__}."
        ) from None
    if os.path.isdir(path):
        raise ModelError(f"{path!r} is a folder, not a model file.")
    try:
        empty = os.path.getsize(path) == 0
        proto = onnx.ModelProto() if empty else onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"Cannot read {path!r}: {error.strerror or error}.") from error
    except Exception as error:  # the protobuf libraries' own errors share no base class
        raise ModelError(f"{path!r} is not an ONNX file, or it is truncated: {error}") from error
    if empty:
        raise ModelError(f"{path!r} is an empty file.")
    model = _deserialize(proto, repr(path))
    folder = os.path.dirname(os.path.abspath(path))
    for tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            tensor.base_dir = folder
            _check_external(tensor, folder)
    return model


def _deserialize(proto: onnx.ModelProto, what: str) -> ir.Model:
    # Bytes that are not ONNX can be a valid message of unknown fields.
    if not proto.HasField("graph") or not proto.opset_import:
        missing = "graph" if not proto.HasField("graph") else "opset"
        raise ModelError(f"{what} is not an ONNX model, or it is truncated: it has no {missing}.")
    try:
        return ir.from_proto(proto)
    except Exception as error:  # whatever a malformed graph leads to
        raise ModelError(f"{what} is not a valid ONNX model: {_root(error)}") from error


def _check_external(tensor: ir.ExternalTensor, folder: str) -> None:
    location = os.fspath(tensor.location)
    weight = f"The weight {tensor.name!r} lies in {location!r}"
    target, home = os.path.realpath(os.path.join(folder, location)), os.path.realpath(folder)
    if os.path.isabs(location) or os.path.commonpath([target, home]) != home:
        raise ModelError(
            f"{weight}, outside the model's folder {folder!r}. This is refused: a model file could "
            "read any file so. Put the data beside the model."
        )
    try:
        found = os.stat(target)
    except OSError as error:
        raise ModelError(
            f"{weight}, which has to be in {folder!r} and cannot be read: {error.strerror}."
        ) from error
    if found.st_nlink > 1:  # onnx_ir would refuse it too, but only when the data is first used
        raise ModelError(
            f"{weight}, a file with several hard links, which can stand for any file. "
            "Copy the model and its data to a folder of its own."
        )
    end = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if end > found.st_size or (tensor.length is not None and tensor.length < tensor.nbytes):
        raise ModelError(f"{weight}, which is too short: {found.st_size} bytes. It is truncated.")


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
    for node in _nodes(model):
        yield from node.outputs


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    roots: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for root in roots:
        yield from ir.traversal.RecursiveGraphIterator(root)


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in _nodes(model):
        for attribute in node.attributes.values():
            if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()


def replace_tensors(model: ir.Model, new: Callable[[ir.TensorProtocol], ir.TensorProtocol]) -> None:
    for value in _values(model):
        if value.const_value is not None:
            value.const_value = new(value.const_value)
    for node in _nodes(model):
        for name, attribute in node.attributes.items():
            if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, new(attribute.as_tensor()))


def _weight_bytes(model: ir.Model) -> int:
    return sum(tensor.nbytes for tensor in _tensors(model))


def _own_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(kind, ir.TensorType):  # the most
        return ir.TensorType(kind.dtype, denotation=kind.denotation)
    return copy.deepcopy(kind)


def _detached(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data under a name of its own: renaming it leaves the caller's tensor alone."""
    # A tensor read from a proto keeps its name there, so that a copy of it would not be enough.
    return _view(tensor) if isinstance(tensor, ir.TensorProtoTensor) else copy.copy(tensor)


def _embedded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data, written into the model's own message."""
    return _view(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor


def _view(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: tensor,
        dtype=tensor.dtype,
        shape=cast(ir.Shape, tensor.shape),
        name=tensor.name,
        doc_string=tensor.doc_string,
    )


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
