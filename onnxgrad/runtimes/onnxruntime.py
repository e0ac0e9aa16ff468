"""The runtime onnxruntime. No other module imports it, and this one only when a net is to run."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.counts import counted
from onnxgrad.graph.data import embedded
from onnxgrad.graph.errors import (
    ArgumentError,
    FeedError,
    ModelError,
    RuntimeMissingError,
)
from onnxgrad.runtimes.ports import Array, foreign
from onnxgrad.runtimes.protocol import require_numbers
from onnxgrad.runtimes.registry import runtime
from onnxgrad.runtimes.settings import configure
from onnxgrad.runtimes.weights import Weights, feed_weights, take_out

Provider: TypeAlias = str | tuple[str, dict[str, Any]]

_CPU = "CPUExecutionProvider"

_PREFERRED = ("CUDAExecutionProvider", _CPU)

# The weights that a session is given are read where they are; releases before 1.32 copy them.
_IN_PLACE = "session.use_external_initializer_file_buffers_directly"


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


@runtime("onnxruntime")
class OnnxRuntime:
    """onnxruntime on some execution providers. The models that it loads share large weights.

    Args:
        providers: Execution providers in order of preference; None for CUDA where there is
            one, then the CPU.
        threads: Threads within an operator; None for onnxruntime's choice.
        options, run_options: What to set of onnxruntime's SessionOptions and RunOptions, by the
            names of attributes or of configuration entries.

    Raises:
        RuntimeMissingError: onnxruntime is not installed.
        ArgumentError: A provider or an option that this onnxruntime does not have.
    """

    title = "onnxruntime"

    def __init__(
        self,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
        run_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._providers = available(providers)
        self._weights = Weights(onnxruntime().OrtValue.ortvalue_from_numpy)
        self._options = dict(options or {})
        if threads is not None:
            self._options.setdefault("intra_op_num_threads", counted("threads", threads))
        ort = onnxruntime()
        configure(ort.SessionOptions(), self._options)  # complain at once
        self._run_options = configure(ort.RunOptions(), run_options) if run_options else None
        self.target = device_of(self._providers)

    def load(self, model: ir.Model, *, lean: bool = False) -> Session:
        """A model that runs.

        Args:
            model: A private model. Its large initializers are taken out of it.
            lean: Keep no copy of large weights on the CPU, at some cost in speed.

        Raises:
            ModelError: onnxruntime cannot load the model.
        """
        options = session_options(self._options, saves_memory=lean)
        return Session(model, self._weights, self._providers, options, self._run_options, lean=lean)


class Session:
    """A model that runs on onnxruntime, with its large weights shared with other sessions.

    Attributes:
        outputs: The names of the outputs, in order.
        inner: onnxruntime's own session.
        fed: By name, the weights that are inputs of the session.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        model: ir.Model,
        weights: Weights,
        providers: Sequence[Provider],
        options: Any,
        run_options: Any,
        *,
        lean: bool,
    ) -> None:
        self.run_options = run_options
        self.outputs: Sequence[str] = [value.name or "" for value in model.graph.outputs]
        self._foreign = foreign([*model.graph.inputs, *model.graph.outputs])
        io.replace_tensors(model, embedded)  # the session knows no folder
        taken, fixed = take_out(model, weights)
        on_cpu = all(_name(provider) == _CPU for provider in providers)
        self.fed = feed_weights(model, taken) if lean and on_cpu else {}
        if on_cpu and fixed:  # else a copy, which nobody changes
            options.add_session_config_entry(_IN_PLACE, "1")
        # SessionOptions.add_initializer cannot share them: it would replace tensors that
        # onnxruntime's optimizer has made of a weight under the same name.
        if taken:
            options.add_external_initializers(list(taken), list(taken.values()))
        self.device = device_of(providers)
        self._taken = taken  # onnxruntime does not keep their memory alive
        try:
            self.inner = onnxruntime().InferenceSession(
                io.to_proto(model).SerializeToString(),
                options,
                providers=providers,
            )
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise ModelError(f"onnxruntime cannot load the model: {error}") from error
        _give_back()

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """The values of `outputs` (all when None), in order.

        Raises:
            FeedError: onnxruntime cannot run the net on these values.
        """
        try:
            return list(self.inner.run(outputs, {**self.fed, **feeds}, self.run_options))
        except Exception as error:  # as above
            asked = [*feeds, *(self.outputs if outputs is None else outputs)]
            raise _cannot_run(error, filter(None, map(self._foreign.get, asked))) from error

    def exchange(self, feeds: Mapping[str, Any]) -> list[Any]:
        """As `run`, with tensors of other libraries, which DLPack hands over uncopied both ways.

        Raises:
            FeedError: onnxruntime cannot run the net on these values.
        """
        try:
            io, make = self.inner.io_binding(), onnxruntime().OrtValue.from_dlpack
            values = {**self.fed, **{name: make(tensor) for name, tensor in feeds.items()}}
            for name, value in values.items():
                io.bind_ortvalue_input(name, value)
            for name in self.outputs:
                io.bind_output(name, self.device)
            self.inner.run_with_iobinding(io, self.run_options)
            return io.get_outputs()
        except Exception as error:  # as above
            raise _cannot_run(error) from error

    def bind(self, feeds: Mapping[str, Any]) -> Binding:
        """The session with its inputs and outputs at fixed places; it runs once for their sizes.

        Raises:
            FeedError: onnxruntime cannot run the net on these values, or cannot bind them.
        """
        return Binding(self, feeds, self.run(feeds))

    def carry(self, state: Mapping[str, Array], following: Mapping[str, str]) -> Carried:
        """The session with a state in two places, which runs read and write in turn."""
        return Carried(self, state, following)


