"""The bridge to PyTorch: a net as a module whose backward pass is the file's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxgrad.bridges.frameworks import needs
from onnxgrad.bridges.function import Function
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.names import ALL, resolve_all
from onnxgrad.run.values import give
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt

with needs("torch"):
    import torch
    from torch import Tensor, nn

    from onnxgrad.bridges import autograd

__all__ = ["Layer", "layer"]


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
        autograd.dtype_of(port)
    return Layer(function, {name: _tensor(a) for name, a in weights.items()}, chosen)


class Layer(nn.Module):
    """A net as a module; `layer` makes it."""

    def __init__(
        self, function: Function, weights: dict[str, Tensor], wrt: list[str] | None = None
    ) -> None:
        super().__init__()
        self._function, self._outputs = function, len(function.outputs)
        self._identity = next(
            autograd.numbers
        )  # torch.compile looks at autograd.numbers, not at which layer it is
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
            found = autograd.operator(tensors, self._number(self._wanted(tensors), self._identity))
        else:
            wanted = self._wanted(tensors) if autograd.keeps_residuals() else ()
            call = autograd.call_of(self._function, wanted)
            found = autograd.called(call, tensors, autograd.traced())
        return found[0] if self._outputs == 1 else tuple(found[: self._outputs])

    def _wanted(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """The tensors that a gradient may be asked for."""
        if not torch.is_grad_enabled() and torch._C._get_tracing_state() is None:
            return ()
        return tuple([k for k in self._floats if tensors[k].requires_grad])

    @torch.compiler.assume_constant_result
    def _number(self, wrt: tuple[int, ...], identity: int) -> int:
        return autograd.call_of(self._function, wrt).number

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._identity = next(autograd.numbers)

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


def _tensor(array: Array) -> Tensor:
    """A copy of a weight, whose dtype numpy may not have of its own."""
    if array.dtype.kind != "V":
        return torch.tensor(array)
    content = torch.tensor(array.reshape(-1).view(np.uint8))
    return content.view(getattr(torch, array.dtype.name)).reshape(array.shape)
