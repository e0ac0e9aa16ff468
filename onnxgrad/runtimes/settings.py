"""Options of onnxruntime that are set by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxgrad.graph.errors import ArgumentError, nearest


def configure(options: Any, given: Mapping[str, Any]) -> Any:
    """Set options of onnxruntime by the names of attributes or of configuration entries.

    Raises:
        ArgumentError: There is no such attribute, or it does not take the value.
    """
    kind = type(options).__name__
    entry = "add_session_config_entry" if kind == "SessionOptions" else "add_run_config_entry"
    known = [n for n in dir(options) if not n.startswith("_") and not callable(getattr(options, n))]
    for name, value in given.items():
        try:
            if "." in name:
                getattr(options, entry)(name, str(value))
            elif name in known:
                setattr(options, name, value)
            else:
                raise ArgumentError(f"{kind} of onnxruntime has no {name!r}.{nearest(name, known)}")
        except (TypeError, RuntimeError) as error:
            raise ArgumentError(f"{kind}: {name!r} does not take {value!r}") from error
    return options
