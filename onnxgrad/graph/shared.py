"""Several models in one folder, whose large weights lie once in a file that all of them read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir as ir

from onnxgrad.graph import io, protos
from onnxgrad.graph.data import embedded, place_data, remove_unused, write_data
from onnxgrad.graph.errors import SaveError
from onnxgrad.graph.stage import staged

_STEM = "weights"


def save_together(
    models: Mapping[str, ir.Model], folder: str | os.PathLike[str], *, external_data: bool = False
) -> None:
    """Write models into one folder, all of them whole or none at all.

    A program that reads them meets files of one call or lacks some, wherever a call is killed, and
    meets those of two only where two write at once.

    Args:
        models: The models by their files' names. Their large weights become references.
        folder: Where to write; it is made where it is missing, and its parent has to be there.
        external_data: Write weights of 1 KiB and more to "weights.<digits>.data" beside the models,
            each once, as `io.save` does. Always done where one of the models holds more than 2 GB.

    Raises:
        SaveError: The folder cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(os.fspath(folder)))
    if not target.parent.is_dir():
        raise SaveError(f"Cannot write {str(target)!r}: there is no folder {str(target.parent)!r}.")
    if target.exists() and not target.is_dir():
        raise SaveError(f"Cannot write {str(target)!r}: it is a file, not a folder.")
    external = external_data or any(io.weight_bytes(m) > protos.LIMIT for m in models.values())
    read = {path for model in models.values() for path in io.data_files(model)}
    with staged(target if target.exists() else target.parent, str(target)) as stage:
        new = stage / target.name
        new.mkdir()
        write_together(models, new, external=external)
        if not target.exists():
            os.replace(new, target)
            return
        _move(new, target, models)
        remove_unused(target, _STEM, stage, read)


def write_together(models: Mapping[str, ir.Model], folder: Path, *, external: bool) -> None:
    """Write models into a folder that nobody reads yet.

    Args:
        models: The models by their files' names. Their large weights become references.
        folder: Where to write.
        external: Write these weights to a file beside the models, each once.
    """
    for model in models.values():
        io.replace_tensors(model, embedded)
    if external:
        write_data(models.values(), folder, _STEM)
    for name, model in models.items():
        io.write(model, folder / name)


def _move(new: Path, target: Path, names: Iterable[str]) -> None:
    """Put whole files in the place of others, all or none: first data, then models."""
    for path in new.iterdir():
        if path.name not in names:
            place_data(path, target)
    old = new / "old"
    old.mkdir()
    try:
        for name in names:  # all old ones go before a new one comes
            if (target / name).exists():
                os.replace(target / name, old / name)
        for name in names:
            os.replace(new / name, target / name)
    except OSError:
        for name in names:
            if (old / name).exists():
                os.replace(old / name, target / name)
            elif not (new / name).exists():
                os.remove(target / name)
        raise
