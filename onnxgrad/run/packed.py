"""A model on its way to another process, without the weights that lie in files."""

from __future__ import annotations

import hashlib
import os
from typing import Any, NamedTuple

import onnx
import onnx_ir as ir

from onnxgrad.graph import io, protos
from onnxgrad.graph.data import is_large, reference
from onnxgrad.graph.errors import ModelError


class Source:
    """What a model was read from.

    Args:
        given: The model as the caller has it.
        model: The model that was read.
    """

    def __init__(self, given: io.ModelLike, model: ir.Model) -> None:
        self._path = None
        self._mapped = files = io.data_files(model)
        if isinstance(given, str | os.PathLike):
            self._path = os.path.abspath(os.fspath(given))
            files = files | {self._path}
        self._stamps = {file: _stamp(file) for file in files}

    def require_unchanged(self) -> None:
        """Check that weights that lie in files are what they were when the model was read.

        They are mapped into memory. A file that is replaced or removed stays what it is there, but
        one that is written in place changes.

        Raises:
            ModelError: One has been written.
        """
        for file in self._mapped:
            stamp, found = self._stamps[file], _stamp(file)
            if stamp and found and found != stamp and found[0] == stamp[0]:
                raise ModelError(
                    f"The file {file!r} has been written since the model was read, and its weights "
                    "lie there. Read the model anew."
                )

    def packed(self, model: ir.Model) -> File | Content:
        """The model as it can be pickled.

        Args:
            model: The model; the tensors that lie in files are `ExternalTensor`s.

        Raises:
            ModelError: A file has changed since it was read, so that what is sent would be another
                model.
        """
        for file, stamp in self._stamps.items():
            if _stamp(file) != stamp:
                raise ModelError(
                    f"The file {file!r} has changed since the model was read, so that this model "
                    "cannot be read again elsewhere. Read it anew."
                )
        if self._path is not None:
            return File(self._path, _digest(self._path))
        return Content.of(model)


class File(NamedTuple):
    """A model in a file, which is the same file wherever it is opened."""

    path: str
    digest: str

    def model(self) -> str:
        """The path.

        Raises:
            ModelError: Another file lies there, or none.
        """
        if _digest(self.path) != self.digest:
            raise ModelError(
                f"{self.path!r} is not the file that it was when the net was pickled. "
                "Give nets to processes that see the same files."
            )
        return self.path


class Content(NamedTuple):
    """A model in memory, with its large weights apart.

    Attributes:
        message: The model; the location of a weight is its number.
        weights: An array and its dtype each; or the folder, the location, offset and length in it.
    """

    message: bytes
    weights: list[Any]

    @classmethod
    def of(cls, model: ir.Model) -> Content:
        """The content of a model, which is not changed."""
        weights: list[Any] = []

        def apart(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            if isinstance(tensor, ir.ExternalTensor):
                place = os.fspath(tensor.base_dir), os.fspath(tensor.location)
                weights.append((*place, tensor.offset, tensor.length))
            elif is_large(tensor):
                weights.append((tensor.numpy(), tensor.dtype.name))
            else:
                return tensor
            return reference(tensor, "", str(len(weights) - 1), None, None)

        private = io.load(model)
        io.replace_tensors(private, apart)
        return cls(io.to_proto(private).SerializeToString(), weights)

    def model(self) -> ir.Model:
        """The model."""

        def back(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
            if not isinstance(tensor, ir.ExternalTensor):
                return tensor
            place = self.weights[int(os.fspath(tensor.location))]
            if len(place) == 4:
                return reference(tensor, *place)
            array, dtype = place
            return ir.Tensor(array, dtype=ir.DataType[dtype], name=tensor.name)

        proto = onnx.ModelProto.FromString(self.message)
        model = io.deserialize(proto, list(protos.walk(proto)), "what was pickled")
        io.replace_tensors(model, back)
        return model


def _stamp(file: str) -> tuple[int, int, int] | None:
    """Which file it is, and what changes with its content; None where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _digest(file: str) -> str:
    content = hashlib.sha256()
    try:
        with open(file, "rb") as opened:
            while part := opened.read(2**20):
                content.update(part)
    except OSError as error:
        raise ModelError(f"Cannot read {file!r}: {error.strerror or error}.") from error
    return content.hexdigest()
