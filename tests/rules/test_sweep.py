"""The sweep over onnx's backend tests: a part of it, and that it finds what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from tests.conftest import OLD
from tools import sweep

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


@pytest.fixture
def replace() -> Iterator[Callable[[str, Any], None]]:
    """Replaces an operator's derivative for the length of a test."""
    kept = dict(registry._TABLE)

    def replace(name: str, derivative: Any) -> None:
        og.forget(name)
        og.elementwise(name, derivative)

    yield replace
    registry._TABLE.clear()
    registry._TABLE.update(kept)


@pytest.mark.skipif(OLD, reason="older runtimes lack kernels")
def test_a_part_of_it_has_no_defect() -> None:
    results = sweep.sweep(every=37, jobs=1)
    bad = [r for r in results if r.outcome in [*sweep.DEFECTS, "noise"]]
    assert not bad
    assert sum(r.outcome == "correct" for r in results) > max(60, 0.85 * len(results))


def outcomes(only: str) -> set[str]:
    return {r.outcome for r in sweep.sweep(only=only, jobs=1)}


def test_it_finds_an_error_of_a_thousandth(replace: Callable[[str, Any], None]) -> None:
    assert outcomes("test_sigmoid") == {"correct"}
    replace("Sigmoid", lambda Y: Y * (1 - Y) * 1.001)
    assert outcomes("test_sigmoid") == {"wrong"}


def test_it_finds_what_is_not_finite(replace: Callable[[str, Any], None]) -> None:
    replace("Sigmoid", lambda Y: Y * np.nan)
    assert outcomes("test_sigmoid") == {"not finite"}


def test_it_finds_a_silent_zero() -> None:
    kept = dict(registry._TABLE)
    og.forget("Sigmoid")
    og.zero("Sigmoid", reason="it is said")
    try:
        assert outcomes("test_sigmoid") == {"wrong"}
    finally:
        registry._TABLE.clear()
        registry._TABLE.update(kept)


def test_it_finds_a_crash(replace: Callable[[str, Any], None]) -> None:
    def crash(Y: Any) -> Any:
        raise ZeroDivisionError

    replace("Sigmoid", crash)
    assert outcomes("test_sigmoid") == {"crashed"}


def test_kinks_are_confirmed_beside_them(replace: Callable[[str, Any], None]) -> None:
    assert outcomes("test_elu_example") == {"kink"}
    replace("Elu", lambda X, alpha: X * 0 + 1)
    assert outcomes("test_elu_example") & {"wrong", "noise"}


def test_the_documented_sweep_has_no_defect() -> None:
    total = re.search(r"^\| \*\*all (\d+)\*\* .*$", PAGE.read_text(), re.MULTILINE)
    assert total
    numbers = [int(n) for n in re.findall(r"\*\*(\d+)\*\*", total[0])]
    assert numbers[-4:] == [0, 0, 0, 0]
    assert sum(numbers) == int(total[1])


def test_a_table_counts_by_operator() -> None:
    results = [sweep.Result("Abs", f"t{k}", o, "") for k, o in enumerate(["correct", "wrong"])]
    table = sweep.table(results)
    assert "| Abs | 1 | 1 |" in table
    assert table.splitlines()[-1] == "| **all 2** | **1** | **1** | **0** | **0** | **0** |"
