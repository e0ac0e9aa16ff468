"""The bridge to PyTorch: a net as a module whose backward pass is the file's gradient.

A function of the core is called by one `torch.autograd.Function`. Where a gradient is wanted, the
forward part of a split is called in its place, and the backward part reads what it has kept. Where
PyTorch traces, for `torch.compile`, the call is an operator of its own, `onnxgrad::run`, which
knows a program by its number: https://docs.pytorch.org/docs/stable/library.html.
"""

from __future__ import annotations

import inspect
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.bridges.frameworks import needs
from onnxgrad.bridges.function import Function
from onnxgrad.bridges.program import Program
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.facts import may_agree
from onnxgrad.graph.names import ALL, resolve_all
from onnxgrad.run.values import give
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt

with needs("torch"):
    import torch
    from torch import Tensor, nn
    from torch._C import _functorch
    from torch.autograd import forward_ad
    from torch.utils.dlpack import from_dlpack

__all__ = ["Layer", "layer"]

# Every call by its number; those of a layer live as long as it does.
_calls: weakref.WeakValueDictionary[int, _Call] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def layer(
    model: io.ModelLike,
    *,
    of: Of = None,
    wrt: TensorSpecs | None = None,
    trainable: Wrt = ALL,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    straight_through: StraightThrough = False,
    constant: TensorSpecs | None = None,
    example: Any = None,
) -> Layer:
    """A net as a module of PyTorch.

    It is called with tensors in the order of the net's inputs, or by their names, and gives a
    tensor, or a tuple of them in the order of the net's outputs. Its parameters are weights of the
    file, under their names there. Derivatives of any order are those of the file's gradient.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`.
        of: What the layer gives: names of tensors, heads or losses, whose inputs come behind those
            of the net; None for the net's outputs.
        wrt: The inputs that gradients flow to; None for every floating-point one.
        trainable: The weights that are parameters; `ALL` for those that training changes, None for
            none, which runs fastest.
        providers, threads: As for `Net`.
        straight_through, constant, example: As for `gradient`.

    Returns:
        The module. What it takes and gives has the dtypes and shapes of the file.

    Raises:
        RuntimeMissingError: PyTorch or onnxruntime is not installed.
        ArgumentError: A name in `wrt` is no floating-point input, one in `trainable` no weight.
        OnnxGradError: As for `Net`.

    Example:
        >>> layer = og.bridges.torch.layer("models/mlp.onnx")
        >>> x = torch.ones(2, 4, requires_grad=True)
        >>> layer(x).sum().backward()
        >>> x.grad.shape, layer.fc1.weight.grad.shape
        (torch.Size([2, 4]), torch.Size([16, 4]))
    """
    net = io.load(model) if of is None else give(io.load(model), of)
    function, weights = Function.of(
        net,
        trainable,
        providers=providers,
        threads=threads,
        straight_through=straight_through,
        constant=constant,
        example=example,
    )
    names = [port.name for port in function.inputs]
    chosen = None if wrt is None else resolve_all(net, wrt)
    for name in chosen or ():
        if name not in names or names.index(name) not in function.float_inputs:
            raise ArgumentError(f"wrt: {name!r} is no floating-point input of the net")
    for port in (*function.inputs, *function.outputs):
        _dtype(port)
    return Layer(function, {name: _tensor(a) for name, a in weights.items()}, chosen)


