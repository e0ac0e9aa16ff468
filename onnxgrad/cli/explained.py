"""What a model with attributions gives for an input, and the class that it is about in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.cli.printing import say
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.run.net import Net, outputs_by_name
from onnxgrad.runtimes.ports import Array
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.attach import attach
from onnxgrad.transforms.metadata import ATTRIBUTIONS, table

# An output of the scores that are explained, where they are an inner tensor.
_SCORES = "explained_scores"


@dataclass
class Result:
    """What a model with attributions gives for an input.

    Attributes:
        arrays: All outputs, by name.
        attributions: The attributions, by the tensors that they belong to.
        feeds: The values of the inputs.
        title: The class and its score, in words.
    """

    arrays: dict[str, Array]
    attributions: dict[str, Array]
    feeds: dict[str, Any]
    title: str

    @classmethod
    def function(
        cls,
        explained: ir.Model,
        source: ir.Model,
        of: Any,
        target: Any,
        labels: Mapping[int, str],
    ) -> Callable[[dict[str, Any]], Result]:
        """A function that runs the model on feeds."""
        names, own = table(explained, ATTRIBUTIONS), outputs_of(source)
        scores = of if isinstance(of, str) else own[0] if own and of is None else None
        outputs = [v.name for v in explained.graph.outputs]
        if scores is not None and scores not in outputs:
            explained = attach(explained, lambda op, y: {_SCORES: op.Identity(y)}, scores)
            scores = _SCORES
        net = Net(explained)

        def run(feeds: dict[str, Any]) -> Result:
            arrays = outputs_by_name(net, feeds)
            title = "Sum of scores"
            if scores in arrays:
                batches = {np.shape(a)[0] for a in feeds.values() if np.ndim(a) > 1}
                title = _decision(arrays[scores], target, labels, batches)
            arrays = {name: array for name, array in arrays.items() if name != _SCORES}
            return cls(arrays, {x: arrays[name] for x, name in names.items()}, feeds, title)

        return run

    def only(self) -> tuple[str, Array]:
        """The tensor that is explained, and its attribution.

        Raises:
            ArgumentError: There are several, or it is empty.
        """
        if len(self.attributions) != 1:
            several_names = ", ".join(map(repr, self.attributions))
            raise ArgumentError(f"a picture shows one tensor of {several_names}: give --wrt")
        ((tensor, attribution),) = self.attributions.items()
        if not attribution.size:
            raise ArgumentError(f"there is nothing to draw: {tensor!r} has no example")
        return tensor, attribution

    def data(self, tensor: str) -> str:
        """The input whose values an attribution lies over.

        Raises:
            ArgumentError: The tensor is an inner one, and the net has several inputs.
        """
        if tensor in self.feeds:
            return tensor
        numbers = [x for x, a in self.feeds.items() if np.asarray(a).dtype.kind in "fV"]
        fitting = numbers or list(self.feeds)
        if len(fitting) != 1:
            raise ArgumentError(f"{tensor!r} is no input, and may belong to {', '.join(fitting)}")
        return fitting[0]


def _decision(
    scores: Array, target: Any, labels: Mapping[int, str], batches: Collection[int]
) -> str:
    """The class of the first example and its score, in words.

    Args:
        batches: The sizes that a vector of one score for each example may have.
    """
    scores = np.asarray(scores, np.float64)
    if target is None or scores.ndim == 0:
        return f"Sum of scores {scores.sum():.3g}"
    if not scores.size:
        return "No example"
    if scores.ndim == 1 and len(scores) in batches:
        return f"Score {scores[0]:.3g}"
    first = scores if scores.ndim == 1 else scores[0].reshape(scores.shape[1], -1).sum(axis=1)
    number = int(first.argmax()) if target == "argmax" else int(target)
    if labels and number not in labels:
        say(f"--labels has no name for class {number}.")
    name = f"{labels[number]} ({number})" if number in labels else f"class {number}"
    chances = len(first) > 1 and first.min() >= 0 and abs(first.sum() - 1) < 1e-3
    value = f"{first[number]:.1%}" if chances else f"score {first[number]:.3g}"
    return f"{name}: {value}"
