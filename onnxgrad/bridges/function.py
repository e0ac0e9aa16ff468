"""A net as a function of a list of arrays, with derivatives that are such functions too.

Every bridge stands on it. `Function.of` reads a model. `vjp` and `jvp` give its derivatives, which
have derivatives themselves. `split` gives the two parts of a forward and a backward pass, and the
second takes the values of the first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from onnxgrad.bridges.partition import partition
from onnxgrad.bridges.weights import release
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError
from onnxgrad.graph.facts import is_float
from onnxgrad.run.sessions import hold_weights
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.runtimes.protocol import Runtime, Session
from onnxgrad.runtimes.registry import start
from onnxgrad.transforms.forward import jvp
from onnxgrad.transforms.gradient import vjp
from onnxgrad.transforms.options import TensorSpecs, Wrt

T = TypeVar("T")


class Program:
    """A model that runs: a list of arrays in, a list of arrays out. Safe in several threads.

    Args:
        model: The model, which nobody else changes. Its inputs are those that must be given.
        runtime: What runs it.

    Attributes:
        inputs, outputs: Their ports, in order.
    """

    def __init__(self, model: ir.Model, runtime: Runtime) -> None:
        graph = model.graph
        self.model, self.runtime = model, runtime
        required = [v for v in graph.inputs if v.name not in graph.initializers]
        self.inputs = [Port.of(v) for v in required]
        self.outputs = [Port.of(v) for v in graph.outputs]
        self.float_inputs = [k for k, v in enumerate(required) if is_float(v)]
        self.float_outputs = [k for k, v in enumerate(graph.outputs) if is_float(v)]
        self._lock = threading.RLock()
        self._made: dict[Hashable, Any] = {}

    def __call__(self, arrays: Sequence[Any]) -> list[Array]:
        """The outputs, in order.

        Raises:
            FeedError: An array has another dtype or shape than its input, or the net cannot be run.
        """
        return self.session.run(self.feeds(arrays))

    def feeds(self, arrays: Sequence[Any]) -> dict[str, Array]:
        """The arrays by the names of the inputs, checked.

        Raises:
            FeedError: There are more or fewer, or one has another dtype or shape than its input.
        """
        if len(arrays) != len(self.inputs):
            named = ", ".join(repr(port.name) for port in self.inputs)
            raise FeedError(f"{len(self.inputs)} arrays are needed, {named}, not {len(arrays)}.")
        return {p.name: p.array(a) for p, a in zip(self.inputs, arrays, strict=True)}

    @property
    def session(self) -> Session:
        """What runs the model, loaded at first use."""
        return self._once("session", lambda: self.runtime.load(io.load(self.model)))

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made at the first request for it, and kept."""
        if key not in self._made:
            with self._lock:
                if key not in self._made:
                    self._made[key] = make()
        return self._made[key]


class Split:
    """The two parts of a forward and a backward pass.

    Attributes:
        forward: The inputs of the function in; its outputs, then other residuals, out.
        backward: The inputs of the function, seeds and residuals in, gradients out.
        outputs: How many of the outputs of `forward` are those of the function.
        residuals: Which outputs of `forward` are the residuals, in their order in `backward`.
    """

    def __init__(self, forward: Program, backward: Program, outputs: int, names: list[str]) -> None:
        self.forward, self.backward, self.outputs = forward, backward, outputs
        place = {port.name: k for k, port in enumerate(forward.outputs)}
        self.residuals = [place[name] for name in names]


