"""The guard of public functions: a file leads to a result or an `OnnxGradError`, and logs nothing.

A refusal belongs where the mistake is, with words of its own. The guard is for what is left.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

import onnx_ir as ir

from onnxgrad.graph.errors import ModelError, OnnxGradError, UnreachableError
from onnxgrad.graph.inference import Inference
from onnxgrad.graph.schemas import joined_name

P = ParamSpec("P")
T = TypeVar("T")
Class = TypeVar("Class", bound=type[Any])

REPORT = "This is a fault of onnxgrad: please report it, with the file."
_ADVICE: dict[type[Exception], str] = {
    MemoryError: "There is not enough memory for it.",
    RecursionError: "It is nested deeper than Python follows.",
}
# An exception that has passed through other modules than these is of a function of the caller's.
_OURS = {
    *sys.stdlib_module_names,
    *("onnxgrad", "onnx", "onnx_ir", "onnxscript", "google", "numpy", "ml_dtypes", "onnxruntime"),
}


def guarded(function: Callable[P, T], options: Collection[str] = ()) -> Callable[P, T]:
    """A public function that raises no other exception for a model than an `OnnxGradError`.

    What is raised in a function of the caller's, such as a rule, passes; so do warnings that the
    caller has made errors, and a call that does not fit the signature. In the meantime the
    libraries underneath log nothing. Errors advise options that the function takes.

    Args:
        function: The function.
        options: The options that its signature does not tell.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with quiet():
            return checked(*args, **kwargs)

    checked = _checked(function, options)
    return call


def guarded_methods(kind: Class) -> Class:
    """A class whose public methods are guarded likewise.

    But for those that run once they do not silence libraries, which would take longer than a call.
    """
    for name, method in list(vars(kind).items()):
        if isinstance(method, functools.cached_property):
            method.func = guarded(method.func)
        elif name == "__init__":
            setattr(kind, name, guarded(method))
        elif callable(method) and (name == "__call__" or not name.startswith("_")):
            setattr(kind, name, _checked(method, is_method=True))
    return kind


def _checked(
    function: Callable[P, T], options: Collection[str] = (), *, is_method: bool = False
) -> Callable[P, T]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UnreachableError as error:
            own = inspect.signature(type(args[0])).parameters if is_method else ()
            error.keep({*inspect.signature(function).parameters, *own, *options})
            raise
        except (OnnxGradError, Warning):
            raise
        except Exception as error:
            _raise(error)

    return call


def _raise(error: Exception) -> NoReturn:
    """Raise the error for an exception: with the node whose operands do not fit, if there is one,
    else with the innermost that anything worked on.
    """
    frames = list(_frames(error.__traceback__))[1:]
    if not frames or any(_module(frame) not in _OURS for frame in frames):
        raise error
    held = (v for frame in reversed(frames) for v in frame.f_locals.values())
    nodes = list(dict.fromkeys(v for v in held if isinstance(v, ir.Node)))
    for node in nodes:
        if reason := _misfit(node):
            raise ModelError(f"{_described(node)}: {_line(reason)}") from error
    where = _described(nodes[0]) if nodes else "the model"
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), REPORT)
    raise ModelError(f"{where}: {type(error).__name__}: {_line(str(error))}. {advice}") from error


def _misfit(node: ir.Node) -> str:
    opset = node.graph.opset_imports.get("") if node.graph is not None else None
    return Inference(opset).misfit(node) if opset is not None and not node.domain else ""


def _described(node: ir.Node) -> str:
    return f"operator {joined_name(node.domain, node.op_type)}, node {node.name!r}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _frames(traceback: TracebackType | None) -> Iterator[Any]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: Any) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]


# All threads share the levels of loggers: the first sets them, and the last sets them back.
_LOCK, _LOGGERS = threading.Lock(), ("onnx_ir", "onnxscript")
_levels: dict[str, int] = {}
_within = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let onnx_ir and onnxscript log nothing: they log tracebacks of what they go on without."""
    global _within
    with _LOCK:
        _within += 1
        if _within == 1:
            for name in _LOGGERS:
                logger = logging.getLogger(name)
                _levels[name] = logger.level
                logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        with _LOCK:
            _within -= 1
            if not _within:
                for name, level in _levels.items():
                    logging.getLogger(name).setLevel(level)
