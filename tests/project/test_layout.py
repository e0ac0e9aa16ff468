"""Who may import whom, and how long things may be.

The folders stand on one another, libraries stay in their modules, modules and functions are short.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import onnxgrad

PACKAGE = Path(onnxgrad.__file__).parent
# Each folder imports those before it, and none of its own level.
ORDER = [
    ["graph"],
    ["runtimes"],
    ["emit"],
    ["declare"],
    ["rules", "expansions"],
    ["passes"],
    ["engine"],
    ["heads"],
    ["losses"],
    ["transforms"],
    ["run"],
    ["verify", "explain", "adversarial", "train"],
    ["bridges", "parallel"],
    ["cli"],
]
LEVEL = {name: k for k, level in enumerate(ORDER) for name in level}
# The only module of the package that may import a library.
LIBRARIES = {
    "onnxscript": "passes/opsets.py",
    "matplotlib": "explain/pictures.py",
    "onnxruntime": "runtimes/onnxruntime.py",
    "art": "bridges/art.py",
    "saliency": "bridges/saliency.py",
    "torch": ("bridges/torch.py", "bridges/autograd.py"),
    "ray": "parallel/ray.py",
}
MODULE_LINES, FUNCTION_LINES = 450, 45
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at whatever place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} imports relatively"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def too_long(path: Path) -> set[str]:
    """The functions of a module that are too long, their docstrings left out; "" for the module."""
    text = path.read_text()
    found = {""} if len(text.splitlines()) > MODULE_LINES else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            if node.end_lineno - node.lineno + 1 - docstring > FUNCTION_LINES:
                found.add(node.name)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert not too_long(path)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0]
    for name in imports(path):
        first, _, rest = name.partition(".")
        folder = rest.partition(".")[0]
        if first == "onnxgrad" and folder in LEVEL and folder != own:
            assert LEVEL[folder] < LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_in_their_modules(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imports(path)}
    for library, home in LIBRARIES.items():
        homes = (home,) if isinstance(home, str) else home
        assert library not in packages or name_of(path) in homes


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_notes_are_declared_in_their_module(path: Path) -> None:
    fields = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert "meta" not in fields or name_of(path) == "graph/marks.py"


def test_every_folder_has_its_place_and_says_what_it_holds() -> None:
    folders = {p.parent.name: p for p in PACKAGE.glob("*/__init__.py")}
    assert set(folders) == set(LEVEL)
    for path in folders.values():
        assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_package_shows_its_public_names_alone() -> None:
    assert dir(onnxgrad) == sorted(onnxgrad.__all__)


TESTS = sorted(PACKAGE.parent.joinpath("tests").rglob("test_*.py"))
# Libraries that the README's test command does not install.
OPTIONAL = {
    "art",
    "captum",
    "foolbox",
    "pytorch_grad_cam",
    "saliency",
    "torch",
    "torchattacks",
}


def unguarded(scope: ast.Module | ast.FunctionDef) -> list[int]:
    """The lines of a scope that import an optional library with no importorskip before."""
    found = []
    for statement in scope.body:
        if "pytest.importorskip(" in ast.unparse(statement):
            return found
        for node in ast.walk(statement):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if OPTIONAL & {name.partition(".")[0] for name in names}:
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_optional_libraries_are_skipped_where_they_lack(path: Path) -> None:
    """Without one no test fails: a module or a test imports it behind an importorskip only."""
    module = ast.parse(path.read_text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    module.body = [node for node in module.body if not isinstance(node, ast.FunctionDef)]
    assert not unguarded(module)
    if "pytest.importorskip(" not in ast.unparse(module):
        tests = [function for function in functions if function.name.startswith("test_")]
        assert not [line for test in tests for line in unguarded(test)]
