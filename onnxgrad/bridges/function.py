"""A net as a function of a list of arrays, with derivatives that are such functions too.

Every bridge stands on it. `Function.of` reads a model. `vjp` and `jvp` give its derivatives, which
have derivatives themselves. `split` gives the two parts of a forward and a backward pass, and the
second takes the values of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from onnxgrad.bridges.batches import batch_inputs
from onnxgrad.bridges.partition import partition
from onnxgrad.bridges.program import Program, with_own_ends
from onnxgrad.bridges.weights import release
from onnxgrad.engine.flow import Flow
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import UnreachableError
from onnxgrad.passes.clean_up import optimise
from onnxgrad.run.packed import Content
from onnxgrad.run.sessions import hold_weights
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.runtimes.registry import start
from onnxgrad.transforms.batch import vmap
from onnxgrad.transforms.forward import jvp
from onnxgrad.transforms.gradient import vjp
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt

# Indices of inputs or outputs; None for all floating-point ones.
Some: TypeAlias = Sequence[int] | None


class Function(Program):
    """A net as a function of a list of arrays.

    Args:
        model, runtime: As for `Program`.
        options: Those of every derivative, as `straight_through`.
        example: None, or arrays of the inputs, of which ranks are learnt.
        derived: Whether it is made of another function, so that a gradient of zeros is one.
        batch: Finds what the attribute is; None to prove it.
    """

    def __init__(
        self,
        model: ir.Model,
        runtime: Runtime,
        options: Mapping[str, Any],
        example: Sequence[Any] | None = None,
        *,
        derived: bool = False,
        batch: Callable[[], list[int]] | None = None,
    ) -> None:
        super().__init__(model, runtime)
        self._options, self._derived, self._batch = options, derived, batch
        self._example = example and [np.asarray(a) for a in example]
        self._runs: Mapping[str, Any] = {}

    def __reduce__(self) -> Any:
        """It is pickled as its model, and what runs it."""
        options = {key: self._options[key] for key in ("straight_through", "constant")}
        example = self._named_example()
        return _again, (Content.of(self.model), {**options, **self._runs, "example": example})

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
        runs = {"providers": providers, "threads": threads}
        runtime = start("onnxruntime", **runs)
        net = io.load(model)
        hold_weights(net)
        weights = release(net, trainable, straight_through, constant)
        options = {"straight_through": straight_through, "constant": constant}
        function = cls(net, runtime, {**options, "target": runtime.target})
        function._runs = runs
        if example is not None:
            given = {p.name: example for p in function.inputs}
            given |= {**(example if isinstance(example, Mapping) else {}), **weights}
            function._example = [np.asarray(given[p.name]) for p in function.inputs]
        return function, weights

    def vjp(self, wrt: Some = None, of: Some = None) -> Function:
        """Vector-Jacobian products: the inputs, then a seed for each of `of`, to gradients.

        Args:
            wrt: The indices of the inputs that the gradients belong to; None for all that can.
            of: Those of the outputs that are differentiated; None for all that can be.

        Raises:
            OnnxGradError: As `gradient`.
        """
        sources, targets = self._indices(wrt, of)

        def batch() -> list[int]:
            apart = bool(self.batch) and set(sources) <= set(self.batch)
            return [*self.batch, *self._behind(targets)] if apart else []

        return self.once(
            ("vjp", sources, targets),
            lambda: self._made_of(
                self._with_gradients(sources, targets, forward=False),
                lambda given: [*given, *(self(given)[k] for k in targets)],
                batch,
            ),
        )

    def jvp(self, wrt: Some = None, of: Some = None) -> Function:
        """Jacobian-vector products: the inputs, then tangents of `wrt`, to tangents of `of`.

        Args, Raises:
            As for `vjp`.
        """
        sources, targets = self._indices(wrt, of)

        def batch() -> list[int]:
            tangents = zip(sources, self._behind(sources), strict=True)
            return [*self.batch, *(k for source, k in tangents if source in self.batch)]

        def make(model: ir.Model, asked: Mapping[str, Any]) -> ir.Model:
            ends = with_own_ends(model)
            named = [ends.graph.outputs[k].name for k in targets]
            return jvp(ends, **{**asked, "of": named}, forward=False)

        return self.once(
            ("jvp", sources, targets),
            lambda: self._made_of(
                self._derived_model(make, sources, targets, apart=len(targets) > 1),
                lambda given: [*given, *(given[k] for k in sources)],
                batch,
            ),
        )

    def vmapped(self, batched: Sequence[int]) -> Function:
        """As that of a program; it has derivatives too."""
        names = [self.inputs[k].name for k in batched]
        return self.once(
            ("vmapped", *batched),
            lambda: self._made_of(
                vmap(with_own_ends(self.model), batched=names, example=self._named_example()),
                lambda given: [a[None] if k in batched else a for k, a in enumerate(given)],
                lambda: list(batched),
            ),
        )

    def split(self, wrt: Some = None, of: Some = None) -> Split:
        """A forward pass that keeps what its backward pass needs, and that backward pass.

        Args, Raises:
            As for `vjp`.
        """
        sources, targets = self._indices(wrt, of)

        def make() -> Split:
            model = self._with_gradients(sources, targets, forward=True)
            return Split(model, [port.name for port in self.outputs], sources, self.runtime)

        return self.once(("split", sources, targets), make)

    @property
    def batch(self) -> list[int]:
        """The inputs whose first axis is a batch of which no example influences another.

        Where there are such, several calls are one: with these inputs concatenated along that axis,
        as the outputs then are. Empty where this is not proven.
        """

        def prove() -> list[int]:
            names = batch_inputs(self.model)
            return [k for k, port in enumerate(self.inputs) if port.name in names]

        return self.once("batch", self._batch or prove)

    def depends(self) -> list[list[bool]]:
        """For each input, for each output, whether there is a path that carries a derivative."""

        def trace() -> list[list[bool]]:
            asked = self._asked(self.float_inputs, self.float_outputs)
            job = Job(io.load(self.model), asked.pop("wrt"), Options(**asked))
            found = [[False] * len(self.outputs) for _ in self.inputs]
            for y, target in zip(self.float_outputs, job.of, strict=True):
                flow = Flow.of(job.op.graph, job.wrt, [target])
                for x, source in zip(self.float_inputs, job.wrt, strict=True):
                    found[x][y] = flow.matters(source)
            return found

        return self.once("depends", trace)

    def _indices(self, wrt: Some, of: Some) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (
            tuple(self.float_inputs if wrt is None else wrt),
            tuple(self.float_outputs if of is None else of),
        )

    def _behind(self, added: Sequence[Any]) -> range:
        """The indices of inputs that are added behind the present ones."""
        return range(len(self.inputs), len(self.inputs) + len(added))

    def _named_example(self) -> dict[str, Any] | None:
        if self._example is None:
            return None
        return {port.name: a for port, a in zip(self.inputs, self._example, strict=True)}

    def _asked(self, wrt: Sequence[int], of: Sequence[int]) -> dict[str, Any]:
        """What a transform is asked for."""
        strict = not self._derived and list(of) == self.float_outputs
        return {
            "wrt": [self.inputs[k].name for k in wrt],
            "of": [self.outputs[k].name for k in of],
            "unreachable": "error" if strict else "zeros",
            "example": self._named_example(),
            **self._options,
        }

    def _with_gradients(self, wrt: Sequence[int], of: Sequence[int], *, forward: bool) -> ir.Model:
        def make(model: ir.Model, asked: Mapping[str, Any]) -> ir.Model:
            return vjp(model, **asked, forward=forward)

        return self._derived_model(make, wrt, of)

    def _derived_model(
        self,
        make: Callable[[ir.Model, Mapping[str, Any]], ir.Model],
        wrt: Sequence[int],
        of: Sequence[int],
        *,
        apart: bool = False,
    ) -> ir.Model:
        """What a transform makes of the model; zeros where no path leads.

        Args:
            apart: Whether zeros are right too where operators of zero derivative end all paths.

        Raises:
            UnreachableError: Such operators end all paths.
        """
        asked = self._asked(wrt, of)
        try:
            return make(self.model, asked)
        except UnreachableError as error:
            if not apart and self._is_blocked(asked):
                error.keep(self._options)
                raise
        return make(self.model, {**asked, "unreachable": "zeros"})

    def _is_blocked(self, asked: dict[str, Any]) -> bool:
        """Whether operators of zero derivative, and not only a lack of nodes, end all paths."""
        options = {name: value for name, value in asked.items() if name != "wrt"}
        job = Job(io.load(self.model), asked["wrt"], Options(**{**options, "unreachable": "zeros"}))
        flows = [(v, Flow.of(job.op.graph, [v], job.of)) for v in job.wrt]
        return any(flow.blocked and not flow.matters(v) for v, flow in flows)

    def _made_of(
        self,
        model: ir.Model,
        example: Callable[[Sequence[Any]], list[Any]],
        batch: Callable[[], list[int]] | None,
    ) -> Function:
        """The function of a model that is made of this one's, and of its example."""
        given = None if self._example is None else example(self._example)
        return Function(model, self.runtime, self._options, given, derived=True, batch=batch)


