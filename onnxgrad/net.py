"""Nets that run: `Net` for values, with `NetPortGradient` for gradients."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad import io, names
from onnxgrad.api import GRADIENTS, OGRADS, gradient
from onnxgrad.errors import ArgumentError
from onnxgrad.names import All, Spec
from onnxgrad.runtime import SHARE_BYTES, Array, Port, Provider, Session, Weights, arrays, available


@dataclass(frozen=True)
class NetPortGradient:
    """The gradient at a tensor of a net.

    As the second argument of a `Net` it asks for the gradient with respect to that tensor; as a key
    of the first it imposes the gradient at that tensor.

    Args:
        spec: The name of an input, a parameter or any other floating-point tensor; a position such
            as `["layer1", 0, "weight"]`; or `ALL`, for every input and parameter.
    """

    spec: Spec | All

    def __post_init__(self) -> None:
        if not isinstance(self.spec, str | All):
            if not isinstance(self.spec, Sequence):
                raise ArgumentError(
                    "NetPortGradient takes a tensor's name, a position (a sequence of names and "
                    f"indices) or ALL, not {self.spec!r}."
                )
            object.__setattr__(self, "spec", tuple(self.spec))  # hashable

    def __repr__(self) -> str:
        spec = list(self.spec) if isinstance(self.spec, tuple) else self.spec
        return f"NetPortGradient({spec!r})"


Request: TypeAlias = NetPortGradient | Sequence[NetPortGradient]


class Net:
    """A net that runs on onnxruntime, and gives gradients when they are asked for.

    A gradient's model and session are built at the first request for it and kept. All sessions of a
    net share its weights. Calls from several threads are safe.

        net = Net("model.onnx")
        net(x)                                     the output, or a dict by name if there are more
        net({"a": a, "b": b})                      several inputs
        net(x, NetPortGradient("x"))               the gradient of the sum of all outputs at x
        net(x, [NetPortGradient("x"), ...])        several, a dict by tensor name
        net(x, NetPortGradient(ALL))               for all inputs and parameters, a dict
        net({"x": x, NetPortGradient("y"): g}, NetPortGradient("x"))    g imposed at y

    Args:
        model: A path, an `onnx.ModelProto` or an `onnx_ir.Model`; it is not changed.
        providers: onnxruntime's execution providers in order of preference, each a name or a pair
            of a name and options. None for CUDA where there is one, then the CPU.
        threads: Threads within an operator; None for onnxruntime's choice.

    Attributes:
        inputs: The names of the inputs that a call must give.
        outputs: The names of the outputs.
        parameters: The names of the floating-point weights.
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
    ) -> None:
        self._providers, self._threads = available(providers), threads
        self._model = io.load(model)
        _hold_weights(self._model)
        self._weights = Weights()
        self._lock = threading.Lock()
        self._forward: Session | None = None
        self._backward: dict[tuple[All | tuple[str, ...], tuple[str, ...]], _Backward] = {}
        graph = self._model.graph
        self.ports = {value.name or "": Port.of(value) for value in graph.inputs}
        self.inputs = tuple(name for name in self.ports if name not in graph.initializers)
        self.outputs = tuple(value.name or "" for value in graph.outputs)
        self.parameters = tuple(names.parameters(self._model))

    def __call__(self, feeds: Any, request: Request | None = None) -> Any:
        """Run the net, or a gradient of it.

        Args:
            feeds: The input's value if there is one input; else, or with an imposed gradient, a
                dict by input name and by `NetPortGradient` of the tensor to impose one at. Arrays
                have the input's dtype and shape. Lists and numbers are converted.
            request: What to differentiate with respect to. Differentiated is the sum of all
                elements of all floating-point outputs; or, with imposed gradients, the sum of their
                dot products with their tensors, to which nothing else contributes.

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
        values, ograds = self._feeds(feeds)
        if request is None:
            if ograds:
                raise ArgumentError(
                    "A gradient is imposed, but none is asked for: give a second argument."
                )
            results = dict(zip(self.outputs, self._forward_session().run(values), strict=True))
            return results[self.outputs[0]] if len(self.outputs) == 1 else results
        backward = self._backward_of(request, tuple(ograds))
        for name, value in ograds.items():
            port = backward.seeds[name]
            values[port.name] = _imposed(port, value, self.ports, values)
        found = dict(zip(backward.names, backward.session.run(values), strict=True))
        if isinstance(request, NetPortGradient) and not isinstance(request.spec, All):
            return found[backward.names[0]]
        return found

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

    def _backward_of(self, request: Request, ograds: tuple[str, ...]) -> _Backward:
        wrt = self._wrt(request)
        with self._lock:
            key = (wrt, tuple(sorted(ograds)))
            if key not in self._backward:
                model = gradient(
                    self._model,
                    wrt if isinstance(wrt, All) else list(wrt),
                    ograd=list(ograds) or False,
                    forward=False,
                )
                self._backward[key] = _Backward(
                    model, self._weights, self._providers, self._threads
                )
            return self._backward[key]

    def _wrt(self, request: Request) -> All | tuple[str, ...]:
        several = [request] if isinstance(request, NetPortGradient) else request
        if (
            isinstance(several, str)
            or not isinstance(several, Sequence)
            or not several
            or not all(isinstance(one, NetPortGradient) for one in several)
        ):
            raise ArgumentError(
                f"The second argument is a NetPortGradient or a list of them, not {request!r}."
            )
        resolved: list[str] = []
        for one in several:
            if isinstance(one.spec, All):
                if len(several) > 1:
                    raise ArgumentError("ALL stands for all gradients: ask for it alone.")
                return one.spec
            resolved.append(names.resolve(self._model, one.spec))
        return tuple(dict.fromkeys(resolved))


class _Backward:
    """The session of one gradient model, and what its outputs and seeds are gradients of."""

    def __init__(
        self,
        model: ir.Model,
        weights: Weights,
        providers: Sequence[Provider] | None,
        threads: int | None,
    ) -> None:
        inputs = {value.name: value for value in model.graph.inputs}
        seeds = json.loads(model.metadata_props[OGRADS])
        self.seeds = {name: Port.of(inputs[seed]) for name, seed in seeds.items()}
        # The gradients are the only outputs, in this order.
        self.names = list(json.loads(model.metadata_props[GRADIENTS]))
        self.session = Session(model, weights, providers, threads=threads, lean=True)


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
    """Keep each large weight as one array, which gradient models and sessions then share."""

    def held(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.nbytes < SHARE_BYTES or tensor.dtype == ir.DataType.STRING:
            return tensor
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)

    io.replace_tensors(model, held)
