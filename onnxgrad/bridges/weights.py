"""Weights of a net become inputs, so that a framework holds them as its parameters."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.engine.flow import Flow
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.names import ALL, All, resolve_all
from onnxgrad.passes.normalise import normalise
from onnxgrad.runtimes.ports import Array
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt


def release(
    net: ir.Model,
    trainable: Wrt,
    straight_through: StraightThrough = False,
    constant: TensorSpecs | None = None,
) -> dict[str, Array]:
    """Make inputs of weights, behind the net's own: what they hold, by name.

    Args:
        net: A private model, which is changed.
        trainable: The weights; `ALL` for those that are trainable and that an output depends on.
        straight_through, constant: As for `gradient`.

    Raises:
        ArgumentError: One of them is no weight.
        UnknownNameError: There is no such tensor.
    """
    if trainable is None:
        return {}
    options = Options(straight_through=straight_through, constant=constant, unreachable="zeros")
    if isinstance(trainable, All):
        job = Job(net.clone(), ALL, options)
        flow = Flow.of(job.op.graph, job.wrt, job.of)
        names = [v.name or "" for v in job.wrt if v.is_initializer() and flow.matters(v)]
    else:
        names = resolve_all(net, trainable)
    normalise(net, names, straight_through)
    return {name: _free(net.graph, name) for name in names}


def _free(graph: ir.Graph, name: str) -> Array:
    """Make an input of a weight: what it holds."""
    value = graph.initializers.get(name)
    tensor = value.const_value if value is not None else None
    if value is None or tensor is None:
        raise ArgumentError(f"trainable: {name!r} is no weight of the net")
    array = tensor.numpy()
    del graph.initializers[name]
    if value in graph.inputs:  # with what it holds for a default
        graph.inputs.remove(value)
    value.const_value = None
    value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
    graph.inputs.append(value)
    return array
