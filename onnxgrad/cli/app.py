"""The command line as a whole: its commands, and the entry point."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import onnxgrad
from onnxgrad.cli import later
from onnxgrad.cli.printing import fail, in_options, say, warn
from onnxgrad.graph.errors import OnnxGradError


class _Commands(TyperGroup):
    """The commands by name, none of which is imported before it runs."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        for command in (
            *later.transforms(),
            later.function("family", "transforms"),
            later.function("explain", "explain"),
            *(
                later.function(name, "commands")
                for name in ("run", "check", "doctor", "inspect", "tensors")
            ),
            later.group("train", "training", "Train a net: step, fit and export."),
            later.group("serve", "serving", "Write what an inference server reads: triton."),
        ):
            self.add_command(command)


app = typer.Typer(
    name="onnxgrad",
    cls=_Commands,
    help="The gradient of any ONNX net, as an ONNX net.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(f"onnxgrad {onnxgrad.__version__}")
        raise typer.Exit


def run() -> None:
    """Run the command that the process was given."""
    warnings.showwarning = warn
    try:
        app()
    except OnnxGradError as error:
        fail(in_options(str(error)))
