"""The docstrings of the transforms are complete, and their examples run."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnxgrad as og

ROOT = Path(__file__).parents[2]
TRANSFORMS: dict[str, Callable[..., Any]] = {
    name: getattr(og, name)
    for name in (
        "gradient",
        "hessian",
        "hvp",
        "jacobian",
        "jvp",
        "per_example_gradient",
        "vjp",
        "vmap",
    )
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_example_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (test,) = doctest.DocTestFinder().find(TRANSFORMS[name], name, module=False, globs={"og": og})
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted and not result.failed, "".join(report)


@pytest.mark.parametrize("name", [*TRANSFORMS, "family", "lower"])
def test_the_docstring_is_complete(name: str) -> None:
    text = inspect.getdoc(getattr(og, name)) or ""
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in text, section
