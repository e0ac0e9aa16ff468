"""The calls of a net as PyTorch's autograd, `torch.func` and `torch.compile` know them.

A function of the core is called by one `torch.autograd.Function`. Where a gradient is wanted, the
forward part of a split is called in its place, and the backward part reads what it has kept. Where
PyTorch traces, for `torch.compile`, the call is an operator of its own, `onnxgrad::run`, which
knows a program by its number: https://docs.pytorch.org/docs/stable/library.html.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from onnxgrad.bridges.frameworks import needs
from onnxgrad.bridges.function import Function
from onnxgrad.bridges.program import Program
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.facts import may_agree
from onnxgrad.runtimes.ports import Port

with needs("torch"):
    import torch
    from torch import Tensor
    from torch._C import _functorch
    from torch.autograd import forward_ad
    from torch.utils.dlpack import from_dlpack

_PROXY, _FAKE = torch._C._TorchDispatchModeKey.PROXY, torch._C._TorchDispatchModeKey.FAKE

# Every call by its number; those of a layer live as long as it does.
_calls: weakref.WeakValueDictionary[int, Call] = weakref.WeakValueDictionary()
numbers = itertools.count()


def _derived(make: Callable[[Any, list[int]], Call]) -> Callable[[Any, list[int]], Call]:
    """A method that makes a call of another: once, and unseen by torch.compile, which looks into
    all that is called.
    """

    @functools.wraps(make)
    def made(call: Call, indices: list[int]) -> Call:
        key = (make.__name__, *indices)
        if key not in call.made:
            dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds
            call.made[key] = (dynamo.disable(make) if dynamo else make)(call, indices)
        return call.made[key]

    return made


class Call:
    """A program as autograd knows it.

    Args:
        program: What is run.
        derive: Gives the function that is differentiated in its place.
        reads: How many of the inputs that function takes, the first of them.
        differentiable: Which of the outputs have a derivative.
        checked: Whether what is given is checked: what other calls have given fits.

    Attributes:
        number: What the operator knows it by.
        kept: Which of the outputs the backward pass reads.
        made: Other calls that are made of it.
    """

    def __init__(
        self,
        program: Program,
        derive: Callable[[], Function],
        reads: int,
        differentiable: list[int],
        *,
        checked: bool = True,
    ) -> None:
        self.program, self._derive, self._checked = program, derive, checked
        self.reads, self.differentiable = reads, differentiable
        self.kept: list[int] = []
        self.made: dict[Any, Call] = {}
        self._dtypes = [dtype_of(port) for port in program.inputs]
        kinds = {port.dtype.kind for port in (*program.inputs, *program.outputs) if port.dtype}
        self._beyond_numpy = "V" in kinds  # bfloat16 and the like
        self.number = next(numbers)
        _calls[self.number] = self

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results, on the device of the first tensor. Nothing is copied on the CPU.

        Raises:
            FeedError: A tensor has another dtype or shape than its input.
        """
        device: torch.device = tensors[0].device
        session: Any = self.program.session  # of onnxruntime, which takes tensors by DLPack
        pairs = list(zip(self.program.inputs, tensors, strict=True))
        if self._checked:
            for (port, t), dtype in zip(pairs, self._dtypes, strict=True):
                # Most are weights, whose shape is known.
                if t.dtype != dtype or (
                    t.shape != port.shape and not may_agree(port.shape, t.shape)
                ):
                    raise FeedError(
                        f"{port.name!r} takes {dtype} of shape {port.shape_text()}, and {t.dtype} "
                        f"of shape {tuple(t.shape)} was given."
                    )
        try:
            if self._beyond_numpy:
                given = {p.name: t.detach().cpu().contiguous() for p, t in pairs}
                found = [from_dlpack(y) for y in session.exchange(given)]
            else:
                arrays = {p.name: t.numpy(force=True) for p, t in pairs}
                found = [torch.from_numpy(y) for y in session.run(arrays)]
        except (RuntimeError, TypeError) as error:
            raise FeedError(f"Only tensors with numbers in memory can be fed: {error}") from error
        return found if device.type == "cpu" else [t.to(device) for t in found]

    @_derived
    def pulled(self, wrt: list[int]) -> Call:
        """The backward pass, which takes what is read, cotangents and what is kept."""
        return _whole(self._derive().vjp(wrt))

    @_derived
    def pushed(self, wrt: list[int]) -> Call:
        """Forward mode, which takes what is read and tangents."""
        return _whole(self._derive().jvp(wrt))

    @_derived
    def vmapped(self, batched: list[int]) -> Call:
        """The same with a new first axis on some inputs and on all outputs."""
        program = self.program.vmapped(batched)
        if isinstance(program, Function):
            return _whole(program)
        read = [k for k in batched if k < self.reads]
        return program.once(
            "torch",
            lambda: Call(
                program, lambda: self._derive().vmapped(read), self.reads, self.differentiable
            ),
        )


