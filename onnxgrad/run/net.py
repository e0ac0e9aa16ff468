"""Nets that run: `Net` for values and gradients of arrays."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, overload

import onnx_ir as ir
from typing_extensions import Self

from onnxgrad.declare.trainable import is_trainable
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io, names
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError, printable
from onnxgrad.graph.guard import guarded_methods
from onnxgrad.graph.names import All
from onnxgrad.heads.head import parted
from onnxgrad.passes.normalise import normalise
from onnxgrad.run.bound import Bound
from onnxgrad.run.derivatives import Derivatives
from onnxgrad.run.feeds import Feeder, Feeds
from onnxgrad.run.many import called, can_join
from onnxgrad.run.packed import Content, File, Source
from onnxgrad.run.progress import Progress, shown
from onnxgrad.run.recent import Recent
from onnxgrad.run.requests import NetPortGradient, One, Request, Requested, Value, requests
from onnxgrad.run.sessions import Sessions, hold_weights
from onnxgrad.run.values import give
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.runtimes.protocol import Session
from onnxgrad.runtimes.registry import start
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.metadata import GRADIENTS, VALUES
from onnxgrad.transforms.options import Of, TensorSpecs

__all__ = ["Net", "NetPortGradient", "Value"]


@guarded_methods
class Net(Derivatives):
    """A net that runs, and gives gradients when they are asked for.

    A gradient's model and session are built at the first request for it and kept. All sessions of a
    net share its weights. Calls from several threads are safe.

    A net can be pickled, and used in a forked process: it is opened again there, from the path that
    it was given, which has to hold the same file; weights in files are not copied into the pickle.
    A copy of a net shares the memory of its weights. Weights that lie in files of their own are
    mapped: such a file may be removed or replaced, but where it is written in place, calls raise a
    `ModelError`. Where weights take more than 2 GB, all sessions read them in place, and not in the
    packed form in which large batches are up to 1.3 times as fast.

        net = Net("model.onnx")
        net(x)                                     the output, or a dict by name if there are more
        net({"a": a, "b": b})                      several inputs
        net(x, NetPortGradient("x"))               the gradient of the sum of all outputs at x
        net(x, NetPortGradient("x"), of="loss")    ... of one output, or of an inner tensor
        net(x, [NetPortGradient("x"), ...])        several, a dict by tensor name
        net(x, NetPortGradient(ALL))               for all inputs and trainable weights, a dict
        net({"x": x, NetPortGradient("y"): g}, NetPortGradient("x"))    g imposed at y
        net(x, Value("relu_4"))                    an inner tensor as it is; several, a dict by name
        net(x, [Value("y"), NetPortGradient("x")])     both in one run, a tuple in this order
        net.gradient(x), net.value_and_gradient(x)     as above, said by wrt and of
        net.jacobian(x), net.hessian(x), net.jvp(x, t), ...        as the transforms of that name

    Every `of` takes a head or a loss, whose inputs are then among the feeds:

        net({"x": x, "labels": t}, NetPortGradient(ALL), of=losses.mse())

    The transforms take the feeds of a call. What they give is an array where `wrt` (and `of`, where
    results belong to an output) is one name, or is left out and there is one to choose; else a dict
    by tensor name. For a sequence, even of one name, it is a dict.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        providers: onnxruntime's execution providers in order of preference, each a name or a pair
            of a name and options. None for CUDA where there is one, then the CPU.
        runtime: What runs it: "onnxruntime", or "reference" for onnx's reference evaluator, which
            is slow and needs nothing else installed; or another of `onnxgrad/runtimes`.
        threads: onnxruntime's threads within an operator; None for its own choice.
        options, run_options: What to set of onnxruntime's SessionOptions and RunOptions, by the
            names of attributes, as {"enable_mem_pattern": True}, or of configuration entries, as
            {"session.disable_prepacking": "1"}. Gradients run without a memory pattern and without
            reuse of buffers by default, which halves their memory.
        straight_through, constant: Of all gradients: as for `onnxgrad.gradient`.
        max_sessions: How many gradients and other transforms to keep built. The least recently used
            goes, and is built again when it is asked for.

    Attributes:
        inputs: The names of the inputs that a call must give.
        outputs: The names of the outputs.
        parameters: The names of the trainable weights: those that `ALL` stands for.
        ports: By the name of an input, what it takes.

    Raises:
        ModelError: The model cannot be read.
        RuntimeMissingError: The runtime is not installed.
        ArgumentError: There is no such runtime, it has no providers or threads to choose, or this
            onnxruntime does not have one of the providers.
    """

    def __init__(
        self,
        model: io.ModelLike,
        providers: Sequence[Provider] | None = None,
        *,
        runtime: str = "onnxruntime",
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
        run_options: Mapping[str, Any] | None = None,
        straight_through: StraightThrough = False,
        constant: TensorSpecs | None = None,
        max_sessions: int = 64,
    ) -> None:
        counted("max_sessions", max_sessions, 1)
        session = {"threads": threads, "options": options, "run_options": run_options}
        started = start(runtime, providers=providers, **session)
        self._arguments: dict[str, Any] = {
            "providers": providers,
            "runtime": runtime,
            **session,
            "straight_through": straight_through,
            "constant": constant,
            "max_sessions": max_sessions,
        }
        self._options: dict[str, Any] = {
            "forward": False,
            "target": started.target,
            "straight_through": straight_through,
            "constant": constant,
        }
        private = io.load(model)
        self._source = Source(model, private)
        hold_weights(private, in_files=True)
        check = self._source.require_unchanged
        super().__init__(private, Sessions(private, started, self._options, max_sessions, check))
        self._resolved: Recent[Any, Requested] = Recent(max_sessions)
        self._title = started.title
        self.ports = self._feeder.ports
        _NETS.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (type(self), self._source.packed(self._model), self._arguments)

    def __copy__(self) -> Self:
        self._source.require_unchanged()
        copied = type(self)(self._model, **self._arguments)
        copied._source = self._source
        return copied

    def __deepcopy__(self, _: Any) -> Self:
        return self.__copy__()

    def _forked(self) -> None:
        """Begin without sessions in the child of a fork, where their threads are not."""
        # onnxruntime crashes where such a session is removed, at the end of the process too.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._sessions))
        self._sessions, self._feeder = self._sessions.anew(), Feeder(self._model)
        self._resolved = Recent(self._arguments["max_sessions"])

    def __repr__(self) -> str:
        ports = [("input", port) for port in self.ports.values() if port.name in self.inputs]
        ports += [("output", Port.of(value)) for value in self._model.graph.outputs]
        weights = names.parameters(self._model).values()
        sizes = [tensor.size for v in weights if (tensor := ir.convenience.get_const_tensor(v))]
        lines = [
            f"Net on {self._title}",
            *(f"  {kind:6} {port.name!r} {' '.join(port.texts())}" for kind, port in ports),
            f"  {len(sizes)} floating-point weights, {sum(sizes):,} elements",
        ]
        return "\n".join(map(printable, lines))

    @functools.cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the trainable weights, those that `ALL` stands for."""
        model = io.load(self._model)
        known = names.parameters(model)
        normalise(model, list(known), self._options["straight_through"])
        weights = model.graph.initializers
        fixed = self._options["constant"]
        constant = names.resolve_all(self._model, fixed) if fixed else []
        return tuple(
            name
            for name in known
            if name in weights and name not in constant and is_trainable(weights[name])
        )

    @overload
    def __call__(
        self, feeds: Any, request: NetPortGradient[One] | Value, *, of: Of = None
    ) -> Array: ...

    @overload
    def __call__(
        self,
        feeds: Any,
        request: Sequence[NetPortGradient] | Sequence[Value] | NetPortGradient[All],
        *,
        of: Of = None,
    ) -> dict[str, Array]: ...

    @overload
    def __call__(
        self, feeds: Any, request: Sequence[NetPortGradient | Value], *, of: Of = None
    ) -> tuple[Any, ...]: ...

    @overload
    def __call__(self, feeds: Any, request: Request | None = None, *, of: Of = None) -> Any: ...

    def __call__(self, feeds: Any, request: Request | None = None, *, of: Of = None) -> Any:
        """Run the net, or a gradient of it.

        Args:
            feeds: The input's value if there is one input; else, or with an imposed gradient, a
                dict by input name, those that heads add among them, and by `NetPortGradient` of
                the tensor to impose one at. Arrays have the input's dtype and shape. Lists and
                numbers are converted.
            request: What to differentiate with respect to, and `Value`s to give out. Differentiated
                is the sum of all elements of all tensors of `of`; or, with imposed gradients, the
                sum of their dot products with their tensors, to which nothing else contributes.
            of: As for `onnxgrad.gradient`: what to differentiate, by default every floating-point
                output.

        Returns:
            Without a request the output's array, or a dict by name if the net has several. With
            one, an array of the tensor's dtype and shape; for a sequence or `ALL` a dict of them
            by tensor name. For a sequence of both gradients and values a tuple in its order, of
            what each gives alone.

        Raises:
            FeedError: An input of a wrong name, dtype or shape, or none given.
            UnknownNameError: A gradient is asked for or imposed at a tensor that is not there.
            ArgumentError: The arguments make no sense together.
            UnreachableError: The outputs do not depend on the tensor.
            NoRuleError: An operator on the path has no gradient rule.
        """
        session, values, result = self._prepared(feeds, request, of)
        return result(session.run(values))

    @overload
    def bind(
        self,
        feeds: Any,
        request: Sequence[NetPortGradient] | Sequence[Value] | NetPortGradient[All],
        *,
        of: Of = None,
    ) -> Bound[dict[str, Any]]: ...

    @overload
    def bind(
        self, feeds: Any, request: Sequence[NetPortGradient | Value], *, of: Of = None
    ) -> Bound[tuple[Any, ...]]: ...

    @overload
    def bind(self, feeds: Any, request: Request | None = None, *, of: Of = None) -> Bound: ...

    def bind(self, feeds: Any, request: Request | None = None, *, of: Of = None) -> Bound:
        """The net, or a gradient of it, with its inputs and outputs at fixed places.

            bound = net.bind(x, NetPortGradient("x"))
            g = bound()          as net(x, ...) gives it
            x -= 0.1 * g         in place; g changes with the next bound()

        A run then allocates and copies nothing; on a runtime without places of its own, such as
        "reference", it copies the results to theirs. For inputs whose sizes stay the same.

        Args:
            feeds, request, of: As for a call, once run for the sizes of the outputs. Contiguous
                arrays are used in place, others copied once.

        Returns:
            What runs when it is called; see `Bound`.

        Raises:
            FeedError: An input or output is no tensor of numbers that numpy has.
            OnnxGradError: What a call raises.
        """
        session, values, result = self._prepared(feeds, request, of)
        return Bound(session.bind(values), result)

    def map(
        self,
        items: Iterable[Any],
        request: Request | None = None,
        *,
        of: Of = None,
        batch: int = 1,
        workers: int = 1,
        progress: Progress = False,
    ) -> Iterator[Any]:
        """What a call gives for each of many items: ``(net(item, request) for item in items)``.

            for gradient in net.map(images, NetPortGradient("x"), batch=32): ...
            list(net.map(images, batch=32, progress=True))                  with a bar

        Items are read, and results are there, as they are needed: in memory are those of at most
        ``2 * workers + 2`` runs. An array that was given stays as it is until its result is there.

        Args:
            items: The feeds of a call each, such as an array [1, 3, 224, 224] or a dict of arrays.
            request, of: As for a call.
            batch: How many items to join along their first axes into one run, which is faster. So
                it is done where it changes no result: where it is proven that examples do not
                influence each other, and neighbours have the same sizes but for the first. Others
                run alone.
            workers: How many runs to make at once, on threads. Each run uses several already, see
                `threads`.
            progress: Show a bar, which rich draws; None where the standard error is a terminal. Or
                a function, called with the number of results so far and the number of items, which
                is None where `items` has no length.

        Returns:
            An iterator over the results, in the order of the items.

        Raises:
            ArgumentError: `batch` or `workers` is no number from 1 on.
            RuntimeMissingError: A bar is to be shown, and rich is not installed.
            OnnxGradError: A call does not take an item, whose number is in the message. All results
                before it are given first.

        Example:
            >>> net = og.Net("models/mlp.onnx")
            >>> items = [np.full((1, 4), k, np.float32) for k in range(10)]
            >>> [y.shape for y in net.map(items, batch=4)][:2]
            [(1, 3), (1, 3)]
        """
        for name, number in (("batch", batch), ("workers", workers)):
            counted(name, number, 1)
        total = len(items) if isinstance(items, Sized) else None
        several = iter(items)
        first = list(itertools.islice(several, 1))
        if not first or batch == 1 or not self._can_join(first[0], request, of):
            batch = 1
        call = functools.partial(self, request=request, of=of)
        results = called(call, itertools.chain(first, several), batch, workers)
        return shown("Running the net", results, total, progress)

    def _can_join(self, item: Any, request: Request | None, of: Of) -> bool:
        """Whether a run of several items gives what runs of each give."""
        keys = item if isinstance(item, Mapping) else ()
        ograds = [self._feeder.name(k.spec) for k in keys if isinstance(k, NetPortGradient)]
        if request is None:
            return can_join(self._model, (), self.outputs, ograds)
        asked = self._asked(request)
        if isinstance(asked.wrt, All):
            return False
        specs, heads = parted(of)
        scored = [*specs, *heads] if of is not None else list(self._scored)
        given = [*(scored if asked.wrt else ()), *asked.values]
        return can_join(self._model, asked.wrt, given, ograds)

    def _prepared(
        self, feeds: Any, request: Request | None, of: Of
    ) -> tuple[Session, Mapping[str, Any], Callable[[list[Any]], Any]]:
        """The session of a call, its feeds, and the function from its outputs to the result."""
        if request is None:
            fed = self._without_gradient(feeds, of)
            return self._sessions.forward(), fed.values, self._outputs
        asked = self._asked(request)
        if asked.wrt:
            fed = self._feeder.split(feeds, of, asked.values)
            options = {"of": of, "ograd": fed.imposed}
            options |= {"values": asked.values} if asked.values else {}
            built = self._sessions.of(gradient, GRADIENTS, asked.wrt, fed.values, **options)
        else:
            fed = self._without_gradient(feeds, of, asked.values)
            built = self._sessions.of(give, VALUES, asked.values, fed.values)

        def result(found: list[Any]) -> Any:
            return asked.result(built.named(found), built.values(found))

        return built.session, self._feeder.complete(built, fed), result

    def _without_gradient(self, feeds: Any, of: Of, values: Of = ()) -> Feeds:
        """What a call feeds that asks for no gradient.

        Raises:
            ArgumentError: Its arguments have a meaning for a gradient only.
        """
        if of is not None:
            raise _unasked("of says what to differentiate")
        fed = self._feeder.split(feeds, values)
        if fed.ograds:
            raise _unasked("A gradient is imposed")
        return fed

    def _outputs(self, found: list[Any]) -> Any:
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))

    def _asked(self, request: Request) -> Requested:
        """What a request stands for; its names are resolved when it first comes."""
        asked = requests(request)
        if (known := self._resolved.get(asked)) is None:
            known = self._resolved.keep(asked, Requested(self._model, asked))
        return known


def outputs_by_name(net: Net, feeds: Any) -> dict[str, Array]:
    """The outputs of a net for some feeds by name, also where there is only one."""
    found = net(feeds)
    return found if isinstance(found, dict) else {net.outputs[0]: found}


_NETS: weakref.WeakSet[Net] = weakref.WeakSet()


def _open(kind: type[Net], packed: File | Content, arguments: dict[str, Any]) -> Net:
    """A net that was pickled."""
    return kind(packed.model(), **arguments)


def _forked() -> None:
    for net in list(_NETS):
        net._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _unasked(reason: str) -> ArgumentError:
    return ArgumentError(
        f"{reason}, but no gradient is asked for: give a NetPortGradient as the second argument."
    )