class Split:
    """The two parts of a forward and a backward pass.

    Attributes:
        forward: The inputs of the function in; its outputs, then other residuals, out.
        residuals: Which outputs of `forward` are the residuals, in their order in `backward`.
    """

    def __init__(
        self, model: ir.Model, own: list[str], wrt: Sequence[int], runtime: Runtime
    ) -> None:
        forward, self._backward, residuals = partition(model, own)
        self.forward, self._wrt = Program(forward, runtime), list(wrt)
        place = {port.name: k for k, port in enumerate(self.forward.outputs)}
        self.residuals = [place[name] for name in residuals]

    def backward(self, wrt: Some = None) -> Program:
        """The inputs of the function, a seed for each of `of` and the residuals in, gradients out.

        Args:
            wrt: For which inputs, among those of the split; None for all of these.
        """
        asked = tuple(self._wrt if wrt is None else wrt)

        def make() -> Program:
            model = io.load(self._backward)
            outputs = dict(zip(self._wrt, model.graph.outputs, strict=True))
            model.graph.outputs.clear()
            model.graph.outputs.extend(outputs[k] for k in asked)
            optimise(model)
            return Program(model, self.forward.runtime)

        return self.forward.once(("backward", asked), make)


def _again(content: Content, options: dict[str, Any]) -> Function:
    """A function that was pickled."""
    return Function.of(content.model(), **options)[0]
