"""The gradients of a sample, as numbers, to compare with another framework's."""

from __future__ import annotations

import numpy as np

import onnxgrad as og
from tests.oracle import runner
from tests.rules.test_rules import floats, sample_model
from tests.samples import Array, Sample


def node_gradients(sample: Sample, *seeds: Array | None) -> list[Array]:
    """The cotangents of the operands to differentiate, given those of the outputs (None: absent).

    With no seeds the scalar is the sum of the outputs `sample.of`, or of all.
    """
    model, feeds = sample_model(sample, symbolic=False, fed=True)
    names = [o.name for o in model.graph.output]
    imposed = [n for n, s in zip(names, seeds, strict=False) if s is not None]
    of = imposed or [names[k] for k in (sample.of or range(len(names)))]
    backward = og.gradient(model, floats(sample), of=of, ograd=bool(imposed), forward=False)
    given = {f"{n}_ograd": s for n, s in zip(names, seeds, strict=False) if s is not None}
    return [np.asarray(g) for g in runner(backward)(feeds | given)]
