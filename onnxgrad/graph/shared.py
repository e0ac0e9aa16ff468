"""Several models in one folder, whose large weights lie once in a file that all of them read."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from onnxgrad.graph import io, protos
from onnxgrad.graph.errors import SaveError

DATA = "weights.data"

# Smaller tensors stay in the models' own messages: shape inference reads some of them.
_LARGE = 1024
# Where a tensor may begin, so that it can be mapped into memory.
_ALIGNMENT = 4096


def save_together(
    models: Mapping[str, ir.Model], folder: str | os.PathLike[str], *, external_data: bool = False
) -> None:
    """Write models into one folder, all of them whole or none at all.

    Args:
        models: The models by their files' names. Their large weights become references.
        folder: Where to write; it is made where it is missing, and its parent has to be there.
        external_data: Write weights of 1 KiB and more to "weights.data" beside the models, each
            once. Always done where one of the models holds more than 2 GB.

    Raises:
        SaveError: The folder cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(os.fspath(folder)))
    if not target.parent.is_dir():
        raise SaveError(f"Cannot write {str(target)!r}: there is no folder {str(target.parent)!r}.")
    if target.exists() and not target.is_dir():
        raise SaveError(f"Cannot write {str(target)!r}: it is a file, not a folder.")
    external = external_data or any(io.weight_bytes(m) > protos.LIMIT for m in models.values())
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".onnxgrad-") as stage:
            staged = Path(stage) / target.name
            staged.mkdir()
            if external:
                _write_data(models, staged)
            for name, model in models.items():
                ir.save(model, staged / name)
            _move(staged, target)
    except OSError as error:
        raise SaveError(f"Cannot write {str(target)!r}: {error.strerror or error}.") from error


def _move(staged: Path, target: Path) -> None:
    """Put whole files in their place, the data that models read before these."""
    if not target.exists():
        os.replace(staged, target)
        return
    for path in sorted(staged.iterdir(), key=lambda path: path.name != DATA):
        os.replace(path, target / path.name)


def _write_data(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write the large weights of all models, equal ones once, and let the models refer to them."""
    places: dict[bytes, tuple[int, int]] = {}
    with open(folder / DATA, "wb") as file:
        for model in models.values():
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _LARGE or tensor.dtype == ir.DataType.STRING:
                    continue
                offset, length = _written(file, tensor, places)
                value.const_value = ir.ExternalTensor(
                    DATA,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.numpy().shape),
                    name=name,
                    base_dir=folder,
                )


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
