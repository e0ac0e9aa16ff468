"""A net as an operator of PyTensor, and so a part of models of PyMC."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxgrad.bridges.batches import with_free_batch
from onnxgrad.bridges.frameworks import needs
from onnxgrad.bridges.function import Function
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError
from onnxgrad.run.values import give
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt

with needs("pytensor"):
    import pytensor.tensor as pt
    from pytensor.gradient import DisconnectedType
    from pytensor.graph.basic import Apply, Variable
    from pytensor.graph.op import Op
    from pytensor.tensor.exceptions import ShapeError

# What a derivative is of the one before: "vjp" or "jvp", with respect to which inputs, of which
# outputs.
Step = tuple[str, tuple[int, ...], tuple[int, ...]]

__all__ = ["OnnxOp", "op"]


def op(
    model: io.ModelLike,
    *,
    of: Of = None,
    trainable: Wrt = None,
    providers: Sequence[Provider] | None = None,
    threads: int | None = 1,
    straight_through: StraightThrough = False,
    constant: TensorSpecs | None = None,
    example: Any = None,
) -> OnnxOp:
    """A net as an operator of PyTensor, with both modes of differentiation, of any order.

    PyTensor's `grad`, `Rop` and `Lop` go through it, and PyMC's samplers. Its backends in C and
    Numba run the net on onnxruntime; so does its backend of JAX, where JAX is installed, by
    `bridges.jax`. It can be pickled, as PyMC does for chains in other processes.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`.
        of: Names of tensors, or heads and losses, to give; None for the outputs. The inputs of
            heads come behind those of the net.
        trainable: The weights that are inputs too, behind the others; `ALL` for those that are
            trainable.
        providers, straight_through, constant, example: As for `Net` and `gradient`.
        threads: onnxruntime's threads; with more than one, a forked process hangs.

    Returns:
        The operator. It is called with a tensor for each input, of the dtype of the net. PyTensor's
        own default is float64, and `pytensor.tensor.cast` gives others.

    Raises:
        ModelError: The model cannot be read.
        RuntimeMissingError: PyTensor or onnxruntime is not installed.
        UnknownNameError: A name in `of`, `trainable` or `constant` is not there.

    Example:
        >>> net = bridges.pytensor.op("models/mlp.onnx")
        >>> x = pt.matrix("x", dtype="float32")
        >>> gradient = pytensor.grad(net(x).sum(), x)
    """
    net = io.load(model)
    if of is not None:
        net = give(net, of)
    function, weights = Function.of(
        with_free_batch(net),
        trainable,
        providers=providers,
        threads=threads,
        straight_through=straight_through,
        constant=constant,
        example=example,
    )
    return OnnxOp(function, weights)


class OnnxOp(Op):  # type: ignore[misc]  # PyTensor has no types
    """A net as an operator of PyTensor, or a derivative of one; `op` makes it.

    Attributes:
        weights: What the weights hold that are inputs, by name.
    """

    __props__ = ("root", "steps")

    def __init__(
        self, root: Function, weights: Mapping[str, Array], steps: tuple[Step, ...] = ()
    ) -> None:
        self.root, self.weights, self.steps = root, weights, steps
        self.function = root
        for kind, wrt, of in steps:
            made = self.function.vjp if kind == "vjp" else self.function.jvp
            self.function = made(wrt, of)

    def __reduce__(self) -> Any:
        return OnnxOp, (self.root, self.weights, self.steps)

    def __str__(self) -> str:
        return ".".join(["ONNX", *(kind for kind, _, _ in self.steps)])

    def make_node(self, *inputs: Any) -> Apply:
        """The operator at tensors, one for each input.

        Raises:
            FeedError: There are more or fewer, or one has another dtype or rank than its input.
        """
        ports = self.function.inputs
        if len(inputs) != len(ports):
            named = ", ".join(repr(port.name) for port in ports)
            raise FeedError(f"{len(ports)} tensors are needed, {named}, not {len(inputs)}.")
        given = [_fitting(port, x) for port, x in zip(ports, inputs, strict=True)]
        return Apply(self, given, [_type(port)() for port in self.function.outputs])

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: Any) -> None:
        """Run the net.

        Raises:
            FeedError: It cannot be run on these arrays.
        """
        found = self.function(list(inputs))
        for place, y in zip(output_storage, found, strict=True):
            place[0] = y

    def infer_shape(self, fgraph: Any, node: Apply, shapes: Any) -> list[Any]:
        """The shapes of the outputs, where the names of sizes tell, without a run."""
        found = []
        for told in self.function.told_shapes(shapes):
            if told is None or None in told:
                raise ShapeError
            found.append(tuple(pt.as_tensor(d, dtype="int64") for d in told))
        return found

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Which outputs have a derivative with respect to which inputs."""
        return self.function.depends()

    def L_op(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], output_grads: Sequence[Any]
    ) -> list[Any]:
        """The cotangents of the inputs, by the file's gradient."""
        floats = self.function.float_outputs
        of = [k for k in floats if not isinstance(output_grads[k].type, DisconnectedType)]
        connected = self.function.depends()
        wrt = [k for k, row in enumerate(connected) if any(row[y] for y in of)]
        results: list[Any] = [DisconnectedType()() for _ in inputs]
        if wrt:
            seeds = (output_grads[k].astype(outputs[k].type.dtype) for k in of)
            found = self._derived("vjp", wrt, of)(*inputs, *seeds, return_list=True)
            for k, g in zip(wrt, found, strict=True):
                results[k] = g
        return results

    def R_op(self, inputs: Sequence[Variable], eval_points: Sequence[Any]) -> list[Any]:
        """The tangents of the outputs, by the file's jvp; None for those that do not move."""
        of = self.function.float_outputs
        wrt = [k for k in self.function.float_inputs if eval_points[k] is not None]
        results: list[Any] = [None] * len(self.function.outputs)
        if wrt and of:
            tangents = (eval_points[k] for k in wrt)
            found = self._derived("jvp", wrt, of)(*inputs, *tangents, return_list=True)
            for k, t in zip(of, found, strict=True):
                results[k] = t
        return results

    def _derived(self, kind: str, wrt: Sequence[int], of: Sequence[int]) -> OnnxOp:
        step = (kind, tuple(wrt), tuple(of))
        return OnnxOp(self.root, self.weights, (*self.steps, step))


def _fitting(port: Port, value: Any) -> Variable:
    """An input as a tensor of PyTensor, of the dtype and rank that the net takes.

    Raises:
        FeedError: It has another dtype or rank.
    """
    dtype = _dtype(port)
    plain = not isinstance(value, Variable) and not hasattr(value, "dtype")
    x = pt.as_tensor(np.asarray(value, dtype) if plain else value)
    if x.type.dtype != dtype.name and np.can_cast(x.type.dtype, dtype) and dtype.kind in "iu":
        x = pt.cast(x, dtype.name)  # PyTensor stores integers in as few bits as they need
    if x.type.dtype != dtype.name:
        raise FeedError(
            f"{port.name!r} takes {dtype.name}, and {x.type.dtype} was given. Convert it with "
            f"pytensor.tensor.cast(x, {dtype.name!r})."
        )
    if port.shape is not None and x.type.ndim != len(port.shape):
        raise FeedError(
            f"{port.name!r} has the shape {port.shape_text()}, and a tensor of {x.type.ndim} axes "
            "was given."
        )
    return x


def _dtype(port: Port) -> np.dtype:
    """The dtype of a port, which PyTensor has to have.

    Raises:
        FeedError: It has not.
    """
    if port.dtype is None or port.dtype.kind not in "biufc":
        kind = "no tensor" if port.dtype is None else port.dtype.name
        raise FeedError(f"{port.name!r} is {kind}, which PyTensor does not have.")
    return port.dtype


def _type(port: Port) -> pt.TensorType:
    if port.shape is None:
        raise FeedError(f"The rank of {port.name!r} is not known, which PyTensor needs to know.")
    shape = tuple(d if isinstance(d, int) else None for d in port.shape)
    return pt.TensorType(_dtype(port).name, shape)


if importlib.util.find_spec("jax"):
    # When PyTensor's backend of JAX comes, it is to find how the operator is run.
    from pytensor.link.jax.dispatch import jax_funcify

    from onnxgrad.bridges.jax import call

    @jax_funcify.register(OnnxOp)  # type: ignore[untyped-decorator]
    def _(op: OnnxOp, **_: Any) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            found = call(op.function, arrays)
            return found[0] if len(found) == 1 else found

        return run
