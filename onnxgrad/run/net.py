"""Nets that run: `Net` for values, with `NetPortGradient` for gradients."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.declare.learnt import is_learnt
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io, names
from onnxgrad.graph.errors import ArgumentError, NoRuleError
from onnxgrad.graph.names import All, Spec
from onnxgrad.passes.normalise import normalise
from onnxgrad.runtimes.onnxruntime import Binding, Provider, Session, Weights, available, device_of
from onnxgrad.runtimes.ports import Array, Port, arrays
from onnxgrad.transforms.batch import per_example_gradient
from onnxgrad.transforms.blocks import MAX_BYTES, Mode
from onnxgrad.transforms.forward import hvp, jvp
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.jacobian import hessian, jacobian
from onnxgrad.transforms.notes import GRADIENTS, HVPS, JACOBIANS, OGRADS, TANGENTS
from onnxgrad.transforms.planning import plan


@dataclass(frozen=True)
class NetPortGradient:
    """The gradient at a tensor of a net.

    As the second argument of a `Net` it asks for the gradient with respect to that tensor; as a key
    of the first it imposes the gradient at that tensor.

    Args:
        spec: The name of an input, a parameter or any other floating-point tensor; a position such
            as `["layer1", 0, "weight"]`; or `ALL`, for every input and every weight that is learnt.
    """

    spec: Spec | All

    def __post_init__(self) -> None:
        if not isinstance(self.spec, str | All):
            if not isinstance(self.spec, Sequence):
                raise ArgumentError(
                    "NetPortGradient takes a tensor's name, a position (a sequence of names and "
                    f"indices) or ALL, not {self.spec!r}."
                )
            if any(not isinstance(part, Hashable) for part in self.spec):
                raise ArgumentError(
                    f"NetPortGradient is of one tensor, and {self.spec!r} is no position, names "
                    "and indices. For several tensors give a list of NetPortGradients."
                )
            object.__setattr__(self, "spec", tuple(self.spec))  # hashable

    def __repr__(self) -> str:
        spec = list(self.spec) if isinstance(self.spec, tuple) else self.spec
        return f"NetPortGradient({spec!r})"


Request: TypeAlias = NetPortGradient | Sequence[NetPortGradient]
# One tensor, or a sequence of them: what the transforms take for `wrt` and `of`.
Specs: TypeAlias = str | Sequence[Spec]


class Net:
    """A net that runs on onnxruntime, and gives gradients when they are asked for.

    A gradient's model and session are built at the first request for it and kept. All sessions of a
    net share its weights. Calls from several threads are safe.

        net = Net("model.onnx")
        net(x)                                     the output, or a dict by name if there are more
        net({"a": a, "b": b})                      several inputs
        net(x, NetPortGradient("x"))               the gradient of the sum of all outputs at x
        net(x, NetPortGradient("x"), of="loss")    ... of one output, or of an inner tensor
        net(x, [NetPortGradient("x"), ...])        several, a dict by tensor name
        net(x, NetPortGradient(ALL))               for all inputs and learnt weights, a dict
        net({"x": x, NetPortGradient("y"): g}, NetPortGradient("x"))    g imposed at y
        net.jacobian(x), net.hessian(x), net.jvp(x, t), ...        as the transforms of that name

    The transforms take the feeds of a call. What they give is an array where `wrt` (and `of`, where
    results belong to an output) is one name, or is left out and there is one to choose; else a dict
    by tensor name. For a sequence, even of one name, it is a dict.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        providers: onnxruntime's execution providers in order of preference, each a name or a pair
            of a name and options. None for CUDA where there is one, then the CPU.
        threads: Threads within an operator; None for onnxruntime's choice.
        straight_through, constant: Of all gradients: as for `onnxgrad.gradient`.

    Attributes:
        inputs: The names of the inputs that a call must give.
        outputs: The names of the outputs.
        parameters: The names of the weights that are learnt: those that `ALL` stands for.
        ports: By the name of an input, what it takes.

    Raises:
        ModelError: The model cannot be read.
        RuntimeMissingError: onnxruntime is not installed.
        ArgumentError: This onnxruntime does not have one of the providers.
    """

    def __init__(
        self,
        model: io.ModelLike,
        providers: Sequence[Provider] | None = None,
        *,
        threads: int | None = None,
        straight_through: StraightThrough = False,
        constant: Specs | None = None,
    ) -> None:
        self._providers, self._threads = available(providers), threads
        self._options: dict[str, Any] = {
            "forward": False,
            "target": device_of(self._providers),
            "straight_through": straight_through,
            "constant": constant,
        }
        self._model = io.load(model)
        _hold_weights(self._model)
        self._weights = Weights()
        self._lock = threading.Lock()
        self._forward: Session | None = None
        self._built: dict[Any, _Built] = {}
        self._open: set[Any] = set()  # what is built for each shape of the feeds
        self._resolved: dict[Any, All | list[str]] = {}
        self._modes: dict[Any, Mode] = {}
        graph = self._model.graph
        self.ports = {value.name or "": Port.of(value) for value in graph.inputs}
        self.inputs = tuple(name for name in self.ports if name not in graph.initializers)
        self.outputs = tuple(value.name or "" for value in graph.outputs)

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the weights that are learnt, those that `ALL` stands for."""
        model = io.load(self._model)
        known = names.parameters(model)
        normalise(model, list(known), self._options["straight_through"])
        weights = model.graph.initializers
        return tuple(name for name in known if name in weights and is_learnt(weights[name]))

    def __call__(
        self, feeds: Any, request: Request | None = None, *, of: Specs | None = None
    ) -> Any:
        """Run the net, or a gradient of it.

        Args:
            feeds: The input's value if there is one input; else, or with an imposed gradient, a
                dict by input name and by `NetPortGradient` of the tensor to impose one at. Arrays
                have the input's dtype and shape. Lists and numbers are converted.
            request: What to differentiate with respect to. Differentiated is the sum of all
                elements of all tensors of `of`; or, with imposed gradients, the sum of their
                dot products with their tensors, to which nothing else contributes.
            of: As for `onnxgrad.gradient`: what to differentiate, by default every floating-point
                output.

        Returns:
            Without a request the output's array, or a dict by name if the net has several. With
            one, an array of the tensor's dtype and shape; for a sequence or `ALL` a dict of them
            by tensor name.

        Raises:
            FeedError: An input of a wrong name, dtype or shape, or none given.
            UnknownNameError: A gradient is asked for or imposed at a tensor that is not there.
            ArgumentError: The arguments make no sense together.
            UnreachableError: The outputs do not depend on the tensor.
            NoRuleError: An operator on the path has no gradient rule.
        """
        session, values, result = self._prepared(feeds, request, of)
        return result(session.run(values))

    def bind(self, feeds: Any, request: Request | None = None, *, of: Specs | None = None) -> Bound:
        """The net, or a gradient of it, with its inputs and outputs at fixed places.

            bound = net.bind(x, NetPortGradient("x"))
            g = bound()          as net(x, ...) gives it
            x -= 0.1 * g         in place; g changes with the next bound()

        A run then allocates and copies nothing. For inputs whose sizes stay the same.

        Args:
            feeds, request, of: As for a call, once run for the sizes of the outputs. Contiguous
                arrays are used in place, others copied once.

        Returns:
            What runs when it is called; see `Bound`.

        Raises:
            FeedError: An input or output is no tensor of numbers that numpy has.
            And what a call raises.
        """
        session, values, result = self._prepared(feeds, request, of)
        return Bound(session.bind(values), result)

    def vjp(
        self,
        feeds: Any,
        ograds: Any,
        wrt: Specs | All | None = None,
        *,
        of: Specs | None = None,
    ) -> Any:
        """The product of vectors with the Jacobian: the same as a gradient with imposed ograds.

        Args:
            feeds: As for a call.
            ograds: A dict by tensor name of what is imposed; the array itself for the one tensor
                of `of`.
            wrt, of: As for `onnxgrad.gradient`.
        """
        values, none = self._feeds(feeds)
        _refuse(none)
        only = self.outputs if of is None else names.resolve_all(self._model, of)
        imposed = self._by_name(ograds, only, "ograds")
        built = self._build(gradient, GRADIENTS, wrt, values, of=of, ograd=sorted(imposed))
        found = self._run(built, values, imposed)
        return _pick(found, wrt)

    def jvp(self, feeds: Any, tangents: Any, *, of: Specs | None = None) -> Any:
        """The product of the Jacobian with tangents of inputs, parameters or other tensors.

        Args:
            feeds: As for a call.
            tangents: A dict by tensor name; the array itself for the one input.
            of: As for `onnxgrad.jvp`.
        """
        values, ograds = self._feeds(feeds)
        _refuse(ograds)
        moved = self._by_name(tangents, self.inputs, "tangents")
        built = self._build(jvp, TANGENTS, list(moved), values, of=of)
        return _pick(self._run(built, values, tangents=moved), of)

    def hvp(self, feeds: Any, tangents: Any, *, of: Specs | None = None) -> Any:
        """The product of the Hessian with tangents, of the scalar that a gradient is of.

        Args:
            feeds: As for a call, imposed gradients included.
            tangents: A dict by tensor name; the array itself for the one input.
            of: As for `onnxgrad.hvp`.

        Returns:
            For an array an array, for a dict a dict.
        """
        values, ograds = self._feeds(feeds)
        moved = self._by_name(tangents, self.inputs, "tangents")
        imposed = sorted(ograds) or False
        built = self._build(hvp, HVPS, list(moved), values, of=of, ograd=imposed)
        found = self._run(built, values, ograds, moved)
        return found if isinstance(tangents, Mapping) else next(iter(found.values()))

    def jacobian(
        self,
        feeds: Any,
        wrt: Specs | All | None = None,
        *,
        of: Specs | None = None,
        mode: Mode = "auto",
        batched: bool | Specs = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """dy/dx, of shape [*y.shape, *x.shape]; if there are several of both, by y, then by x.

        Args:
            feeds: As for a call. Their sizes decide on the mode, and what is too large.
            wrt, of, mode, batched, max_bytes: As for `onnxgrad.jacobian`.
        """
        values, ograds = self._feeds(feeds)
        _refuse(ograds)
        options: dict[str, Any] = {"of": of, "batched": batched}
        way = self._plan("jacobian", values, wrt, mode=mode, max_bytes=max_bytes, **options)
        options |= {"mode": way, "max_bytes": _ANY}
        built = self._build(jacobian, JACOBIANS, wrt, values, **options)
        found = self._run(built, values)
        return _pick({y: _pick(row, wrt) for y, row in found.items()}, of)

    def hessian(
        self,
        feeds: Any,
        wrt: Specs | All | None = None,
        *,
        of: Specs | None = None,
        batched: bool | Specs = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """The Hessian, of shape [*a.shape, *b.shape] for two tensors of `wrt`, by a, then by b.

        Args:
            feeds: As for a call, imposed gradients included. Their sizes decide what is too large.
            wrt, of, batched, max_bytes: As for `onnxgrad.hessian`.
        """
        values, ograds = self._feeds(feeds)
        options = {"of": of, "batched": batched}
        self._plan("hessian", values, wrt, max_bytes=max_bytes, **options)
        built = self._build(
            hessian,
            JACOBIANS,
            wrt,
            values,
            ograd=sorted(ograds) or False,
            max_bytes=_ANY,
            **options,
        )
        found = self._run(built, values, ograds)
        return _pick({a: _pick(row, wrt) for a, row in found.items()}, wrt)

    def per_example_gradient(
        self,
        feeds: Any,
        wrt: Specs | All | None = None,
        *,
        of: Specs | None = None,
        batched: Specs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """The gradients of parameters, of shape [N, *w.shape], for each example of the batch.

        Args:
            feeds: As for a call. Their sizes decide what is too large.
            wrt, of, batched, max_bytes: As for `onnxgrad.per_example_gradient`.
        """
        values, ograds = self._feeds(feeds)
        _refuse(ograds)
        options = {"of": of, "batched": batched}
        self._plan("per_example_gradient", values, wrt, max_bytes=max_bytes, **options)
        transform = per_example_gradient
        built = self._build(transform, GRADIENTS, wrt, values, max_bytes=_ANY, **options)
        found = self._run(built, values)
        return found if wrt is None else _pick(found, wrt)

    def _prepared(
        self, feeds: Any, request: Request | None, of: Specs | None
    ) -> tuple[Session, Mapping[str, Any], Callable[[list[Any]], Any]]:
        """What runs, on what, and what its outputs mean."""
        values, ograds = self._feeds(feeds)
        if request is None:
            if ograds or of is not None:
                raise ArgumentError(
                    f"{'A gradient is imposed' if ograds else 'of says what to differentiate'}, "
                    "but no gradient is asked for: give a second argument."
                )
            return self._forward_session(), values, self._outputs
        built = self._requested(request, values, ograds, of)
        one = isinstance(request, NetPortGradient) and not isinstance(request.spec, All)
        return built.session, self._fed(built, values, ograds), built.only if one else built.named

    def _outputs(self, found: list[Any]) -> Any:
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))

    def _feeds(self, feeds: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arrays by input name, and the imposed gradients by tensor name."""
        if not isinstance(feeds, Mapping):
            return arrays(self.ports, self.inputs, feeds), {}
        values: dict[str, Any] = {}
        ograds: dict[str, Any] = {}
        for key, value in feeds.items():
            if not isinstance(key, NetPortGradient):
                values[key] = value
            elif isinstance(key.spec, All):
                raise ArgumentError("A gradient is imposed at one tensor, not at ALL.")
            else:
                ograds[names.resolve(self._model, key.spec)] = value
        return arrays(self.ports, self.inputs, values), ograds

    def _forward_session(self) -> Session:
        with self._lock:
            if self._forward is None:
                model = io.load(self._model)
                # Only initializers can be shared.
                common.LiftConstantsToInitializersPass(lift_all_constants=True)(model)
                self._forward = Session(
                    model, self._weights, self._providers, threads=self._threads
                )
            return self._forward

    def _build(
        self,
        transform: Callable[..., Any],
        results: str,
        wrt: Any,
        values: Mapping[str, Any],
        **options: Any,
    ) -> _Built:
        """The session of a transform of the net, kept from its first use on.

        `results` is the metadata property in which it notes what its outputs are. Where the ranks
        of tensors follow from the feeds alone, there is one session for each of their shapes.
        """
        key: Any = (transform, _hashable(wrt), _hashable(options))
        with self._lock:
            if key in self._open:
                key = (key, _shapes(values))
            if key not in self._built:
                try:
                    model = transform(self._model, wrt, **self._options, **options)
                except NoRuleError:
                    options["example"] = values
                    model = transform(self._model, wrt, **self._options, **options)
                    self._open.add(key)
                    key = (key, _shapes(values))
                self._built[key] = _Built(
                    model, results, self._weights, self._providers, self._threads
                )
            return self._built[key]

    def _plan(
        self, kind: str, values: Mapping[str, Any], wrt: Any, max_bytes: int, **options: Any
    ) -> Mode:
        """The decisions of a transform for inputs of these sizes; raises if it gives too much."""
        sizes = {name: np.shape(value) for name, value in values.items()}
        key = (kind, _hashable(wrt), max_bytes, _hashable(options), _hashable(sizes))
        with self._lock:
            if key not in self._modes:
                model = _of_sizes(self._model, sizes)
                options |= {"max_bytes": max_bytes, "example": values}
                options["constant"] = self._options["constant"]
                self._modes[key] = plan(kind, model, wrt, **options)
            return self._modes[key]

    def _fed(
        self,
        built: _Built,
        values: dict[str, Any],
        ograds: Mapping[str, Any],
        tangents: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        given = [(built.seeds, ograds), (built.tangents, tangents or {})]
        extra = {
            ports[name].name: _imposed(ports[name], value, self.ports, values)
            for ports, arrays_by_name in given
            for name, value in arrays_by_name.items()
        }
        return values | extra

    def _run(
        self,
        built: _Built,
        values: dict[str, Any],
        ograds: Mapping[str, Any] | None = None,
        tangents: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return built.named(built.session.run(self._fed(built, values, ograds or {}, tangents)))

    def _by_name(self, given: Any, only: Sequence[str], what: str) -> dict[str, Any]:
        """Values by tensor name, of a mapping by name or position; or that of the only tensor."""
        if isinstance(given, Mapping):
            if not given:
                raise ArgumentError(f"{what}: none is given.")
            return {names.resolve(self._model, spec): value for spec, value in given.items()}
        if len(only) != 1:
            raise ArgumentError(
                f"{what}: give a dict by tensor name, of {', '.join(map(repr, only))}."
            )
        return {only[0]: given}

    def _requested(
        self,
        request: Request,
        values: Mapping[str, Any],
        ograds: Mapping[str, Any],
        of: Specs | None,
    ) -> _Built:
        """The session for a request, of which the names are resolved when it first comes."""
        requests = _requests(request)
        if requests not in self._resolved:
            self._resolved[requests] = self._wrt(requests)
        wrt, imposed = self._resolved[requests], sorted(ograds) or False
        return self._build(gradient, GRADIENTS, wrt, values, of=of, ograd=imposed)

    def _wrt(self, requests: tuple[NetPortGradient, ...]) -> All | list[str]:
        resolved: dict[str, None] = {}
        for one in requests:
            if not isinstance(one.spec, All):
                resolved[names.resolve(self._model, one.spec)] = None
            elif len(requests) == 1:
                return one.spec
            else:
                raise ArgumentError("ALL stands for all gradients: ask for it alone.")
        return list(resolved)


def _requests(request: Any) -> tuple[NetPortGradient, ...]:
    """One request or several."""
    if isinstance(request, NetPortGradient):
        return (request,)
    several = isinstance(request, Sequence) and not isinstance(request, str)
    if several and request and all(isinstance(one, NetPortGradient) for one in request):
        return tuple(request)
    raise ArgumentError(
        f"The second argument is a NetPortGradient or a list of them, not {request!r}."
    )


class _Built:
    """The session of one transform of a net, and what its inputs and outputs belong to."""

    def __init__(
        self,
        model: ir.Model,
        results: str,
        weights: Weights,
        providers: Sequence[Provider] | None,
        threads: int | None,
    ) -> None:
        inputs = {value.name: Port.of(value) for value in model.graph.inputs}
        self.seeds, self.tangents = (
            {
                name: inputs[port]
                for name, port in json.loads(model.metadata_props.get(key, "{}")).items()
                if port in inputs
            }
            for key in (OGRADS, TANGENTS)
        )
        self._results: dict[str, Any] = json.loads(model.metadata_props[results])
        self.session = Session(model, weights, providers, threads=threads, lean=True)

    def named(self, outputs: list[Any]) -> dict[str, Any]:
        """The results by tensor name; by two names where they belong to two tensors."""
        found = dict(zip(self.session.outputs, outputs, strict=True))
        return {
            name: {x: found[o] for x, o in out.items()} if isinstance(out, dict) else found[out]
            for name, out in self._results.items()
            if isinstance(out, dict) or out in found  # a tangent is an input or an output
        }

    def only(self, outputs: list[Any]) -> Any:
        """The one result."""
        return next(iter(self.named(outputs).values()))


class Bound:
    """A net, or a gradient of it, with its inputs and outputs at fixed places: see `Net.bind`.

    Called without arguments it runs, and gives what the net's call gives.

    Attributes:
        inputs: By name, what a run reads: an array to write into. On CUDA an `OrtValue` there, with
            `update_inplace(array)`.
    """

    def __init__(self, binding: Binding, result: Callable[[list[Any]], Any]) -> None:
        self._binding = binding
        self.inputs: Mapping[str, Any] = binding.inputs
        self._result = result(binding.outputs)

    def __call__(self) -> Any:
        """Run: the same arrays at each call, which the next one overwrites; on CUDA `OrtValue`s."""
        self._binding.run()
        return self._result


# Sizes are checked for every feed, not when the model is built.
_ANY = 2**63


def _refuse(ograds: Mapping[str, Any]) -> None:
    if ograds:
        raise ArgumentError("The feeds impose a gradient, which has no meaning here.")


def _pick(found: dict[str, Any], spec: Any) -> Any:
    """The result itself where one tensor was named, or none and there is but one."""
    one = isinstance(spec, str) or (spec is None and len(found) == 1)
    return next(iter(found.values())) if one else found


def _hashable(value: Any) -> Any:
    """A key for names, positions, sizes, options."""
    if isinstance(value, Mapping):
        return tuple((name, _hashable(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return value if isinstance(value, Hashable) else repr(value)


def _shapes(values: Mapping[str, Any]) -> Hashable:
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


def _imposed(
    port: Port, value: Any, inputs: Mapping[str, Port], values: Mapping[str, Array]
) -> Any:
    """The imposed gradient, of the shape that the tensor will have: it is never broadcast."""
    array = port.array(value)
    sizes = {
        symbol: size
        for name, given in values.items()
        if name in inputs and inputs[name].shape is not None
        for symbol, size in zip(inputs[name].shape or (), np.shape(given), strict=False)
        if isinstance(symbol, str)
    }
    expected = tuple(sizes.get(d, d) if isinstance(d, str) else d for d in port.shape or ())
    return Port(port.name, port.dtype, expected if port.shape is not None else None).array(array)


def _hold_weights(model: ir.Model) -> None:
    """Keep each weight as one array, which gradient models and sessions then share.

    One that stayed in the model's message, however small, would keep all of the message alive.
    """

    def held(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype == ir.DataType.STRING:
            return tensor
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)

    io.replace_tensors(model, held)
