"""Finds runtimes by name. Every module of this folder can declare one; no other list names them.

@runtime("mine")
class Mine:
    title, target = "my runtime", "portable"

    def __init__(self, threads: int | None = None) -> None: ...

    def load(self, model: ir.Model, *, lean: bool = False) -> Session: ...
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar

from onnxgrad import runtimes
from onnxgrad.graph.errors import ArgumentError, RuntimeMissingError, nearest
from onnxgrad.runtimes.protocol import Runtime

R = TypeVar("R", bound=Callable[..., Runtime])

_makers: dict[str, Callable[..., Runtime]] = {}


def runtime(name: str) -> Callable[[R], R]:
    """Declare the class or function that makes a runtime; its parameters are the options of it."""

    def declare(maker: R) -> R:
        _makers[name] = maker
        return maker

    return declare


def start(name: str, **options: Any) -> Runtime:
    """Make the runtime of a name, with those options that are not None.

    Raises:
        ArgumentError: There is no such runtime, or it does not take one of the options.
        RuntimeMissingError: Its library is not installed.
    """
    _load_all()
    if not isinstance(name, str) or name not in _makers:
        known = ", ".join(map(repr, sorted(_makers)))
        raise ArgumentError(
            f"There is no runtime {name!r}.{nearest(str(name), _makers)} Runtimes: {known}."
        )
    given = {key: value for key, value in options.items() if value is not None}
    takes = inspect.signature(_makers[name]).parameters
    if surplus := [key for key in given if key not in takes]:
        raise ArgumentError(f"The runtime {name!r} does not take {', '.join(surplus)}.")
    return _makers[name](**given)


def on_cpu() -> dict[str, Runtime]:
    """By name, the runtimes on which the package itself runs nets: onnxruntime and the reference.

    onnxruntime is left out where it is not installed.
    """
    found = {}
    for name, options in (
        ("onnxruntime", {"providers": ["CPUExecutionProvider"]}),
        ("reference", {}),
    ):
        try:
            found[name] = start(name, **options)
        except RuntimeMissingError:
            continue
    return found


@functools.cache
def _load_all() -> None:
    """Import each module of the folder. Only here, since building a gradient needs no runtime."""
    for module in pkgutil.iter_modules(runtimes.__path__):
        importlib.import_module(f"{runtimes.__name__}.{module.name}")
