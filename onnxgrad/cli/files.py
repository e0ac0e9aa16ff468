"""Files: feeds of .npy, .npz and image files, names of classes, and results to .npz files."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.cli.printing import say
from onnxgrad.explain.images import Expected, opened
from onnxgrad.graph import io
from onnxgrad.graph.arrays import read_npy, read_npz, require_file, unreadable
from onnxgrad.graph.errors import FeedError, nearest
from onnxgrad.graph.stage import staged
from onnxgrad.runtimes.ports import Array, Port


def ports_of(model: ir.Model) -> tuple[dict[str, Port], list[str]]:
    """What each input of a model takes, and the names of those that must be given."""
    ports = {value.name or "": Port.of(value) for value in model.graph.inputs}
    return ports, [name for name in ports if name not in model.graph.initializers]


def name_and_file(text: str) -> tuple[str | None, str]:
    """What FILE or NAME=FILE says; the name of a file that is there may have a = itself."""
    name, separator, path = text.partition("=")
    return (name, path) if separator and not os.path.exists(text) else (None, text)


def read(
    ports: dict[str, Port],
    required: Sequence[str],
    texts: list[str],
    *,
    missing: bool = False,
    image: Callable[[str, Port], Array] | None = None,
) -> dict[str, Any]:
    """The arrays of the files, by input name.

    Args:
        ports: What each input takes.
        required: The inputs that must be given. Files without a name are for those in turn.
        texts: FILE or NAME=FILE each.
        missing: Whether some of the required inputs may be left out.
        image: Reads an image for a port; None to have all of it guessed.

    Raises:
        FeedError: A file cannot be read, or there is no input for it, or no file for an input, or
            several.
    """
    feeds: dict[str, Any] = {}
    free = [name for name in required if not any(t.startswith(f"{name}=") for t in texts)]
    for text in texts:
        name, path = name_and_file(text)
        if name is None:
            if path.endswith(".npz"):
                for name, array in read_npz(path).items():
                    _give(feeds, name, array)
                continue
            if not free:
                raise FeedError(f"{path!r} is one file more than the net has inputs.")
            name = free.pop(0)
        if name not in ports:
            raise FeedError(f"The net has no input {name!r}.{nearest(name, ports)}")
        _give(feeds, name, _array(path, ports[name], image or _image))
    if not missing and (left := [name for name in required if name not in feeds]):
        raise FeedError(f"No value for the input {', '.join(map(repr, left))}.")
    return feeds


def _give(feeds: dict[str, Any], name: str, array: Array) -> None:
    """Keep what an input is given.

    Raises:
        FeedError: It is given something already.
    """
    if name in feeds:
        raise FeedError(f"The input {name!r} is given twice.")
    feeds[name] = array


def read_example(model: io.ModelLike, texts: list[str] | None) -> dict[str, Any] | None:
    """The feeds of an example, if files are given for one; else the model is not even read."""
    return read(*ports_of(io.load(model)), texts) if texts else None


def write(path: Path, arrays: dict[str, Any]) -> None:
    """Write an .npz file, whole or not at all.

    Raises:
        SaveError: It cannot be written.
    """
    with whole(path) as stage, open(stage, "wb") as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that comes to its place when it is whole.

    Raises:
        SaveError: It cannot be written.
    """
    with staged(path.parent, str(path)) as folder:
        stage = folder / path.name
        yield stage
        os.replace(stage, os.path.realpath(path))  # through a link, not over it


def _array(path: str, port: Port, image: Callable[[str, Port], Array]) -> Array:
    if path.endswith(".npz"):
        arrays = read_npz(path)
        if port.name not in arrays and len(arrays) != 1:
            raise FeedError(f"{path!r} holds {', '.join(arrays)}, but not {port.name!r}.")
        return arrays.get(port.name, next(iter(arrays.values())))
    if path.endswith(".npy"):
        return read_npy(path)
    return image(path, port)


def take_image(path: str, expected: Expected) -> Array:
    """An image as an input takes it; what was made of it is said."""
    picture = opened(path)
    array = expected.array(picture)
    say(
        f"{path}: {picture.width} x {picture.height} {picture.mode} taken as {expected.port.name} "
        f"{array.shape}, {array.dtype} from {array.min():.3g} to {array.max():.3g}: {expected}"
    )
    return array


def _image(path: str, port: Port) -> Array:
    return take_image(path, Expected.of(port))


def read_names(path: str) -> dict[int, str]:
    """Names by their numbers: of a file with one a line, or of a JSON list or object.

    An object has the numbers for its keys, or the names.

    Raises:
        FeedError: The file cannot be read, or holds no names.
    """
    require_file(path)
    try:
        text = Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    try:
        names = _named(text)
    except (TypeError, ValueError) as error:
        raise FeedError(f"{path!r} holds neither names nor names by number.") from error
    if not names:
        raise FeedError(f"{path!r} holds no names.")
    return names


def _named(text: str) -> dict[int, str]:
    """The names in a text by their numbers; ValueError or TypeError where they have none."""
    lines = dict(enumerate(text.splitlines()))
    if not text.lstrip().startswith(("[", "{")):
        return lines
    try:
        held = json.loads(text)
    except ValueError:  # a first line such as [PAD]
        return lines
    if isinstance(held, list):
        return {k: _name(one) for k, one in enumerate(held)}
    if all(str(key).lstrip("-").isdecimal() for key in held):
        return {int(key): _name(one) for key, one in held.items()}
    return {int(number): name for name, number in held.items()}


def _name(held: Any) -> str:
    """A name, or the last of a list such as ["n02124075", "Egyptian_cat"]."""
    return str(held[-1] if isinstance(held, list) else held)
