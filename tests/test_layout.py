"""Who may import whom. The linter says the same; here it is checked from the syntax tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "onnxgrad"
RULES = sorted((PACKAGE / "rules").glob("*.py"))
ENGINE = {"api", "check", "cli", "differentiate", "gradient", "inspect", "net", "normalise"}
ENGINE |= {"family", "opsets", "optimise", "runtime", "transforms"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at whatever place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_know_nothing_of_the_engine(path: Path) -> None:
    assert not imports(path) & {f"onnxgrad.{name}" for name in ENGINE}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_onnxscript_and_runtime_stay_in_their_modules(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imports(path)}
    if path.name != "opsets.py":
        assert "onnxscript" not in packages
    if path.name != "runtime.py":
        assert "onnxruntime" not in packages
    assert "torch" not in packages


def test_building_a_gradient_needs_no_runtime() -> None:
    """The transforms import no runtime, so a machine without one can write gradient files."""
    for name in (
        "api",
        "builder",
        "differentiate",
        "family",
        "inspect",
        "io",
        "normalise",
        "opsets",
        "optimise",
        "transforms",
    ):
        assert "onnxgrad.runtime" not in imports(PACKAGE / f"{name}.py")
