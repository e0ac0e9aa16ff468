"""The commands that write models: one for each transform, its parameters the options; family."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxgrad.cli.files import read_example
from onnxgrad.cli.options import Example, Model, Output, argument_of
from onnxgrad.cli.printing import fail, in_options, say, show_ports
from onnxgrad.graph import io
from onnxgrad.graph.errors import OnnxGradError
from onnxgrad.transforms.casadi import family as write_family


def command_of(transform: Callable[..., Any]) -> Callable[..., None]:
    """The command that writes a transform's model."""
    _, *parameters = signature(transform).parameters.values()
    arguments = {p.name: argument_of(transform, p) for p in parameters}

    def command(model: str, output: Path, **given: Any) -> None:
        source = io.load(model)
        io.writable(output)  # before what can take long
        try:
            given["example"] = read_example(source, given["example"])
            made = {p: a.made(*(given[o] for o in a.options)) for p, a in arguments.items()}
            result = transform(source, **made)
        except OnnxGradError as error:
            fail(in_options(str(error)))
        io.save(result, output)
        show_ports(source, result)
        say(f"Wrote {output}: {len(result.graph)} nodes, before {len(source.graph)}.")

    described = [_parameter("model", Model), _parameter("output", Output)]
    for parameter in parameters:
        for option, kind in arguments[parameter.name].options.items():
            described.append(_parameter(option, kind, _default(option, kind, parameter)))
    command.__signature__ = Signature(described)  # type: ignore[attr-defined]
    what = (transform.__doc__ or "").splitlines()[0]
    command.__doc__ = f"Write {what[:1].lower()}{what[1:]}"
    return command


def _parameter(name: str, kind: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _default(option: str, kind: Any, parameter: Parameter) -> Any:
    """The default of an option for a parameter: that of the parameter where it is the same."""
    if kind.__origin__ == list[str] | None:
        return None
    return parameter.default if option == parameter.name else False


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
