"""The points that an attack may reach: those of a ball around x, within the bounds of the data.

Half precision is computed in float32. What is reached is rounded toward x, so that no rounding
leads out of the ball.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import HALVES, shown
from onnxgrad.heads.head import input_of

Norm = Literal["Linf", "L2"]
# A number, numbers that broadcast to an example, or "input" or "input:NAME" for a new graph input.
Number: TypeAlias = float | Sequence[Any] | str


class Ball:
    """A ball of radius `eps` around each example of `x`, within the bounds of the data.

    Args:
        x: The centres, [N, ...].
        norm: In which it is a ball.
        eps: The radius.
        clip_min, clip_max: The bounds of the data; None for none.

    Raises:
        ArgumentError: An argument is none of these.
    """

    def __init__(
        self,
        x: Tensor,
        norm: Norm,
        eps: Number,
        clip_min: Number | None,
        clip_max: Number | None,
    ) -> None:
        if norm not in ("Linf", "L2"):
            raise ArgumentError(f"norm is 'Linf' or 'L2', not {norm!r}")
        self.like, self.norm, self.x = x, norm, x.op.promoted(x)
        self.eps = self.number("eps", eps)
        if norm == "L2" and self.eps.rank:
            raise ArgumentError(f"eps: a ball in L2 has one radius, not {eps!r}")
        self.low = None if clip_min is None else self._bound("clip_min", clip_min, np.inf)
        self._require_order(clip_min, clip_max)
        self.high = None if clip_max is None else self._bound("clip_max", clip_max, -np.inf)
        if norm == "Linf":  # the ball is a box too
            near, far = self._clipped(_moved(x, -self.eps)), self._clipped(_moved(x, self.eps))
            self.low, self.high = near, far

    def number(self, name: str, given: Number) -> Tensor:
        """An argument that is not negative: a constant, no larger than it, or a new input.

        Raises:
            ArgumentError: It is negative or no number.
        """
        if isinstance(given, str):
            return self._input(name, given)
        if not (np.isfinite(array := self._numbers(name, given)) & (array >= 0)).all():
            raise ArgumentError(f"{name} is a number that is not negative, not {given!r}")
        return self._const(array, -np.inf)

    def _require_order(self, low: Number | None, high: Number | None) -> None:
        """Raise where the bounds of the data are known and leave nothing between them.

        Raises:
            ArgumentError: They do.
        """
        if low is None or high is None or isinstance(low, str) or isinstance(high, str):
            return
        if (self._numbers("clip_min", low) > self._numbers("clip_max", high)).any():
            raise ArgumentError(f"clip_min {low!r} is larger than clip_max {high!r}")

    def _bound(self, name: str, given: Number, within: float) -> Tensor:
        """A bound of the data, as a number of x's dtype that lies within it."""
        if isinstance(given, str):
            return self._input(name, given)
        dtype = self.like.dtype.numpy()
        return self._const(_rounded(self._numbers(name, given), dtype, within), within)

    def _input(self, name: str, given: str) -> Tensor:
        new = input_of(given, name)
        if new is None:
            raise ArgumentError(f"{name} is a number or 'input', not {given!r}")
        return new.added(self.x.op, [], self.x.dtype)

    def _numbers(self, name: str, given: Any) -> np.ndarray:
        """A number, or numbers that broadcast to x.

        Raises:
            ArgumentError: It is neither.
        """
        try:
            array = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{name} is a number or 'input', not {given!r}") from error
        if not self.x.takes(array.shape):
            raise ArgumentError(
                f"{name}: numbers of shape {[*array.shape]} do not broadcast to an example of "
                f"{shown(self.like.value)}"
            )
        return array

    def _const(self, array: Any, toward: float) -> Tensor:
        dtype = self.x.dtype.numpy()
        return self.x.op.const(_rounded(array, dtype, toward), like=self.x)

    def step(self, op: Builder, at: Tensor, g: Tensor, alpha: Tensor, down: bool) -> Tensor:
        """A step of length `alpha` up or down a gradient, back into the ball and the bounds.

        Args:
            op: Emits it: the builder of this graph or of an inner one.
            at: Where it starts, in the dtype of the calculation.
            g: The gradient there.
            alpha: How far it leads: each element by it in L-inf, each example by it in L2.
            down: Whether it descends.
        """
        g = op.promoted(g)
        move = (op.Sign(g) if self.norm == "Linf" else _unit(g)) * op.tensor(alpha.value)
        return self.project(op, at - move if down else at + move)

    def project(self, op: Builder, at: Tensor) -> Tensor:
        """The nearest point of the ball, within the bounds of the data."""
        if self.norm == "L2":
            x, eps = op.tensor(self.x.value), op.tensor(self.eps.value)
            away = at - x
            length = _length(away)
            away = away * op.Where(length > eps, eps / length, op.const(1, like=eps))
            at = x + away
        return self.like.op.typed(self._clipped(at), self.x)

    def _clipped(self, at: Tensor) -> Tensor:
        op = at.op
        if self.low is not None:
            at = op.Max(at, op.cast(op.tensor(self.low.value), at.dtype))
        if self.high is not None:
            at = op.Min(at, op.cast(op.tensor(self.high.value), at.dtype))
        return at

    def finished(self, at: Tensor) -> Tensor:
        """What is reached, in the dtype of x."""
        if self.norm == "Linf":  # its box has corners of that dtype
            return at.op.cast(at, self.like.dtype)
        away = at - self.x
        return self._clipped(_moved(self.like, away)) if self.like.dtype in HALVES else at

    def drawn(self, seed: int) -> Tensor:
        """A point of the ball of radius 1 for each example, drawn in the graph.

        In L2 its direction and its length are uniform.
        """
        op, x = self.x.op, self.x
        if self.norm == "Linf":
            return op.typed(op.RandomUniformLike(x, low=-1.0, high=1.0, seed=float(seed)), x)
        direction = _unit(op.typed(op.RandomNormalLike(x, seed=float(seed)), x))
        length = op.RandomUniformLike(_length(x), seed=float(seed) + 1)
        return op.typed(direction * length, x)


