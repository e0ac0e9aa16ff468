"""Calls of a net for many items: in order, several in one run where that changes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.graph.facts import by_name, dims_of
from onnxgrad.heads.head import Head
from onnxgrad.passes.normalise import normalise
from onnxgrad.run.values import emit
from onnxgrad.transforms.examples import new_dim
from onnxgrad.transforms.options import uncollected
from onnxgrad.transforms.row_sizes import Rows
from onnxgrad.transforms.rows import rows_of

Call = Callable[[Any], Any]


class Done(NamedTuple):
    """The results of some items in a row, and the error of the one after them."""

    results: list[Any]
    error: OnnxGradError | None = None


def called(call: Call, items: Iterable[Any], batch: int, workers: int) -> Iterator[Any]:
    """What a call gives for each item, in order.

    Args:
        call: Gives the result for an item. An item is an array, or arrays by name.
        items: The items, read as they are needed.
        batch: How many items to put into one call, joined along their first axes, by which the
            results are taken apart.
        workers: How many calls to make at once.

    Raises:
        OnnxGradError: A call does not take an item, which is named; after all results before it.
    """
    waiting: deque[Future[Done]] = deque()
    failure: BaseException | None = None
    with ThreadPoolExecutor(workers) as pool:
        try:
            try:
                for first, group in _groups(items, batch):
                    waiting.append(pool.submit(_done, call, first, group))
                    while len(waiting) > 2 * workers:
                        yield from _results(waiting.popleft())
            except OnnxGradError:
                raise
            except Exception as error:  # of the items themselves: what came before them counts
                failure = error
            while waiting:
                yield from _results(waiting.popleft())
        finally:
            for left in waiting:
                left.cancel()
    if failure is not None:
        raise failure


def _results(done: Future[Done]) -> Iterator[Any]:
    results, error = done.result()
    yield from results
    if error is not None:
        raise error


def _groups(items: Iterable[Any], batch: int) -> Iterator[tuple[int, list[Any]]]:
    """Items that can be joined, with the number of the first."""
    group: list[Any] = []
    first, kind = 0, None
    try:
        for k, item in enumerate(items):
            new = _kind(item) if batch > 1 else None
            if group and (len(group) == batch or new is None or new != kind):
                yield first, group
                group, first = [], k
            group.append(item)
            kind = new
    except Exception:  # of the items themselves: those before it count
        if group:
            yield first, group
        raise
    if group:
        yield first, group


def _kind(item: Any) -> Any:
    """What items have in common that can be joined; None for one that cannot."""
    if isinstance(item, Mapping):
        kinds = {key: _kind(value) for key, value in item.items()}
        rows = {len(value) for value in item.values() if _kind(value) is not None}
        return None if None in kinds.values() or len(rows) != 1 else kinds
    if not isinstance(item, np.ndarray) or not item.ndim:
        return None
    return item.dtype, item.shape[1:]


def _done(call: Call, first: int, group: Sequence[Any]) -> Done:
    if len(group) > 1:
        try:
            return Done(_apart(call(_joined(group)), list(map(_rows, group))))
        except OnnxGradError:
            pass  # one of them alone will say which it is
    results: list[Any] = []
    for k, item in enumerate(group, first):
        try:
            results.append(call(item))
        except OnnxGradError as error:
            named = type(error)(f"Item {k}: {error}")
            named.__cause__ = error
            return Done(results, named)
    return Done(results)


def _rows(item: Any) -> int:
    return len(next(iter(item.values())) if isinstance(item, Mapping) else item)


def _joined(group: Sequence[Any]) -> Any:
    if isinstance(group[0], Mapping):
        return {key: np.concatenate([item[key] for item in group]) for key in group[0]}
    return np.concatenate(group)


def _apart(result: Any, rows: Sequence[int]) -> list[Any]:
    """The results of a joined call, item by item."""
    if isinstance(result, dict):
        parts = [_apart(value, rows) for value in result.values()]
        return [dict(zip(result, some, strict=True)) for some in zip(*parts, strict=True)]
    if isinstance(result, tuple):
        return list(zip(*(_apart(value, rows) for value in result), strict=True))
    return np.split(result, np.cumsum(rows)[:-1])


def can_join(
    model: ir.Model, wrt: Collection[str], of: Sequence[str | Head], imposed: Iterable[str]
) -> bool:
    """Whether it is proven that a call for joined items gives what calls for each of them give.

    Args:
        model: The net.
        wrt: The names of the tensors to differentiate with respect to.
        of: The tensors and heads that are differentiated or given out.
        imposed: The names of tensors at which gradients are imposed.
    """
    try:
        with uncollected():
            return _can_join(io.load(model), [*wrt, *imposed], of)
    except OnnxGradError:
        return False


def _can_join(net: ir.Model, names: Sequence[str], of: Sequence[str | Head]) -> bool:
    batch = new_dim(net.graph, "items")
    for v in net.graph.inputs:
        dims = dims_of(v)
        if v.is_initializer() or not dims or isinstance(dims[0], int):
            return False
        rest = [d if d is not None else f"{v.name}:{k}" for k, d in enumerate(dims)][1:]
        v.shape = ir.Shape([batch, *rest])
    names = [*names, *emit(net, of, names)]
    normalise(net, names)
    if any((dims_of(v) or ())[:1] != (batch,) for v in net.graph.inputs):
        return False  # one that a head adds
    values = by_name(net.graph)
    rows = rows_of(net.graph, dict.fromkeys(net.graph.inputs, 0), batch)
    return all(rows.get(values[name]) == Rows(0) for name in names)
