"""What is imported when: nothing before it is used, and all of it where a user looks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import onnxgrad
from onnxgrad import adversarial  # noqa: F401  lists its transforms
from onnxgrad.cli import later
from onnxgrad.transforms.options import TRANSFORMS

ROOT = Path(__file__).parents[2]
SAY = "import sys; print(*sys.modules, file=sys.stderr)"
HELP = f"""
from onnxgrad.cli import main
try:
    main()
finally:
    {SAY}
"""


def imported(code: str, *arguments: str) -> set[str]:
    """The modules that code imports, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stderr.split())


@pytest.mark.parametrize(
    ("code", "arguments"),
    [(f"import onnxgrad; dir(onnxgrad); {SAY}", []), (HELP, ["--help"]), (HELP, ["--version"])],
)
def test_nothing_is_imported_before_it_is_used(code: str, arguments: list[str]) -> None:
    found = imported(code, *arguments)
    assert "onnxgrad" in found
    assert found.isdisjoint({"numpy", "onnx", "onnx_ir", "onnxruntime", "sympy"})


def test_what_builds_a_gradient_needs_no_more() -> None:
    found = imported(f"import onnxgrad; onnxgrad.gradient; {SAY}")
    assert found.isdisjoint(
        {"matplotlib", "onnx.reference", "onnxruntime", "onnxscript", "scipy", "typer"}
    )
    assert found.isdisjoint({"onnxgrad.explain", "onnxgrad.run", "onnxgrad.verify"})


def test_a_rule_of_the_users_takes_the_place_of_the_packages_own() -> None:
    """The first thing that is used may be a decorator: the table is full then."""
    code = "import onnxgrad as og; og.forget('Tanh'); og.zero('Tanh', reason='a test'); og.gradient"
    assert "onnxgrad.rules.activation" in imported(f"{code}; {SAY}")


def test_each_transform_is_a_command() -> None:
    assert all(hasattr(onnxgrad, name) for name in dir(onnxgrad))  # imports all of them
    assert {c.name.replace("-", "_") for c in later.transforms()} == set(TRANSFORMS)


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="gradients"):
        onnxgrad.gradients  # noqa: B018
    with pytest.raises(ImportError, match="gradients"):
        exec("from onnxgrad import gradients")
