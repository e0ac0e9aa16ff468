"""A net as a function of one flat vector of float64, as the solvers of scipy take it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxgrad.bridges.weights import release
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.names import ALL, All, parameters, resolve_all
from onnxgrad.heads.head import parted
from onnxgrad.run.net import Net
from onnxgrad.run.requests import NetPortGradient, Value
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.transforms.asked import float_inputs, of_names
from onnxgrad.transforms.attach import attach
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt

__all__ = ["Objective", "objective"]

Feeds = Mapping[str, Any]


def objective(
    model: io.ModelLike,
    wrt: Wrt = None,
    *,
    of: Of = None,
    feeds: Feeds | None = None,
    scalar: bool | None = None,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    straight_through: StraightThrough = False,
    constant: TensorSpecs | None = None,
) -> Objective:
    """A net and its derivatives as functions of a vector, for `scipy.optimize` and `solve_ivp`.

    They are as exact as the net: for one in float32, `to_double` makes another in float64.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        wrt: The inputs and weights that the vector holds, one behind the other, each in the order
            of its elements in memory; `ALL` or None as for `gradient`.
        of: As for `gradient`: what is computed, heads and losses too; None for all floating-point
            outputs.
        feeds: By name, the values of the other inputs, labels of losses among them. For an input of
            `wrt` its value is where to start, and tells its shape where the model does not.
        scalar: True for the sum of all elements of `of`, as `minimize` wants it. False for all of
            them as a vector, as `least_squares`, `root` and `solve_ivp` want it. None for the sum
            where there is one element.
        providers, threads: As for `Net`.
        straight_through, constant: As for `gradient`.

    Returns:
        An `Objective` with `fun`, `jac`, `hess`, `hessp` and the start `x0`.

    Raises:
        ArgumentError: `wrt` names an inner tensor, or an input whose sizes neither the model nor
            `feeds` tells.
        FeedError: There is no value for an input, or one of a wrong name, dtype or shape.
        OnnxGradError: As `Net`.

    Example:
        >>> from scipy.optimize import minimize
        >>> feeds = {"input": np.zeros((1, 4)), "labels": np.ones((1, 3))}
        >>> loss = og.losses.mse("logits")
        >>> f = og.bridges.scipy.objective("models/mlp.onnx", of=loss, feeds=feeds)
        >>> bool(minimize(f, f.x0, jac=True).fun < f.fun(f.x0))
        True
    """
    net = io.load(model)
    specs, heads = parted(of)
    targets = of_names(net, specs) if of is None or specs else []
    own = float_inputs(net)
    names = own if wrt is None or isinstance(wrt, All) else resolve_all(net, wrt)
    weights = [name for name in names if name not in own]
    if others := [repr(name) for name in weights if name not in parameters(net)]:
        raise ArgumentError(f"wrt: {', '.join(others)} is neither an input nor a weight")
    for head in heads:
        net = attach(net, head)
    asked = ALL if isinstance(wrt, All) else weights or None
    held = release(net, asked, straight_through, constant)
    runner = Net(
        net, providers, threads=threads, straight_through=straight_through, constant=constant
    )
    names = list(dict.fromkeys([*names, *held]))
    targets += [head.name for head in heads]
    return Objective(runner, names, targets, {**held, **(feeds or {})}, scalar)


class Objective:
    """A net as a function of a vector; `objective` makes one. Safe in several threads.

    The methods take the vector, and behind it `feeds`: by name, values of other inputs in the place
    of those given to `objective`, as `minimize` hands on in `args`. Called itself, it gives the
    value and the derivative, which is what ``jac=True`` asks for.

    Attributes:
        wrt: The names of the tensors that the vector holds, in order.
        of: The names of the tensors that are computed.
    """

    def __init__(
        self, net: Net, wrt: Sequence[str], of: Sequence[str], feeds: Feeds, scalar: bool | None
    ) -> None:
        self.wrt, self.of = tuple(wrt), tuple(of)
        self._net, self._fixed, self._scalar = net, dict(feeds), scalar
        self._scalars: dict[Any, bool] = {}  # by the shapes of all that is fed
        self._starts = {name: self._fixed.pop(name) for name in wrt if name in feeds}
        self._shapes = {name: self._shape(name) for name in self.wrt}

    @property
    def x0(self) -> Array:
        """Where to start, float64 [n]: what the weights hold, and the feeds of inputs of `wrt`.

        Raises:
            ArgumentError: An input of `wrt` has no value.
        """
        if missing := [repr(name) for name in self.wrt if name not in self._starts]:
            raise ArgumentError(f"x0: give the value of {', '.join(missing)} in feeds")
        return _flat([self._starts[name] for name in self.wrt])

    def __call__(self, x: Any, feeds: Feeds | None = None) -> tuple[Any, Array]:
        """What `fun` and `jac` give; of a scalar in one run.

        Raises:
            FeedError: As for `fun`.
        """
        fed = self._feeds(x, feeds)
        if not self._is_scalar(fed):
            return self._vector(fed), self._jacobian(fed)
        values, slopes = self._net.value_and_gradient(fed, list(self.wrt), of=list(self.of))
        return float(_flat(values.values()).sum()), _flat(slopes.values())

    def fun(self, x: Any, feeds: Feeds | None = None) -> Any:
        """The value: a float for a scalar, else a float64 vector [m].

        Raises:
            FeedError: The vector does not fit, or the value of an input is missing or does not.
        """
        fed = self._feeds(x, feeds)
        found = self._vector(fed)
        return float(found.sum()) if self._is_scalar(fed, found) else found

    def jac(self, x: Any, feeds: Feeds | None = None) -> Array:
        """The gradient of a scalar, float64 [n], or the Jacobian of a vector, [m, n].

        Raises:
            FeedError: As for `fun`.
        """
        fed = self._feeds(x, feeds)
        if not self._is_scalar(fed):
            return self._jacobian(fed)
        return _flat(self._net.gradient(fed, list(self.wrt), of=list(self.of)).values())

    def hess(self, x: Any, v: Any = None, feeds: Feeds | None = None) -> Array:
        """The Hessian, float64 [n, n].

        Args:
            x, feeds: As for `fun`; for a scalar `feeds` may come in the place of `v`.
            v: For a vector the weights of its elements, [m], of whose sum the Hessian is, as a
                `NonlinearConstraint` asks for it.

        Raises:
            FeedError: As for `fun`.
            ArgumentError: `v` is missing for a vector, or given for a scalar.
        """
        if isinstance(v, Mapping):
            v, feeds = None, v
        fed = self._feeds(x, feeds)
        if self._is_scalar(fed) != (v is None):
            raise ArgumentError("hess: v is needed for a vector, and for it alone")
        imposed = {} if v is None else self._imposed(fed, v)
        found = self._net.hessian({**fed, **imposed}, list(self.wrt), of=list(self.of))
        return self._matrix(found, fed, self.wrt)

    def hessp(self, x: Any, p: Any, feeds: Feeds | None = None) -> Array:
        """The product of the Hessian of a scalar with a vector, float64 [n].

        Raises:
            FeedError: As for `fun`.
            ArgumentError: The function is no scalar.
        """
        fed = self._feeds(x, feeds)
        if not self._is_scalar(fed):
            raise ArgumentError("hessp: a vector has no Hessian; pass scalar=True for its sum")
        return _flat(self._net.hvp(fed, self._parts(p), of=list(self.of)).values())

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of `wrt`; one -1 in it is left to the vector."""
        if name in self._starts:
            return np.shape(self._starts[name])
        dims = self._net.ports[name].shape
        sizes = [d if isinstance(d, int) else -1 for d in dims or ()]
        if dims is None or sizes.count(-1) > (len(self.wrt) == 1):
            shown = self._net.ports[name].shape_text()
            raise ArgumentError(
                f"{name!r} is of shape {shown}: give a value of it in feeds, which tells its sizes"
            )
        return tuple(sizes)

    def _feeds(self, x: Any, feeds: Feeds | None) -> dict[str, Any]:
        """All that the net is fed, in the dtypes of its inputs."""
        given = {**self._fixed, **(feeds or {}), **self._parts(x)}
        ports = self._net.ports
        return {n: _as_float(v, ports[n]) if n in ports else v for n, v in given.items()}

    def _parts(self, x: Any) -> dict[str, Array]:
        """The vector parted in tensors, in the dtypes of the inputs."""
        given = np.asarray(x)
        if given.dtype.kind not in "biuf":
            raise FeedError(f"The vector is of real numbers, not of {given.dtype.name}.")
        vector = given.astype(np.float64, copy=False)
        counts = [abs(int(np.prod(shape))) for shape in self._shapes.values()]
        free = any(-1 in shape for shape in self._shapes.values())
        fits = vector.size % max(counts[0], 1) == 0 if free else vector.size == sum(counts)
        if vector.ndim != 1 or not fits:
            wanted = f"a multiple of {counts[0]}" if free else f"{sum(counts)}"
            raise FeedError(
                f"The vector holds {', '.join(map(repr, self.wrt))}, {wanted} elements, and is of "
                f"shape {vector.shape}."
            )
        ends = [vector.size] if free else np.cumsum(counts).tolist()
        parts = np.split(vector, ends[:-1])
        return {
            name: _as_float(part.reshape(shape), self._net.ports[name])
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def _is_scalar(self, fed: Feeds, found: Array | None = None) -> bool:
        """Whether the function is a scalar, which a value tells where nothing else does."""
        if self._scalar is not None:
            return self._scalar
        shapes = tuple(np.shape(value) for value in fed.values())
        if shapes not in self._scalars:
            self._scalars[shapes] = (self._vector(fed) if found is None else found).size == 1
        return self._scalars[shapes]

    def _values(self, fed: Feeds) -> list[Array]:
        return list(self._net(fed, [Value(name) for name in self.of]).values())

    def _vector(self, fed: Feeds) -> Array:
        return _flat(self._values(fed))

    def _jacobian(self, fed: Feeds) -> Array:
        found = self._net.jacobian(fed, list(self.wrt), of=list(self.of))
        return self._matrix(found, fed, self.of)

    def _matrix(self, found: Mapping[str, Any], fed: Feeds, rows: Sequence[str]) -> Array:
        """The blocks of a Jacobian or Hessian as one matrix."""
        shapes = {name: np.shape(fed[name]) for name in self.wrt}
        blocks = [[_rows(found[row][x], shape) for x, shape in shapes.items()] for row in rows]
        return np.block(blocks).astype(np.float64)

    def _imposed(self, fed: Feeds, v: Any) -> dict[Any, Array]:
        """The weights of the elements as gradients imposed at the tensors of `of`."""
        values, weights = self._values(fed), np.asarray(v, np.float64)
        ends = np.cumsum([y.size for y in values])
        if weights.shape != (ends[-1],):
            raise FeedError(f"v is of shape ({ends[-1]},), a number for each element of the value.")
        parts = np.split(weights, ends[:-1])
        return {
            NetPortGradient(name): part.reshape(y.shape).astype(y.dtype)
            for name, y, part in zip(self.of, values, parts, strict=True)
        }


def _flat(arrays: Any) -> Array:
    """Arrays one behind the other, as a vector of float64."""
    return np.concatenate([np.ravel(a).astype(np.float64) for a in arrays])


def _rows(block: Array, columns: tuple[int, ...]) -> Array:
    """A block of shape [..., *columns] as a matrix."""
    count = math.prod(block.shape[: block.ndim - len(columns)])
    return block.reshape(count, math.prod(columns))


def _as_float(value: Any, port: Port) -> Any:
    """A number or an array of them in the precision of an input, where both are floating-point."""
    array = np.asarray(value)
    if port.dtype is None or array.dtype.kind != "f" or port.dtype.kind not in "fV":
        return value
    return array.astype(port.dtype, copy=False)
