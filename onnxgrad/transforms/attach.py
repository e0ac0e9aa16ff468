"""More nodes on a model: a formula, a head, a loss, or another model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.models import copy_model
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, RuleError, UnknownNameError, nearest
from onnxgrad.graph.facts import by_name, dims_of, may_agree
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.names import resolve, resolve_all
from onnxgrad.heads.head import Head
from onnxgrad.passes.clean_up import optimise
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.options import TensorSpecs, uncollected

Formula: TypeAlias = Callable[..., Mapping[str, Tensor]]


@guarded
def attach(
    model: Any,
    function: Formula | Head | io.ModelLike,
    inputs: TensorSpecs | Mapping[str, Any] | None = None,
    *,
    example: Any = None,
) -> Any:
    """A model with more nodes, by a formula of its tensors.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        function: Called as ``function(op, *tensors)`` with a builder and the tensors of `inputs`.
            ``op.Name(*operands, **attributes)`` adds a node of the standard's operator of that
            name, tensors have arithmetic, ``op.const(array, like=tensor)`` is a constant of the
            tensor's dtype, ``op.weight(name, array, like=tensor)`` a weight, which training can
            change, and ``op.input(name, shape, dtype)`` a new graph input. It returns a dict of the
            new outputs: tensors by name. In its place: a head or a loss, whose result
            becomes an output of its name, which `Head.named` changes; or a model or an onnxscript
            function, whose outputs the result has too. Its inputs are the tensors of their names,
            or else new inputs.
        inputs: Names or positions of the tensors to give to the function, inner ones too; None for
            the model's outputs. For a model, a dict by its inputs' names; for a head it is not
            needed.
        example: As for `gradient`.

    Returns:
        A model of the same kind (for a path a `ModelProto`), in opset 18 or newer, with the new
        outputs after its own.

    Raises:
        ModelError: A model cannot be read or is not valid.
        UnknownNameError: There is no such tensor.
        ArgumentError: A name is taken, or the formula or the model does not fit the tensors.

    Example:
        >>> def energy(op, y):
        ...     target = op.input("target", y.shape, y.dtype)
        ...     return {"energy": op.ReduceSum((y - target) * (y - target), keepdims=0)}
        >>> model = og.attach("models/mlp.onnx", energy, "logits")
        >>> [y.name for y in model.graph.output]
        ['logits', 'energy']
    """
    with uncollected():
        net = io.load(model)
        formula, names = _formula(net, function, inputs)
        normalise(net, names, example=example, hides=True)
        op = Builder(net.graph)
        op.scope = getattr(function, "__name__", "attached")
        values = by_name(net.graph)
        if missing := [repr(name) for name in names if name not in values]:
            raise UnknownNameError(f"attach: no tensor {', '.join(missing)} in the main graph")
        try:
            found = formula(op, *(op.tensor(values[name]) for name in names))
        except RuleError as error:
            raise ArgumentError(f"attach: the formula does not fit the model: {error}") from error
        _list(op, found, _renaming(function))
        optimise(net)
        return io.like(net, model)


def _formula(net: ir.Model, function: Any, inputs: Any) -> tuple[Formula, list[str]]:
    """What to call, and the names of the tensors to call it with.

    Raises:
        ArgumentError: It cannot be called.
    """
    outputs = outputs_of(net)
    if isinstance(function, Head):
        return function, function.resolve(net, outputs)
    if hasattr(function, "to_model_proto"):
        function = function.to_model_proto()
    if callable(function):
        default = [v.name for v in net.graph.outputs if v.name]
        return function, default if inputs is None else resolve_all(net, inputs)
    return composed(net, io.load(function), inputs)


def _renaming(function: Any) -> str:
    """How an output of what is attached gets another name."""
    if isinstance(function, Head):
        return f"rename the head with .named('{function.name}_2')"
    return "give the new output another name"


def composed(
    net: ir.Model, other: ir.Model, inputs: Mapping[str, Any] | None
) -> tuple[Formula, list[str]]:
    """The formula of another model, and the tensors that are its inputs.

    Raises:
        ArgumentError: `inputs` is no dict.
        UnknownNameError: The other model has no such input, or this one no such tensor.
    """
    known = by_name(net.graph)
    if not isinstance(inputs, Mapping | None):
        raise ArgumentError(
            f"attach: for a model, inputs is a dict of tensors by its inputs' names, not {inputs!r}"
        )
    free = [v.name or "" for v in other.graph.inputs if v.name not in other.graph.initializers]
    given = {name: name for name in free if name in known} if inputs is None else dict(inputs)
    if unknown := [name for name in given if name not in free]:
        near = nearest(unknown[0], free)
        raise UnknownNameError(f"attach: the model has no input {unknown[0]!r}.{near}")

    def formula(op: Builder, *tensors: Tensor) -> dict[str, Tensor]:
        values = dict(zip(given, tensors, strict=True))
        for v in other.graph.inputs:
            _fit(v, values.get(v.name or ""))
        normalise(other, [], hides=True)
        return copy_model(op, other.graph, values)

    return formula, [resolve(net, place) for place in given.values()]


def _fit(value: ir.Value, given: Tensor | None) -> None:
    """Let an input of another model have the shape of what it is given.

    Sizes of one name are equal in one model, and need not be in two: those of an input that is
    given nothing get other names.

    Raises:
        ArgumentError: What is given has another dtype or shape; or nothing is given, and no dtype
            is known.
    """
    if given is None and value.dtype is None:
        raise ArgumentError(
            f"attach: name a tensor for the input {value.name!r}, which has no dtype"
        )
    if given is None:
        dims = dims_of(value)
        if dims is not None:
            own = [f"{value.name}_{d}" if isinstance(d, str) else d for d in dims]
            value.shape = ir.Shape(own)
    elif value.dtype not in (None, given.dtype):
        raise ArgumentError(
            f"attach: the input {value.name!r} is {value.dtype}, and {given.value.name!r} "
            f"is {given.dtype}"
        )
    elif not may_agree(dims_of(value), given.shape):
        raise ArgumentError(
            f"attach: the input {value.name!r} of the other model is of shape {value.shape}, and "
            f"the tensor {given.value.name!r} that it is given of {given.value.shape}"
        )
    else:
        value.type, value.shape = given.value.type, given.value.shape


def _list(op: Builder, found: Any, renaming: str) -> None:
    """List the new outputs; a tensor of the model under its own name is listed once.

    Args:
        renaming: How an output gets another name.

    Raises:
        ArgumentError: They are no dict of tensors by name, or a name is taken.
    """
    tensors = found if isinstance(found, Mapping) else {}
    named = all(isinstance(t, Tensor) and isinstance(n, str) and n for n, t in tensors.items())
    if not tensors or not named:
        raise ArgumentError(
            f"attach: the function returns a dict of tensors by name, not {found!r}"
        )
    for name, t in tensors.items():
        value = t.value
        if value.name == name and value.producer() is not None:
            if value not in op.graph.outputs:
                op.graph.outputs.append(value)
        elif name in op.names.taken:
            raise ArgumentError(f"attach: the model has a tensor {name!r} already: {renaming}")
        else:
            op.output(name, t)
