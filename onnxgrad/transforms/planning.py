"""The decisions of a transform for inputs of given sizes, without building its result."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxgrad.transforms.batch import examples_of
from onnxgrad.transforms.blocks import MAX_BYTES, Mode, choose_mode
from onnxgrad.transforms.jacobian import batch_for
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Inputs, Of, Options, TensorSpecs, Wrt


def plan(
    kind: str,
    net: ir.Model,
    wrt: Wrt = None,
    *,
    of: Of = None,
    constant: TensorSpecs | None = None,
    mode: Mode = "auto",
    batched: bool | Inputs | None = None,
    max_bytes: int = MAX_BYTES,
    example: Any = None,
) -> Mode:
    """The decisions of a transform for inputs of given sizes, without building its result.

    Args:
        kind: "jacobian", "hessian" or "per_example_gradient".
        net: A private model, which is changed; its inputs have the sizes to decide for.
        wrt, of, ...: As for the transform.

    Returns:
        The mode that the transform would choose.

    Raises:
        ArgumentError: The results would be larger than `max_bytes`. Else as the transform.
    """
    options = Options(of=of, constant=constant, unreachable="zeros", example=example)
    if kind == "per_example_gradient":
        inputs = None if isinstance(batched, bool) else batched
        examples_of(net, wrt, inputs, max_bytes, options)
        return "reverse"
    job = Job(net, wrt, options)
    _, batch = batch_for(job, [] if kind == "hessian" else job.of, batched or False)
    targets = job.wrt if kind == "hessian" else job.of
    return choose_mode(targets, job.wrt, mode, max_bytes, kind, batch)
