"""Gradients by example, clipped and noised: DP-SGD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import merged
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.transforms.blocks import alike
from onnxgrad.transforms.examples import batch_inputs, by_example
from onnxgrad.transforms.job import Job

Noise = Literal["drawn", "input"]


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Differentially private gradients, as Abadi et al. 2016, "Deep Learning with Differential
    Privacy", algorithm 1, and Opacus have them: (Σ g / max(1, |g| / C) + σ C N(0, 1)) / L.

    g is the gradient of one example, and |g| its norm over all weights. The loss of an example is
    that of a batch of one. No example may influence another.

    Args:
        noise_multiplier: σ.
        max_grad_norm: C.
        expected_batch_size: L, the examples of one update on average; None for the size of the
            batch, which then has to be the same in every run for the privacy that is promised.
        noise: "drawn" by the runtime, by RandomNormalLike; or "input" for one input
            "<weight>.noise" for each weight, of its shape, which the caller fills from N(0, 1).
        seed: Of what is drawn, for the same numbers whenever the file is loaded; None for others.

    Raises:
        ArgumentError: A number is negative or 0, or `noise` is neither.
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: float | None = None
    noise: Noise = "drawn"
    seed: int | None = None

    def __post_init__(self) -> None:
        size = self.expected_batch_size
        if not self.noise_multiplier >= 0:
            raise ArgumentError(f"noise_multiplier is negative: {self.noise_multiplier!r}")
        if not self.max_grad_norm > 0 or not (size is None or size > 0):
            raise ArgumentError(f"max_grad_norm and expected_batch_size of {self} are above 0")
        if self.noise not in get_args(Noise):
            raise ArgumentError(f"noise is 'drawn' or 'input', not {self.noise!r}")

    def sums(
        self, job: Job, single: ir.Model, inputs: Sequence[str]
    ) -> tuple[dict[ir.Value, Tensor], Tensor]:
        """The sums of the clipped gradients of all examples, and 1 / L.

        Args:
            job: Has the net for the whole batch.
            single: A copy of the net before the job.
            inputs: The names of the net's own inputs, all of which have the batch.
        """
        batched = batch_inputs(job.net.graph, list(inputs))
        known = {*batched, *job.wrt, *job.op.inputs}
        added = [v for v in job.net.graph.inputs if v not in known]  # labels

        def emit(inner: Builder, nodes: list[ir.Node], values: dict[str, ir.Value]) -> list[Tensor]:
            sources = [values[x.name or ""] for x in job.wrt]
            ys = [inner.tensor(values[y.name or ""]) for y in job.of]
            seeds = merged(inner, ((y, shapes.full_like(y, 1)) for y in ys))
            found = pull(inner, seeds, sources, nodes)
            return self._clipped(inner, [(v, found.get(v)) for v in sources])

        job.trace(job.of, job.wrt)
        stacks = by_example(job, single, batched, emit, alike(job.wrt), added)
        sums = {v: shapes.reduce_sum(s, [0]) for v, s in zip(job.wrt, stacks, strict=True)}
        return sums, self._share(job.op.tensor(batched[0]))

    def _clipped(
        self, op: Builder, gradients: Sequence[tuple[ir.Value, Tensor | None]]
    ) -> list[Tensor]:
        given = [g for _, g in gradients if g is not None]
        norm = norm_of(op, given)
        factor = op.const(1, like=norm) / op.Max(norm / self.max_grad_norm, op.const(1, like=norm))
        return [
            shapes.full_like(op.tensor(v), 0) if g is None else g * op.cast(factor, g.dtype)
            for v, g in gradients
        ]

    def _share(self, x: Tensor) -> Tensor:
        """1 / L, a scalar, for a batch."""
        one = x.op.const(1, dtype=np.float64)
        if self.expected_batch_size is not None:
            return one / self.expected_batch_size
        return one / shapes.as_float(shapes.dim(x, 0), like=one)

    def noises(self, job: Job) -> dict[ir.Value, Tensor]:
        """The inputs of the noise, if it has any."""
        if self.noise == "drawn" or not self.noise_multiplier:
            return {}
        op = job.op
        return {
            v: op.input(f"{v.name}.noise", op.tensor(v).shape, op.tensor(v).dtype) for v in job.wrt
        }

    def noised(
        self, op: Builder, g: Tensor, share: Tensor, given: Mapping[ir.Value, Tensor], at: int
    ) -> Tensor:
        """A mean of gradients and its noise.

        Args:
            share: 1 / L, a scalar.
            at: The place of the weight.
        """
        if not self.noise_multiplier:
            return g
        noises = list(given.values())
        if noises:
            noise = op.tensor(noises[at].value)
        else:
            seed = None if self.seed is None else float(self.seed + at)
            noise = op.RandomNormalLike(g, seed=seed)
        size = share * (self.noise_multiplier * self.max_grad_norm)
        return g + noise * op.cast(size, g.dtype)


def norm_of(op: Builder, tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all elements of some tensors, float64 where one of them is, else float32."""
    doubles = any(t.dtype == ir.DataType.DOUBLE for t in tensors)
    dtype = ir.DataType.DOUBLE if doubles else ir.DataType.FLOAT
    squares = [op.cast(op.ReduceSumSquare(op.promoted(t), keepdims=0), dtype) for t in tensors]
    return op.Sqrt(op.sum(squares))
