"""The activation functions of RNN, GRU and LSTM.

Their derivatives are those of the operators of the same name, in `activation` and `elementwise`.
Affine and ScaledTanh alone are no operators, so theirs stand here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.rules import activation
from onnxgrad.rules.elementwise import tanh


@dataclass(frozen=True)
class _Function:
    """One function of the standard's list.

    Attributes:
        value: y, of (op, x) and the function's arguments.
        slope: dy/dx, of (op, x, y) and the arguments.
        defaults: The arguments, alpha and beta, with their defaults; None where runtimes do not
            agree on one.
        of_output: Whether the slope reads y alone.
    """

    value: Callable[..., Tensor]
    slope: Callable[..., Any]
    defaults: Mapping[str, float | None] = field(default_factory=dict)
    of_output: bool = False


_FUNCTIONS = {
    "sigmoid": _Function(
        lambda op, x: op.Sigmoid(x), lambda op, x, y: activation.sigmoid(y), of_output=True
    ),
    "tanh": _Function(lambda op, x: op.Tanh(x), lambda op, x, y: tanh(y), of_output=True),
    "relu": _Function(lambda op, x: op.Relu(x), lambda op, x, y: activation.relu(op, y)),
    "softplus": _Function(
        lambda op, x: op.Softplus(x), lambda op, x, y: activation.softplus(op, x)
    ),
    "softsign": _Function(
        lambda op, x: op.Softsign(x), lambda op, x, y: activation.softsign_of_output(op, y)
    ),
    "affine": _Function(
        lambda op, x, alpha, beta: x * alpha + beta,
        lambda op, x, y, alpha, beta: shapes.full_like(x, alpha),
        {"alpha": None, "beta": None},
    ),
    "leakyrelu": _Function(
        lambda op, x, alpha: op.LeakyRelu(x, alpha=alpha),
        lambda op, x, y, alpha: activation.leaky_relu(op, x, y, alpha),
        {"alpha": 0.01},
    ),
    "thresholdedrelu": _Function(
        lambda op, x, alpha: op.ThresholdedRelu(x, alpha=alpha),
        lambda op, x, y, alpha: activation.thresholded_relu(x, alpha),
        {"alpha": None},
    ),
    "scaledtanh": _Function(
        lambda op, x, alpha, beta: op.Tanh(x * beta) * alpha,
        lambda op, x, y, alpha, beta: tanh(op.Tanh(x * beta)) * (alpha * beta),
        {"alpha": None, "beta": None},
    ),
    "hardsigmoid": _Function(
        lambda op, x, alpha, beta: op.HardSigmoid(x, alpha=alpha, beta=beta),
        lambda op, x, y, alpha, beta: op.cast(activation.between_bounds(y), y.dtype) * alpha,
        {"alpha": 0.2, "beta": 0.5},
    ),
    "elu": _Function(
        lambda op, x, alpha: op.Elu(x, alpha=alpha),
        lambda op, x, y, alpha: activation.elu(op, x, y, alpha),
        {"alpha": 1.0},
    ),
}


@dataclass(frozen=True)
class Activation:
    """An activation function of an argument that is clipped first; it passes at both bounds."""

    function: _Function
    arguments: Mapping[str, float]
    clip: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.clip is not None:
            x = x.op.Clip(x, x.op.const(-self.clip, like=x), x.op.const(self.clip, like=x))
        return self.function.value(x.op, x, **self.arguments)

    @property
    def reads_argument(self) -> bool:
        """Whether the slope at a place does not follow from the value there alone."""
        return self.clip is not None or not self.function.of_output

    def slope(self, x: Tensor | None, y: Tensor) -> Tensor:
        """dy/dx as numbers; x may be None where `reads_argument` is False."""
        op = y.op
        slope = op.cast(self.function.slope(op, x, y, **self.arguments), y.dtype)
        return slope if self.clip is None else op.mask(slope, op.Abs(x) <= self.clip)

    def unclipped(self) -> Activation:
        """The same function of an argument that is not clipped."""
        return replace(self, clip=None)


def activations_of(
    op: Builder,
    names: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    clip: float | None,
    by_place: bool = False,
) -> list[Activation]:
    """The activations of a node, with their arguments from its lists.

    Args:
        op: Refuses a node with a name or an argument that runtimes do not agree on.
        names: The attribute `activations`, or its default.
        alphas, betas: The attributes of these arguments. Each activation that has the argument
            takes the next element of the list.
        clip: The attribute.
        by_place: The lists have an element for every activation, whether it has the argument or
            not, and there are no defaults: so runtimes read the attributes of RNN.
    """
    lists = {"alpha": alphas or [], "beta": betas or []}
    taken = {"alpha": 0, "beta": 0}
    found = []
    for place, name in enumerate(names):
        if name.lower() not in _FUNCTIONS:
            op.refuse(f"it has no activation function {name!r}")
        function = _FUNCTIONS[name.lower()]
        arguments = {}
        for argument, default in function.defaults.items():
            k = place if by_place else taken[argument]
            taken[argument] += 1
            if k < len(lists[argument]):
                arguments[argument] = lists[argument][k]
            elif default is not None and not by_place:
                arguments[argument] = default
            else:
                op.refuse(
                    f"runtimes do not agree on the default {argument} of its activation {name!r}; "
                    f"set the attribute activation_{argument}"
                )
        found.append(Activation(function, arguments, clip))
    return found