class Binding:
    """Inputs and outputs of a session at fixed places.

    Attributes:
        inputs: By name, arrays over the memory that runs read; on CUDA `OrtValue`s.
        outputs: In order, arrays over the memory that runs write; on CUDA `OrtValue`s.
    """

    def __init__(
        self, session: Session, feeds: Mapping[str, Array], outputs: Sequence[Array]
    ) -> None:
        self._session = session  # with the weights, which onnxruntime does not keep alive
        self._io = session.inner.io_binding()
        self._values: list[Any] = []  # onnxruntime does not keep these alive either
        for name, value in session.fed.items():
            self._io.bind_ortvalue_input(name, value)
        self.inputs: Mapping[str, Any] = {
            name: self._place(name, array, self._io.bind_ortvalue_input)
            for name, array in feeds.items()
        }
        writable = [np.require(array, requirements=["W"]) for array in outputs]
        self.outputs: Sequence[Any] = [
            self._place(name, array, self._io.bind_ortvalue_output)
            for name, array in zip(session.outputs, writable, strict=True)
        ]

    def _place(self, name: str, array: Any, bind: Any) -> Any:
        require_numbers(name, array)
        device = self._session.device
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
            self._session.inner.run_with_iobinding(self._io, self._session.run_options)
        except Exception as error:  # as above
            raise _cannot_run(error) from error


