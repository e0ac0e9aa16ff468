"""What is trained on: arrays of examples, or batches that something else makes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol

import numpy as np

from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.runtimes.ports import Array, Port, arrays

Batch = dict[str, Any]


class Source(Protocol):
    """Where batches come from.

    Attributes:
        count: The number of batches of an epoch, None if it is not known.
    """

    count: int | None

    def batches(self, order: np.random.Generator | None, start: int) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            order: Shuffles them; None for the order that they have.
            start: How many of them to leave out.
        """


class Examples:
    """Arrays whose first axis is the batch; scalars are the same for every batch.

    Raises:
        FeedError: They do not have the same number of examples, or there are none.
    """

    def __init__(self, given: Mapping[str, Any], size: int, drop_last: bool) -> None:
        self._arrays = {name: np.asarray(value) for name, value in given.items()}
        counts = {name: len(a) for name, a in self._arrays.items() if a.ndim}
        if len(set(counts.values())) != 1 or not next(iter(counts.values())):
            raise FeedError(
                "the arrays need the same number of examples, more than 0, along their first axes, "
                f"not {', '.join(f'{name}: {n}' for name, n in counts.items()) or 'none'}"
            )
        self._number, self._size = next(iter(counts.values())), size
        whole, rest = divmod(self._number, size)
        self.count: int | None = whole + bool(rest and not drop_last)
        if not self.count:
            raise FeedError(
                f"{self._number} examples are less than a batch of {size}: give a batch_size"
            )

    def batches(self, order: np.random.Generator | None, start: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        index = np.arange(self._number) if order is None else order.permutation(self._number)
        for k in range(start, self.count or 0):
            chosen = index[k * self._size : (k + 1) * self._size]
            yield {name: a[chosen] if a.ndim else a for name, a in self._arrays.items()}


class Stream:
    """An iterable of batches, which decides on their order itself."""

    def __init__(self, given: Iterable[Any], names: Sequence[str]) -> None:
        self._given, self._names, self._begun = given, names, False
        self.count: int | None = len(given) if isinstance(given, Sized) else None

    def batches(self, order: np.random.Generator | None, start: int) -> Iterator[Batch]:
        """The batches of an epoch.

        Raises:
            ArgumentError: An iterator is asked for a second epoch.
        """
        iterator = iter(self._given)
        if iterator is self._given and self._begun:
            raise ArgumentError(
                "the data is an iterator, which has ended: give something that can be gone through "
                "once an epoch, such as a list or an object with __iter__"
            )
        self._begun = True
        for k, batch in enumerate(iterator):
            if k >= start:
                yield named(batch, self._names)


def source(data: Any, names: Sequence[str], size: int, drop_last: bool = False) -> Source:
    """Where batches come from.

    Args:
        data: Arrays by name, or a tuple of them in the order of `names`; the path of an .npz file
            of such arrays; or an iterable of batches, each of them a dict or a tuple.
        names: The inputs.
        size: The number of examples of a batch.
        drop_last: Leave out the last batch where it is smaller.

    Raises:
        FeedError: A file cannot be read, or the arrays do not fit together.
        ArgumentError: The data is of another kind.
    """
    if isinstance(data, str | os.PathLike):
        data = read_arrays(data)
    if isinstance(data, Mapping | tuple) or hasattr(data, "dtype"):
        return Examples(named(data, names), size, drop_last)
    if isinstance(data, Iterable):
        return Stream(data, names)
    raise ArgumentError(
        "the data is a dict or a tuple of arrays, the path of an .npz file, or an iterable of "
        f"batches, not {type(data).__name__}"
    )


def named(batch: Any, names: Sequence[str]) -> Batch:
    """Arrays by name.

    Raises:
        FeedError: There are not as many as inputs.
    """
    if isinstance(batch, Mapping):
        return dict(batch)
    values = batch if isinstance(batch, tuple | list) else (batch,)
    if len(values) != len(names):
        raise FeedError(
            f"{len(values)} arrays are given, and the inputs are {', '.join(map(repr, names))}"
        )
    return dict(zip(names, values, strict=True))


def checked(ports: Mapping[str, Port], required: Sequence[str], batch: Batch) -> dict[str, Array]:
    """A batch of the dtypes and shapes that a model takes.

    Raises:
        FeedError: It is not.
    """
    return arrays(ports, required, batch)


def examples_in(batch: Mapping[str, Array]) -> int:
    """The number of examples in a batch."""
    return next((len(array) for array in batch.values() if np.ndim(array)), 1)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an .npz file.

    Raises:
        FeedError: It cannot be read.
    """
    path = os.fspath(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zip, numpy and the system have their own
        raise FeedError(f"Cannot read {path!r}, which has to be an .npz file: {error}") from error
