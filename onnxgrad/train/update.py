"""The update of a step: what becomes of the gradients, then the optimizer of each weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.facts import Dim
from onnxgrad.train.gradients import Gradients, Treatment, choose, flat, is_thin, norm, scaled
from onnxgrad.train.groups import Group, group_of
from onnxgrad.train.optimizers import Optimizer
from onnxgrad.train.privacy import DPSGD
from onnxgrad.train.states import States
from onnxgrad.transforms.job import Job


@dataclass(frozen=True)
class Update:
    """How the gradients of a step change its weights, as `step` describes it."""

    optimizer: Optimizer
    groups: Sequence[Group]
    treatment: Treatment
    privacy: DPSGD | None
    grad_norm: bool

    def emit(
        self, job: Job, states: States, gradients: Gradients, factor: Tensor | None
    ) -> dict[str, Tensor]:
        """Emit the next state.

        Args:
            factor: What the gradients are still to be multiplied with, a scalar; None for 1.

        Returns:
            The norm of the gradients, where it was asked for.
        """
        op, treatment = job.op, self.treatment
        kept = self._added(states, gradients)
        place: dict[ir.Node | None, int] = {node: k for k, node in enumerate(op.graph)}
        walked = sorted(gradients, key=lambda v: place.get(gradients[v].value.producer(), -1))
        share = factor
        if self.privacy and share is not None:  # of the sum of all runs, not of their mean
            factor = share * treatment.accumulate
        found, factor, due = treatment.collect(states, gradients, factor)
        noises = self.privacy.noises(job) if self.privacy else {}
        found, factor = treatment.clipped_values(op, found, factor)
        outputs = {}
        if self.grad_norm or treatment.loss_scale is not None:
            size = norm(op, list(found.values()), factor)
            outputs = {"grad_norm": size} if self.grad_norm else {}
            due = treatment.finite(states, size, due)

        def following(inner: Builder) -> list[Tensor]:
            gs = {v: inner.tensor(g.value) for v, g in found.items()}
            left = factor and inner.tensor(factor.value)
            if treatment.clip_grad_norm is not None:
                left = treatment.clipping(inner, norm(inner, list(gs.values()), left), left)
            gs = {v: scaled(g, left) for v, g in gs.items()}
            if self.privacy:
                assert share is not None
                each = inner.tensor(share.value)
                gs = {
                    v: self.privacy.noised(inner, g, each, noises, at)
                    for at, (v, g) in enumerate(gs.items())
                }
            found_next = self._next(inner, states, {v: gs[v] for v in walked})
            return [found_next[name] for name in kept]

        values = choose(op, due, following, [states.now[name] for name in kept])
        states.next |= dict(zip(kept, values, strict=True))
        return outputs

    def _added(self, states: States, gradients: Gradients) -> list[str]:
        """Add the weights and their states; their names, in the order of `_next`."""
        names = ["step"]
        for value in gradients:
            name, optimizer = value.name or "", self._of(value)
            w = states.given(name, value)
            for key, number in optimizer.state().items():
                shape: Sequence[Dim] | None = [] if key in optimizer.scalars else w.shape
                states.added(f"{name}.{key}", shape, w.dtype, number)
            names += [name, *(f"{name}.{key}" for key in optimizer.state())]
        return names

    def _of(self, weight: ir.Value) -> Optimizer:
        return group_of(self.groups, weight.name or "").optimizer(self.optimizer)

    def _next(self, op: Builder, states: States, gradients: Gradients) -> dict[str, Tensor]:
        """The next count, and the next value and state of each weight, by name.

        They are emitted in the order of the gradients, which is that of the backward pass: else a
        runtime would compute all cotangents before the first update (see `passes.clean_up`).
        """
        now = {name: op.tensor(t.value) for name, t in states.now.items()}
        count = now["step"] + 1
        t = op.Cast(count, to=ir.DataType.DOUBLE)
        rate = op.Cast(op.tensor(states.rate.value), to=ir.DataType.DOUBLE)
        found: dict[str, Tensor] = {"step": count}
        for value, g in gradients.items():
            name, optimizer = value.name or "", self._of(value)
            w = now[name]
            state = {key: now[f"{name}.{key}"] for key in optimizer.state()}
            if thin := is_thin(w):
                w, g, *parts = (flat(t) for t in (w, g, *state.values()))
                state = dict(zip(state, parts, strict=True))
            op.scope = f"{name}/{type(optimizer).__name__}"
            own = rate * group_of(self.groups, name).lr_scale
            results = {name: optimizer(w, g, own, t, state)}
            results |= {f"{name}.{key}": part for key, part in state.items()}
            if thin:
                results = {
                    n: r if r.rank == 0 else shapes.reshape_like(r, now[name])
                    for n, r in results.items()
                }
            found |= results
        return found