class Carried:
    """A session with a state in two places, each of which a run reads and the next one writes.

    Attributes:
        outputs: The names of the other outputs, in order.
        state: By input name, the `OrtValue`s that the next run reads.
    """

    def __init__(
        self, session: Session, state: Mapping[str, Array], following: Mapping[str, str]
    ) -> None:
        self._session = session  # with the weights, which onnxruntime does not keep alive
        self.outputs: Sequence[str] = [o for o in session.outputs if o not in following.values()]
        self._arrays: list[Array] = []  # nor these
        self.state, self._next = self._placed(state), self._placed(state)
        self._io, self._other = (
            self._bound(a, b, following)
            for a, b in ((self.state, self._next), (self._next, self.state))
        )

    def _placed(self, state: Mapping[str, Array]) -> dict[str, Any]:
        make, device = onnxruntime().OrtValue.ortvalue_from_numpy, self._session.device
        copies = {name: np.array(array, order="C") for name, array in state.items()}
        self._arrays += copies.values()
        return {name: make(array, device, 0) for name, array in copies.items()}

    def _bound(
        self, read: Mapping[str, Any], written: Mapping[str, Any], following: Mapping[str, str]
    ) -> Any:
        io = self._session.inner.io_binding()
        for name, value in {**self._session.fed, **read}.items():
            io.bind_ortvalue_input(name, value)
        for name, value in written.items():
            io.bind_ortvalue_output(following[name], value)
        return io

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The values of `outputs`, in order; the state stays as it is.

        Raises:
            FeedError: onnxruntime cannot run the net on these values.
        """
        make, device = onnxruntime().OrtValue.ortvalue_from_numpy, self._session.device
        try:
            values = {name: make(array, device, 0) for name, array in feeds.items()}
            for name, value in values.items():
                self._io.bind_ortvalue_input(name, value)
            for name in self.outputs:  # anew, as their sizes may be others
                self._io.bind_output(name)
            self._session.inner.run_with_iobinding(self._io, self._session.run_options)
        except Exception as error:  # as above
            raise _cannot_run(error) from error
        found = self._io.get_outputs_as_ortvaluevector()  # those of the state come first
        return [found[k].numpy() for k in range(len(self.state), len(found))]

    def advance(self) -> None:
        """Go on to the state that the latest run wrote."""
        self.state, self._next = self._next, self.state
        self._io, self._other = self._other, self._io

    def arrays(self) -> dict[str, Array]:
        """The state by input name, copied."""
        return {name: np.array(value.numpy()) for name, value in self.state.items()}


def session_options(given: Mapping[str, Any], *, saves_memory: bool) -> Any:
    """The options of a session: those given, else this package's.

    Args:
        saves_memory: Let the arena give out again what is free, as a gradient needs it. A plan of
            one block for all of a backward pass doubles the peak, and a buffer that is kept for a
            later tensor of the same size raises it by up to a third (docs/bounds.md).
    """
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4  # errors arrive as exceptions
    # Else on some processors int8 becomes uint8, in nodes that are not valid from opset 21 on:
    # https://github.com/microsoft/onnxruntime/issues/25526
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.enable_mem_pattern = options.enable_mem_reuse = not saves_memory
    return configure(options, given)


def _give_back() -> None:
    """Give memory to the system that making a session has freed: glibc would keep it.

    For weights of 100 MB it is 140 MB: what the optimizer has folded and laid out anew.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other libraries have none
        if trim is not None:
            trim(0)


def _cannot_run(error: Exception, dtypes: Iterable[str] = ()) -> FeedError:
    if shown := ", ".join(dtypes):
        return FeedError(
            f"onnxruntime exchanges no arrays with numpy of the dtype of {shown}. "
            "onnxgrad.to_double(model) makes a net of float64, of which it takes arrays."
        )
    return FeedError(f"onnxruntime cannot run the net on these inputs: {error}")


def write_adapter(path: str, arrays: Mapping[str, Array]) -> None:
    """Write arrays to a file that onnxruntime's LoraAdapter loads, by the names of inputs.

    Raises:
        RuntimeMissingError: onnxruntime is not installed.
        OSError: The file cannot be written, or the disk is full.
    """
    module = onnxruntime()
    adapter = module.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    make = module.OrtValue.ortvalue_from_numpy
    adapter.set_parameters({name: make(np.ascontiguousarray(a)) for name, a in arrays.items()})
    try:
        adapter.export_adapter(path)
        module.LoraAdapter().Load(path)  # what a full disk cuts off is not always told
    except RuntimeError as error:
        raise OSError("onnxruntime wrote no whole file; the disk may be full") from error


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


def device_of(providers: Sequence[Provider]) -> str:
    """The device on which models run with these providers: "cpu" or "cuda"."""
    return "cuda" if _name(providers[0]) == _PREFERRED[0] else "cpu"


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]
