"""A folder in which files become whole before they move to where they are read.

It lies in the folder that they move to, so that a move is one step of one file system. A lock says
that its writer lives: a killed one leaves the folder and no lock, and the next save removes it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxgrad.graph.errors import OnnxGradError, SaveError

if sys.platform != "win32":
    import fcntl

_PREFIX = ".onnxgrad-"
# How often to begin anew where another save takes a folder that is not locked yet for a left one.
_TRIES = 3


@contextmanager
def staged(folder: str | os.PathLike[str], target: str) -> Iterator[Path]:
    """A new folder within `folder`, which is removed at the end with what is still in it.

    Args:
        folder: Where to make it.
        target: What is written, for messages.

    Raises:
        SaveError: Something in the block cannot be written, or the disk is full.
    """
    try:
        live_writers(folder)
        stage, lock = _locked(folder)
        try:
            yield Path(stage)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            _release(lock)
    except OnnxGradError:
        raise
    except OSError as error:
        raise SaveError(f"Cannot write {target!r}: {error.strerror or error}.") from error
    except Exception as error:  # the protobuf libraries' own errors share no base class
        raise SaveError(f"Cannot write {target!r}: {root(error)}") from error


def live_writers(folder: str | os.PathLike[str]) -> list[str]:
    """The stages of others that write into a folder now. Those of killed writers are removed.

    Where a folder cannot be locked (on Windows, on some network drives) all count as live.
    """
    live = []
    with os.scandir(folder) as entries:
        found = [e.path for e in entries if e.name.startswith(_PREFIX) and not e.is_symlink()]
    for path in found:
        lock = _lock(path)
        if lock is None:
            live.append(path)
            continue
        shutil.rmtree(path, ignore_errors=True)
        _release(lock)
    return live


def _locked(folder: str | os.PathLike[str]) -> tuple[str, int | None]:
    """A new stage, and its lock where there can be one."""
    for _ in range(_TRIES):
        stage = tempfile.mkdtemp(dir=folder, prefix=_PREFIX)
        lock = _lock(stage)
        if lock is not None and os.path.isdir(stage):
            return stage, lock
        _release(lock)
        shutil.rmtree(stage, ignore_errors=True)
    return tempfile.mkdtemp(dir=folder, prefix=_PREFIX), None


def _lock(folder: str) -> int | None:
    """A handle that locks a folder as long as this process lives; None where that cannot be."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def root(error: BaseException) -> str:
    """What the first cause of an error says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
