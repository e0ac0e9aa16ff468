"""One worker of a training that is shared between several: it has the whole state, and a part of
each batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.graph.facts import all_nodes
from onnxgrad.run.packed import Content
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.protocol import carry
from onnxgrad.runtimes.registry import start
from onnxgrad.train.halves import Halves
from onnxgrad.train.loaded import RATE


@dataclass(frozen=True)
class Plan:
    """What all workers are made of, in a form that travels.

    Attributes:
        gradients, update: The halves of the step.
        gradient_of, following: As of `Halves`.
        options: Those of the runtime.
    """

    gradients: Content
    update: Content
    gradient_of: Mapping[str, str]
    following: Mapping[str, str]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, halves: Halves, **options: Any) -> Plan:
        """The plan of a step."""
        gradients, update = map(Content.of, (halves.gradients, halves.update))
        return cls(gradients, update, halves.gradient_of, halves.following, options)


class Replica:
    """A worker: its gradients, its share of the exchange, and its copy of the state.

    All workers hold the same state, as all make the same updates.

    Args:
        plan: What it runs.
        state: The state that it begins with, by name.
        rank: Its number among the workers.
    """

    def __init__(self, plan: Plan, state: Mapping[str, Array], rank: int) -> None:
        runtime = start("onnxruntime", **plan.options)
        self._plan = plan
        self._gradients = runtime.load(_of_rank(plan.gradients, rank), lean=True)
        update = runtime.load(plan.update.model(), lean=True)
        self._carried = carry(update, state, plan.following)
        self._weights = {name: (state[name].shape, state[name].dtype) for name in plan.gradient_of}

    def gradients(self, batch: Mapping[str, Array], share: float, pieces: int) -> list[Any]:
        """The loss of a part of a batch, and its gradients in one vector, cut into pieces.

        Args:
            batch: The part, by input name.
            share: Its share of the batch's examples, which all results are multiplied with.
            pieces: How many.
        """
        names = ("step", *self._plan.gradient_of)
        state = {name: self._carried.state[name] for name in names}
        feeds = {**batch, **state, RATE: np.zeros((), np.float32)}
        outputs = ["loss", *self._plan.gradient_of.values()]
        loss, *found = self._gradients.run(feeds, outputs)
        vector = np.concatenate([g.reshape(-1) for g in found]) * np.asarray(share, found[0].dtype)
        return [float(loss) * share, *np.array_split(vector, pieces)]

    def sum(self, *pieces: Array) -> Array:
        """The sum of one piece over all workers, in their order, so that it is always the same."""
        return np.sum(pieces, axis=0, dtype=pieces[0].dtype)

    def update(self, rate: Array, *pieces: Array) -> dict[str, Any]:
        """Make the next state of the mean gradients, and give what the update gives besides."""
        vector, feeds = np.concatenate(pieces), {RATE: rate}
        ends = np.cumsum([math.prod(shape) for shape, _ in self._weights.values()])
        parts = np.split(vector, ends[:-1])
        for flat, (name, (shape, dtype)) in zip(parts, self._weights.items(), strict=True):
            feeds[f"{name}_grad"] = flat.reshape(shape).astype(dtype, copy=False)
        found = self._carried.run(feeds)
        return dict(zip(self._carried.outputs, found, strict=True))

    def ready(self) -> None:
        """Answer."""

    def advance(self) -> None:
        """Go on to the state that the latest update made."""
        self._carried.advance()

    def arrays(self) -> dict[str, Array]:
        """The state, by name."""
        return self._carried.arrays()


def _of_rank(content: Content, rank: int) -> ir.Model:
    """The model with other seeds, so that the workers drop other elements."""
    net = content.model()
    for node in all_nodes(net.graph):
        if "seed" in node.attributes:
            seed = node.attributes["seed"].as_float()
            node.attributes["seed"] = ir.AttrFloat32("seed", seed + rank)
    return net


def shares(batch: Mapping[str, Array], split: Sequence[str], number: int) -> list[Any]:
    """The parts of a batch, each with its share of the examples; fewer where examples are fewer.

    Args:
        split: The names of the arrays that have an axis of examples; the others go to all.
        number: How many parts.
    """
    count = len(batch[split[0]])
    ends = [round(k * count / number) for k in range(number + 1)]
    return [
        ({name: a[i:j] if name in split else a for name, a in batch.items()}, (j - i) / count)
        for i, j in itertools.pairwise(ends)
        if j > i
    ]
