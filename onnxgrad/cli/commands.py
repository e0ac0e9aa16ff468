"""The command line: arguments in, the Python functions' words, tables out. No logic of its own."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import onnx_ir as ir
import typer
from rich.console import Console
from rich.table import Table

import onnxgrad
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError, OnnxGradError, SaveError, nearest
from onnxgrad.graph.names import ALL, All
from onnxgrad.run.net import Net, NetPortGradient
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.transforms.batch import per_example_gradient, vmap
from onnxgrad.transforms.blocks import MAX_BYTES
from onnxgrad.transforms.casadi import family as write_family
from onnxgrad.transforms.forward import hvp, jvp
from onnxgrad.transforms.gradient import gradient, vjp
from onnxgrad.transforms.jacobian import hessian, jacobian
from onnxgrad.transforms.lower import lower
from onnxgrad.verify.check import check as check_gradients
from onnxgrad.verify.inspect import inspect as inspect_model

app = typer.Typer(
    name="onnxgrad",
    help="The gradient of any ONNX net, as an ONNX net.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

Model = Annotated[str, typer.Argument(help="The ONNX file.", show_default=False)]
Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        help="Values for the inputs: .npy, .npz (arrays by input name) or an image, as FILE or "
        "NAME=FILE.",
        show_default=False,
    ),
]
Wrt = Annotated[
    list[str] | None,
    typer.Option(
        help="A tensor to differentiate with respect to, or 'all'. Repeat for several. "
        "Default: every floating-point input; for gradients by example every weight that is "
        "learnt.",
        show_default=False,
    ),
]
Of = Annotated[
    list[str] | None,
    typer.Option(
        help="A tensor to differentiate. Repeat for several. Default: every floating-point output.",
        show_default=False,
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)
]
Dims = Annotated[
    list[str] | None,
    typer.Option(
        "--dim",
        help="The size of a symbolic dimension for random inputs, as in N=4. Default: 1.",
        show_default=False,
    ),
]

StraightThrough = Annotated[
    list[str] | None,
    typer.Option(
        help="An operator that rounds, such as QuantizeLinear, to be differentiated as if it did "
        "not, or 'all'. Repeat for several.",
        show_default=False,
    ),
]

Constant = Annotated[
    list[str] | None,
    typer.Option(
        help="A tensor through which no gradient flows. Repeat for several.",
        show_default=False,
    ),
]


Example = Annotated[
    list[str] | None,
    typer.Option(
        help="Values of an input, as FILE or NAME=FILE, with which the net runs once where only "
        "that tells how many axes a tensor has. Repeat for several.",
        show_default=False,
    ),
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        _out.print(f"onnxgrad {onnxgrad.__version__}")
        raise typer.Exit


# The options of the commands that write a transform's model, with their defaults.
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "wrt": (Wrt, None),
    "of": (Of, None),
    "ograd": (
        Annotated[
            bool,
            typer.Option(
                "--ograd",
                help="An input for each tensor of --of, its output gradient: differentiated is "
                "their dot product, in place of the sum of all elements.",
            ),
        ],
        False,
    ),
    "ograd_at": (
        Annotated[
            list[str] | None,
            typer.Option(help="Such an input for this tensor only. Repeat for several."),
        ],
        None,
    ),
    "mode": (
        Annotated[str, typer.Option(help="auto, reverse (row by row) or forward (by columns).")],
        "auto",
    ),
    "batched": (
        Annotated[
            list[str] | None,
            typer.Option(
                help="An input with the batch. Repeat for several. Default: all but parameters.",
                show_default=False,
            ),
        ],
        None,
    ),
    "by_example": (
        Annotated[
            bool,
            typer.Option(
                "--batched",
                help="Blocks by example, not the whole batch with the whole batch: every input "
                "but parameters has the batch for its first axis.",
            ),
        ],
        False,
    ),
    "batched_at": (
        Annotated[
            list[str] | None,
            typer.Option(help="The same, with the batch in this input only. Repeat for several."),
        ],
        None,
    ),
    "batch": (Annotated[str, typer.Option(help="The name of the new dimension.")], "batch"),
    "forward": (
        Annotated[
            bool, typer.Option("--forward/--no-forward", help="Keep the model's own outputs.")
        ],
        True,
    ),
    "zeros": (
        Annotated[
            bool, typer.Option("--zeros", help="Zeros, not an error, where no gradient flows.")
        ],
        False,
    ),
    "straight_through": (StraightThrough, None),
    "constant": (Constant, None),
    "checkpoint": (
        Annotated[
            list[str] | None,
            typer.Option(
                help="A tensor to keep; what lies between those is computed again, for less "
                "memory. Repeat for several. 'auto' to have them chosen.",
                show_default=False,
            ),
        ],
        None,
    ),
    "example": (Example, None),
    "target": (
        Annotated[str, typer.Option(help="What is to run the file: cpu, cuda or portable.")],
        "cpu",
    ),
    "max_bytes": (
        Annotated[int, typer.Option(help="The size in bytes above which results are refused.")],
        MAX_BYTES,
    ),
}
# The options that stand for a parameter of the Python function, where it is not one of its name.
_STAND_FOR = {
    "ograd": ["ograd", "ograd_at"],
    "unreachable": ["zeros"],
    "checkpoints": ["checkpoint"],
}


def _transform_command(transform: Callable[..., Any]) -> None:
    """Add the command that writes a transform's model: its parameters are the options."""
    defaults = {n: p.default for n, p in signature(transform).parameters.items() if n != "model"}
    parameters = list(defaults)
    stand_for = dict(_STAND_FOR)
    if defaults.get("batched") is False:  # asked for, where others always have a batch
        stand_for["batched"] = ["by_example", "batched_at"]
    options = [option for p in parameters for option in stand_for.get(p, [p])]

    def command(model: str, output: Path, **given: Any) -> None:
        source = io.load(model)
        io.writable(output)  # before what can take long
        try:
            given["example"] = _example(source, given["example"])
            result = transform(source, **{p: _argument(p, given) for p in parameters})
        except OnnxGradError as error:
            _fail(_in_options(str(error)))
        io.save(result, output)
        _show_ports(source, result)
        _out.print(f"Wrote {output}: {len(result.graph)} nodes, before {len(source.graph)}.")

    described = {"model": (Model, ...), "output": (Output, ...)} | {o: _OPTIONS[o] for o in options}
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(
                name,
                Parameter.POSITIONAL_OR_KEYWORD,
                annotation=kind,
                default=Parameter.empty if default is ... else default,
            )
            for name, (kind, default) in described.items()
        ]
    )
    what = (transform.__doc__ or "").splitlines()[0]
    name = transform.__name__.replace("_", "-")
    words = f"Write {what[:1].lower()}{what[1:]}"
    app.command(name, help=words, short_help=words)(command)


