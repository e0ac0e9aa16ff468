"""The documents are true: their examples run, their commands exist, their tables are current."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import onnxgrad as og

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$\n?(\n?)", re.MULTILINE | re.DOTALL)

# Runs blocks of Python one after another in one namespace, and tells what each printed.
DRIVER = """
import contextlib, io, json, sys
namespace, printed = {"__name__": "page"}, []
for number, block in enumerate(json.load(sys.stdin)):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block, f"block {number}", "exec"), namespace)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def blocks(page: Path, language: str) -> list[tuple[str, str | None]]:
    """The code blocks in a language, each with its output: a block of text that follows at once."""
    found = list(FENCE.finditer(page.read_text()))
    result = []
    for match, following in itertools.zip_longest(found, found[1:]):
        if match[1] == language:
            close = (
                following is not None
                and following[1] == "text"
                and following.start() == match.end()
            )
            result.append((match[2], following[2] if following is not None and close else None))
    return result


def commands(page: Path) -> list[str]:
    """The commands that a page shows."""
    lines = [line for block, _ in blocks(page, "console") for line in block.splitlines()]
    return [line[2:].partition("  #")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A temporary folder with the nets of the project."""
    shutil.copytree(
        ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("*.py", "__*")
    )
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, folder: Path) -> None:
    python = blocks(page, "python")
    if not python:
        pytest.skip("no examples")
    run = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps([code for code, _ in python]),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for printed, (code, expected) in zip(json.loads(run.stdout), python, strict=True):
        if expected is not None:
            assert printed.strip() == expected.strip(), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path, folder: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(page):
        program, *arguments = shlex.split(command)
        if program == "make":
            assert {a for a in arguments if "=" not in a} <= targets, command
        elif program == "onnxgrad":
            main = "from onnxgrad.cli import main; main()"
            run = subprocess.run(
                [sys.executable, "-c", main, *arguments],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"
        elif program.endswith("python"):
            files = [a for a in arguments if a.endswith(".py")]
            assert files and all((ROOT / f).exists() for f in files), command
        else:
            assert program in ("pip", "git", "cd", "pytest"), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_pictures_are_those_that_the_code_draws() -> None:
    drawn, pictures = set(), ROOT / "docs" / "pictures"
    for page in (ROOT / "README.md", ROOT / "docs" / "explain.md"):
        text = page.read_text()
        here = set(re.findall(r'savefig\("(.*?)"\)', text))
        assert here == {Path(link).name for link in re.findall(r"!\[.*?\]\((.*?)\)", text)}
        drawn |= here
    assert drawn == {path.name for path in pictures.iterdir()}
    assert all(path.stat().st_size < 200_000 for path in pictures.iterdir())


def test_the_page_shows_every_explanation() -> None:
    text = (ROOT / "docs" / "explain.md").read_text()
    assert not {name for name in og.explain.__all__ if f"og.explain.{name}(" not in text}


def test_every_module_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = {p.stem for p in (ROOT / "onnxgrad").glob("*/*.py")} - {"__init__"}
    families = {
        p.stem for f in ("rules", "expansions") for p in (ROOT / "onnxgrad" / f).glob("*.py")
    }
    modules -= families
    assert not {name for name in modules if f"`{name}`" not in text}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {
        (index.parent / link).resolve() for link in re.findall(r"\]\((.*?)\)", index.read_text())
    }
    assert {*PAGES, ROOT / "CHANGELOG.md"} - {index} <= listed
    assert "(docs/index.md)" in (ROOT / "README.md").read_text()


def test_every_operator_names_its_module() -> None:
    table = re.findall(r"^\| (.*?) \|$", (ROOT / "docs" / "operators.md").read_text(), re.MULTILINE)
    modules = {}
    for cells in (line.split(" | ") for line in table):
        if len(cells) == 6 and cells[2] in ("rule", "zero derivative", "replaced by others"):
            modules[cells[0]] = cells[4]
    raised = {name for name, module in modules.items() if not module.strip()}
    assert raised == {"Scatter", "Upsample"}  # deprecated, and replaced when the opset is raised
    for name in modules.keys() - raised:
        assert (ROOT / "onnxgrad" / f"{modules[name]}.py").exists(), name


def test_the_tables_of_operators_are_current() -> None:
    made_with = re.findall(r"of onnx (\S+)\.", (ROOT / "docs" / "operators.md").read_text())[0]
    if made_with != onnx.__version__:
        pytest.skip(f"the tables are those of onnx {made_with}, {onnx.__version__} is installed")
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "operators.py"), "--check"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def environment() -> dict[str, str]:
    """An environment in which the package of this checkout is found."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
