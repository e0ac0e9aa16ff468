"""The command explain: an input in, the picture of why out; or the model, the arrays or a page."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import typer

from onnxgrad.cli.explained import Result
from onnxgrad.cli.files import ports_of, read, read_names, take_image, whole, write
from onnxgrad.cli.many import PLACE, Item, each, items_of, naming
from onnxgrad.cli.options import (
    Constant,
    Inputs,
    Model,
    Output,
    Rows,
    StraightThrough,
    Wrt,
    every_or,
    several,
    tensors_or_all,
)
from onnxgrad.cli.printing import say, working
from onnxgrad.cli.tables import show_ports
from onnxgrad.explain.images import Expected
from onnxgrad.explain.layouts import image_layout
from onnxgrad.explain.method import METHODS
from onnxgrad.explain.pictures import matplotlib, show
from onnxgrad.explain.scaling import Sign
from onnxgrad.explain.tokens import html
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.runtimes.ports import Array, Port

_PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg", ".webp")
_SUFFIXES = (*_PICTURES, ".html", ".npz", ".onnx")


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, show_default=False)


Method = Annotated[
    str, typer.Option(help=f"One of {', '.join(sorted(METHODS)).replace('_', '-')}.")
]
Target = Annotated[
    str,
    typer.Option(
        help="The class that is explained: its number, its name in --labels, 'argmax' for that of "
        "the highest score, 'none' for the sum of all scores, 'input' for a new input of the model."
    ),
]
Of = Annotated[
    list[str] | None, _option("The tensor with the scores by class. Default: the model's output.")
]
Options = Annotated[
    list[str] | None,
    _option(
        "An option of the method as NAME=VALUE, such as n_steps=20: a number, true, false, null, a "
        "[list], a .npy file, or else a text. Repeat for several.",
        "--option",
    ),
]
Labels = Annotated[
    str | None, _option("Names of the classes: a file with one a line, or a JSON list or object.")
]
Mean = Annotated[str | None, _option("What is subtracted from pixels: 0.5, or 0.485,0.456,0.406.")]
Std = Annotated[str | None, _option("What pixels are divided by after that, likewise.")]
Scale = Annotated[
    str | None,
    _option("What pixels, 0 to 255, are multiplied with first, such as 1/255. Default: a guess."),
]
Layout = Annotated[
    str | None,
    _option(
        "The axes of the input, such as NCHW or NHWC of an image, NCT of a signal with channels "
        "(T for times), NFT of a spectrogram, NS of tokens. Default: a guess."
    ),
]
Bgr = Annotated[bool, typer.Option("--bgr", help="The net takes blue first.")]
Size = Annotated[
    str | None,
    _option("The size of the image for the net: 224, or WIDTHxHEIGHT. Default: that of the net."),
]
Signs = Annotated[
    Sign | None, _option("What is drawn. Default: all where there is both, else positive.")
]
Tokens = Annotated[
    str | None, _option("The tokens of a text for an .html file: a file with one a line, or JSON.")
]
Vocabulary = Annotated[str | None, _option("Names of the numbers of tokens, as for --labels.")]


def explain(
    model: Model,
    output: Output,
    inputs: Inputs = None,
    method: Method = "saliency",
    target: Target = "argmax",
    of: Of = None,
    wrt: Wrt = None,
    option: Options = None,
    labels: Labels = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    layout: Layout = None,
    bgr: Bgr = False,
    size: Size = None,
    sign: Signs = None,
    tokens: Tokens = None,
    vocabulary: Vocabulary = None,
    straight_through: StraightThrough = None,
    constant: Constant = None,
    rows: Rows = None,
) -> None:
    """Draw why a net decides as it does.

    What is written follows from the file's suffix: a picture (.png, .svg, .pdf, .jpg, .webp), a
    page with coloured tokens (.html), the arrays (.npz), or the model that computes them (.onnx).
    For a folder of inputs, a pattern or --rows the name has {}, as 'why/{}.png', for a file each.
    Those that are there already stay, so that a run which was cut off goes on.
    """
    told = {n: given for n, given in locals().items() if n not in ("model", "output", "inputs")}
    suffix = _suffix(output)
    names = read_names(labels) if labels else {}
    chosen = _target(target, names, asked=suffix == ".onnx")
    taken = Taken(layout, mean, std, scale, bgr, size)
    source = io.load(model)
    read_inputs = functools.partial(taken.read, source)
    items, feeds = _inputs(read_inputs, inputs, rows, suffix)
    shared = _shared(of, wrt, straight_through, constant) | {"target": chosen, "example": feeds}
    with working(f"Building {method}"):
        explained = METHODS[_known(method)](source, **_given(method, option or [], shared))
    if feeds is None or suffix == ".onnx":
        _save(explained, source, output)
        return
    run = Result.function(explained, source, shared["of"], chosen, names)
    draw = functools.partial(_draw, taken, sign, tokens, vocabulary)
    if items is None:
        _one(run, draw, feeds, output)
    else:
        for item, path in each(items, output, model, told):
            with naming(item):
                draw(path, run(item.feeds(read_inputs)))


def _inputs(
    read_inputs: Callable[[list[str] | None], dict[str, Any]],
    texts: list[str] | None,
    rows: int | None,
    suffix: str,
) -> tuple[list[Item] | None, dict[str, Any] | None]:
    """The items, where there are several; and the feeds of the first, where there are any."""
    items = None if suffix == ".onnx" else items_of(texts or [], rows, read_inputs)
    if items:
        return items, items[0].feeds(read_inputs)
    return None, read_inputs(texts) if texts or suffix != ".onnx" else None


def _save(explained: ir.Model, source: ir.Model, output: Path) -> None:
    """Write the model itself."""
    io.save(explained, output)
    show_ports(source, explained)
    say(f"Wrote {output}.")


def _one(
    run: Callable[[dict[str, Any]], Result],
    draw: Callable[[Path, Result], None],
    feeds: dict[str, Any],
    output: Path,
) -> None:
    """Run, and draw what that gives."""
    with working("Running the net"):
        result = run(feeds)
    say(result.title)
    draw(output, result)
    say(f"Wrote {output}.")


def _draw(
    taken: Taken,
    sign: Sign | None,
    tokens: str | None,
    vocabulary: str | None,
    output: Path,
    result: Result,
) -> None:
    """Write a result as the suffix of the file says."""
    suffix = output.suffix.lower()
    if suffix == ".npz":
        write(output, result.arrays)
    elif suffix == ".html":
        _page(output, result, taken.layout, sign, tokens, vocabulary)
    else:
        _picture(output, result, taken, sign)


def _shared(
    of: list[str] | None,
    wrt: list[str] | None,
    straight_through: list[str] | None,
    constant: list[str] | None,
) -> dict[str, Any]:
    """The arguments that most methods share, of the options that transforms have too."""
    return {
        "of": of[0] if of and len(of) == 1 else several(of),
        "wrt": tensors_or_all(wrt),
        "straight_through": every_or("all", straight_through),
        "constant": several(constant),
    }


class Taken:
    """What the inputs are.

    Args:
        layout: The axes of the input that is explained, where they are given.
        mean, std, scale, bgr, size: What the net expects of an image, as the command is told.

    Attributes:
        layout: As given.
        files: By input, the image files that were read.
        expected: By input, what it expects of an image.

    Raises:
        ArgumentError: An option is not of its form.
    """

    def __init__(
        self,
        layout: str | None,
        mean: str | None,
        std: str | None,
        scale: str | None,
        bgr: bool,
        size: str | None,
    ) -> None:
        self.layout = layout
        self.options: dict[str, Any] = {
            "mean": _parsed("mean", mean, _numbers),
            "std": _parsed("std", std, _numbers),
            "scale": _parsed("scale", scale, lambda text: float(Fraction(text))),
            "size": _parsed("size", size, _sides),
            "bgr": bgr,
        }
        self.files: dict[str, str] = {}
        self.expected: dict[str, Expected] = {}

    def read(self, source: ir.Model, texts: list[str] | None) -> dict[str, Any]:
        """The feeds of the files."""
        return read(*ports_of(source), texts or [], image=self._image)

    def _image(self, path: str, port: Port) -> Array:
        self.files[port.name] = path
        self.expected[port.name] = Expected.of(port, layout=self.layout, **self.options)
        return take_image(path, self.expected[port.name])


def _picture(output: Path, result: Result, taken: Taken, sign: Sign | None) -> None:
    tensor, attribution = result.only()
    name = result.data(tensor)
    layout, data = taken.layout, result.feeds[name]
    if name in taken.files:
        data = taken.files[name]
        layout = taken.expected[name].layout if name == tensor else None
    elif layout is None and np.ndim(data) == 4:
        layout = image_layout(np.shape(data))
    figure = show(attribution, data, sign=sign, layout=layout, title=result.title)
    words = {"Title": result.title} if output.suffix.lower() in (".png", ".svg", ".pdf") else None
    with whole(output) as stage:
        figure.savefig(stage, dpi=150, bbox_inches="tight", pad_inches=0.1, metadata=words)


def _page(
    output: Path,
    result: Result,
    layout: str | None,
    sign: Sign | None,
    tokens: str | None,
    vocabulary: str | None,
) -> None:
    _, attribution = result.only()
    if tokens is not None:
        words: list[Any] = list(read_names(tokens).values())
    else:
        numbers = [np.asarray(a) for a in result.feeds.values() if np.asarray(a).dtype.kind in "iu"]
        if not numbers:
            raise ArgumentError("an .html file shows tokens: give --tokens")
        known = read_names(vocabulary) if vocabulary else {}
        words = [known.get(int(k), str(k)) for k in numbers[0].reshape(-1, numbers[0].shape[-1])[0]]
    page = html(words, attribution, sign=sign, layout=layout, title=result.title)
    with whole(output) as stage:
        stage.write_text(page, "utf-8")


def _known(method: str) -> str:
    """The name in Python of a method.

    Raises:
        ArgumentError: There is no such method.
    """
    name = method.replace("-", "_")
    if name not in METHODS:
        close = nearest(name, METHODS).replace("_", "-")
        raise ArgumentError(
            f"--method: there is no {method!r}.{close} "
            f"There are {', '.join(sorted(METHODS)).replace('_', '-')}."
        )
    return name


def _given(method: str, texts: list[str], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method: those that most methods share, and its own options.

    Raises:
        ArgumentError: It has no such option, or one is missing.
    """
    options = _parameters(method)
    given = {name: value for name, value in shared.items() if name in options}
    for name, value in shared.items():
        if name not in options and name != "example" and value not in (None, False, "argmax"):
            raise ArgumentError(f"--{name.replace('_', '-')}: {method} does not take it")
    for text in texts:
        name, separator, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not separator or name not in options:
            raise ArgumentError(
                f"--option {text}: {method} has no such option.{nearest(name, options)} "
                f"It has {', '.join(f'{o}=' for o in options if o not in shared)}"
            )
        given[name] = _value(value.strip())
    needed = [o for o, p in options.items() if p.default is p.empty]
    if missing := [o for o in needed if o not in given]:
        raise ArgumentError(f"{method} needs --option {missing[0]}=...")
    if "method" in needed:
        given["method"] = _repeated(str(given["method"]))
    return given