def _argument(parameter: str, given: dict[str, Any]) -> Any:
    """The Python function's argument, of the options that stand for it."""
    if parameter == "wrt":
        return _wrt(given["wrt"])
    if parameter == "ograd":
        return given["ograd_at"] or given["ograd"]
    if parameter == "batched" and "by_example" in given:
        return given["batched_at"] or given["by_example"]
    if parameter == "unreachable":
        return "zeros" if given["zeros"] else "error"
    if parameter == "straight_through":
        return _every_or("all", given[parameter])
    if parameter == "checkpoints":
        return _every_or("auto", given["checkpoint"])
    return None if given[parameter] == [] else given[parameter]


def _example(source: ir.Model, files: list[str] | None) -> dict[str, Any] | None:
    """The feeds of an example, if files are given for one."""
    ports = {value.name or "": Port.of(value) for value in source.graph.inputs}
    required = [name for name in ports if name not in source.graph.initializers]
    return _read(ports, required, files) if files else None


def _show_ports(source: ir.Model, result: ir.Model) -> None:
    """What a transform's model takes beyond its source, and what it gives."""
    table = _table("", "name", "dtype", "shape")
    known = {value.name for value in source.graph.inputs}
    for value in result.graph.inputs:
        if value.name not in known:
            table.add_row("new input", *_described(Port.of(value)))
    for value in result.graph.outputs:
        table.add_row("output", *_described(Port.of(value)))
    _out.print(table)


for _transform in (
    gradient,
    vjp,
    jvp,
    hvp,
    jacobian,
    hessian,
    per_example_gradient,
    vmap,
    lower,
):
    _transform_command(_transform)


@app.command()
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
    for path in write_family(model, folder, name=name, example=_example(source, example)):
        member = io.load(path)
        _show_ports(source, member)
        _out.print(f"Wrote {path}: {len(member.graph)} nodes.")