class Function(Program):
    """A net as a function of a list of arrays.

    Args:
        model, runtime: As for `Program`.
        options: Those of every derivative, as `straight_through`.
        example: None, or arrays of the inputs by name, of which ranks are learnt.
        order: How often it was differentiated.

    Attributes:
        float_inputs, float_outputs: The indices of those that have a derivative.
    """

    def __init__(
        self,
        model: ir.Model,
        runtime: Runtime,
        options: Mapping[str, Any],
        example: Mapping[str, Any] | None = None,
        order: int = 0,
    ) -> None:
        super().__init__(model, runtime)
        self._options, self._example, self._order = options, example, order

    @classmethod
    def of(
        cls,
        model: io.ModelLike,
        trainable: Wrt = None,
        *,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        straight_through: StraightThrough = False,
        constant: TensorSpecs | None = None,
        example: Any = None,
    ) -> tuple[Function, dict[str, Array]]:
        """A net as a function of its inputs, then of weights; and what the weights hold, by name.

        Args:
            model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`.
            trainable: The weights that are inputs; `ALL` for those that are trainable and that an
                output depends on; None for none.
            providers, threads: As for `Net`.
            straight_through, constant, example: As for `gradient`.

        Raises:
            OnnxGradError: As `Net` and `gradient`; `trainable` names what is no weight.
        """
        runtime = start("onnxruntime", providers=providers, threads=threads)
        net = io.load(model)
        hold_weights(net)
        weights = release(net, trainable, straight_through, constant)
        options = {
            "straight_through": straight_through,
            "constant": constant,
            "target": runtime.target,
        }
        function = cls(net, runtime, options)
        if example is not None:
            own = [port.name for port in function.inputs if port.name not in weights]
            given = (
                example if isinstance(example, Mapping) else dict(zip(own, [example], strict=True))
            )
            function._example = {**given, **weights}
        return function, weights

    def vjp(self, wrt: Sequence[int] | None = None, of: Sequence[int] | None = None) -> Function:
        """Vector-Jacobian products: the inputs, then a seed for each of `of`, to gradients.

        Args:
            wrt: The indices of the inputs that the gradients belong to; None for all that can.
            of: Those of the outputs that are differentiated; None for all that can be.

        Raises:
            OnnxGradError: As `gradient`.
        """
        sources, targets = self._indices(wrt, of)
        return self._once(
            ("vjp", sources, targets),
            lambda: self._derived(self._with_gradients(sources, targets, forward=False), targets),
        )

    def jvp(self, wrt: Sequence[int] | None = None, of: Sequence[int] | None = None) -> Function:
        """Jacobian-vector products: the inputs, then tangents of `wrt`, to tangents of `of`.

        Args, Raises:
            As for `vjp`.
        """
        sources, targets = self._indices(wrt, of)

        def make() -> Function:
            options = {**self._options, "unreachable": "zeros", "example": self._example}
            names = self._names(sources, targets)
            model = jvp(self.model, names[0], of=names[1], forward=False, **options)
            return self._derived(model, None, sources)

        return self._once(("jvp", sources, targets), make)

    def split(self, wrt: Sequence[int] | None = None, of: Sequence[int] | None = None) -> Split:
        """A forward pass that keeps what its backward pass needs, and that backward pass.

        Args, Raises:
            As for `vjp`.
        """
        sources, targets = self._indices(wrt, of)

        def make() -> Split:
            model = self._with_gradients(sources, targets, forward=True)
            own = [port.name for port in self.outputs]
            forward, backward, residuals = partition(model, own)
            programs = Program(forward, self.runtime), Program(backward, self.runtime)
            return Split(*programs, len(own), residuals)

        return self._once(("split", sources, targets), make)

    def _indices(
        self, wrt: Sequence[int] | None, of: Sequence[int] | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (
            tuple(self.float_inputs if wrt is None else wrt),
            tuple(self.float_outputs if of is None else of),
        )

    def _names(self, wrt: Sequence[int], of: Sequence[int]) -> tuple[list[str], list[str]]:
        return [self.inputs[k].name for k in wrt], [self.outputs[k].name for k in of]

    def _with_gradients(self, wrt: Sequence[int], of: Sequence[int], *, forward: bool) -> ir.Model:
        sources, targets = self._names(wrt, of)
        first = self._order == 0 and list(of) == self.float_outputs
        return vjp(
            self.model,
            sources,
            of=targets,
            forward=forward,
            unreachable="error" if first else "zeros",
            example=self._example,
            **self._options,
        )

    def _derived(
        self, model: ir.Model, of: Sequence[int] | None, wrt: Sequence[int] = ()
    ) -> Function:
        """The function of a derivative of this one, with an example where this one has one."""
        function = Function(model, self.runtime, self._options, None, self._order + 1)
        if self._example is not None:
            given = [np.asarray(self._example[port.name]) for port in self.inputs]
            added = [given[k] for k in wrt] if of is None else [self(given)[k] for k in of]
            names = [port.name for port in function.inputs]
            function._example = dict(zip(names, [*given, *added], strict=True))
        return function
