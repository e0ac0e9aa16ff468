"""What is trained on: arrays of examples, or batches that something else makes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol

import numpy as np

from onnxgrad.graph.arrays import read_npz
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.runtimes.ports import Array, Port, arrays

Batch = dict[str, Any]

_BATCH_SIZE = 32


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
        FeedError: They do not have the same number of examples, or there are none; or the last
            batch would be smaller than the model takes.
    """

    def __init__(self, given: Mapping[str, Any], size: int, drop_last: bool, whole: bool) -> None:
        self._arrays = {name: np.asarray(value) for name, value in given.items()}
        counts = {name: len(a) for name, a in self._arrays.items() if a.ndim}
        if len(set(counts.values())) != 1 or not next(iter(counts.values())):
            raise FeedError(
                "the arrays need the same number of examples, more than 0, along their first axes, "
                f"not {', '.join(f'{name}: {n}' for name, n in counts.items()) or 'none'}"
            )
        self._number, self._size = next(iter(counts.values())), size
        full, rest = divmod(self._number, size)
        self.count: int | None = full + bool(rest and not drop_last)
        if whole and rest and not drop_last:
            raise FeedError(
                f"the model takes batches of {size}, and {self._number} examples leave a last one "
                f"of {rest}: give drop_last=True (--drop-last), or another number of examples"
            )
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


def source(
    data: Any, names: Sequence[str], size: int, drop_last: bool = False, whole: bool = False
) -> Source:
    """Where batches come from.

    Args:
        data: Arrays by name, or a tuple of them in the order of `names`; the path of an .npz file
            of such arrays; or an iterable of batches, each of them a dict or a tuple.
        names: The inputs.
        size: The number of examples of a batch.
        drop_last: Leave out the last batch where it is smaller.
        whole: The model takes no smaller batch.

    Raises:
        FeedError: A file cannot be read, or the arrays do not fit together.
        ArgumentError: The data is of another kind.
    """
    if isinstance(data, str | os.PathLike):
        data = read_arrays(data)
    if isinstance(data, Mapping | tuple) or hasattr(data, "dtype"):
        return Examples(named(data, names), size, drop_last, whole)
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


def checked(ports: Mapping[str, Port], batch: Batch) -> dict[str, Array]:
    """A batch of the dtypes and shapes that a model takes, with all that it takes.

    Raises:
        FeedError: It is not.
    """
    return arrays(ports, list(ports), batch)


def batch_port(ports: Mapping[str, Port]) -> Port | None:
    """The input whose first axis is the batch: the first one of any size there, else the first."""
    found = [port for port in ports.values() if port.shape is None or port.shape]
    free = [port for port in found if not (port.shape and isinstance(port.shape[0], int))]
    return next(iter(free or found), None)


def declared_batch(ports: Mapping[str, Port]) -> int | None:
    """The one size of a batch that a model takes; None where it takes any."""
    port = batch_port(ports)
    size = port.shape[0] if port and port.shape else None
    return size if isinstance(size, int) else None


def batch_size(ports: Mapping[str, Port], given: int | None) -> int:
    """The number of examples of a batch: the one given, else the one that the model declares.

    Raises:
        ArgumentError: The one given is no number of examples.
    """
    if given is None:
        return declared_batch(ports) or _BATCH_SIZE
    return counted("batch_size", given, 1)


def examples_in(ports: Mapping[str, Port], batch: Mapping[str, Any]) -> int:
    """The number of examples in a batch."""
    port = batch_port(ports)
    array = None if port is None else batch.get(port.name)
    return len(array) if array is not None and np.ndim(array) else 1


def padded(ports: Mapping[str, Port], batch: Batch, size: int) -> Batch:
    """A batch of the size that a model declares: its last example is repeated."""
    found = dict(batch)
    for name, given in batch.items():
        port = ports.get(name)
        if port is None or not port.shape or port.shape[0] != size:
            continue
        array = np.asarray(given)
        if array.ndim and 0 < len(array) < size:
            found[name] = np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])
    return found


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of an .npz file.

    Raises:
        FeedError: It cannot be read.
    """
    return read_npz(os.fspath(path))
