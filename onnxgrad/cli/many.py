"""Many inputs in one command: folders, patterns, parts of large arrays; a file of results each."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxgrad.cli.files import name_and_file, whole
from onnxgrad.cli.printing import quietly, say
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError, FeedError, OnnxGradError, SaveError
from onnxgrad.run.progress import progress_bar

# What an output's name has in the place of the name of an item.
PLACE = "{}"

Feeds = dict[str, Any]
Read = Callable[[list[str]], Feeds]


@dataclass(frozen=True)
class Item:
    """The inputs that one file of results is for.

    Attributes:
        name: What the file is named by.
        texts: The inputs as a command takes them.
        rows: What to take of the first axis of each; None for all.
    """

    name: str
    texts: list[str]
    rows: slice | None = None

    def feeds(self, read: Read) -> Feeds:
        """The arrays of the inputs, by name; parts of arrays in files are mapped into memory."""
        arrays = read(self.texts)
        return arrays if self.rows is None else {n: a[self.rows] for n, a in arrays.items()}

    def newest(self) -> int:
        """When the files of the inputs were last written."""
        return max((os.stat(file).st_mtime_ns for file in self.files()), default=0)

    def files(self) -> list[str]:
        """The files of the inputs."""
        return [name_and_file(text)[1] for text in self.texts]


def items_of(texts: Sequence[str], rows: int | None, read: Read) -> list[Item] | None:
    """The items that the inputs of a command are; None for those of a single run.

    Args:
        texts: FILE or NAME=FILE each. A folder stands for the files in it, a pattern for those that
            match it.
        rows: How many rows of each array make an item.
        read: Reads inputs.

    Raises:
        FeedError: There are no such files, or not as many of one input as of another.
        ArgumentError: `rows` is no number from 1 on, or there are several files of an input.
    """
    files = [_files(text) for text in texts]
    counts = {len(some) for some in files if some is not None}
    if rows is not None:
        if counts:
            raise ArgumentError("--rows: give one file for each input, no folder and no pattern")
        return _parts(list(texts), counted("--rows", rows, 1), read)
    if not counts:
        return None
    if len(counts) > 1:
        raise FeedError(f"Inputs have {' and '.join(map(str, sorted(counts)))} files: not as many.")
    (count,) = counts
    first = next(some for some in files if some is not None)
    names = [Path(file).stem for file in first]
    if len(set(names)) < count:
        names = [Path(file).name for file in first]
    inputs = [some or [text] * count for text, some in zip(texts, files, strict=True)]
    return [Item(name, list(some)) for name, *some in zip(names, *inputs, strict=True)]


def _files(text: str) -> list[str] | None:
    """The inputs that a folder or a pattern stands for; None for a file."""
    _, path = name_and_file(text)
    start = text[: len(text) - len(path)]
    if os.path.isdir(path):
        path = os.path.join(glob.escape(path), "*")
    elif os.path.exists(path) or not glob.has_magic(path):
        return None
    found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not found:
        raise FeedError(f"{text!r} stands for no file.")
    return [start + file for file in found]


def _parts(texts: list[str], rows: int, read: Read) -> list[Item]:
    sizes = {name: np.shape(array)[:1] for name, array in read(texts).items()}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        told = ", ".join(f"{name!r} {size[0] if size else 'none'}" for name, size in sizes.items())
        raise FeedError(f"--rows: inputs have as many rows as each other, not {told}.")
    ((count,),) = set(sizes.values())
    digits = len(str(max(count - 1, 0)))
    return [Item(f"{k:0{digits}}", texts, slice(k, k + rows)) for k in range(0, count, rows)]


def each(
    items: Sequence[Item], output: Path | None, model: str, options: Mapping[str, Any]
) -> Iterator[tuple[Item, Path]]:
    """The items whose results are not there yet, with the file to write.

    So a command that was cut off goes on where it stopped. The options lie beside the results, as
    those of another command are not to be mixed with them.

    Args:
        items: All items.
        output: A path with "{}" in the place of an item's name.
        model: The path of the model.
        options: What else decides on the results.

    Raises:
        ArgumentError: `output` has no such place.
        SaveError: There are results of another command, or no file can be written.
    """
    if output is None or output.name.count(PLACE) != 1:
        raise ArgumentError(
            f"--output: of several inputs it has {PLACE} in its name, which stands for the name of "
            f"each: results/{PLACE}.npz"
        )
    record = output.with_name(output.name.replace(PLACE, "onnxgrad") + ".json")
    if any(os.path.samefile(folder, output.parent) for folder in _folders(items, output)):
        raise ArgumentError("--output: results lie in another folder than the inputs")
    try:
        output.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise SaveError(f"Cannot make {str(output.parent)!r}: {error.strerror}.") from error
    stamp = os.stat(model)
    told = {"model": [os.path.abspath(model), stamp.st_size, stamp.st_mtime_ns]}
    text = json.dumps(told | {name: repr(value) for name, value in options.items()}, indent=1)
    if record.exists() and record.read_text("utf-8") != text:
        raise SaveError(
            f"Cannot write {str(output)!r}: results of another model or other options are there, "
            f"as {str(record)!r} tells. Write elsewhere, or remove them."
        )
    with whole(record) as stage:
        stage.write_text(text, "utf-8")
    places = [(item, output.with_name(output.name.replace(PLACE, item.name))) for item in items]
    left = [(item, path) for item, path in places if not _is_done(item, path)]
    done = len(items) - len(left)
    with quietly(), progress_bar("Running the net", len(items), done, None, "items") as advance:
        for item, path in left:
            yield item, path
            advance()
    say(f"Wrote {len(left)} files; {done} were there already.")


def _folders(items: Sequence[Item], output: Path) -> set[str]:
    """The folders of the inputs, where the output's is there already."""
    if not output.parent.exists():
        return set()
    return {os.path.dirname(file) or "." for item in items for file in item.files()}


def _is_done(item: Item, path: Path) -> bool:
    return path.exists() and path.stat().st_mtime_ns >= item.newest()


@contextlib.contextmanager
def naming(item: Item) -> Iterator[None]:
    """Say which item an error is about."""
    try:
        yield
    except OnnxGradError as error:
        raise type(error)(f"{item.name}: {error}") from error
