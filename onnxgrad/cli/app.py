"""The command line as a whole: its commands, and the entry point."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

import onnxgrad
from onnxgrad import adversarial as _adversarial  # noqa: F401  lists its transforms
from onnxgrad.cli import commands, serving, training
from onnxgrad.cli.explain import explain
from onnxgrad.cli.printing import fail, in_options, say, warn
from onnxgrad.cli.transforms import command_of, family
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.transforms.options import TRANSFORMS

app = typer.Typer(
    name="onnxgrad",
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


for _name, _transform in sorted(TRANSFORMS.items()):
    _command = command_of(_transform)
    app.command(_name.replace("_", "-"), short_help=_command.__doc__)(_command)
for _command in (
    family,
    explain,
    commands.run,
    commands.check,
    commands.doctor,
    commands.inspect,
    commands.tensors,
):
    app.command()(_command)


app.add_typer(training.app, name="train", help="Train a net: step, fit and export.")
app.add_typer(serving.app, name="serve", help="Write what an inference server reads: triton.")


def run() -> None:
    """Run the command that the process was given."""
    warnings.showwarning = warn
    try:
        app()
    except OnnxGradError as error:
        fail(in_options(str(error)))
