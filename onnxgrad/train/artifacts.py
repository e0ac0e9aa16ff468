"""The files of a training: its first state, its step, its evaluation, and the net itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.shared import save_together
from onnxgrad.heads.head import Head, emit_heads
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.run.sessions import hold_weights
from onnxgrad.runtimes.ports import Array
from onnxgrad.train.optimizers import Optimizer
from onnxgrad.train.steps import STATE, step
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.options import Wrt, uncollected

# What a model that gives a state is written for.
_OPSET, _IR_VERSION = 21, 10


@dataclass(frozen=True)
class Parts:
    """The models of a training, which share the arrays of their weights.

    Attributes:
        step: As `train.step` makes it.
        evaluate: It takes the weights as inputs, and gives the loss, the metrics and the outputs.
        infer: The net with its weights as inputs.
        following: By the name of a piece of state, the output that is its next value.
        state: The first state, by name.
        weights: The names of those pieces that the net itself has.
    """

    step: ir.Model
    evaluate: ir.Model
    infer: ir.Model
    following: Mapping[str, str]
    state: Mapping[str, Array]
    weights: tuple[str, ...]


def artifacts(
    model: Any,
    folder: str | os.PathLike[str],
    loss: Any,
    optimizer: Optimizer,
    wrt: Wrt = None,
    *,
    external_data: bool = False,
    **options: Any,
) -> None:
    """Write all that a program needs which trains a net and has no Python: four models.

    ``init.onnx`` has no inputs and gives the first state. ``step.onnx`` is that of `train.step`.
    ``eval.onnx`` takes the weights as inputs, a batch and its labels, and gives the loss and the
    net's outputs. ``infer.onnx`` is the net, with the weights as inputs. A piece of state has one
    name in all of them. The training is::

        state = run init.onnx
        while training:
            out = run step.onnx on state, a batch, its labels and the learning rate
            for input, output in metadata "onnxgrad.state" of step.onnx: state[input] = out[output]

    Args:
        model, loss, optimizer, wrt: As for `train.step`.
        folder: Where to write; it is made where it is missing.
        external_data: Write weights of 1 KiB and more to ``weights.data`` beside the models, once
            for all of them. Always done where one of the models holds more than 2 GB.
        options: The options of `train.step`, by name.

    Raises:
        OnnxGradError: As for `train.step`.
        SaveError: The folder cannot be written, or the disk is full; then nothing is written.

    Example:
        >>> og.train.artifacts("models/mlp.onnx", "mlp", og.losses.cross_entropy("logits"),
        ...                    og.train.AdamW())
        >>> sorted(os.listdir("mlp"))
        ['eval.onnx', 'infer.onnx', 'init.onnx', 'step.onnx']
    """
    made = parts(model, loss, optimizer, wrt, **options)
    models = {"init": state_model(made.state), "step": made.step}
    models |= {"eval": made.evaluate, "infer": made.infer}
    named = {f"{name}.onnx": one for name, one in models.items()}
    save_together(named, folder, external_data=external_data)


def parts(
    model: Any,
    loss: Any,
    optimizer: Optimizer,
    wrt: Wrt = None,
    *,
    metrics: Mapping[str, Head] | None = None,
    **options: Any,
) -> Parts:
    """The models of a training.

    Args:
        model, loss, optimizer, wrt: As for `train.step`.
        metrics: Further heads that the evaluation gives, by the names of its outputs.
        options: The options of `train.step`, by name.

    Raises:
        OnnxGradError: As for `train.step`.
    """
    with uncollected():
        net = io.load(model)
        hold_weights(net)
        stepping = step(net, loss, optimizer, wrt, **options)
        following = json.loads(stepping.metadata_props[STATE])
        traced = {key: options.get(key) for key in ("straight_through", "example")}
        infer, weights = _freed(net, following, [], **traced)
        heads = {"loss": loss} | dict(metrics or {})
        read = _read(net, heads)
        names = [name for some in read.values() for name in some]
        evaluate, _ = _freed(net, following, names, **traced)
        _give(evaluate, heads, read)
        for one in (infer, evaluate):
            optimise(one)
        state = _initial(stepping, following, weights, optimizer)
        return Parts(stepping, evaluate, infer, following, state, tuple(weights))


def _freed(
    net: ir.Model,
    state: Mapping[str, str],
    keep: list[str],
    *,
    straight_through: Any = None,
    example: Any = None,
) -> tuple[ir.Model, dict[str, Array]]:
    """The normalised net, its weights that are state as inputs; and their values."""
    freed = io.load(net)
    normalise(freed, [*state, *keep], straight_through or False, example, True)
    values = {}
    for name in [name for name in state if name in freed.graph.initializers]:
        weight = freed.graph.initializers.pop(name)
        if weight.const_value is not None:
            values[name] = weight.const_value.numpy()
        weight.const_value = None
        if weight not in freed.graph.inputs:
            freed.graph.inputs.append(weight)
    return freed, values


def _read(net: ir.Model, heads: Mapping[str, Any]) -> dict[Any, list[str]]:
    """The names of the tensors that each head reads."""
    default = outputs_of(net)
    return {
        head: head.resolve(net, default) if isinstance(head, Head) else [head]
        for head in heads.values()
    }


def _give(net: ir.Model, heads: Mapping[str, Any], read: Mapping[Any, list[str]]) -> None:
    """List heads under their names, before the net's own outputs."""
    graph = net.graph
    found = emit_heads(graph, {h: names for h, names in read.items() if isinstance(h, Head)})
    values, op = by_name(graph), Builder(graph)
    own = list(graph.outputs)
    graph.outputs.clear()
    for name, head in heads.items():
        value = found[head] if isinstance(head, Head) else values[head]
        tensor = op.tensor(value)
        total = shapes.reduce_sum(tensor, range(tensor.rank)) if name == "loss" else tensor
        taken = by_name(graph).get(name)
        if taken is not None:
            if taken.is_graph_input() or (taken in own and taken is not value):
                raise ArgumentError(f"the model has {name!r} already: rename it, or the metric")
            own = [v for v in own if v is not taken]
            taken.name = op.names.fresh(f"{name}_of_elements")
            op.names.taken.discard(name)
        op.output(name, total)
    graph.outputs.extend(own)