class Forward(Call):
    """A function that gives its residuals out too, for gradients with respect to some inputs."""

    def __init__(self, function: Function, wrt: tuple[int, ...]) -> None:
        self._split, self._function, self._wrt = function.split(wrt), function, wrt
        count, floats = len(function.inputs), function.float_outputs
        super().__init__(self._split.forward, lambda: function, count, floats)
        self.kept = self._split.residuals

    @_derived
    def pulled(self, wrt: list[int]) -> Call:
        """The backward pass that reads them; its own derivatives are those of the whole vjp."""
        if not set(wrt) <= set(self._wrt):  # of a recorded graph more can be asked afterwards
            return super().pulled(wrt)
        program, function = self._split.backward(wrt), self._function

        def make() -> Call:
            count, floats = (
                len(function.inputs) + len(function.float_outputs),
                program.float_outputs,
            )
            return Call(program, lambda: function.vjp(wrt), count, floats, checked=False)

        return function.once(("torch", self._wrt, tuple(wrt)), make)


def _whole(function: Function) -> Call:
    count, floats = len(function.inputs), function.float_outputs
    return function.once("torch", lambda: Call(function, lambda: function, count, floats))


def call_of(function: Function, wrt: tuple[int, ...]) -> Call:
    """What a layer calls, given the inputs that a gradient is wanted for."""
    if not wrt:
        return _whole(function)
    return function.once(("torch", wrt), lambda: Forward(function, wrt))