def _rounded(array: np.ndarray, dtype: Any, toward: float) -> np.ndarray:
    """The nearest numbers of a dtype that lie on the given side of those of an array, or there."""
    near = array.astype(dtype)
    beyond = near.astype(np.float64) > array if toward < 0 else near.astype(np.float64) < array
    return np.where(beyond, np.nextafter(near, np.asarray(toward, dtype)), near)


def _moved(x: Tensor, away: Tensor) -> Tensor:
    """``x + away`` in the dtype of x, rounded so that it is no farther from x than `away`."""
    op, info = x.op, ml_dtypes.finfo(x.dtype.numpy())  # type: ignore[no-untyped-call]
    centre = op.promoted(x)
    rounded = op.cast(centre + away, x.dtype)
    near = op.promoted(rounded)
    size = op.Max(op.Abs(near), op.const(float(info.smallest_normal), like=near))
    # Between half of the distance to the next number and one and a half.
    back = op.cast(near - op.Sign(away) * (size * (0.5625 * float(info.eps))), x.dtype)
    too_far = op.Abs(near - centre) > op.Abs(away)
    return op.typed(op.Where(too_far, back, rounded), x)


def _length(away: Tensor) -> Tensor:
    """The Euclidean norm of each example, with axes of size 1."""
    if away.rank < 2:
        return away.op.Abs(away)
    return away.op.ReduceL2(away, shapes.axes_vector(away, range(1, away.rank)), keepdims=1)


def _unit(g: Tensor) -> Tensor:
    """Each example divided by its Euclidean norm, whatever its size; zeros remain zeros."""
    op = g.op
    if g.rank < 2:
        return op.Sign(g)
    largest = op.ReduceMax(op.Abs(g), shapes.axes_vector(g, range(1, g.rank)), keepdims=1)
    one = op.const(1, like=g)
    scaled = g / op.Where(largest > 0, largest, one)  # so that no square underflows
    length = _length(scaled)
    return scaled / op.Where(length > 0, length, one)