def _initial(
    stepping: ir.Model,
    following: Mapping[str, str],
    weights: Mapping[str, Array],
    optimizer: Optimizer,
) -> dict[str, Array]:
    """The first state: weights as they are, and numbers that fill the rest."""
    numbers, state = optimizer.state(), {}
    ports = by_name(stepping.graph)
    for name in following:
        if name in weights:
            state[name] = weights[name]
            continue
        port = ports[name]
        number = numbers.get(name.rpartition(".")[2], 0)
        filled = np.asarray(number, port.dtype.numpy() if port.dtype else np.float32)
        state[name] = np.broadcast_to(filled, (port.shape or ir.Shape([])).numpy())
    return state


def state_model(state: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> ir.Model:
    """A model without inputs that gives a state, each piece by its name."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET}, name="state")
    for name, array in state.items():
        filled = array.ndim > 0 and array.size > 0 and not any(array.strides)
        held = np.asarray(array.shape, np.int64) if filled else np.ascontiguousarray(array)
        held = held.reshape(array.shape) if not filled else held
        source = ir.Value(name=f"{name}.initial", const_value=ir.tensor(held))
        graph.register_initializer(source)
        first = ir.tensor(array.reshape(-1)[:1]) if filled else None
        node = (
            ir.node("ConstantOfShape", [source], {"value": first})
            if filled
            else ir.node("Identity", [source])
        )
        (output,) = node.outputs
        output.name, output.shape = name, ir.Shape(array.shape)
        output.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        graph.append(node)
        graph.outputs.append(output)
    made = ir.Model(graph, ir_version=_IR_VERSION, producer_name="onnxgrad")
    made.metadata_props.update(metadata or {})
    return made


def require_state(state: Any, shapes_of: Mapping[str, tuple[int, ...]], whole: bool) -> None:
    """Check that a state is that of a training.

    Args:
        state: Arrays by name.
        shapes_of: The shape of each piece.
        whole: Whether all pieces have to be there.

    Raises:
        ArgumentError: It is not, as it is of another model, loss or optimizer.
    """
    if not isinstance(state, Mapping):
        raise ArgumentError(f"a state is arrays by name, not {type(state).__name__}")
    if unknown := [name for name in state if name not in shapes_of]:
        raise ArgumentError(
            f"the state is of another model or optimizer: nothing is called {unknown[0]!r}."
            f"{nearest(unknown[0], shapes_of)}"
        )
    if whole and (missing := [name for name in shapes_of if name not in state]):
        raise ArgumentError(f"the state is of another model or optimizer: it has no {missing[0]!r}")
    for name, array in state.items():
        if np.shape(array) != shapes_of[name]:
            raise ArgumentError(
                f"the state is of another model: {name!r} has the shape {np.shape(array)}, and "
                f"{shapes_of[name]} is asked for"
            )
