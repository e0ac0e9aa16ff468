"""The sessions of a net: one of the net itself, one of each transform of it, built at first use."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.graph import io, names, protos
from onnxgrad.graph.errors import FeedError, ModelError, NoRuleError, OnnxGradError
from onnxgrad.graph.guard import quiet
from onnxgrad.heads.head import Head
from onnxgrad.passes.expand import needs_expansion
from onnxgrad.passes.normalise import normalise
from onnxgrad.run.recent import Recent
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.runtimes.protocol import Binding, Runtime, Session
from onnxgrad.transforms.blocks import Mode
from onnxgrad.transforms.metadata import OGRADS, TANGENTS, VALUES, table
from onnxgrad.transforms.planning import plan

T = TypeVar("T")

# Sizes are checked for every feed, not when the model is built.
ANY_SIZE = 2**63


class Sessions:
    """The sessions of a net, each built at the first request for it. Safe in several threads.

    Args:
        model: The net, which stays as it is.
        runtime: What they run on.
        options: Those of every transform.
        most: How many transforms to keep; the least recently used goes.
        check: Called before a session is made or used; raises if the net is not what it was.
    """

    def __init__(
        self,
        model: ir.Model,
        runtime: Runtime,
        options: Mapping[str, Any],
        most: int,
        check: Callable[[], None],
    ) -> None:
        self._model, self._runtime, self._options, self._most = model, runtime, options, most
        self._check = check
        self._lock = threading.Lock()
        self._forward: Session | None = None
        self.transformed: Recent[Any, TransformSession] = Recent(most)
        self._open: Recent[Any, bool] = Recent(most)  # what is built for each shape of the feeds
        self.modes: Recent[Any, Mode] = Recent(most)
        self._orders: Recent[Any, list[str]] = Recent(most)

    def anew(self) -> Sessions:
        """The same with no session built."""
        return Sessions(self._model, self._runtime, self._options, self._most, self._check)

    def forward(self) -> Session:
        """That of the net itself."""
        self._check()
        with self._lock:
            if self._forward is None:
                with quiet():
                    self._forward = self._load_forward()
            return self._forward

    def _load_forward(self) -> Session:
        model = io.load(self._model)
        # Only initializers can be shared.
        common.LiftConstantsToInitializersPass(lift_all_constants=True)(model)
        # Packed weights are worth their memory, 1.2 of the speed with large batches, while it is
        # not what the machine lacks.
        return self._load(model, lean=io.weight_bytes(model) > protos.LIMIT)

    def _load(self, model: ir.Model, *, lean: bool = False) -> Session:
        """A session of a model, whose operators of other domains the runtime may lack."""
        if not needs_expansion(model.graph):
            return self._runtime.load(model, lean=lean)
        standard = io.load(model)
        try:
            return self._runtime.load(model, lean=lean)
        except ModelError:
            normalise(standard, [])
        return self._runtime.load(standard, lean=lean)

    def of(
        self,
        transform: Callable[..., ir.Model],
        results: str,
        wrt: Any,
        values: Mapping[str, Any],
        /,
        **options: Any,
    ) -> TransformSession:
        """The session of a transform of the net.

        `results` is the metadata property that lists the transform's outputs. Where the ranks of
        tensors follow from the feeds alone, there is one session for each of their shapes. The
        order of names, which is that of the outputs, is the alphabet's.
        """
        self._check()
        wrt, options = self._sorted(wrt), self._all_sorted(options)
        key = _key(transform, wrt, tuple(options.items()))
        if (known := self.transformed.get(key)) is not None:
            return known
        with self._lock, quiet():
            if self._open.get(key):
                key = (key, _shapes(values))
            found = self.transformed.get(key)
            if found is None:
                build = functools.partial(transform, self._model, wrt, **self._options, **options)
                try:
                    found = TransformSession(build(), results, self._load)
                except NoRuleError:
                    self._open.keep(key, True)
                    key = (key, _shapes(values))
                    relearning = functools.partial(Relearning, build, values, self._load)
                    found = TransformSession(build(example=values), results, relearning)
                self.transformed.keep(key, found)
            return found

    def order(self, spec: Any) -> list[str] | None:
        """The names that a sequence of names and positions stands for, which are looked up once.

        None for what is no such sequence, or has a name that is not there.
        """
        if isinstance(spec, str) or not isinstance(spec, Sequence):
            return None
        if any(isinstance(one, Head) for one in spec):
            return None
        key = _hashable(spec)
        if (known := self._orders.get(key)) is None:
            try:
                known = self._orders.keep(key, names.resolve_all(self._model, spec))
            except OnnxGradError:
                return None  # the transform says what is wrong
        return known

    def _sorted(self, spec: Any) -> Any:
        found = self.order(spec)
        return spec if found is None else tuple(sorted(found))

    def _all_sorted(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._sorted(given) for name, given in options.items()}

    def plan(
        self, kind: str, values: Mapping[str, Any], wrt: Any, max_bytes: int, **options: Any
    ) -> Mode:
        """The decisions of a transform for inputs of these sizes; raises if it gives too much."""
        sizes = {name: np.shape(value) for name, value in sorted(values.items())}
        wrt, options = self._sorted(wrt), self._all_sorted(options)
        key = (kind, _hashable(wrt), max_bytes, _hashable(options), _hashable(sizes))
        with self._lock:
            if (found := self.modes.get(key)) is None:
                model = _of_sizes(self._model, sizes)
                options |= {"max_bytes": max_bytes, "example": values}
                options["constant"] = self._options["constant"]
                with quiet():
                    found = self.modes.keep(key, plan(kind, model, wrt, **options))
            return found


class TransformSession:
    """The session of one transform of a net, and what its inputs and outputs belong to.

    Attributes:
        ports: By the name of an input, what it takes.
        seeds, tangents: By tensor name, the ports that take what is imposed and the tangents.
    """

    def __init__(self, model: ir.Model, results: str, load: Callable[..., Session]) -> None:
        self.ports = {value.name or "": Port.of(value) for value in model.graph.inputs}
        self.seeds, self.tangents = (
            {
                name: self.ports[port]
                for name, port in table(model, key).items()
                if port in self.ports
            }
            for key in (OGRADS, TANGENTS)
        )
        self._results, self._values = table(model, results), table(model, VALUES)
        self.session = load(model, lean=True)

    def named(self, outputs: list[Any]) -> dict[str, Any]:
        """The results by tensor name; by two names where they belong to two tensors."""
        found = dict(zip(self.session.outputs, outputs, strict=True))
        return {
            name: {x: found[o] for x, o in out.items()} if isinstance(out, dict) else found[out]
            for name, out in self._results.items()
            if isinstance(out, dict) or out in found  # a tangent is an input or an output
        }

    def values(self, outputs: list[Any]) -> dict[str, Any]:
        """The tensors and heads that are given out besides, by name."""
        if not self._values:
            return {}
        found = dict(zip(self.session.outputs, outputs, strict=True))
        return {name: found[output] for name, output in self._values.items()}


class Relearning:
    """A session of a model whose ranks were learnt from feeds, and are again where others fail."""

    def __init__(
        self,
        build: Callable[..., ir.Model],
        inputs: Collection[str],
        load: Callable[..., Session],
        model: ir.Model,
        lean: bool,
    ) -> None:
        self._build, self._inputs = build, inputs
        self._load = functools.partial(load, lean=lean)
        self._session = self._load(model)
        self.outputs = self._session.outputs

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> list[Any]:
        """As of any session."""
        return self._tried(lambda session: session.run(feeds, outputs), feeds)

    def bind(self, feeds: Mapping[str, Any]) -> Binding:
        """As of any session; what is bound keeps the ranks of these feeds."""
        return self._tried(lambda session: session.bind(feeds), feeds)

    def _tried(self, use: Callable[[Session], T], feeds: Mapping[str, Any]) -> T:
        try:
            return use(self._session)
        except FeedError:
            example = {name: feeds[name] for name in self._inputs}
            self._session = session = self._load(self._build(example=example))
            return use(session)


def hold_weights(model: ir.Model, *, in_files: bool = False) -> None:
    """Keep each weight as one array, which gradient models and sessions then share.

    One that stayed in the model's message, however small, would keep all of the message alive.

    Args:
        model: The model, which is changed.
        in_files: Keep weights that lie in files as such: mapped once, and known to lie there.
    """

    def held(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING:
            return tensor
        if in_files and isinstance(tensor, ir.ExternalTensor):
            tensor.numpy()  # copies then share the array
            return tensor
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)

    io.replace_tensors(model, held)


def _key(*parts: Any) -> Any:
    """The parts themselves where they are hashable, as they mostly are."""
    try:
        hash(parts)
    except TypeError:
        return _hashable(parts)
    return parts


def _hashable(value: Any) -> Any:
    """A key for names, positions, sizes, options."""
    if isinstance(value, Mapping):
        return tuple((name, _hashable(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value if isinstance(value, Hashable) else repr(value)


def _shapes(values: Mapping[str, Array]) -> Hashable:
    return tuple((name, np.shape(value)) for name, value in sorted(values.items()))


def _of_sizes(model: ir.Model, sizes: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy of a model for inputs of exactly these sizes."""
    copy = io.load(model)
    for value in copy.graph.inputs:
        if (name := value.name or "") in sizes:
            value.shape = ir.Shape(sizes[name])
    for value in copy.graph.outputs:
        value.shape = None  # inferred anew, without names of dimensions
    return copy
