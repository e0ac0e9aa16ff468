"""Arrays in files: feeds of .npy, .npz and image files, and results to .npz files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.cli.printing import say
from onnxgrad.graph.errors import FeedError, SaveError, nearest
from onnxgrad.runtimes.ports import Array, Port


def ports_of(model: ir.Model) -> tuple[dict[str, Port], list[str]]:
    """What each input of a model takes, and the names of those that must be given."""
    ports = {value.name or "": Port.of(value) for value in model.graph.inputs}
    return ports, [name for name in ports if name not in model.graph.initializers]


def read(
    ports: dict[str, Port], required: Sequence[str], texts: list[str], *, missing: bool = False
) -> dict[str, Any]:
    """The arrays of the files, by input name.

    Args:
        ports: What each input takes.
        required: The inputs that must be given. Files without a name are for those in turn.
        texts: FILE or NAME=FILE each.
        missing: Whether some of the required inputs may be left out.

    Raises:
        FeedError: A file cannot be read, or there is no input for it, or no file for an input.
    """
    feeds: dict[str, Any] = {}
    free = [name for name in required if not any(t.startswith(f"{name}=") for t in texts)]
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or os.path.exists(text):
            path = text
            if path.endswith(".npz"):
                feeds |= _arrays(path)
                continue
            if not free:
                raise FeedError(f"{path!r} is one file more than the net has inputs.")
            name = free.pop(0)
        if name not in ports:
            raise FeedError(f"The net has no input {name!r}.{nearest(name, ports)}")
        feeds[name] = _array(path, ports[name])
    if not missing and (left := [name for name in required if name not in feeds]):
        raise FeedError(f"No value for the input {', '.join(map(repr, left))}.")
    return feeds


def read_example(source: ir.Model, texts: list[str] | None) -> dict[str, Any] | None:
    """The feeds of an example, if files are given for one."""
    return read(*ports_of(source), texts) if texts else None


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write an .npz file, whole or not at all.

    Raises:
        SaveError: It cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnxgrad-") as stage:
            whole = Path(stage) / "results.npz"
            np.savez(whole, **arrays)
            os.replace(whole, path)
    except OSError as error:
        raise SaveError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error


def _array(path: str, port: Port) -> Array:
    if path.endswith(".npz"):
        arrays = _arrays(path)
        if port.name not in arrays and len(arrays) != 1:
            raise FeedError(f"{path!r} holds {', '.join(arrays)}, but not {port.name!r}.")
        return arrays.get(port.name, next(iter(arrays.values())))
    if path.endswith(".npy"):
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(path, error) from error
    return _image(path, port)


def _arrays(path: str) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zip, numpy and the system have their own
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> FeedError:
    named = isinstance(error, OSError) and error.strerror  # else the reason repeats the file's name
    return FeedError(f"Cannot read {path!r}: {f'{named}.' if named else error}")


def _image(path: str, port: Port) -> Array:
    """An image in the shape and dtype of the input, values 0 to 1 if that is floating-point."""
    from PIL import Image, UnidentifiedImageError

    shape = port.shape or ()
    if len(shape) not in (3, 4) or port.dtype is None:
        raise FeedError(f"{port.name!r} of shape {port.shape_text()} does not take an image.")
    last = shape[-1] in (1, 3, 4) and shape[-3] not in (1, 3, 4)
    height, width, channels = shape[-3:] if last else (shape[-2], shape[-1], shape[-3])
    modes: dict[Any, str] = {1: "L", 3: "RGB", 4: "RGBA"}
    try:
        with Image.open(path) as file:
            original = f"{file.width} x {file.height} {file.mode}"
            image = file.convert(modes.get(channels, "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise _unreadable(path, error) from error
    size = (
        width if isinstance(width, int) else image.width,
        height if isinstance(height, int) else image.height,
    )
    array = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    array = array.reshape(size[1], size[0], -1)
    if port.dtype.kind == "f":
        array = array / 255
    array = (array if last else array.transpose(2, 0, 1)).astype(port.dtype)
    array = array if len(shape) == 3 else array[None]
    say(
        f"{path}: {original} taken as {port.name} {array.shape}, {array.dtype} "
        f"from {array.min():.3g} to {array.max():.3g}",
    )
    return array