class _Run(torch.autograd.Function):
    """A call on tensors, for autograd and `torch.func`."""

    @staticmethod
    def forward(call: Call, traced: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        if not traced:
            return tuple(call.run(tensors))
        with torch._C._AutoDispatchBelowAutograd():
            return tuple(torch.ops.onnxgrad.run(tensors, call.number))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        ctx.call, ctx.traced, *tensors = inputs
        call = ctx.call
        ctx.save_for_backward(*tensors[: call.reads], *(output[k] for k in call.kept))
        ctx.save_for_forward(*tensors)
        ctx.mark_non_differentiable(
            *(y for k, y in enumerate(output) if k not in call.differentiable)
        )
        ctx.likes = [(output[k].shape, output[k].dtype) for k in call.differentiable]
        ctx.outputs, ctx.inputs = len(output), len(tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        call, saved = ctx.call, ctx.saved_tensors
        wrt = [k for k, needed in enumerate(ctx.needs_input_grad[2:]) if needed]
        pulled = call.pulled(wrt)
        seeds = [
            saved[0].new_zeros(shape, dtype=dtype) if (g := cotangents[k]) is None else g
            for k, (shape, dtype) in zip(call.differentiable, ctx.likes, strict=True)
        ]
        given = [*saved[: call.reads], *seeds, *saved[call.reads :]]
        found = called(pulled, given[: len(pulled.program.inputs)], ctx.traced)
        gradients: list[Tensor | None] = [None] * (2 + ctx.inputs)
        for k, g in zip(wrt, found, strict=True):
            gradients[2 + k] = g
        return tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        wrt = [k for k, t in enumerate(tangents[2:]) if t is not None]
        moved = [t for t in tangents[2:] if t is not None]
        read = ctx.saved_tensors[: ctx.call.reads]
        found = called(ctx.call.pushed(wrt), [*read, *moved], ctx.traced)
        results: list[Tensor | None] = [None] * ctx.outputs
        for k, t in zip(ctx.call.differentiable, found, strict=True):
            results[k] = t
        return tuple(results)

    @staticmethod
    def vmap(info: Any, dims: Any, call: Call, traced: bool, *tensors: Tensor) -> Any:
        found = _batched(call, info.batch_size, dims[2:], tensors, traced)
        return tuple(found), (0,) * len(found)


# PyTorch looks it up at each call, which takes as long as the call of a small net.
_Run.forward.__signature__ = inspect.signature(_Run.forward)  # type: ignore[attr-defined]


def called(call: Call, tensors: Sequence[Tensor], traced: bool = False) -> Sequence[Tensor]:
    """Call with derivatives: by the operator where PyTorch traces."""
    levels = _levels()
    if traced and (not levels or _functorch.TransformType.Functionalize in levels):
        return operator(tensors, call.number)
    if traced or torch.is_grad_enabled() or forward_ad._current_level >= 0 or levels:
        return _Run.apply(call, traced, *tensors)
    return call.run(tensors)


def _levels() -> list[Any]:
    """The transforms of torch.func at work, the outermost first."""
    active = torch._C._are_functorch_transforms_active()
    return [level.key() for level in _functorch.get_interpreter_stack() or ()] if active else []


def keeps_residuals() -> bool:
    """Whether a forward pass can keep values: vmap and forward mode take it without any."""
    return all(level == _functorch.TransformType.Grad for level in _levels())


def traced() -> bool:
    """Whether what tensors go through is recorded or imagined, as by `make_fx` and `jit.trace`."""
    return (
        torch._C._get_dispatch_mode(_PROXY) is not None
        or torch._C._get_dispatch_mode(_FAKE) is not None
        or torch._C._get_tracing_state() is not None
        or _functorch.TransformType.Functionalize in _levels()
    )


def _batched(
    call: Call, n: int, dims: Sequence[int | None], tensors: Sequence[Tensor], traced: bool
) -> Sequence[Tensor]:
    """Several calls as one: along the batch of the net where it has one, else by a Scan."""
    batched = [k for k, d in enumerate(dims) if d is not None]
    moved = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
    program = call.program
    if not (isinstance(program, Function) and set(batched) <= set(program.batch)):
        return called(call.vmapped(batched), moved, traced)
    for k in program.batch:
        t = moved[k] if dims[k] is not None else moved[k].expand(n, *moved[k].shape)
        count = t.shape[1]
        moved[k] = t.reshape(n * count, *t.shape[2:])
    found = called(call, moved, traced)
    return [y.reshape(n, count, *y.shape[1:]) for y in found]


_library = torch.library.Library("onnxgrad", "FRAGMENT")
_library.define("run(Tensor[] tensors, int number) -> Tensor[]", tags=torch.Tag.pt2_compliant_tag)
operator = torch.ops.onnxgrad.run


def _numbered(number: int) -> Call:
    try:
        return _calls[number]
    except KeyError:
        raise ArgumentError(
            "A graph of PyTorch calls a layer that is no more: keep the layer with the graph."
        ) from None


@torch.library.impl(_library, "run", "CompositeExplicitAutograd")
def _(tensors: list[Tensor], number: int) -> list[Tensor]:
    call = _numbered(number)
    found = call.run(tensors)
    call.program.require_told(found, [t.shape for t in tensors])
    return found


@torch.library.impl(_library, "run", "Autograd")
def _(tensors: list[Tensor], number: int) -> list[Tensor]:
    return list(_Run.apply(_numbered(number), True, *tensors))


@torch.library.register_fake("onnxgrad::run", lib=_library)
def _(tensors: list[Tensor], number: int) -> list[Tensor]:
    return _unrun(_numbered(number).program, tensors)


@torch.library.register_vmap("onnxgrad::run", lib=_library)
def _(info: Any, dims: Any, tensors: list[Tensor], number: int) -> Any:
    found = _batched(_numbered(number), info.batch_size, dims[0], tensors, True)
    return list(found), [0] * len(found)


def dtype_of(port: Port) -> torch.dtype:
    """PyTorch's dtype of a port, which has numpy's name.

    Raises:
        ArgumentError: PyTorch has none, as for strings and sequences.
    """
    found = getattr(torch, port.dtype.name, None) if port.dtype is not None else None
    if not isinstance(found, torch.dtype):
        raise ArgumentError(f"{port.name!r} is no tensor of a dtype that PyTorch has")
    return found


def _unrun(program: Program, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like the results, without a run: where sizes are not known they are new symbols."""
    shapes = [t.shape for t in tensors]
    static = all(isinstance(d, int) for shape in shapes for d in shape)
    found: list[Any] = program.shapes(shapes) if static else program.told_shapes(shapes)
    dtypes = map(dtype_of, program.outputs)
    new = torch.library.get_ctx().new_dynamic_size
    return [
        tensors[0].new_empty([new() if d is None else d for d in shape], dtype=dtype)
        for shape, dtype in zip(found, dtypes, strict=True)
    ]
