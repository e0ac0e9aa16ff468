"""Sessions of onnxruntime. The only module that imports it, and only when a net is to run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError, ModelError, RuntimeMissingError
from onnxgrad.runtimes.ports import Array, Run

Provider: TypeAlias = str | tuple[str, dict[str, Any]]

_CPU = "CPUExecutionProvider"

_PREFERRED = ("CUDAExecutionProvider", _CPU)

# Smaller weights stay in the model's message: shape inference reads some of them.
SHARE_BYTES = 1024

# From here on the sessions of gradients take the weights as inputs, in place. Measured: then they
# add nothing to the memory, where constants are copied into every session and packed for speed
# (convolutions run twice as fast for it).
_COPY_LIMIT = 2**28

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


def onnxruntime() -> Any:
    """The module onnxruntime.

    Raises:
        RuntimeMissingError: It is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeMissingError(
            "Running a net needs onnxruntime. Install one of onnxgrad[cpu], onnxgrad[gpu] and "
            f"onnxgrad[training] (they share one import name: one per environment). ({error})"
        ) from error


class Weights:
    """One `OrtValue` per weight, over the array's own memory, for all sessions of a net."""

    def __init__(self) -> None:
        self._values: dict[tuple[Any, ...], Any] = {}
        self._arrays: list[Array] = []

    def value(self, array: Array) -> Any:
        """The `OrtValue` of a C-contiguous array; the same one for the same memory."""
        key = (array.__array_interface__["data"][0], array.dtype.str, array.shape)
        if key not in self._values:
            self._values[key] = onnxruntime().OrtValue.ortvalue_from_numpy(array)
            self._arrays.append(array)
        return self._values[key]


class Session:
    """A model that runs on onnxruntime, with its large weights shared with other sessions.

    Args:
        model: The model. Its large initializers are taken out of it, into `weights`.
        weights: The weights of the sessions that share them.
        providers: Execution providers in order of preference; None for CUDA where there is
            one, then the CPU.
        threads: Threads within an operator; None for onnxruntime's choice.
        lean: Keep no copy of large weights on the CPU, at some cost in speed.

    Raises:
        RuntimeMissingError: onnxruntime is not installed.
        ArgumentError: A provider that this onnxruntime does not have.
        ModelError: onnxruntime refuses the model.
    """

    def __init__(
        self,
        model: ir.Model,
        weights: Weights,
        providers: Sequence[Provider] | None = None,
        *,
        threads: int | None = None,
        lean: bool = False,
    ) -> None:
        ort = onnxruntime()
        chosen = available(providers)
        self.outputs = [value.name or "" for value in model.graph.outputs]
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors arrive as exceptions
        # Else some processors' int8 becomes uint8, in nodes that are refused from opset 21 on:
        # https://github.com/microsoft/onnxruntime/issues/25526
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        taken = _take_out(model, weights)
        tensors = (model.graph.initializers[name].const_value for name in taken)
        size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        # Sharing by SessionOptions.add_initializer is no way: it takes the place of what
        # onnxruntime's optimizer has made of a weight under the same name.
        self._fed: dict[str, Any] = {}
        if lean and size > _COPY_LIMIT and all(_name(provider) == _CPU for provider in chosen):
            for name in [n for n, value in taken.items() if value.data_type() in _FLOATS]:
                value = model.graph.initializers.pop(name)
                value.const_value = None
                model.graph.inputs.append(value)
                self._fed[name] = taken.pop(name)
        if taken:
            options.add_external_initializers(list(taken), list(taken.values()))
        self._device = device_of(chosen)
        self._weights = weights  # onnxruntime does not keep their memory alive
        try:
            self._session = ort.InferenceSession(
                io.to_proto(model).SerializeToString(),
                options,
                providers=chosen,
            )
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ModelError(f"onnxruntime cannot load the model: {error}") from error

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """The values of `outputs` (all when None), in order.

        Raises:
            FeedError: onnxruntime cannot run the net on these values.
        """
        try:
            return list(self._session.run(outputs, {**self._fed, **feeds}))
        except Exception as error:  # as above
            raise _cannot_run(error) from error

    def bind(self, feeds: Mapping[str, Any]) -> Binding:
        """The session with its inputs and outputs at fixed places; it runs once for their sizes.

        Raises:
            FeedError: onnxruntime cannot run the net on these values, or cannot bind them.
        """
        return Binding(self._session, feeds, self._fed, self.run(feeds), self._device)


