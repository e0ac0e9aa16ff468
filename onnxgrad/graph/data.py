"""The files of large weights beside models. Their names tell their content.

So a model never reads the weights of another: whatever is there under the name is what it was
written with, however many write at once, and wherever a save is killed.
"""

from __future__ import annotations

import filecmp
import hashlib
import mmap
import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import onnx_ir as ir

from onnxgrad.graph import protos
from onnxgrad.graph.errors import SaveError
from onnxgrad.graph.stage import live_writers

# Smaller tensors stay in the models' own messages: shape inference reads some of them.
_LARGE = 1024
# Where a tensor may begin, so that it can be mapped into memory.
_ALIGNMENT = 4096
_DIGITS = 16


def embedded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data, which serialization writes into the model's own message."""
    return view(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor


def view(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same data in another tensor, which reads it when it is used."""
    return ir.LazyTensor(
        lambda: tensor,
        dtype=tensor.dtype,
        shape=cast(ir.Shape, tensor.shape),
        name=tensor.name,
        doc_string=tensor.doc_string,
    )


def is_large(tensor: ir.TensorProtocol) -> bool:
    """Whether a tensor is kept apart from the message of its model; strings never are."""
    return tensor.nbytes >= _LARGE and tensor.dtype != ir.DataType.STRING


def reference(
    tensor: ir.TensorProtocol,
    folder: str | os.PathLike[str],
    location: str,
    offset: int | None,
    length: int | None,
) -> ir.ExternalTensor:
    """A tensor of the same kind and name, whose data lie in a file of a folder."""
    return ir.ExternalTensor(
        location,
        offset,
        length,
        tensor.dtype,
        shape=cast(ir.Shape, tensor.shape),
        name=tensor.name or "",
        base_dir=folder,
    )


def referred(
    folder: str | os.PathLike[str], *, strict: bool
) -> Callable[[ir.TensorProtocol], ir.TensorProtocol]:
    """A function that gives a tensor as a model in a folder refers to the file where it lies.

    Tensors that lie in no file stay as they are.

    Args:
        folder: Where the model will be.
        strict: Refuse a tensor that lies in a file elsewhere; otherwise it is embedded.
    """
    home = os.path.realpath(folder)

    def tensor_in(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        file = Path(os.path.realpath(tensor.path))
        if file.is_relative_to(home):
            location = file.relative_to(home).as_posix()
            return reference(tensor, home, location, tensor.offset, tensor.length)
        if strict:
            raise SaveError(
                f"Cannot refer to the weight {tensor.name!r} from {home!r}: it lies in "
                f"{str(file)!r}, and a model reads files of its own folder only. Write there, or "
                'external="copy".'
            )
        return embedded(tensor)

    return tensor_in


def write_data(models: Iterable[ir.Model], folder: Path, stem: str) -> None:
    """Write the large weights of models to one file, equal ones once; the models refer to it.

    Args:
        models: The models. Tensors in attributes, and those in other files, stay where they are.
        folder: Where to write; a file without weights is not written.
        stem: The file is `<stem>.<16 hexadecimal digits>.data`.
    """
    values = [v for model in models for v in _large(model)]
    if not values:
        return
    content, found = hashlib.sha256(), []
    places: dict[bytes, tuple[int, int]] = {}
    unnamed = folder / f"{stem}.data"
    with open(unnamed, "wb") as file:
        for value in values:
            assert value.const_value is not None
            found.append(_written(file, value.const_value, places))
        for key, (offset, _) in places.items():
            content.update(key + offset.to_bytes(8, "little"))
    name = f"{stem}.{content.hexdigest()[:_DIGITS]}.data"
    os.replace(unnamed, folder / name)
    for value, (offset, length) in zip(values, found, strict=True):
        tensor = value.const_value
        assert tensor is not None
        value.const_value = reference(tensor, folder, name, offset, length)


def _large(model: ir.Model) -> list[ir.Value]:
    return [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None
        and is_large(tensor)
        and not isinstance(tensor, ir.ExternalTensor)
    ]


def _written(
    file: BinaryIO, tensor: ir.TensorProtocol, places: dict[bytes, tuple[int, int]]
) -> tuple[int, int]:
    """Where the content of a tensor lies, which is written if it does not yet."""
    content = tensor.tobytes()
    key = hashlib.sha256(content).digest()
    if key not in places:
        file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
        places[key] = (file.tell(), len(content))
        file.write(content)
    return places[key]


def place_data(new: Path, folder: str | os.PathLike[str]) -> None:
    """Move a data file to where models read it.

    Raises:
        OSError: It cannot be moved.
    """
    there = Path(folder) / new.name
    try:
        os.replace(new, there)
    except PermissionError:  # Windows replaces no file that a model in memory has mapped
        if not there.is_file() or not filecmp.cmp(new, there, shallow=False):
            raise


def remove_unused(folder: Path, stem: str, stage: Path, read: Collection[str]) -> None:
    """Remove the data files of earlier saves under a stem that no model in the folder names.

    Those that are in doubt stay: where another writes into the folder at this time, or a file
    cannot be read.

    Args:
        folder: Where the files lie.
        stem: As for `write_data`; no other name is touched.
        stage: The writer's own stage.
        read: The paths of files that are still read, as those of the model that was saved.
    """
    pattern = re.compile(rf"{re.escape(stem)}\.([0-9a-f]{{{_DIGITS}}})\.data")
    matches = {path: pattern.fullmatch(path.name) for path in folder.iterdir()}
    # Digits, unlike a stem, are written alike in all formats of models.
    old = {m[1].encode(): p for p, m in matches.items() if m and os.path.realpath(p) not in read}
    with suppress(OSError):
        for path in matches if old else ():
            if matches[path] is None and path.is_file():
                for digits in _named(path, old):
                    del old[digits]
        if all(os.path.basename(writer) == stage.name for writer in live_writers(folder)):
            for path in old.values():
                path.unlink()


def _named(path: Path, digits: Iterable[bytes]) -> list[bytes]:
    """Which digits a file holds that may be a model in any format."""
    if not 0 < path.stat().st_size <= protos.LIMIT + 2**24:
        return []
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [some for some in digits if content.find(some) >= 0]
