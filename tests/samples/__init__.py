"""The table of samples: operators with operands and attributes at which their rules are checked.

One module per family of rules, each with a list `SAMPLES`. tests/rules/test_rules.py is the one
body of checks over all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(eq=False)
class Sample:
    """One node: an operator with operands and attributes.

    Floating-point operands (float64) are differentiated, each alone and all together; integer and
    boolean ones are once constants and once fed at run time.
    """

    op: str
    inputs: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    note: str = ""
    wrt: Sequence[int] | None = None  # operands to differentiate; None for all floating-point ones
    of: Sequence[int] | None = None  # outputs to differentiate; None for all floating-point ones
    smooth: bool = True  # has a second derivative that the check can see
    fed: bool = True  # integer operands may also be fed at run time
    symbolic: bool = True  # also with every dimension symbolic
    tolerance: float = 1e-6  # relative, in float64
    opset: int = 21
    domain: str = ""
    reference: bool = False  # onnxruntime's float64 kernel is wrong: the reference evaluator
    single: bool = False  # neither runtime is right in float64: check in float32

    def __str__(self) -> str:
        shapes = "x".join("-" if a is None else str(list(a.shape)) for a in self.inputs)
        attributes = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}{shapes}{attributes}{self.note}".replace(" ", "")


_RNG = np.random.default_rng(zlib.crc32(b"onnxgrad"))


def normal(*shape: int) -> Array:
    """Standard normal numbers."""
    return _RNG.standard_normal(shape)


def uniform(low: float, high: float, *shape: int) -> Array:
    """Uniform numbers between two bounds."""
    return _RNG.uniform(low, high, shape)


def distinct(*shape: int) -> Array:
    """Numbers of both signs at least 0.05 apart and off 0: no step meets a kink or a tie."""
    n = int(np.prod(shape))
    steps = np.arange(n) - n / 2 + 0.5
    return (_RNG.permutation(steps) * (4 / max(n, 40)) + 0.03 * _RNG.uniform(0, 1, n)).reshape(
        shape
    )


def ints(*values: int) -> Array:
    """A vector of int64."""
    return np.array(values, np.int64)


def sample_id(value: object) -> str:
    """A test's id: the sample, without the function that it is compared with."""
    return str(value) if isinstance(value, Sample) else ""


def load_samples() -> list[Sample]:
    """Every sample of every family."""
    return [
        sample
        for module in sorted(m.name for m in pkgutil.iter_modules(__path__))
        for sample in importlib.import_module(f"{__name__}.{module}").SAMPLES
    ]