def on_onnxruntime(model: ir.Model) -> Run:
    """The model on onnxruntime's CPU provider."""
    return Session(io.load(model), Weights(), ["CPUExecutionProvider"]).run


class Binding:
    """Inputs and outputs of a session at fixed places.

    Attributes:
        inputs: By name, arrays over the memory that runs read; on CUDA `OrtValue`s.
        outputs: In order, arrays over the memory that runs write; on CUDA `OrtValue`s.
    """

    def __init__(
        self,
        session: Any,
        feeds: Mapping[str, Array],
        fed: Mapping[str, Any],
        outputs: Sequence[Array],
        device: str,
    ) -> None:
        names = [value.name for value in session.get_outputs()]
        self._session, self._io = session, session.io_binding()
        self.inputs: dict[str, Any] = {}
        self.outputs: list[Any] = []
        self._values: list[Any] = []  # onnxruntime does not keep them alive
        for name, value in fed.items():
            self._io.bind_ortvalue_input(name, value)
        for name, array in feeds.items():
            self.inputs[name] = self._place(name, array, device, self._io.bind_ortvalue_input)
        for name, array in zip(names, outputs, strict=True):
            array = np.require(array, requirements=["W"])
            self.outputs.append(self._place(name, array, device, self._io.bind_ortvalue_output))

    def _place(self, name: str, array: Any, device: str, bind: Any) -> Any:
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise FeedError(
                f"{name!r} cannot be bound: it is no tensor of numbers that numpy has. Call the "
                "net instead."
            )
        value = onnxruntime().OrtValue.ortvalue_from_numpy(array, device, 0)
        self._values.append(value)
        bind(name, value)
        return array if device == "cpu" else value

    def run(self) -> None:
        """Run the session on what `inputs` hold now; the results are in `outputs`.

        Raises:
            FeedError: onnxruntime cannot run the net on these values.
        """
        try:
            self._session.run_with_iobinding(self._io)
        except Exception as error:  # as above
            raise _cannot_run(error) from error


def _cannot_run(error: Exception) -> FeedError:
    return FeedError(f"onnxruntime cannot run the net on these inputs: {error}")


def available(providers: Sequence[Provider] | None) -> list[Provider]:
    """The execution providers to use; for None CUDA where there is one, then the CPU.

    Raises:
        RuntimeMissingError: onnxruntime is not installed.
        ArgumentError: This onnxruntime does not have one of `providers`.
    """
    known = onnxruntime().get_available_providers()
    if providers is None:
        return [name for name in _PREFERRED if name in known]
    chosen: list[Provider] = [providers] if isinstance(providers, str) else list(providers)
    for provider in chosen:
        if _name(provider) not in known:
            raise ArgumentError(
                f"This onnxruntime has no provider {_name(provider)!r}. It has: {', '.join(known)}."
            )
    return chosen


def device_of(providers: Sequence[Provider]) -> Literal["cpu", "cuda"]:
    """Where models on these providers run."""
    return "cuda" if _name(providers[0]) == _PREFERRED[0] else "cpu"


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _take_out(model: ir.Model, weights: Weights) -> dict[str, Any]:
    """Replace the large initializers by references to nowhere, and return their values."""
    taken = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < SHARE_BYTES or value.is_graph_input():
            continue
        if not value.uses():
            continue  # onnxruntime drops it before it looks for its value
        array = np.require(tensor.numpy(), requirements=["C", "A"])
        if not array.dtype.isnative or array.dtype.kind not in "fiu":
            continue  # not a type that an OrtValue can be made of from numpy
        taken[name] = weights.value(array)
        value.dtype, value.shape = tensor.dtype, ir.Shape(array.shape)
        value.const_value = ir.ExternalTensor(
            "weights", 0, array.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=name
        )
    return taken
