"""Gradients by example, clipped and noised: DP-SGD."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import merged
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.train.arguments import require_number
from onnxgrad.transforms.blocks import alike
from onnxgrad.transforms.examples import batch_inputs, by_example
from onnxgrad.transforms.job import Job

# The property that lists the inputs of the noise.
NOISE = "onnxgrad.noise"

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
        noise: "input" for one input "<weight>.noise" for each weight, of its shape, which whoever
            runs the step fills with new numbers of N(0, 1) each time; the metadata property
            "onnxgrad.noise" lists them, in JSON, and the `Trainer` fills them. Or "drawn" by the
            runtime, by RandomNormalLike. **This alone is not private**: onnxruntime begins with the
            same numbers in each session of a process, and so after each `Trainer.resume`; who knows
            two of the results removes the noise.
        seed: For tests: the noise is then known to all who know the seed. The Trainer draws from
            it and the number of the run, so a resumed training goes on to the same bits; a runtime
            that draws begins anew whenever the file is loaded. None for randomness of the
            operating system in the Trainer, and for what the runtime takes.

    Raises:
        ArgumentError: A number is negative, 0 or infinite, or `noise` is neither.
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: float | None = None
    noise: Noise = "input"
    seed: int | None = None

    def __post_init__(self) -> None:
        require_number("noise_multiplier", self.noise_multiplier)
        require_number("max_grad_norm", self.max_grad_norm, above=True)
        if self.expected_batch_size is not None:
            require_number("expected_batch_size", self.expected_batch_size, above=True)
        if self.seed is not None:
            counted("seed", self.seed)
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

        Raises:
            ArgumentError: One is a scalar.
        """
        ports = {v.name: v for v in job.net.graph.inputs}
        if lone := [x for x in inputs if (shape := ports[x].shape) is not None and not len(shape)]:
            raise ArgumentError(
                f"privacy: the input {lone[0]!r} is a scalar, and each example needs its own: "
                "give it the batch as its first axis, or make it a constant of the model"
            )
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
        """The inputs of the noise, if it has any. The metadata lists them."""
        if self.noise == "drawn" or not self.noise_multiplier:
            return {}
        op = job.op
        found = {
            v: op.input(f"{v.name}.noise", op.tensor(v).shape, op.tensor(v).dtype) for v in job.wrt
        }
        job.net.metadata_props[NOISE] = json.dumps([t.value.name for t in found.values()])
        return found

    def draw(self, ports: Mapping[str, Port], run: int) -> dict[str, Array]:
        """What the inputs of the noise take in a run.

        Args:
            ports: These inputs, by name.
            run: The number of the run.
        """
        rng = np.random.default_rng(None if self.seed is None else [self.seed, run])
        return {
            name: np.asarray(rng.standard_normal(cast("tuple[int, ...]", port.shape)), port.dtype)
            for name, port in ports.items()
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
