"""Tensors in a model's protobuf message, before onnx_ir reads it: external and sparse ones.

A message is walked by its descriptor, so that no place where it can hold a tensor is left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from onnxgrad.graph.errors import ModelError

# A protobuf message holds less than 2 GiB, and some of that is left for other parts than weights.
LIMIT = 2**31 - 2**24


def _holders() -> frozenset[str]:
    """The names of the messages that can hold a tensor, at any depth."""
    kinds: dict[str, Descriptor] = {}
    left = [onnx.ModelProto.DESCRIPTOR]
    while left:
        kind = left.pop()
        if kind.full_name not in kinds:
            kinds[kind.full_name] = kind
            left += [f.message_type for f in kind.fields if f.message_type]
    found = {onnx.TensorProto.DESCRIPTOR.full_name}
    while more := {
        name
        for name, kind in kinds.items()
        if name not in found
        and any(f.message_type and f.message_type.full_name in found for f in kind.fields)
    }:
        found |= more
    return frozenset(found)


# The messages that can hold a tensor.
HOLDERS = _holders()


def walk(proto: Message) -> Iterator[Message]:
    """A model, or a part of one, and every message within it that is a tensor or can hold one.

    A message comes before those within it.
    """
    left: list[Message] = [proto]
    while left:
        message = left.pop()
        yield message
        if not isinstance(message, onnx.TensorProto):
            for field, value in message.ListFields():
                if field.message_type and field.message_type.full_name in HOLDERS:
                    left += [value] if isinstance(value, Message) else value


def check_tensors(messages: Iterable[Message], size: Callable[[bytes], int] = len) -> None:
    """Check that each tensor among them has the data that its dtype and shape ask for.

    Args:
        messages: The messages.
        size: Of raw data the number of bytes, which may stand elsewhere.

    Raises:
        ModelError: One has not, or has no dtype, or none that its data can lie in another file of.
    """
    for message in messages:
        if isinstance(message, onnx.TensorProto):
            _check_tensor(message, size)
        elif (
            isinstance(message, onnx.AttributeProto)
            and message.type == message.TENSOR
            and not (message.HasField("t") or message.ref_attr_name)
        ):
            raise ModelError(f"The attribute {message.name!r} is a tensor, and holds none.")


# A size that no machine holds, beside one of 0 too.
_LARGEST = 2**48


def _check_tensor(tensor: onnx.TensorProto, size: Callable[[bytes], int]) -> None:
    weight = f"The weight {tensor.name!r}"
    if tensor.data_type not in _DTYPES:
        raise ModelError(f"{weight} is of the dtype {tensor.data_type}, which ONNX does not have.")
    if odd := [d for d in tensor.dims if not 0 <= d < _LARGEST]:
        raise ModelError(f"{weight} has the size {odd[0]}, which no tensor has.")
    dtype, count = ir.DataType(tensor.data_type), math.prod(tensor.dims)
    if dtype == ir.DataType.STRING:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.HasField("raw_data"):
            raise ModelError(f"{weight} holds strings, which lie in the model's own message.")
        found, needed = len(tensor.string_data), count
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    elif tensor.HasField("raw_data"):
        found, needed = size(tensor.raw_data), -(-count * dtype.bitwidth // 8)
    else:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        found = len(getattr(tensor, field))
        needed = -(-count * dtype.bitwidth // 8) if dtype.bitwidth < 8 else count
        needed *= 2 if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128) else 1
    if found != needed:
        kind = "bytes" if tensor.HasField("raw_data") else "numbers"
        raise ModelError(
            f"{weight} of {dtype.name} and shape {list(tensor.dims)} has {found:,} {kind} of data, "
            f"not {needed:,}: the file is truncated or was changed."
        )


def external(messages: Iterable[Message]) -> Iterator[tuple[str, str]]:
    """The name and the location of every tensor among them that lies in another file."""
    for message in messages:
        tensor = message if isinstance(message, onnx.TensorProto) else None
        if tensor is not None and tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            yield tensor.name, entries.get("location", "")


_DTYPES = frozenset(kind.value for kind in ir.DataType) - {0}


def require_inside(name: str | None, location: str, folder: str) -> None:
    """Check that the file of a weight lies in the model's folder.

    Raises:
        ModelError: The file lies outside of the folder, may be a link to a file outside, or has no
            valid name.
    """
    weight = f"The weight {name!r} lies in {location!r}"
    if not location:
        raise ModelError(f"{weight}: the file that it lies in is not named.")
    if "\0" in location:
        raise ModelError(f"{weight}, which names no file: a NUL character is in it.")
    target = Path(os.path.realpath(os.path.join(folder, location)))
    if Path(location).anchor or not target.is_relative_to(os.path.realpath(folder)):
        raise ModelError(
            f"{weight}, outside the model's folder {folder!r}. This is refused: a model file could "
            "read any file so. Put the data beside the model."
        )
    if os.path.isfile(target) and os.stat(target).st_nlink > 1:
        raise ModelError(
            f"{weight}, a file with several hard links, which can stand for any file. "
            "Copy the model and its data to a folder of its own."
        )


def has_sparse(messages: Iterable[Message]) -> bool:
    """Whether one of them is a sparse tensor."""
    return any(isinstance(message, onnx.SparseTensorProto) for message in messages)


def make_dense(proto: onnx.ModelProto, folder: str) -> None:
    """Make sparse initializers and the values of Constant nodes dense, in place, as runtimes do.

    Args:
        proto: All its tensors lie in files within `folder`.

    Raises:
        ModelError: A sparse tensor is not valid, or takes more than a model can hold.
    """
    for message in list(walk(proto)):
        if isinstance(message, onnx.GraphProto):
            message.initializer.extend(_dense(s, folder) for s in message.sparse_initializer)
            del message.sparse_initializer[:]
        if isinstance(message, onnx.NodeProto) and message.op_type == "Constant":
            for attribute in message.attribute:
                if attribute.HasField("sparse_tensor"):
                    attribute.t.CopyFrom(_dense(attribute.sparse_tensor, folder))
                    attribute.ClearField("sparse_tensor")
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR


def _dense(sparse: onnx.SparseTensorProto, folder: str) -> onnx.TensorProto:
    """A dense tensor with the same values, and zeros elsewhere."""
    name, shape = sparse.values.name, tuple(sparse.dims)
    try:
        values = onnx.numpy_helper.to_array(sparse.values, folder).reshape(-1)
        indices = onnx.numpy_helper.to_array(sparse.indices, folder)
        size = math.prod(shape)
        if min(shape, default=1) < 0 or size * values.itemsize > LIMIT:
            raise ValueError(f"its shape {shape} is more than a model can hold")
        if indices.ndim == 2:  # a row of coordinates for each value
            if indices.shape != (values.size, len(shape)):
                raise ValueError(f"indices of shape {indices.shape} for {values.size} values")
            if np.any((indices < 0) | (indices >= shape)):
                raise ValueError("an index lies outside of its shape")
            indices = np.ravel_multi_index(tuple(indices.T), shape) if shape else indices[:, :0]
        if indices.shape != values.shape:
            raise ValueError(f"{indices.size} indices for {values.size} values")
        if np.any((indices < 0) | (indices >= size)):
            raise ValueError("an index lies outside of its shape")
        array = np.zeros(size, values.dtype)
        array[indices] = values
        return onnx.numpy_helper.from_array(array.reshape(shape), name)
    except (ValueError, TypeError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"The sparse tensor {name!r} cannot be made dense: {error}") from error
