"""What becomes of gradients before an optimizer takes them: scaled, summed, clipped, skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import full_like, reshape_like
from onnxgrad.emit.subgraphs import close
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.counts import counted
from onnxgrad.train.arguments import require_number
from onnxgrad.train.privacy import norm_of
from onnxgrad.train.states import States

# As torch.amp.GradScaler has them.
_INITIAL_SCALE, _GROWTH, _BACKOFF, _INTERVAL = 65536.0, 2.0, 0.5, 2000

Gradients = Mapping[ir.Value, Tensor]


@dataclass(frozen=True)
class Treatment:
    """What becomes of the gradients of a step, as `step` describes it.

    Raises:
        ArgumentError: An argument makes no sense.
    """

    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    accumulate: int = 1
    loss_scale: float | Literal["dynamic"] | None = None

    def __post_init__(self) -> None:
        for name in ("clip_grad_norm", "clip_grad_value"):
            number = getattr(self, name)
            if number is not None:
                require_number(name, number, above=True)
        counted("accumulate", self.accumulate, 1)
        if self.loss_scale not in (None, "dynamic"):
            require_number("loss_scale, where it is not 'dynamic',", self.loss_scale, above=True)

    def scale(self, states: States) -> Tensor | None:
        """What the loss is multiplied with, a float32 scalar."""
        if self.loss_scale == "dynamic":
            return states.added("loss_scale", [], np.float32, _INITIAL_SCALE)
        return (
            None if self.loss_scale is None else states.op.const(self.loss_scale, dtype="float32")
        )

    def collect(
        self, states: States, gradients: Gradients, factor: Tensor | None
    ) -> tuple[dict[ir.Value, Tensor], Tensor | None, Tensor | None]:
        """The gradients of all runs since the last update.

        Args:
            factor: What the gradients are still to be multiplied with, a scalar.

        Returns:
            The gradients, their factor, and whether it is time for an update; None where it always
            is.
        """
        if self.accumulate == 1:
            return dict(gradients), factor, None
        op, number = states.op, 1 / self.accumulate
        share = op.const(number, dtype=np.float64) if factor is None else factor * number
        count = states.added("accumulated", [], np.int64)
        due = (count + 1).equals(self.accumulate)
        states.next["accumulated"] = op.Where(due, op.const(0), count + 1)
        sums = {}
        for v, g in gradients.items():
            before = states.added(f"{v.name}.grad", g.shape, g.dtype)
            sums[v] = before + scaled(g, share)
        following = choose(
            op, due, lambda o: [full_like(o.tensor(t.value), 0) for t in sums.values()],
            list(sums.values()),
        )  # fmt: skip
        states.next |= {f"{v.name}.grad": t for v, t in zip(sums, following, strict=True)}
        return sums, None, due

    def finite(self, states: States, norm: Tensor, due: Tensor | None) -> Tensor | None:
        """Whether to take the step, and the next scale of the loss; None for always."""
        op, scale = states.op, self.loss_scale
        if scale is None:
            return due
        finite = ~(op.IsNaN(norm) | op.IsInf(norm))
        if scale == "dynamic":
            now, count = states.now["loss_scale"], states.added("growth_tracker", [], np.int64)
            full = (count + 1).equals(_INTERVAL)
            grown = now * _GROWTH
            grown = op.Where(full & ~op.IsInf(grown), grown, now)
            following = op.Where(finite, grown, now * _BACKOFF)
            tracked = op.Where(finite & ~full, count + 1, op.const(0))
            if due is not None:
                following, tracked = op.Where(due, following, now), op.Where(due, tracked, count)
            states.next |= {"loss_scale": following, "growth_tracker": tracked}
        return finite if due is None else finite & due

    def clipped_values(
        self, op: Builder, gradients: Gradients, factor: Tensor | None
    ) -> tuple[dict[ir.Value, Tensor], Tensor | None]:
        """The gradients with each element clipped, and the factor that is left."""
        if (largest := self.clip_grad_value) is None:
            return dict(gradients), factor
        found = {}
        for v, g in gradients.items():
            g = scaled(g, factor)
            found[v] = op.Clip(g, op.const(-largest, like=g), op.const(largest, like=g))
        return found, None

    def clipping(self, op: Builder, norm: Tensor, factor: Tensor | None) -> Tensor | None:
        """The factor of the gradients, so that their norm is no larger than it may be.

        As torch.nn.utils.clip_grad_norm_.
        """
        if self.clip_grad_norm is None:
            return factor
        clip = op.Min(op.const(self.clip_grad_norm, like=norm) / (norm + 1e-6),
                      op.const(1, like=norm))  # fmt: skip
        clip = op.cast(clip, ir.DataType.DOUBLE)
        return clip if factor is None else clip * factor


def norm(op: Builder, gradients: Sequence[Tensor], factor: Tensor | None) -> Tensor:
    """The norm of gradients that are still to be multiplied with a factor."""
    found = norm_of(op, gradients)
    return found if factor is None else found * op.cast(factor, found.dtype)


def scaled(g: Tensor, factor: Tensor | None) -> Tensor:
    """A gradient times a scalar of double precision."""
    if factor is None:
        return g
    number = g.op.cast(factor, g.dtype)
    return reshape_like(flat(g) * number, g) if is_thin(g) else g * number


def is_thin(t: Tensor) -> bool:
    """Whether the last of several axes has the size 1, as in a Conv's weight of a 1x1 kernel.

    onnxruntime multiplies such a tensor with a scalar number by number, ten times as slowly as one
    of one axis.
    """
    return (t.shape or ())[1:][-1:] == (1,)


def flat(t: Tensor) -> Tensor:
    """A tensor of one axis; a scalar stays one."""
    return t if t.rank == 0 else t.op.Reshape(t, t.op.const([-1]))


def choose(
    op: Builder,
    condition: Tensor | None,
    results: Callable[[Builder], Sequence[Tensor]],
    otherwise: Sequence[Tensor],
) -> list[Tensor]:
    """An If: `results`, or tensors of the same dtypes and shapes; without condition the first."""
    if condition is None:
        return list(results(op))
    some, none = op.child("then"), op.child("else")
    close(some, results(some))
    close(none, [none.tensor(t.value) for t in otherwise])
    branches: dict[str, Any] = {"then_branch": some.graph, "else_branch": none.graph}
    return list(op.node("If", [condition], len(otherwise), branches, like=otherwise))
