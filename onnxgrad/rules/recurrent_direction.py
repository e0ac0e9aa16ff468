"""One direction of an RNN, GRU or LSTM: its operands, and products over all of its steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Direction:
    """One direction: its steps in the order in which they are taken, the time axis first.

    Attributes:
        wanted: The operands whose cotangents are asked for.
        lens: The lengths of the sequences, int64 of shape [1, N]; None where all last to the end.
        by_steps: The forward pass is to be a Scan that keeps the values of the gates.
        X, W, R, Y, B, P, initial_h, initial_c: The node's operands and output, of this direction.
        g_Y, g_Y_h, g_Y_c: The cotangents of the outputs.
    """

    op: Builder
    wanted: Collection[Any]
    lens: Tensor | None
    by_steps: bool
    X: Tensor
    W: Tensor
    R: Tensor
    Y: Tensor
    B: Tensor | None = None
    P: Tensor | None = None
    initial_h: Tensor | None = None
    initial_c: Tensor | None = None
    g_Y: Tensor | None = None
    g_Y_h: Tensor | None = None
    g_Y_c: Tensor | None = None

    # -- sizes and biases --------------------------------------------------------------------------

    @property
    def steps(self) -> Size:
        return shapes.dim(self.X, 0)

    @property
    def batch(self) -> Size:
        return shapes.dim(self.X, 1)

    @cached_property
    def zeros(self) -> Tensor:
        """A state of zeros: [N, H], of sizes read from X and R, so that few nodes read sizes."""
        return shapes.full(self.X, [self.batch, shapes.dim(self.R, 1)], 0)

    @cached_property
    def biases(self) -> tuple[Tensor | None, Tensor | None]:
        """Wb and Rb."""
        if self.B is None:
            return None, None
        Wb, Rb = split(self.B, 2, axis=0)
        return Wb, Rb

    @property
    def bias(self) -> Tensor | None:
        """Wb + Rb."""
        Wb, Rb = self.biases
        return None if Wb is None or Rb is None else Wb + Rb

    # -- lengths -----------------------------------------------------------------------------------

    @cached_property
    def _times(self) -> Tensor:
        return self.op.Unsqueeze(shapes.arange(self.op, self.steps), self.op.const([1]))

    def _valid(self, lens: Tensor) -> Tensor:
        """Which steps belong to a sequence: [steps, N, 1]."""
        return self.op.Unsqueeze(self._times < lens, self.op.const([2]))

    def _last(self, lens: Tensor) -> Tensor:
        """Which step is the last of its sequence: [steps, N, 1]."""
        return self.op.Unsqueeze(self._times.equals(lens - 1), self.op.const([2]))

    @cached_property
    def inputs(self) -> Tensor:
        """X with zeros beyond the ends: a NaN that it may hold there survives a product with 0."""
        if self.lens is None:
            return self.X
        return self.op.Where(self._valid(self.lens), self.X, self.op.const(0, like=self.X))

    # -- states ------------------------------------------------------------------------------------

    @property
    def H(self) -> Tensor:
        """The states before each step."""
        return self.before(self.Y, self.start(self.initial_h))

    def start(self, initial: Tensor | None) -> Tensor:
        """An initial state: [N, H], zeros where it is not given."""
        return self.zeros if initial is None else initial

    def before(self, after: Tensor, start: Tensor) -> Tensor:
        """The states before each step, given those after it."""
        op = self.op
        first = op.Unsqueeze(start, op.const([0]))
        if self.steps == 1:
            return first
        return op.typed(op.Concat(first, shapes.part(after, 0, -1), axis=0), after)

    def seeds(self, steps: Tensor | None, final: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The cotangent that a state has after the last step, and what is added before each step.

        Args:
            steps: The cotangents of the state after each step, as an output of the node.
            final: Those of the final state.
        """
        op = self.op
        if self.lens is not None:
            parts = [] if steps is None else [op.mask(steps, self._valid(self.lens))]
            if final is not None:
                parts.append(op.mask(op.Unsqueeze(final, op.const([0])), self._last(self.lens)))
            steps, final = op.sum(parts) if parts else None, None
        if steps is None:
            return self.start(final), None
        if self.steps == 1:
            last, before = op.Squeeze(steps, op.const([0])), None
        else:
            last, before = op.Gather(steps, op.const(-1), axis=0), self.before(steps, self.zeros)
        return last if final is None else last + final, before

    # -- over all steps ---------------------------------------------------------------------------

    def in_bulk(
        self, function: Callable[..., Sequence[Tensor]], *values: Tensor | None
    ) -> Sequence[Tensor]:
        """A function of tensors of all steps, that leaves the time axis as it is.

        A single step is computed without that axis, as it comes and as it is read.
        """
        if self.steps != 1:
            return function(*values)
        op, first = self.op, self.op.const([0])
        found = function(*(None if v is None else op.Squeeze(v, first) for v in values))
        return [op.Unsqueeze(t, first) for t in found]

    def product(self, x: Tensor, W: Tensor, plus: Tensor | None) -> Tensor:
        """x Wᵀ + plus, of all steps; a Gemm adds at less cost than an Add."""
        op = self.op
        if plus is not None and plus.rank == 3:
            plus = op.Flatten(plus, axis=2)
        y = op.Gemm(op.Flatten(x, axis=2), W, plus, transB=1)
        return shapes.reshape(y, [self.steps, self.batch, shapes.dim(y, 1)])

    def arguments(self) -> Tensor:
        """X Wᵀ + Wb + H Rᵀ + Rb, of all steps."""
        return self.product(self.H, self.R, self.product(self.inputs, self.W, self.bias))

    def gradients(
        self, dx: Tensor, dh: Tensor, recurrent: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensors:
        """The cotangents of X, W, B and R.

        Args:
            dx, dh: Those of X Wᵀ + Wb and of H Rᵀ + Rb, of all steps.
            recurrent: For each block of R's rows, in order, the cotangents of the products with it
                and what it multiplies.
        """
        op, found = self.op, {}
        if "X" in self.wanted:
            (found["X"],) = self.in_bulk(lambda d: [op.MatMul(d, self.W)], dx)
        if "W" in self.wanted:
            found["W"] = _outer(dx, self.inputs)
        if "R" in self.wanted:
            blocks = [_outer(d, multiplied) for d, multiplied in recurrent]
            found["R"] = shapes.joined(blocks, 0)
        if "B" in self.wanted:
            found["B"] = op.Concat(*(shapes.reduce_sum(d, [0, 1]) for d in (dx, dh)), axis=0)
        return found


def _outer(d: Tensor, x: Tensor) -> Tensor:
    """The sum of d xᵀ over all steps and sequences."""
    return d.op.Gemm(d.op.Flatten(d, axis=2), d.op.Flatten(x, axis=2), transA=1)


def split(x: Tensor, parts: int, axis: int = -1) -> tuple[Tensor, ...]:
    """Equal parts, such as the gates that lie side by side in a tensor."""
    return x.op.Split(x, axis=axis, num_outputs=parts, outputs=parts)
