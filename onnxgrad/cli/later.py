"""Commands that are imported when they run: the list of them is read from their sources."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

import onnxgrad


class Later(TyperCommand):
    """The place of a command, which is imported when it runs.

    Args:
        name: The command's name.
        summary: What it does, in a line for the list of commands.
        load: Imports what the command does: a function, or an app with commands of its own.
    """

    def __init__(self, name: str, summary: str, load: Callable[[], Any]) -> None:
        super().__init__(name, short_help=summary, rich_markup_mode=None)
        self._load = load

    def command(self) -> Any:
        """The command itself."""
        loaded = self._load()
        if isinstance(loaded, typer.Typer):
            group = typer.main.get_command(loaded)
            group.help = self.short_help
            return group
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(self.name)(loaded)
        return typer.main.get_command(app)

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the command itself, which the arguments are for."""
        return self.command().make_context(info_name, args, parent, **extra)


def transforms() -> Iterator[Later]:
    """A command for each transform, of the folders that have some."""
    found = []
    for folder in ("adversarial", "transforms"):
        for path in _package().joinpath(folder).glob("*.py"):
            found += [
                (f.name, f"onnxgrad.{folder}.{path.stem}", written(ast.get_docstring(f) or ""))
                for f in _functions(path)
                if "transform" in map(ast.unparse, f.decorator_list)
            ]
    for name, module, summary in sorted(found):
        yield Later(name.replace("_", "-"), summary, _transform(module, name))


def function(name: str, module: str) -> Later:
    """The command that a function of a module of this folder is."""
    path = _package() / "cli" / f"{module}.py"
    (found,) = (f for f in _functions(path) if f.name == name)
    sentence, _, _ = (ast.get_docstring(found) or "").splitlines()[0].partition(". ")
    summary = f"{sentence.rstrip('.')}."
    return Later(name, summary, lambda: _attribute(f"onnxgrad.cli.{module}", name))


def group(name: str, module: str, summary: str) -> Later:
    """The commands under a name, those of the app that a module of this folder has."""
    return Later(name, summary, lambda: _attribute(f"onnxgrad.cli.{module}", "app"))


def written(docstring: str) -> str:
    """What the command of a transform does, of the first line of the transform's docstring."""
    what = docstring.splitlines()[0] if docstring else ""
    return f"Write {what[:1].lower()}{what[1:]}"


def _transform(module: str, name: str) -> Callable[[], Any]:
    def load() -> Any:
        command_of = _attribute("onnxgrad.cli.transforms", "command_of")
        return command_of(_attribute(module, name))

    return load


def _attribute(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _package() -> Path:
    return Path(onnxgrad.__file__).parent


@functools.cache
def _functions(path: Path) -> list[ast.FunctionDef]:
    """The functions of a module, which is not imported."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]