@app.command()
def run(
    model: Model,
    inputs: Inputs = None,
    grad: Annotated[
        list[str] | None,
        typer.Option(
            help="A tensor whose gradient to compute, or 'all'. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    of: Of = None,
    straight_through: StraightThrough = None,
    constant: Constant = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="An .npz file for all results.", show_default=False),
    ] = None,
) -> None:
    """Run a net, and its gradients."""
    if output is not None:
        io.writable(output)
    through = _every_or("all", straight_through)
    net = Net(model, straight_through=through, constant=constant or None)
    feeds = _read(net.ports, net.inputs, inputs or [])
    found = net(feeds)
    results = found if isinstance(found, dict) else {net.outputs[0]: found}
    if grad:
        wrt = _wrt(grad)
        names = [ALL] if isinstance(wrt, All) else wrt or []
        gradients = net(feeds, [NetPortGradient(name) for name in names], of=of or None)
        results |= {f"{name}_grad": value for name, value in gradients.items()}
    table = _table("result", "dtype", "shape", "norm", "min", "max")
    for name, value in results.items():
        array = np.asarray(value)
        if array.dtype.kind in "fiu" and array.size:
            norm = np.linalg.norm(array.astype(np.float64))
            numbers = [f"{norm:.6g}", f"{array.min():.6g}", f"{array.max():.6g}"]
        else:
            numbers = [""] * 3
        table.add_row(name, str(array.dtype), str(array.shape), *numbers)
    _out.print(table)
    if output is not None:
        _write(output, results)
        _out.print(f"Wrote {output}.")


@app.command()
def check(
    model: Model,
    inputs: Inputs = None,
    wrt: Wrt = None,
    of: Of = None,
    constant: Constant = None,
    dim: Dims = None,
    seed: Annotated[int, typer.Option(help="Seeds random inputs and directions.")] = 0,
) -> None:
    """Compare the gradient with finite differences. Inputs that are not given are random."""
    net = io.load(model)
    ports = {value.name or "": Port.of(value) for value in net.graph.inputs}
    required = [name for name in ports if name not in net.graph.initializers]
    feeds = _read(ports, required, inputs or [], missing=False)
    sizes = _sizes(dim or [], ports)
    rng = np.random.default_rng(seed)
    for name in required:
        if name not in feeds:
            feeds[name] = _random(ports[name], sizes, rng)
    report = check_gradients(
        net, feeds, _wrt(wrt), of=of or None, constant=constant or None, seed=seed
    )
    _out.print(str(report))
    if not report:
        wrong = [row.name for row in report.rows if row.verdict == "wrong"]
        reason = f"wrong at {', '.join(wrong)}" if wrong else "finite differences confirm none"
        _fail(f"The check failed: {reason}.")


@app.command()
def inspect(
    model: Model,
    wrt: Wrt = None,
    of: Of = None,
    straight_through: StraightThrough = None,
    constant: Constant = None,
    example: Example = None,
) -> None:
    """List the operators on the path and their rules."""
    source = io.load(model)
    report = inspect_model(
        source,
        _wrt(wrt),
        of or None,
        straight_through=_every_or("all", straight_through),
        constant=constant or None,
        example=_example(source, example),
    )
    table = _table("operator", "count", "state", "reason")
    for row in report:
        name = f"{row.domain}::{row.operator}" if row.domain else row.operator
        table.add_row(name, str(row.count), row.state, row.reason)
    _out.print(table)
    if not report.ok:
        _fail("Some operators on the path have no gradient rule.")
    if report.unreached:
        _out.print(f"No gradient reaches {', '.join(report.unreached)}.")
    if report.caution:
        _out.print(_in_options(report.caution))


def main() -> None:
    """The console entry point. Exit status: 0, 1 for a refusal or a failed check, 2 for usage."""
    warnings.showwarning = _warn
    try:
        app()
    except OnnxGradError as error:
        _fail(str(error))


def _in_options(message: str) -> str:
    """What a transform advises, in the words of its command."""

    def option(name: str) -> Callable[[re.Match[str]], str]:
        def given(found: re.Match[str]) -> str:
            return "give " + " ".join(f"{name} {one}" for one in re.findall(r"'(.*?)'", found[1]))

        return given

    message = message.replace("pass unreachable='zeros'", "give --zeros")
    message = message.replace("with ograd.", "with --ograd.")
    message = message.replace("feeds in example=", "files of inputs in --example")
    message = re.sub(r"pass of=\[?('.*')\]?(?=,)", option("--of"), message)
    return re.sub(r"pass straight_through=\[(.*?)\]", option("--straight-through"), message)


def _warn(*warning: Any, **_: Any) -> None:
    _err.print(f"onnxgrad: {_in_options(str(warning[0]))}")


def _fail(message: str) -> NoReturn:
    _err.print(f"onnxgrad: {' '.join(message.split())}")
    sys.exit(1)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _described(port: Port) -> tuple[str, str, str]:
    return port.name, port.dtype.name if port.dtype is not None else "?", port.shape_text()


def _wrt(names: list[str] | None) -> list[str] | All | None:
    return ALL if names == ["all"] else names or None


