"""Operators that compute something else while a net is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import all_nodes
from onnxgrad.graph.fresh import Names
from onnxgrad.train.states import States

Mode = Literal["frozen", "train"]


@dataclass(frozen=True)
class Modes:
    """Whether operators of a step compute as in the file, "frozen", or as in training, "train".

    Raises:
        ArgumentError: A mode is neither, or the seed is negative.
    """

    batch_norm: Mode = "frozen"
    dropout: Mode = "frozen"
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_norm", "dropout"):
            if getattr(self, name) not in get_args(Mode):
                raise ArgumentError(f"{name} is 'frozen' or 'train', not {getattr(self, name)!r}")
        if self.seed is not None:
            counted("seed", self.seed)

    @property
    def change(self) -> bool:
        """Whether an operator does not compute as in the file."""
        return "train" in (self.batch_norm, self.dropout)

    def statistics(self, graph: ir.Graph) -> list[str]:
        """The running statistics that training moves, of a normalised graph.

        Raises:
            ArgumentError: There are none, or one cannot be moved.
        """
        if self.batch_norm == "frozen":
            return []
        found: list[str] = []
        for node in (n for n in all_nodes(graph) if _is(n, "BatchNormalization")):
            for value in node.inputs[3:5]:
                if value is None or not value.is_initializer() or node.graph is not graph:
                    raise ArgumentError(
                        f"batch_norm='train': a running statistic of the BatchNormalization "
                        f"{node.name!r} is no weight of the main graph; leave batch_norm='frozen'"
                    )
                if value.name in found:
                    raise ArgumentError(
                        f"batch_norm='train': several BatchNormalizations use {value.name!r}; "
                        "an exporter may have merged equal ones: give each its own"
                    )
                found.append(value.name or "")
        if not found:
            raise ArgumentError(
                "batch_norm='train': the net has no BatchNormalization; an exporter merges it into "
                "the Conv before it unless it is told to export for training"
            )
        return found

    def apply(self, graph: ir.Graph) -> None:
        """Let the operators of a normalised graph compute as in training.

        Raises:
            ArgumentError: There is none.
        """
        names = Names(graph)
        if self.batch_norm == "train":
            for node in (n for n in graph if _is(n, "BatchNormalization")):
                _of_batch(node, names)
        if self.dropout == "train":
            nodes = [n for n in all_nodes(graph) if _is(n, "Dropout")]
            if not nodes:
                raise ArgumentError(
                    "dropout='train': the net has no Dropout; an exporter removes it unless it is "
                    "told to export for training"
                )
            true = _scalar(graph, names.fresh("training_mode"), ir.tensor(np.array(True)))
            for k, node in enumerate(nodes):
                node.resize_inputs(3)
                node.replace_input_with(2, true)
                if self.seed is not None:
                    node.attributes["seed"] = ir.AttrInt64("seed", self.seed + k)


def infer(net: ir.Model) -> bool:
    """Let each BatchNormalization and Dropout compute as in inference, wherever it is.

    A running statistic that a BatchNormalization gives out is then the one that it is given.

    Returns:
        Whether one did not before.
    """
    changed = False
    graphs: list[ir.Graph | ir.Function] = [net.graph, *net.functions.values()]
    nodes = [node for graph in graphs for node in all_nodes(graph)]
    for node in nodes:
        if _is(node, "BatchNormalization"):
            changed |= _of_statistics(node)
        elif _is(node, "Dropout") and len(node.inputs) > 2 and node.inputs[2] is not None:
            node.replace_input_with(2, None)
            node.resize_inputs(2)
            changed = True
    return changed


def _of_statistics(node: ir.Node) -> bool:
    """Let a BatchNormalization standardise by its running statistics; whether it did not."""
    found = node.attributes.pop("training_mode", None)
    for k, value in enumerate(node.outputs[1:]):
        if value.uses() or value.is_graph_output():
            same = ir.node("Identity", [node.inputs[3 + k % 2]], name=value.name)
            (output,) = same.outputs
            output.type, output.shape = value.type, value.shape
            value.replace_all_uses_with(output, replace_graph_outputs=True)
            output.name, value.name = value.name, None
            node.append(same)
    several = len(node.outputs) > 1
    node.resize_outputs(1)
    return several or (found is not None and found.as_int() != 0)


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and not node.domain


def _of_batch(node: ir.Node, names: Names) -> None:
    """Let a BatchNormalization standardise by the batch, and give out its share of the statistics.

    It adds 1 - momentum of the batch's to zeros: onnxruntime writes the new running statistics over
    those it is given, even if they are an input of the model.
    """
    node.attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    node.resize_outputs(3)
    for k, stem in ((3, "running_mean"), (4, "running_var")):
        given, value = node.inputs[k], node.outputs[k - 2]
        assert given is not None and given.dtype is not None
        assert isinstance(node.graph, ir.Graph)
        factor = _scalar(node.graph, names.fresh("zero"), ir.tensor(0.0, given.dtype))
        zero = ir.node("Mul", [given, factor])
        zero.name = names.fresh(f"{node.name}_no_{stem}")
        zero.outputs[0].name = names.fresh(zero.name)
        node.prepend(zero)
        node.replace_input_with(k, zero.outputs[0])
        value.name = value.name or names.fresh(f"{node.name}_{stem}")
        for v in (value, zero.outputs[0]):
            v.type, v.shape = given.type, given.shape


def _scalar(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, type=kind, shape=ir.Shape([]), const_value=tensor)
    graph.register_initializer(value)
    return value


def move_statistics(states: States, graph: ir.Graph, names: list[str]) -> None:
    """Add the running statistics and their next values to the state.

    The standard's running variance is that of the variance of the batch; PyTorch's, which is taken
    here, has n - 1 in the place of n. For n = 1 it is the standard's.
    """
    op = states.op
    for node in [n for n in graph if names and _is(n, "BatchNormalization")]:
        momentum = node.attributes.get_float("momentum", 0.9)
        for k in (3, 4):
            source = _source(node.inputs[k])
            old = states.given(source.name or "", source)
            new = op.cast(op.tensor(node.outputs[k - 2]), old.dtype)
            if k == 4:
                new = _unbiased(op.tensor(_source(node.inputs[0], 0)), new)
            states.next[source.name or ""] = old * momentum + new


def _source(value: ir.Value | None, nodes: int = 2) -> ir.Value:
    """The value that some nodes of one operand give another, a Cast and a Mul at most."""
    assert value is not None
    node = value.producer()
    return value if node is None or not nodes else _source(node.inputs[0], nodes - 1)


def _unbiased(x: Tensor, variance: Tensor) -> Tensor:
    """A variance of all but the channels of x, times n / (n - 1)."""
    op = x.op
    n = shapes.as_float(shapes.count(x, shapes.axes_but(x, 1)), like=variance)
    if isinstance(n, float):
        n = op.const(n, like=variance)
    return variance * (n / op.Max(n - 1, op.const(1, like=variance)))
