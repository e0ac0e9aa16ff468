"""Reads .npy and .npz files, whose headers are checked before anything is made of them."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from onnxgrad.graph import limits
from onnxgrad.graph.errors import FeedError

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def unreadable(path: str, error: Exception) -> FeedError:
    """That a file cannot be read, and why."""
    named = isinstance(error, OSError) and error.strerror  # else the reason repeats the file's name
    return FeedError(f"Cannot read {path!r}: {f'{named}.' if named else error}")


def require_file(path: str) -> None:
    """Check that a path is that of a file: a pipe or a device may never end.

    Raises:
        FeedError: It is not, or cannot be looked at.
    """
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL character is in it
        raise unreadable(path, error) from error
    if not os.path.isfile(path):
        raise FeedError(f"Cannot read {path!r}: it is no file.")


def read_npy(path: str) -> np.ndarray:
    """The array of an .npy file, mapped into memory.

    Raises:
        FeedError: It cannot be read, or holds less than its header says.
    """
    require_file(path)
    try:
        with open(path, "rb") as file:
            _require_whole(file, os.path.getsize(path))
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name.

    Raises:
        FeedError: It cannot be read, holds less than its headers say, or takes more memory than
            `limits.UNPACKED_BYTES` and the file itself.
    """
    require_file(path)
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            size, limit = sum(m.file_size for m in members), limits.UNPACKED_BYTES
            if size > max(limit, os.path.getsize(path)):
                raise ValueError(
                    f"it unpacks to {size:,} bytes, more than {limit:,} "
                    "(ONNXGRAD_MAX_UNPACKED_BYTES)"
                )
            for member in members:
                with packed.open(member) as file:
                    _require_whole(file, member.file_size)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except zipfile.BadZipFile as error:
        raise FeedError(f"Cannot read {path!r}: it is no .npz file, or it is truncated.") from error
    except Exception as error:  # zip, numpy and the system have their own
        raise unreadable(path, error) from error


def _require_whole(file: IO[Any], size: int) -> None:
    """Check that a file of a size holds the array that its header tells."""
    read = _HEADERS.get(npy.read_magic(file))
    if read is None:
        raise ValueError("it is of a version of .npy that holds no plain arrays")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    needed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or needed > held:
        raise ValueError(f"its header tells of {needed:,} bytes, and it holds {held:,}")