def _every_or(word: str, names: list[str] | None) -> list[str] | bool:
    """The names that an option was given; True for the one word that stands for every one."""
    return names == [word] or names or False


def _read(
    ports: dict[str, Port], required: Any, texts: list[str], *, missing: bool = True
) -> dict[str, Any]:
    """The arrays of the files, by input name."""
    feeds: dict[str, Any] = {}
    free = [name for name in required if not any(t.startswith(f"{name}=") for t in texts)]
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or os.path.exists(text):
            path = text
            if path.endswith(".npz"):
                feeds |= _load_arrays(path)
                continue
            if not free:
                raise FeedError(f"{path!r} is one file more than the net has inputs.")
            name = free.pop(0)
        if name not in ports:
            raise FeedError(f"The net has no input {name!r}.{nearest(name, ports)}")
        feeds[name] = _load_array(path, ports[name])
    if missing and (left := [name for name in required if name not in feeds]):
        raise FeedError(f"No value for the input {', '.join(map(repr, left))}.")
    return feeds


def _load_arrays(path: str) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zip, numpy and the system have their own
        raise FeedError(f"Cannot read {path!r}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong with a file, without its name."""
    return f"{error.strerror}." if isinstance(error, OSError) and error.strerror else str(error)


def _load_array(path: str, port: Port) -> Array:
    if path.endswith(".npz"):
        arrays = _load_arrays(path)
        if port.name not in arrays and len(arrays) != 1:
            raise FeedError(f"{path!r} holds {', '.join(arrays)}, but not {port.name!r}.")
        return arrays.get(port.name, next(iter(arrays.values())))
    if path.endswith(".npy"):
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FeedError(f"Cannot read {path!r}: {_reason(error)}") from error
    return _load_image(path, port)


def _load_image(path: str, port: Port) -> Array:
    """An image in the shape and dtype of the input, values 0 to 1 if that is floating-point."""
    from PIL import Image, UnidentifiedImageError

    shape = port.shape or ()
    if len(shape) not in (3, 4) or port.dtype is None:
        raise FeedError(f"{port.name!r} of shape {port.shape_text()} does not take an image.")
    last = shape[-1] in (1, 3, 4) and shape[-3] not in (1, 3, 4)
    height, width, channels = shape[-3:] if last else (shape[-2], shape[-1], shape[-3])
    modes: dict[Any, str] = {1: "L", 3: "RGB", 4: "RGBA"}
    try:
        with Image.open(path) as file:
            original = f"{file.width} x {file.height} {file.mode}"
            image = file.convert(modes.get(channels, "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise FeedError(f"Cannot read {path!r}: {_reason(error)}") from error
    size = (
        width if isinstance(width, int) else image.width,
        height if isinstance(height, int) else image.height,
    )
    array = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    array = array.reshape(size[1], size[0], -1)
    if port.dtype.kind == "f":
        array = array / 255
    array = (array if last else array.transpose(2, 0, 1)).astype(port.dtype)
    array = array if len(shape) == 3 else array[None]
    _out.print(
        f"{path}: {original} taken as {port.name} {array.shape}, {array.dtype} "
        f"from {array.min():.3g} to {array.max():.3g}",
    )
    return array


def _dim(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal():
        raise typer.BadParameter(f"{text!r} is not of the form N=4", param_hint="--dim")
    return name, int(size)


def _sizes(texts: list[str], ports: dict[str, Port]) -> dict[str, int]:
    """The sizes of symbolic dimensions, all of which the inputs have."""
    sizes = dict(_dim(text) for text in texts)
    known = {d: None for port in ports.values() for d in port.shape or () if isinstance(d, str)}
    for name in sizes:
        if name not in known:
            raise ArgumentError(
                f"--dim: the inputs have no dimension {name!r}. "
                f"They have {', '.join(map(repr, known)) or 'none with a name'}."
            )
    return sizes


def _random(port: Port, sizes: dict[str, int], rng: np.random.Generator) -> Array:
    if port.shape is None or port.dtype is None:
        raise ArgumentError(f"{port.name!r} has no declared shape: give a file for it.")
    shape = [d if isinstance(d, int) else sizes.get(d or "", 1) for d in port.shape]
    if port.dtype.kind == "f":
        return rng.standard_normal(shape).astype(port.dtype)
    if port.dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(port.dtype)
    raise ArgumentError(f"{port.name!r} is {port.dtype.name}: give a file for it.")


def _write(path: Path, arrays: dict[str, Any]) -> None:
    """An .npz file, whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".onnxgrad-") as stage:
            whole = Path(stage) / "results.npz"
            np.savez(whole, **arrays)
            os.replace(whole, path)
    except OSError as error:
        raise SaveError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
