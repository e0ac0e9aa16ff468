"""Sums that are constant: the probabilities of a Softmax add up to one, whatever goes in.

The gradient of such a sum is zero but for rounding, and nobody means it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxgrad.graph.constants import draws
from onnxgrad.graph.errors import ConstantSumWarning, SoftmaxWarning
from onnxgrad.graph.facts import is_float

# Operators whose result has the sum of their first operand, or a multiple of it.
_KEEP_SUM = {
    "Cast",
    "Dropout",
    "Flatten",
    "Identity",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
# The operators among them that give out every element once.
_MOVE = _KEEP_SUM - {"Dropout", "ReduceMean", "ReduceSum"}

_ROUND = {"QuantizeLinear", "DequantizeLinear"}


def normalised(value: ir.Value) -> ir.Node | None:
    """The node that makes the sum of all elements of a value constant, if one does."""
    return _softmax_of(_back(value, _KEEP_SUM))


def advice(values: Sequence[ir.Value], known: Collection[str]) -> str:
    """What to do about tensors whose sums are constant, all of them; else an empty string.

    Args:
        values: The tensors whose sum is differentiated.
        known: The names of the tensors that the caller's model has.
    """
    nodes = [node for v in values if (node := normalised(v)) is not None]
    if not nodes or len(nodes) < len(values):
        return ""
    names = ", ".join(repr(v.name) for v in values)
    logits = list(dict.fromkeys(name for node in nodes if (name := _before(node, known))))
    before = repr(logits[0] if len(logits) == 1 else logits)
    way = f"pass of={before}, the values before the Softmax, or " if logits else ""
    return (
        f"The sum of all elements of {names} is constant, as those of a Softmax add up to one: its "
        f"gradient is rounding noise. To differentiate a sum that is not, {way}impose "
        "an output gradient with ograd."
    )


def before_softmax(net: ir.Model) -> str | None:
    """The name of the tensor whose Softmax is the net's one output, if it is one.

    Args:
        net: The model as the caller has it: nothing need be inferred.
    """
    return scores_of(net.graph.outputs[0]) if len(net.graph.outputs) == 1 else None


def scores_of(value: ir.Value) -> str | None:
    """The name of the tensor whose Softmax a value is, if it is one."""
    node = _softmax_of(_behind(value, _MOVE | _ROUND))
    source = None if node is None else node.inputs[0]
    return None if source is None else source.name


def say_before(name: str) -> None:
    """Warn that the tensor before a Softmax is taken."""
    warn(
        f"The net ends in a Softmax: explained is the score before it, {name!r}. Name a tensor in "
        "`of` to explain that one, or to be without this warning.",
        SoftmaxWarning,
    )


def warn(message: str, kind: type[Warning] = ConstantSumWarning) -> None:
    """Warn the caller of the package, at his line."""
    package, level, frame = str(Path(__file__).parents[1]), 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)


def _before(node: ir.Node, known: Collection[str]) -> str | None:
    """The name of the tensor before a Softmax: one that is computed, and that the model has."""
    value = node.inputs[0]
    assert value is not None
    found = (v.name for v in _back(value, _MOVE) if v.producer() is not None)
    return next((name for name in found if name in known), None)


def _softmax_of(values: Iterator[ir.Value]) -> ir.Node | None:
    """The first Softmax that gives one of the values."""
    nodes = (node for v in values if (node := v.producer()) is not None)
    return next((n for n in nodes if not n.domain and n.op_type == "Softmax"), None)


def _back(value: ir.Value, through: Collection[str]) -> Iterator[ir.Value]:
    """The value, and those that it comes from by such operators."""
    for v in _behind(value, through):
        if not is_float(v):
            return
        yield v


def _behind(value: ir.Value, through: Collection[str]) -> Iterator[ir.Value]:
    """The same, of any type."""
    current: ir.Value | None = value
    while current is not None:
        yield current
        node = current.producer()
        if node is None or node.domain or node.op_type not in through or draws(node):
            return
        current = node.inputs[0]