class Layer(nn.Module):
    """A net as a module; `layer` makes it."""

    def __init__(
        self, function: Function, weights: dict[str, Tensor], wrt: list[str] | None = None
    ) -> None:
        super().__init__()
        self._function, self._outputs = function, len(function.outputs)
        names = [port.name for port in function.inputs]
        self._inputs = [name for name in names if name not in weights]
        self._constant = [wrt is not None and name not in wrt for name in self._inputs]
        self._floats = function.float_inputs if function.float_outputs else []
        self._places = [_place(self, name, nn.Parameter(w)) for name, w in weights.items()]

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """The net's output, or a tuple of its outputs.

        Raises:
            FeedError: A tensor lacks, or has another dtype or shape than its input.
        """
        given = [*inputs, *(named[name] for name in self._inputs[len(inputs) :] if name in named)]
        once = len(given) == len(self._inputs) == len(inputs) + len(named)
        if not once or not all(isinstance(t, Tensor) for t in given):
            names = ", ".join(map(repr, self._inputs))
            raise FeedError(f"The layer takes tensors for {names}, each once.")
        given = [t.detach() if fixed else t for t, fixed in zip(given, self._constant, strict=True)]
        tensors = given + [getattr(module, name) for module, name in self._places]
        if torch.compiler.is_compiling():
            found = _operator(tensors, self._number(self._wanted(tensors)))
        else:
            # vmap and forward mode take functions without residuals.
            gradients = all(level == _functorch.TransformType.Grad for level in _levels())
            wanted = self._wanted(tensors) if gradients else ()
            found = _called(_forward(self._function, wanted), tensors)
        return found[0] if self._outputs == 1 else tuple(found[: self._outputs])

    def _wanted(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """The tensors that a gradient may be asked for."""
        if not torch.is_grad_enabled():
            return ()
        return tuple([k for k in self._floats if tensors[k].requires_grad])

    @torch.compiler.assume_constant_result
    def _number(self, wrt: tuple[int, ...]) -> int:
        return _forward(self._function, wrt).number

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        ports = self._function.inputs[: len(self._inputs)], self._function.outputs
        said = [", ".join(f"{p.name} {' '.join(p.texts())}" for p in some) for some in ports]
        return " -> ".join(said)


def _place(root: nn.Module, name: str, parameter: nn.Parameter) -> tuple[nn.Module, str]:
    """Register a parameter where its name says: `fc1.weight` is `weight` of the module `fc1`."""
    *path, last = name.split(".")
    module = root
    for part in path:
        part = part or "_"
        while hasattr(module, part) and not isinstance(getattr(module, part), nn.Module):
            part += "_"
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    last = last or "_"
    while hasattr(module, last):
        last += "_"
    module.register_parameter(last, parameter)
    return module, last


class _Call:
    """A program as autograd knows it.

    Args:
        program: What is run.
        function: What is differentiated in its place; the program has its inputs and outputs, and
            may have others behind them. None for what has no derivative.
        checked: Whether what is given is checked: what other calls have given fits.

    Attributes:
        number: What the operator knows it by.
        reads: How many of the inputs the derivatives read.
        kept: Which of the outputs the backward pass reads.
        differentiable: Which of the outputs have a derivative.
    """

    def __init__(
        self, program: Program, function: Function | None = None, *, checked: bool = True
    ) -> None:
        self.program, self._function, self._checked = program, function, checked
        self.reads = len(function.inputs) if function else 0
        self.differentiable = function.float_outputs if function else []
        self.kept: list[int] = []
        self._dtypes = [_dtype(port) for port in program.inputs]
        kinds = {port.dtype.kind for port in (*program.inputs, *program.outputs) if port.dtype}
        self._beyond_numpy = "V" in kinds  # bfloat16 and the like
        self.number = next(_numbers)
        _calls[self.number] = self

    @property
    def function(self) -> Function:
        """What is differentiated."""
        if self._function is None:
            raise ArgumentError("A backward pass that torch.func has batched has no derivative.")
        return self._function

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

    def pulled(self, wrt: list[int]) -> _Call:
        """The backward pass, which takes what is read, cotangents and what is kept."""
        return _whole(self.function.vjp(wrt))

    def pushed(self, wrt: list[int]) -> _Call:
        """Forward mode, which takes what is read and tangents."""
        return _whole(self.function.jvp(wrt))

    def vmapped(self, batched: list[int]) -> _Call:
        """The same with a new first axis on some inputs and on all outputs."""
        program = self.program.vmapped(batched)
        return _whole(program) if isinstance(program, Function) else _Call(program)


class _Forward(_Call):
    """A function that gives its residuals out too, for gradients with respect to some inputs."""

    def __init__(self, function: Function, wrt: tuple[int, ...]) -> None:
        self._split, self._wrt = function.split(wrt), wrt
        super().__init__(self._split.forward, function)
        self.kept = self._split.residuals

    def pulled(self, wrt: list[int]) -> _Call:
        """The backward pass that reads them; its own derivatives are those of the whole vjp."""
        program, vjp = self._split.backward(wrt), self.function.vjp(wrt)
        key = ("torch", self._wrt, tuple(wrt))
        return self.function.once(key, lambda: _Call(program, vjp, checked=False))


def _whole(function: Function) -> _Call:
    return function.once("torch", lambda: _Call(function, function))


def _forward(function: Function, wrt: tuple[int, ...]) -> _Call:
    """What a layer calls, given the inputs that a gradient is wanted for."""
    if not wrt:
        return _whole(function)
    return function.once(("torch", wrt), lambda: _Forward(function, wrt))


class _Run(torch.autograd.Function):
    """A call on tensors, for autograd and `torch.func`."""

    @staticmethod
    def forward(call: _Call, traced: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
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
        found = _called(pulled, [*saved[: call.reads], *seeds, *saved[call.reads :]], ctx.traced)
        gradients: list[Tensor | None] = [None] * (2 + ctx.inputs)
        for k, g in zip(wrt, found, strict=True):
            gradients[2 + k] = g
        return tuple(gradients)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        wrt = [k for k, t in enumerate(tangents[2:]) if t is not None]
        moved = [t for t in tangents[2:] if t is not None]
        read = ctx.saved_tensors[: ctx.call.reads]
        found = _called(ctx.call.pushed(wrt), [*read, *moved], ctx.traced)
        results: list[Tensor | None] = [None] * ctx.outputs
        for k, t in zip(ctx.call.differentiable, found, strict=True):
            results[k] = t
        return tuple(results)

    @staticmethod
    def vmap(info: Any, dims: Any, call: _Call, traced: bool, *tensors: Tensor) -> Any:
        found = _batched(call, info.batch_size, dims[2:], tensors, traced)
        return tuple(found), (0,) * len(found)


# PyTorch looks it up at each call, which takes as long as the call of a small net.
_Run.forward.__signature__ = inspect.signature(_Run.forward)  # type: ignore[attr-defined]


def _called(call: _Call, tensors: Sequence[Tensor], traced: bool = False) -> Sequence[Tensor]:
    """Call with derivatives: by the operator where PyTorch traces."""
    if traced:
        return _operator(tensors, call.number)
    if torch.is_grad_enabled() or forward_ad._current_level >= 0 or _levels():
        return _Run.apply(call, False, *tensors)
    return call.run(tensors)


def _levels() -> list[Any]:
    """The transforms of torch.func at work, the outermost first."""
    active = torch._C._are_functorch_transforms_active()
    return [level.key() for level in _functorch.get_interpreter_stack() or ()] if active else []


def _batched(
    call: _Call, n: int, dims: Sequence[int | None], tensors: Sequence[Tensor], traced: bool
) -> Sequence[Tensor]:
    """Several calls as one: along the batch of the net where it has one, else by a Scan."""
    batched = [k for k, d in enumerate(dims) if d is not None]
    moved = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
    program = call.program
    if not (isinstance(program, Function) and set(batched) <= set(program.batch)):
        return _called(call.vmapped(batched), moved, traced)
    for k in program.batch:
        t = moved[k] if dims[k] is not None else moved[k].expand(n, *moved[k].shape)
        moved[k] = t.reshape(n * t.shape[1], *t.shape[2:])
    found = _called(call, moved, traced)
    return [y.reshape(n, y.shape[0] // n, *y.shape[1:]) for y in found]


_library = torch.library.Library("onnxgrad", "FRAGMENT")
_library.define("run(Tensor[] tensors, int number) -> Tensor[]", tags=torch.Tag.pt2_compliant_tag)
_operator = torch.ops.onnxgrad.run


def _numbered(number: int) -> _Call:
    try:
        return _calls[number]
    except KeyError:
        raise ArgumentError(
            "A graph of PyTorch calls a layer that is no more: keep the layer with the graph."
        ) from None


@torch.library.impl(_library, "run", "CompositeExplicitAutograd")
def _(tensors: list[Tensor], number: int) -> list[Tensor]:
    return _numbered(number).run(tensors)


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


def _dtype(port: Port) -> torch.dtype:
    """PyTorch's dtype of a port, which has numpy's name.

    Raises:
        ArgumentError: PyTorch has none, as for strings and sequences.
    """
    found = getattr(torch, port.dtype.name, None) if port.dtype is not None else None
    if not isinstance(found, torch.dtype):
        raise ArgumentError(f"{port.name!r} is no tensor of a dtype that PyTorch has")
    return found


def _tensor(array: Array) -> Tensor:
    """A copy of a weight, whose dtype numpy may not have of its own."""
    if array.dtype.kind != "V":
        return torch.tensor(array)
    content = torch.tensor(array.reshape(-1).view(np.uint8))
    return content.view(getattr(torch, array.dtype.name)).reshape(array.shape)


def _unrun(program: Program, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like the results, without a run: where sizes are not known they are new symbols."""
    shapes = [t.shape for t in tensors]
    if all(isinstance(d, int) for shape in shapes for d in shape):
        found: list[Any] = list(program.shapes(shapes))
    else:
        found = program.told_shapes(shapes)
    dtypes = map(_dtype, program.outputs)
    new = torch.library.get_ctx().new_dynamic_size
    return [
        tensors[0].new_empty([new() if d is None else d for d in shape], dtype=dtype)
        for shape, dtype in zip(found, dtypes, strict=True)
    ]
