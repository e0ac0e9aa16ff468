"""Nets at fixed places."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Generic

from typing_extensions import TypeVar

from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.protocol import Binding

Result = TypeVar("Result", covariant=True, default=Any)


class Bound(Generic[Result]):
    """A net, or a gradient of it, with its inputs and outputs at fixed places: see `Net.bind`.

    Called without arguments it runs, and gives what the net's call gives.

    Attributes:
        inputs: By name, what a run reads: an array to write into. On CUDA an `OrtValue` there, with
            `update_inplace(array)`.
    """

    def __init__(self, binding: Binding, result: Callable[[list[Any]], Result]) -> None:
        self._binding, self._process = binding, os.getpid()
        self.inputs: Mapping[str, Any] = binding.inputs
        self._result = result(list(binding.outputs))

    def __call__(self) -> Result:
        """Run: the same arrays at each call, which the next one overwrites; on CUDA `OrtValue`s.

        Raises:
            ArgumentError: It was bound before this process was forked.
        """
        if os.getpid() != self._process:
            raise ArgumentError("What runs was bound in another process: bind the net in this one.")
        self._binding.run()
        return self._result
