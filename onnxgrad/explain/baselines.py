"""Baselines: what an input is compared with, and the values of a net there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import copy_dependent
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.stopped import is_gate
from onnxgrad.explain.rescale import centred
from onnxgrad.graph.errors import ArgumentError, UnknownNameError, nearest
from onnxgrad.graph.facts import Dim, dims_of, is_float, shown
from onnxgrad.transforms.examples import new_dim
from onnxgrad.transforms.job import Job

# They are the same at the baseline, as it has the shape of what it takes the place of.
_SHAPES = {"Shape", "Size"}


def baselines_of(op: Builder, wrt: Iterable[ir.Value], given: Any) -> dict[ir.Value, Tensor]:
    """The baseline of each tensor, in its shape and dtype.

    Args:
        given: None for 0, a number, an array that broadcasts to the tensor, or "input" for a new
            graph input `<x>_baseline`; or a tuple of these, one for each tensor, or a dict by
            their names.

    Raises:
        UnknownNameError: The dict names another tensor.
        ArgumentError: An array does not fit, or the tuple has another length.
    """
    found = {}
    for x, one in _by_tensor(wrt, given):
        t = op.tensor(x)
        if isinstance(one, str):
            found[x] = _added(op, x, one, "baseline", dims_of(x))
            continue
        array = _array(x, 0 if one is None else one, dims_of(x))
        found[x] = _as_large(op.const(array, like=t), t)
    return found


def distributions_of(op: Builder, wrt: Iterable[ir.Value], given: Any) -> dict[ir.Value, Tensor]:
    """The baselines of each tensor, [M, ...] for a tensor [N, ...].

    Args:
        given: An array, or "input" for a new graph input `<x>_baselines`; or a tuple of these, one
            for each tensor, or a dict by their names.

    Raises:
        UnknownNameError: The dict names another tensor.
        ArgumentError: An array does not fit, or a tensor has no baselines.
    """
    found, count = {}, new_dim(op.graph, "baselines")
    for x, one in _by_tensor(wrt, given):
        dims = dims_of(x)
        if isinstance(one, str):
            shape = None if dims is None else [count, *dims[1:]]
            found[x] = _added(op, x, one, "baselines", shape)
        elif np.ndim(one) == 0 or (dims is not None and np.ndim(one) != len(dims)):
            raise ArgumentError(
                f"baselines of {shown(x)} are an array, or 'input', with "
                f"one more baseline in each row, not of shape {list(np.shape(one))}"
            )
        else:
            array = _array(x, one, None if dims is None else (None, *dims[1:]))
            found[x] = op.const(array, like=op.tensor(x))
    if len({n for t in found.values() if isinstance(n := t.dim(0), int)}) > 1:
        raise ArgumentError("baselines: there are not as many for one tensor as for another")
    return found


def _by_tensor(wrt: Iterable[ir.Value], given: Any) -> list[tuple[ir.Value, Any]]:
    """The baselines by tensor, of a tuple, a dict, or of what is the same for all.

    Raises:
        UnknownNameError: The dict names another tensor.
        ArgumentError: The tuple is of another length.
    """
    tensors = {v.name or "": v for v in wrt}
    if isinstance(given, tuple):
        if len(given) != len(tensors):
            raise ArgumentError(
                f"baselines: a tuple has one for each of {', '.join(map(repr, tensors))}, not "
                f"{len(given)}; an array is a list or of numpy"
            )
        return list(zip(tensors.values(), given, strict=True))
    if not isinstance(given, Mapping):
        return [(v, given) for v in tensors.values()]
    for name in given:
        if name not in tensors:
            raise UnknownNameError(
                f"baselines: {name!r} is not among wrt.{nearest(str(name), tensors)}"
            )
    return [(v, given.get(name)) for name, v in tensors.items()]


def _added(op: Builder, x: ir.Value, given: str, end: str, shape: Sequence[Dim] | None) -> Tensor:
    if given != "input":
        raise ArgumentError(
            f"baselines of {x.name!r}: a number, an array or 'input', not {given!r}"
        )
    return op.input(f"{x.name}_{end}", shape, x.dtype)


def _array(x: ir.Value, given: Any, dims: Sequence[Dim] | None) -> np.ndarray:
    """An array that broadcasts to the given dimensions, as far as these are known.

    Raises:
        ArgumentError: It does not, or is no array of numbers.
    """
    try:
        array = np.asarray(given)
    except ValueError:  # rows of several lengths
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        raise ArgumentError(f"baselines of {x.name!r}: {given!r} is no array of numbers")
    if dims is None:
        return array
    pairs = zip(reversed(array.shape), reversed(dims), strict=False)
    if array.ndim > len(dims) or any(isinstance(d, int) and n not in (1, d) for n, d in pairs):
        raise ArgumentError(
            f"baselines of {shown(x)}: an array of shape {list(array.shape)} does not fit"
        )
    return array


def _as_large(array: Tensor, x: Tensor) -> Tensor:
    """An array broadcast to a tensor. Where a size shows only in a run, this fails if it differs.

    An Expand alone would also stretch the tensor.
    """
    op = x.op
    pairs = zip(reversed(array.shape or ()), reversed(x.shape or ()), strict=False)
    if not array.rank or (x.shape is not None and all(n in (1, d) for n, d in pairs)):
        return shapes.expand_like(array, x)
    scope, op.scope = op.scope, f"baselines of {x.value.name} are to have its shape"
    size = op.Shape(x)
    large = op.typed(op.Reshape(op.Expand(array, size), size, allowzero=1), x)
    op.scope = scope
    return large


class Reference:
    """The net at baselines: the nodes that depend on them once more, beside those of the net.

    The class that a head is of stays that of the input.

    Args:
        job: Has the net.
        op: Emits the copies.
        baselines: By tensor of the net, what takes its place.

    Attributes:
        op: As above.
        copies: By node of the net, its copy.
    """

    def __init__(self, job: Job, op: Builder, baselines: Mapping[ir.Value, Tensor]) -> None:
        self.op = op
        self._stands = dict(baselines)
        nodes = [node for node in job.net.graph if self._differs(job, node)]
        self.copies: dict[ir.Node, ir.Node] = {}
        for node in nodes:
            self.copies |= copy_dependent(op, [node], self._stands, "reference")
            if node.op_type == "MeanVarianceNormalization" and node in self.copies:
                self._stands[node.outputs[0]] = self._standardised(node)

    @staticmethod
    def _differs(job: Job, node: ir.Node) -> bool:
        chosen = node in job.head_nodes and not any(map(is_float, node.outputs))
        return not (chosen or is_gate(node) or (not node.domain and node.op_type in _SHAPES))

    def _standardised(self, node: ir.Node) -> Tensor:
        """What a MeanVarianceNormalization gives: 0 for equal elements, as a baseline often has.

        onnxruntime gives NaN for these.
        """
        op, source = self.op, node.inputs[0]
        assert source is not None
        x, axes = op.promoted(self.at(source)), node.attributes["axes"].as_ints()
        c = centred(x, axes)
        v = shapes.reduce_mean(c * c, axes, keepdims=1)
        y = c / op.Sqrt(op.Where(v.equals(0), op.const(1, like=v), v))
        return op.cast(y, self.at(source).dtype)

    def at(self, value: ir.Value) -> Tensor:
        """A value as it is at the baselines."""
        return self._stands.get(value) or self.op.tensor(value)
