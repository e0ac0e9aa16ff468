"""The two halves of a training step, where its gradients come from several places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.train.groups import group_of, listed
from onnxgrad.train.optimizers import Optimizer, State
from onnxgrad.train.states import INITIAL, STATE
from onnxgrad.train.steps import step
from onnxgrad.transforms.metadata import table
from onnxgrad.transforms.options import TensorSpecs, Wrt

# What changes the update alone; the other options change the gradients.
_OF_THE_UPDATE = {"clip_grad_norm", "clip_grad_value", "accumulate", "grad_norm", "finite"}
# What needs the whole batch in one place, or what the update tells.
_WHOLE: Mapping[str, Any] = {"batch_norm": "frozen", "privacy": None, "loss_scale": None}


@dataclass(frozen=True)
class Halves:
    """A step in two models.

    Attributes:
        gradients: It takes a batch and the weights, and gives the loss and the gradients.
        gradient_of: By the name of a weight, the output that is its gradient.
        update: It takes the gradients, "<weight>_grad", and the state, and gives the next state.
        following: By the name of a piece of state, the output that is its next value.
    """

    gradients: ir.Model
    gradient_of: Mapping[str, str]
    update: ir.Model
    following: Mapping[str, str]


def halves(
    model: Any,
    loss: Any,
    optimizer: Optimizer,
    wrt: Wrt = None,
    *,
    of: TensorSpecs | None = None,
    groups: Any = (),
    **options: Any,
) -> Halves:
    """The step that `train.step` makes, in two models, which keep its names of the state.

    Args:
        model, loss, optimizer, wrt, of, groups, options: As for `train.step`.

    Raises:
        OnnxGradError: As for `train.step`.
        ArgumentError: An option needs the whole batch in one place.
    """
    for name, usual in _WHOLE.items():
        if options.get(name, usual) != usual:
            raise ArgumentError(
                f"{name}={options[name]!r} needs the whole batch in one place, so such a step "
                "cannot be shared between workers: train on one machine, or leave it out"
            )
    several, net = listed(groups), io.load(model)
    plain = [replace(group, lr_scale=1.0, weight_decay=None) for group in several]
    own = {key: value for key, value in options.items() if key not in _OF_THE_UPDATE}
    gradients = step(net, loss, _Gradient(), wrt, of=of, groups=plain, **own)
    added = table(gradients, INITIAL)
    found = table(gradients, STATE)
    gradient_of = {name: output for name, output in found.items() if name not in added}
    trained = {v.name: v for v in gradients.graph.inputs if v.name in gradient_of}
    own_groups = [
        replace(group, params=names)
        for group in several
        if (names := [w for w in trained if group_of(several, w) is group])
    ]
    of_update = {key: value for key, value in options.items() if key in _OF_THE_UPDATE}
    update = step(
        _weights(trained.values()),
        _products,
        optimizer,
        list(gradient_of),
        of=list(gradient_of),
        groups=own_groups,
        **of_update,
    )
    return Halves(gradients, gradient_of, update, table(update, STATE))


class _Gradient(Optimizer):
    """Gives the gradient where others give the next weight."""

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        return g


def _weights(values: Iterable[ir.Value]) -> ir.Model:
    """A net that is its weights. Nothing of the update depends on what they hold."""
    held = []
    for value in values:
        assert value.dtype is not None and value.shape is not None
        zeros = np.broadcast_to(np.zeros((), value.dtype.numpy()), value.shape.numpy())
        held.append(ir.Value(name=value.name, const_value=ir.tensor(zeros)))
        held[-1].type, held[-1].shape = value.type, value.shape
    graph = ir.Graph([], [], nodes=[], initializers=held, opset_imports={"": 21}, name="weights")
    return ir.Model(graph, ir_version=10, producer_name="onnxgrad")


def _products(op: Builder, *weights: Tensor) -> dict[str, Tensor]:
    """The sum of the products of weights with inputs, which are its gradients at the weights."""
    products = [
        shapes.reduce_sum(
            w * op.input(f"{w.value.name}_grad", w.shape, w.dtype), shapes.axes_from(w)
        )
        for w in weights
    ]
    return {"loss": op.sum(products)}