def _parameters(method: str) -> dict[str, inspect.Parameter]:
    """The arguments of a method besides the model, by name."""
    _, *parameters = inspect.signature(METHODS[_known(method)]).parameters.values()
    return {p.name: p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD}


def _repeated(method: str) -> Any:
    """The method that noise-tunnel repeats."""
    if needed := [o for o, p in _parameters(method).items() if p.default is p.empty]:
        raise ArgumentError(f"--option method={method}: it needs {needed[0]}; use Python for it")
    return METHODS[_known(method)]


def _value(text: str) -> Any:
    if text.endswith(".npy"):
        return next(iter(read({"value": Port("value", None, None)}, ["value"], [text]).values()))
    try:
        return json.loads(text)
    except ValueError:
        return text


def _target(text: str, labels: Mapping[int, str], *, asked: bool) -> str | int | None:
    """The class: a number, one of the words, or by its name."""
    if text == "none":
        return None
    if text == "argmax" or (text == "input" and asked):
        return text
    if text == "input":
        raise ArgumentError("--target input is for a model, .onnx: give the class")
    if text.lstrip("-").isdecimal():
        return int(text)
    for number, name in labels.items():
        if name.casefold() == text.casefold():
            return number
    close = nearest(text, labels.values()) if labels else " Names are read from --labels."
    raise ArgumentError(f"--target: there is no class {text!r}.{close}")


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _sides(text: str) -> tuple[int, int]:
    """Height and width, of 224 or 320x224."""
    width, *height = map(int, text.lower().split("x", 1))
    return (height or [width])[0], width


def _parsed(name: str, text: str | None, parse: Callable[[str], Any]) -> Any:
    try:
        return None if text is None else parse(text)
    except (ValueError, ZeroDivisionError):
        raise ArgumentError(f"--{name}: {text!r} is not of the form that --help shows") from None


def _suffix(output: Path) -> str:
    """The suffix of a file to write, which decides what it will be.

    Raises:
        ArgumentError: It is none of those.
        SaveError: The file cannot be written.
        RuntimeMissingError: What draws it is not installed.
    """
    suffix = output.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ArgumentError(f"--output: it ends in one of {', '.join(_SUFFIXES)}, not {suffix!r}")
    if PLACE not in output.name:
        io.writable(output)
    if suffix in _PICTURES:
        matplotlib()
    return suffix
