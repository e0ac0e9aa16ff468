"""The commands that write models: one for each transform, its parameters the options; family."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxgrad.cli.files import read_example
from onnxgrad.cli.later import written
from onnxgrad.cli.options import (
    Example,
    External,
    Model,
    Output,
    argument_of,
    described_as,
    described_options,
)
from onnxgrad.cli.printing import fail, in_options, say
from onnxgrad.cli.tables import show_ports
from onnxgrad.graph import io
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.transforms.casadi import family as write_family


def command_of(transform: Callable[..., Any]) -> Callable[..., None]:
    """The command that writes a transform's model."""
    _, *parameters = signature(transform).parameters.values()
    arguments = {p.name: argument_of(transform, p) for p in parameters}

    def command(model: str, output: Path, external: Any, **given: Any) -> None:
        source = io.load(model)
        io.writable(output)  # before what can take long
        try:
            if "example" in given:
                given["example"] = read_example(source, given["example"])
            made = {p: a.made(*(given[o] for o in a.options)) for p, a in arguments.items()}
            result = transform(source, **made)
        except OnnxGradError as error:
            fail(in_options(str(error)))
        io.save(result, output, external=external)
        show_ports(source, result)
        say(f"Wrote {output}: {len(result.graph)} nodes, before {len(source.graph)}.")

    described = [described_as("model", Model), described_as("output", Output)]
    for parameter in parameters:
        described += described_options(arguments[parameter.name], parameter)
    described.append(described_as("external", External, None))
    command.__signature__ = Signature(described)  # type: ignore[attr-defined]
    command.__doc__ = written(transform.__doc__ or "")
    return command


def family(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="The folder to write to.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option(help="The files' name. Default: that of the ONNX file.", show_default=False),
    ] = None,
    example: Example = None,
) -> None:
    """Write a model and the derivatives that CasADi wants."""
    source = io.load(model)
    for path in write_family(model, folder, name=name, example=read_example(source, example)):
        member = io.load(path)
        show_ports(source, member)
        say(f"Wrote {path}: {len(member.graph)} nodes.")
