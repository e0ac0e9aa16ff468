"""Rows of a table in, results of a net out, a column each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrad.graph import io
from onnxgrad.graph.constants import draws
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.facts import all_nodes
from onnxgrad.graph.names import All, parameters, resolve
from onnxgrad.heads.head import Head, parted
from onnxgrad.run.net import Net, NetPortGradient, outputs_by_name
from onnxgrad.run.requests import Request, requests
from onnxgrad.runtimes.ports import Array
from onnxgrad.train.data import declared_batch, padded
from onnxgrad.transforms.options import Of


@dataclass
class Columns:
    """What a net gives for the rows of a table: a function of columns that gives more of them.

    Attributes:
        net: The net, which travels to the workers.
        asked: By a request, the name of its column; empty for the net's outputs.
        of: What is differentiated.
        read: By what is fed, the name of its column.
        checked: Whether it is not to be checked (any more) that rows do not influence each other.
    """

    net: Net
    asked: Mapping[Any, str]
    of: Of
    read: Mapping[Any, str]
    checked: bool = False

    @classmethod
    def of_net(
        cls,
        model: Any,
        request: Request | None,
        of: Of,
        columns: Mapping[Any, str],
        options: Mapping[str, Any],
    ) -> Columns:
        """The columns that a call of `ray.map` asks for.

        Raises:
            OnnxGradError: As for `ray.map`.
        """
        net, asked = Net(model, **options), {}
        heads = list(parted(of)[1])
        if request is not None:
            found = requests(request)
            several = found if isinstance(found, tuple) else (found,)
            heads += [one.spec for one in several if isinstance(one.spec, Head)]
            asked = _names(model, several, heads)
        imposed = {key: name for key, name in columns.items() if isinstance(key, NetPortGradient)}
        own = [*net.inputs, *(name for head in heads for name in head.inputs)]
        if unknown := [key for key in columns if key not in own and key not in imposed]:
            raise ArgumentError(
                f"columns: the net has no input {unknown[0]!r}, only {', '.join(map(repr, own))}"
            )
        read = {name: columns.get(name, name) for name in own} | imposed
        return cls(net, asked, of, read, _draws(model))

    @property
    def batch(self) -> int | None:
        """The one number of rows that the net takes; None where it takes any."""
        return declared_batch(self.net.ports)

    def __call__(self, rows: Mapping[str, Array]) -> dict[str, Array]:
        """The columns, and those of the results.

        Raises:
            FeedError: A column lacks or does not fit, a result is not one a row, or rows influence
                each other.
            ArgumentError: There is a column of a result's name already.
        """
        if missing := [name for name in self.read.values() if name not in rows]:
            raise FeedError(
                f"the table has no column {missing[0]!r}, only {', '.join(map(repr, rows))}: say "
                "with columns={input: column} what the net is to read"
            )
        feeds = {key: _dense(rows[name]) for key, name in self.read.items()}
        count = len(next(iter(feeds.values())))
        size = self.batch or count
        results = self._results(feeds, size)
        if taken := [name for name in results if name in rows]:
            raise ArgumentError(
                f"the table has a column {taken[0]!r} already, the name of a result: drop or "
                "rename it"
            )
        for name, array in results.items():
            if np.ndim(array) == 0 or len(array) != size:
                raise FeedError(
                    f"{name!r} has the shape {np.shape(array)} for {size} rows, and a column has "
                    "one element a row: ask for tensors with a batch axis"
                )
        if not self.checked and count > 1:
            self._require_apart(feeds, count // 2, results)
            self.checked = True
        return {**rows, **{name: array[:count] for name, array in results.items()}}

    def _require_apart(
        self, feeds: Mapping[Any, Any], some: int, results: Mapping[str, Array]
    ) -> None:
        """Check that some rows have the results that they had among more.

        Raises:
            FeedError: They have not, so that results would depend on how a table is cut in batches.
        """
        part = {key: array[:some] for key, array in feeds.items()}
        for name, array in self._results(part, self.batch or some).items():
            if np.asarray(array).dtype.kind not in "fV":
                continue
            a, b = (np.asarray(y[:some], np.float64) for y in (array, results[name]))
            if a.shape != b.shape or np.linalg.norm(a - b) > 0.01 * np.linalg.norm(a):
                raise FeedError(
                    f"the rows of a batch influence each other's {name!r}, so that results depend "
                    "on how the table is cut: give batch_size=1 for rows by themselves"
                )

    def _results(self, feeds: dict[Any, Any], size: int) -> dict[str, Array]:
        feeds = padded(self.net.ports, feeds, size)
        if not self.asked:
            return outputs_by_name(self.net, feeds)
        found = self.net(feeds, list(self.asked), of=self.of)
        arrays = found.values() if isinstance(found, dict) else found
        return dict(zip(self.asked.values(), arrays, strict=True))


def _draws(model: Any) -> bool:
    """Whether a net draws random numbers, so that no two runs are alike."""
    return any(map(draws, all_nodes(io.load(model).graph)))


def _dense(column: Array) -> Array | list[Any]:
    """A column of arrays or lists as one array; a file may have lists where arrays were."""
    return column.tolist() if column.dtype == object else column


def _names(model: Any, asked: tuple[Any, ...], heads: list[Head]) -> dict[Any, str]:
    """By a request, the name of its column.

    Raises:
        ArgumentError: A gradient is not one a row, or depends on how many rows are a batch.
    """
    net, found = io.load(model), {}
    weights = parameters(net)
    for one in asked:
        if isinstance(one.spec, All):
            raise ArgumentError("ALL has weights, whose gradients are not one a row: name inputs")
        name = one.spec.name if isinstance(one.spec, Head) else resolve(net, one.spec)
        if isinstance(one, NetPortGradient):
            if name in weights:
                raise ArgumentError(
                    f"the gradient of the weight {name!r} is one for all rows of a batch: give a "
                    "model of per_example_gradient, and no request"
                )
            name = f"{name}_grad"
        found[one] = name
    for head in heads:
        if dict(head.options).get("reduction") == "mean":
            raise ArgumentError(
                f"{head!r} is a mean over the rows of a batch, whose number changes from batch to "
                "batch: give it reduction='sum' for gradients, or 'none' for values"
            )
    return found
