"""The message of a model's file, read with its large weights in arrays of their own.

A protobuf library holds a file twice while it reads it, and its weights a third time once they are
arrays. Here the file is read from front to end: what is large goes straight into an array, and only
the rest, with a key in its place, to the library.
"""

from __future__ import annotations

import functools
import os
import secrets
import sys
from io import BufferedReader, BytesIO

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.descriptor import Descriptor

from onnxgrad.graph.protos import HOLDERS

# Smaller data stay in the message.
_LARGE = 2**16

_TENSOR = onnx.TensorProto.DESCRIPTOR
_RAW_DATA = _TENSOR.fields_by_name["raw_data"].number
# Sparse tensors become dense before their weights are looked at.
_SPARSE = onnx.SparseTensorProto.DESCRIPTOR.full_name


class Data:
    """The large data of a message, by the keys that the message has in their place.

    Keys are drawn at random, so that nothing in a file is taken for one.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(16)
        self._arrays: dict[bytes, np.ndarray] = {}

    def add(self, array: np.ndarray) -> bytes:
        """The key of an array of bytes, which is kept."""
        key = self._secret + len(self._arrays).to_bytes(8, "little")
        self._arrays[key] = array
        return key

    def size(self, content: bytes) -> int:
        """The number of bytes for which `content` stands in the message."""
        return len(self._arrays.get(content, content))

    def attached(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """A tensor of a model that was made of the message, with its data."""
        if not isinstance(tensor, ir.TensorProtoTensor):
            return tensor
        array = self._arrays.get(tensor.raw.raw_data)
        if array is None:
            return tensor
        if tensor.dtype.bitwidth < 8 or sys.byteorder == "big":
            tensor.raw.raw_data = array.tobytes()  # onnx_ir unpacks it
            return tensor
        return ir.Tensor(
            array.view(tensor.dtype.numpy()).reshape(tensor.shape.numpy()),
            dtype=tensor.dtype,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=tensor.metadata_props,
        )


def read(file: BufferedReader | BytesIO, suffix: str = "") -> tuple[onnx.ModelProto, Data]:
    """The message of an open file, and the large data that are missing in it.

    Args:
        file: The file, at its start.
        suffix: That of its name, which tells the format as for `onnx.load`.

    Raises:
        Exception: The protobuf library's own, for what is no message or a truncated one.
    """
    form = onnx.serialization.registry.get_format_from_file_extension(suffix)
    if form not in (None, "protobuf"):
        return onnx.load(file, form, load_external_data=False), Data()
    data, end = Data(), file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        content = b"".join(_Reader(file, data).message(onnx.ModelProto.DESCRIPTOR, end))
    except (ValueError, RecursionError):
        file.seek(0)
        content, data = file.read(), Data()  # the library says what is wrong
    return onnx.ModelProto.FromString(content), data


class _Reader:
    """Reads messages of a file, one field after the other.

    The encoding is https://protobuf.dev/programming-guides/encoding/.
    """

    def __init__(self, file: BufferedReader | BytesIO, data: Data) -> None:
        self._file, self._data = file, data

    def message(self, kind: Descriptor, end: int) -> list[bytes]:
        """The parts of the message from here to a place in the file, without its large data.

        Raises:
            ValueError: It is none, or it does not end there.
        """
        kept: list[bytes] = []
        while self._file.tell() < end:
            tag, encoded = self._number()
            kept.append(encoded)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == 2:
                size, _ = self._number()
                if self._file.tell() + size > end:
                    raise ValueError("a field ends behind its message")
                content = self._content(kind, number, size)
                kept += [_encoded(sum(map(len, content))), *content]
            elif wire_type == 0:
                kept.append(self._number()[1])
            elif wire_type in (1, 5):
                kept.append(self._bytes(8 if wire_type == 1 else 4))
            else:
                raise ValueError(f"the wire type {wire_type}, which ONNX does not have")
        if self._file.tell() != end:
            raise ValueError("a field ends behind its message")
        return kept

    def _content(self, kind: Descriptor, number: int, size: int) -> list[bytes]:
        if size < _LARGE:
            return [self._bytes(size)]
        if kind is _TENSOR and number == _RAW_DATA:
            array = np.empty(size, np.uint8)
            if self._file.readinto(array.data) != size:
                raise ValueError("the file has become shorter")
            array.flags.writeable = False  # models share it
            return [self._data.add(array)]
        inner = _holders(kind).get(number)
        if inner is None:
            return [self._bytes(size)]
        return self.message(inner, self._file.tell() + size)

    def _number(self) -> tuple[int, bytes]:
        """A number of variable length, and how it is encoded."""
        value, encoded = 0, bytearray()
        while len(encoded) < 10:
            (byte,) = self._bytes(1)
            value |= (byte & 0x7F) << 7 * len(encoded)
            encoded.append(byte)
            if byte < 0x80:
                return value, bytes(encoded)
        raise ValueError("a number of more than 64 bits")

    def _bytes(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) != size:
            raise ValueError("the file is truncated")
        return content


def _encoded(value: int) -> bytes:
    """A number of variable length."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


@functools.cache
def _holders(kind: Descriptor) -> dict[int, Descriptor]:
    """By the numbers of a message's fields, the messages among them that can hold a tensor."""
    inner = {field.number: field.message_type for field in kind.fields}
    return {
        number: message
        for number, message in inner.items()
        if message and message.full_name in HOLDERS and message.full_name != _SPARSE
    }
