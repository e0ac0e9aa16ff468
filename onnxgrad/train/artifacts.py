"""The files of a training: its first state, its step, its evaluation, and the net itself."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.shared import save_together
from onnxgrad.heads.head import Head, emit_heads
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.run.sessions import hold_weights
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.train.arguments import numbers
from onnxgrad.train.halves import Halves, halves
from onnxgrad.train.modes import Modes, infer
from onnxgrad.train.optimizers import Optimizer
from onnxgrad.train.release import free, known_weights, losses, with_weights
from onnxgrad.train.states import INITIAL, STATE
from onnxgrad.train.steps import step
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.metadata import table
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt, uncollected

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
        inference: Whether `evaluate` and `infer` compute as in inference what the file may not.
        halves: Makes the two models of a step whose gradients come from several places.
    """

    step: ir.Model
    evaluate: ir.Model
    infer: ir.Model
    following: Mapping[str, str]
    state: Mapping[str, Array]
    weights: tuple[str, ...]
    inference: bool
    halves: Callable[[], Halves]


@guarded
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
    name in all of them. With ``batch_norm="train"`` or ``dropout="train"``, ``eval.onnx`` and
    ``infer.onnx`` compute as in inference, also where the file does not. The training is::

        state = run init.onnx
        while training:
            out = run step.onnx on state, a batch, its labels and the learning rate
            for input, output in metadata "onnxgrad.state" of step.onnx: state[input] = out[output]

    Args:
        model, loss, optimizer, wrt: As for `train.step`.
        folder: Where to write; it is made where it is missing.
        external_data: Write weights of 1 KiB and more beside the models, once for all of them, to
            ``weights.<digits>.data``; the digits tell the content. Always done where one of the
            models holds more than 2 GB. Such files of earlier calls are removed once no file in
            the folder refers to them.
        options: The options of `train.step`, by name.

    Raises:
        OnnxGradError: As for `train.step`.
        SaveError: The folder cannot be written, or the disk is full, or one of the files would
            replace the model or its weights; then nothing is written.

    Example:
        >>> og.train.artifacts("models/mlp.onnx", "mlp", og.losses.cross_entropy("logits"),
        ...                    og.train.AdamW())
        >>> sorted(os.listdir("mlp"))
        ['eval.onnx', 'infer.onnx', 'init.onnx', 'step.onnx']
    """
    names = [f"{name}.onnx" for name in ("init", "step", "eval", "infer")]
    paths = [os.path.join(os.fspath(folder), name) for name in names]
    net = io.load(model)
    io.require_apart(model, io.data_files(net), paths, "a training")
    made = parts(net, loss, optimizer, wrt, **options)
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
    of: TensorSpecs | None = None,
    metrics: Mapping[str, Head] | None = None,
    **options: Any,
) -> Parts:
    """The models of a training.

    Args:
        model, loss, optimizer, wrt, of: As for `train.step`.
        metrics: Further heads that the evaluation gives, by the names of its outputs.
        options: The options of `train.step`, by name.

    Raises:
        OnnxGradError: As for `train.step`.
    """
    with uncollected():
        net = io.load(model)
        hold_weights(net)
        stepping = step(net, loss, optimizer, wrt, of=of, **options)
        following = table(stepping, STATE)
        numbers = table(stepping, INITIAL)
        weights = tuple(name for name in following if name not in numbers)
        traced = {key: options[key] for key in ("straight_through", "example") if key in options}
        modes = {key: options[key] for key in ("batch_norm", "dropout") if key in options}
        inference = Modes(**modes).change
        minimised = losses(net, loss, of)
        base = io.load(net)
        if inference:
            infer(base)
        inferring, _ = _with_inputs(base, weights, Options(**traced))
        optimise(inferring)
        evaluate = _evaluation(base, weights, minimised, metrics or {}, Options(**traced))
        state = _initial(net, stepping, following, numbers)
        halved = functools.partial(halves, net, loss, optimizer, wrt, of=of, **options)
        return Parts(stepping, evaluate, inferring, following, state, weights, inference, halved)


def _with_inputs(net: ir.Model, weights: Sequence[str], options: Options) -> tuple[ir.Model, Any]:
    """A copy of the net with some weights as inputs, under the names that the step knows.

    And the example, if there is one, with the contents of these weights.
    """
    copy = io.load(net)
    known_weights(copy, options)
    example = with_weights(copy, weights, options.example)
    free(copy, weights)
    return copy, example


def _evaluation(
    net: ir.Model,
    weights: Sequence[str],
    loss: Sequence[Any],
    metrics: Mapping[str, Head],
    options: Options,
) -> ir.Model:
    """The net with its weights as inputs, which gives the loss, metrics, and its own outputs."""
    default = outputs_of(net)
    heads = [*(one for one in loss if isinstance(one, Head)), *metrics.values()]
    read = {head: head.resolve(net, default) for head in heads}
    names = [one for one in loss if not isinstance(one, Head)]
    copy, example = _with_inputs(net, weights, options)
    keep = [*weights, *names, *(name for some in read.values() for name in some)]
    normalise(copy, keep, options.straight_through, example, True)
    graph = copy.graph
    found = emit_heads(graph, read)
    values, op = by_name(graph), Builder(graph)
    parts_of_loss = [
        op.tensor(found[one] if isinstance(one, Head) else values[one]) for one in loss
    ]
    totals = [shapes.reduce_sum(y, shapes.axes_from(y)) for y in parts_of_loss]
    given = {"loss": op.sum(totals)}
    given |= {name: op.tensor(found[head]) for name, head in metrics.items()}
    _list_first(op, given, [y.value for y in parts_of_loss])
    optimise(copy)
    return copy


def _list_first(op: Builder, given: Mapping[str, Tensor], loss: Sequence[ir.Value]) -> None:
    """List tensors under their names, before the net's own outputs, but for what the loss is of.

    Raises:
        ArgumentError: The model has a port of such a name.
    """
    own = [v for v in op.graph.outputs if not (v in loss and v.name == "loss")]
    op.graph.outputs.clear()
    for name, tensor in given.items():
        taken = by_name(op.graph).get(name)
        if taken is not None:
            if taken.is_graph_input() or taken in own:
                instead = "rename it" if name == "loss" else "give the metric another name"
                raise ArgumentError(f"the model has {name!r} already: {instead}")
            taken.name = op.names.fresh(f"{name}_of_elements")
            op.names.taken.discard(name)
        op.output(name, tensor)
    op.graph.outputs.extend(own)


def _initial(
    net: ir.Model,
    stepping: ir.Model,
    following: Mapping[str, str],
    numbers: Mapping[str, float],
) -> dict[str, Array]:
    """The first state: weights as they are, and numbers that fill the rest."""
    copy = io.load(net)
    weights, ports = known_weights(copy, Options()), by_name(stepping.graph)
    state = {}
    for name in following:
        port = ports[name]
        assert port.dtype is not None and port.shape is not None
        dtype = port.dtype.numpy()
        if name in numbers:
            state[name] = np.broadcast_to(np.asarray(numbers[name], dtype), port.shape.numpy())
            continue
        tensor = ir.convenience.get_const_tensor(weights[name])
        assert tensor is not None
        state[name] = tensor.numpy().astype(dtype, copy=False)
    return state


def state_model(state: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> ir.Model:
    """A model without inputs that gives a state, each piece by its name."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET}, name="state")
    for name, array in state.items():
        filled = array.ndim > 0 and array.size > 0 and not any(array.strides)
        held = np.asarray(array.shape, np.int64) if filled else np.asarray(array, order="C")
        source = ir.Value(name=_held_name(name, state), const_value=ir.tensor(held))
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


def _held_name(name: str, state: Mapping[str, Array]) -> str:
    """The name of what a piece of state is made of, which is no other piece's."""
    held = f"{name}.initial"
    while held in state:
        held += "_"
    return held


def state_of(model: ir.Model, runtime: Runtime) -> dict[str, Array]:
    """The state that such a model gives.

    Raises:
        ArgumentError: It has inputs.
    """
    if model.graph.inputs:
        raise ArgumentError("the model gives no state, as it has inputs")
    session = runtime.load(model)
    return dict(zip(session.outputs, session.run({}), strict=True))


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
    for name, value in state.items():
        shape = numbers(name, value).shape
        if shape != shapes_of[name]:
            raise ArgumentError(
                f"the state is of another model: {name!r} has the shape {shape}, and "
                f"{shapes_of[name]} is asked for"
            )
