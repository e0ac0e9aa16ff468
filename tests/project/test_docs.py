"""The documents are true: their examples run, their commands exist, their tables are current."""

from __future__ import annotations

import inspect
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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = [ROOT / "README.md", ROOT / "docs" / "recipes.md"]  # each block runs by itself
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# Those that a framework or a server is needed for: tests/bridges and tests/parallel run them.
APART = [ROOT / "docs" / "tutorials" / f"{name}.md" for name in ("jax", "pymc", "torch", "triton")]
GALLERY = ROOT / "docs" / "gallery" / "index.md"  # of scripts that tests/examples runs in small
BRIDGES = ROOT / "docs" / "bridges.md"  # each part runs where its framework is installed
PARALLEL = ROOT / "docs" / "parallel.md"  # so does each part of it
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$\n?(\n?)", re.MULTILINE | re.DOTALL)

# Runs groups of blocks of Python, each in a folder and a namespace of its own, and tells what each
# block printed.
DRIVER = """
import contextlib, io, json, os, sys
results = []
for folder, blocks in json.load(sys.stdin):
    os.chdir(folder)
    namespace = {"__name__": "page"}
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, block, "exec"), namespace)
        results.append(out.getvalue())
print(json.dumps(results))
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
    """The commands that a page shows, without the folder of the command line."""
    lines = [line for block, _ in blocks(page, "console") for line in block.splitlines()]
    found = [line[2:].partition("  #")[0].strip() for line in lines if line.startswith("$ ")]
    return [re.sub(r"^\.venv/bin/onnxgrad", "onnxgrad", command) for command in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A temporary folder with the nets of the project."""
    shutil.copytree(
        ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("*.py", "__*")
    )
    return tmp_path


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def run_groups(groups: list[list[tuple[str, str | None]]], folder: Path) -> None:
    """Run groups of blocks in one process, and compare what they print."""
    given = []
    for number, group in enumerate(groups):
        (folder / str(number)).mkdir()
        (folder / str(number) / "models").symlink_to(folder / "models")
        given.append((str(folder / str(number)), [code for code, _ in group]))
    run = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(given),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    expected = [block for group in groups for block in group]
    for printed, (code, text) in zip(json.loads(run.stdout), expected, strict=True):
        if text is not None:
            assert printed.strip() == text.strip(), code


@pytest.mark.parametrize(
    "page",
    [
        p
        for p in PAGES
        if p not in [*RECIPES, *TUTORIALS, BRIDGES, PARALLEL, GALLERY] and blocks(p, "python")
    ],
    ids=name_of,
)
def test_examples_run(page: Path, folder: Path) -> None:
    run_groups([blocks(page, "python")], folder)


def test_tutorials_run(folder: Path) -> None:
    run_groups([blocks(page, "python") for page in TUTORIALS if page not in APART], folder)


def test_recipes_run_each_by_itself(folder: Path) -> None:
    run_groups([[block] for page in RECIPES for block in blocks(page, "python")], folder)


@pytest.mark.parametrize("command", sorted({c for page in PAGES for c in commands(page)}))
def test_the_command_exists(command: str, folder: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    program, *arguments = shlex.split(command)
    if program == "make":
        assert {a for a in arguments if "=" not in a} <= targets
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
        assert run.returncode == 0, run.stdout + run.stderr
    elif program.endswith("python"):
        files = [a for a in arguments if a.endswith(".py")]
        assert files and all((ROOT / f).exists() for f in files)
    else:
        assert program in ("pip", "git", "cd", "pytest")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
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


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "onnxgrad.md").read_text()
    names = {name for name in og.__all__ if not inspect.ismodule(getattr(og, name))}
    assert names == set(re.findall(r"^::: onnxgrad\.(\w+)$", text, re.MULTILINE))


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
