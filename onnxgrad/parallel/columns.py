"""Rows of a table in, results of a net out, a column each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.names import All, parameters, resolve
from onnxgrad.heads.head import Head, parted
from onnxgrad.run.net import Net, NetPortGradient
from onnxgrad.run.requests import Request, requests
from onnxgrad.runtimes.ports import Array
from onnxgrad.train.data import declared_batch, padded
from onnxgrad.transforms.options import Of


class Columns:
    """What a net gives for the rows of a table: a function of columns that gives more of them.

    A worker makes one, and its session with it.

    Args:
        model, request, of, columns, options: As for `ray.map`.

    Attributes:
        batch: The one number of rows that the net takes; None where it takes any.
        needed: The names of the columns that are read.

    Raises:
        OnnxGradError: As for `ray.map`.
    """

    def __init__(
        self,
        model: Any,
        request: Request | None,
        of: Of,
        columns: Mapping[Any, str],
        options: Mapping[str, Any],
    ) -> None:
        self._net, self._of = Net(model, **options), of
        self._asked: dict[Any, str] = {}
        heads = list(parted(of)[1])
        if request is not None:
            found = requests(request)
            asked = list(found) if isinstance(found, tuple) else [found]
            heads += [one.spec for one in asked if isinstance(one.spec, Head)]
            self._asked = _names(model, asked, heads)
        labels = [name for head in heads for name in head.inputs]
        imposed = {key: name for key, name in columns.items() if isinstance(key, NetPortGradient)}
        own = (*self._net.inputs, *labels)
        self._read: dict[Any, str] = {name: columns.get(name, name) for name in own}
        if unknown := [key for key in columns if key not in self._read and key not in imposed]:
            raise ArgumentError(
                f"columns: the net has no input {unknown[0]!r}, only "
                f"{', '.join(map(repr, self._read))}"
            )
        self._read |= imposed
        self.needed = list(self._read.values())
        self.batch = declared_batch(self._net.ports)

    def __call__(self, rows: Mapping[str, Array]) -> dict[str, Array]:
        """The columns, and those of the results: outputs and values by name, and "<x>_grad".

        Raises:
            FeedError: A column lacks or does not fit, or a result is not one a row.
            ArgumentError: There is a column of a result's name already.
        """
        if missing := [name for name in self.needed if name not in rows]:
            raise FeedError(
                f"the table has no column {missing[0]!r}, only {', '.join(map(repr, rows))}: say "
                "with columns={input: column} what the net is to read"
            )
        count = len(rows[self.needed[0]])
        feeds = {key: _dense(rows[name]) for key, name in self._read.items()}
        if self.batch is not None:
            feeds = padded(self._net.ports, feeds, self.batch)
        results = self._results(feeds)
        if taken := [name for name in results if name in rows]:
            raise ArgumentError(
                f"the table has a column {taken[0]!r} already, the name of a result: drop or "
                "rename it"
            )
        size = self.batch or count
        for name, array in results.items():
            if np.ndim(array) == 0 or len(array) != size:
                raise FeedError(
                    f"{name!r} has the shape {np.shape(array)} for {size} rows, and a column has "
                    "one element a row: ask for tensors with a batch axis"
                )
        return {**rows, **{name: array[:count] for name, array in results.items()}}

    def _results(self, feeds: Mapping[Any, Any]) -> dict[str, Array]:
        net = self._net
        if not self._asked:
            found = net(feeds)
            return found if isinstance(found, dict) else {net.outputs[0]: found}
        found = net(feeds, list(self._asked), of=self._of)
        arrays = found.values() if isinstance(found, dict) else found
        return dict(zip(self._asked.values(), arrays, strict=True))


def _dense(column: Array) -> Array | list[Any]:
    """A column of arrays or lists as one array; a file may have lists where arrays were."""
    return column.tolist() if column.dtype == object else column


def _names(model: Any, asked: list[Any], heads: list[Head]) -> dict[Any, str]:
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
