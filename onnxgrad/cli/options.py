"""What the commands take: the options of each, and the Python arguments that are made of them.

A parameter of a transform is an option of its name, which its type and its docstring describe.
`ARGUMENTS` lists those that are given in another way.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import typer

from onnxgrad import heads, losses
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.names import ALL, All
from onnxgrad.heads.head import Head, Place
from onnxgrad.transforms.options import TRANSFORMS, Options

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
        "Default: every floating-point input; for gradients by example every trainable "
        "weight.",
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


def differentiated(
    names: list[str] | None,
    classes: list[str] | None,
    target: str | None,
    loss: str | None,
    loss_of: str | None,
) -> list[str | Head] | None:
    """The tensors, the scores of a class and the loss to differentiate.

    Raises:
        ArgumentError: There is no such loss or target, or both a loss and tensors are given.
    """
    given: list[str | Head] = [*(names or [])]
    if classes or target is not None:
        target = target or "argmax"
        chosen = int(target) if target.isdecimal() else target
        places: Sequence[str | None] = classes or [None]
        given += [heads.class_score(place, chosen) for place in places]
    if loss is None and loss_of is not None:
        raise ArgumentError("--loss-of is given without --loss")
    if loss is not None:
        if loss not in losses.__all__:
            raise ArgumentError(f"--loss is one of {', '.join(losses.__all__)}, not {loss!r}")
        if names:
            raise ArgumentError(
                "--loss and --of would be added: name the tensor that the loss is of in --loss-of"
            )
        given.append(getattr(losses, loss)(loss_of))
    return given or None


def one_loss(loss: str | None, of: str | None) -> str | Head | None:
    """The loss of an argument that takes one, None where it is not given."""
    return next(iter(differentiated(None, None, None, loss, of) or []), None)


def tensors_or_all(names: list[str] | None) -> list[str] | All | None:
    """The tensors to differentiate with respect to."""
    return ALL if names == ["all"] else names or None


def several(names: list[str] | None) -> list[str] | None:
    """The names that an option was given, None for none."""
    return names or None


def every_or(word: str, names: list[str] | None) -> list[str] | bool:
    """The names that an option was given; True for the one word that stands for every one."""
    return names == [word] or names or False


def kept(names: list[str] | None) -> list[str] | str | bool:
    """The tensors to keep, or the budget; True for the word that has them chosen."""
    return names[0] if names and len(names) == 1 and names != ["auto"] else every_or("auto", names)


def number_or_word(text: str | None) -> Any:
    """A number, numbers in brackets, true or false; a word as it is."""
    try:
        return None if text is None else json.loads(text.lower())
    except ValueError:
        return text


class Argument(NamedTuple):
    """How one argument of a Python function is given on the command line.

    Attributes:
        options: The options for it: their names, and what each is.
        made: Makes the argument of the options' values.
    """

    options: dict[str, Any]
    made: Callable[..., Any]


def _several(help: str) -> Any:
    text = f"{help} Repeat for several."
    return Annotated[list[str] | None, typer.Option(help=text, show_default=False)]


def _one(help: str, *names: str) -> Any:
    return Annotated[str | None, typer.Option(*names, help=help, show_default=False)]


def _flag(name: str, help: str) -> Any:
    return Annotated[bool, typer.Option(f"--{name}", help=help)]


_LOSS = {
    "loss": _one("A loss to differentiate, such as mse, whose labels are a new input 'labels'."),
    "loss_of": _one("The tensor that --loss is of. Default: the one output."),
}

ARGUMENTS = {
    "wrt": Argument({"wrt": Wrt}, tensors_or_all),
    "of": Argument(
        {
            "of": _several("A tensor to differentiate. Default: every floating-point output."),
            "of_class": _several("Scores by class, to differentiate that of the class in --class."),
            "of_target": _one(
                "The class for --of-class: its number; 'argmax', the default; or 'input' for a new "
                "input 'target', a class for each example. Without --of-class of the one output.",
                "--class",
            ),
            **_LOSS,
        },
        differentiated,
    ),
    "loss": Argument(_LOSS, one_loss),
    "values": Argument({"value": _several("A tensor to give out as well.")}, several),
    "ograd": Argument(
        {
            "ograd": _flag(
                "ograd",
                "An input for each tensor of --of, its output gradient: differentiated is their "
                "dot product, in place of the sum of all elements.",
            ),
            "ograd_at": _several("Such an input for this tensor only."),
        },
        lambda every, some: some or every,
    ),
    "minus": Argument(
        {
            "minus": _flag(
                "minus", "Change the sign of the gradients, as of an energy for forces."
            ),
            "minus_at": _several("Change the sign of this tensor's gradient only."),
        },
        lambda every, some: some or every,
    ),
    "unreachable": Argument(
        {"zeros": _flag("zeros", "Zeros, not an error, where no gradient flows.")},
        lambda zeros: "zeros" if zeros else "error",
    ),
    "straight_through": Argument(
        {"straight_through": StraightThrough}, lambda names: every_or("all", names)
    ),
    "constant": Argument({"constant": Constant}, several),
    "checkpoints": Argument(
        {
            "checkpoint": _several(
                "A tensor to keep; what lies between those is computed again, for less memory. "
                "'auto' to have them chosen, or a budget such as 512MB for what is kept."
            )
        },
        kept,
    ),
    "example": Argument({"example": Example}, lambda feeds: feeds),
}

# The option of a transform that has a batch only where it is asked for.
_BLOCKS = Argument(
    {
        "by_example": _flag(
            "batched",
            "Blocks by example, not the whole batch with the whole batch: every input but "
            "parameters has the batch for its first axis.",
        ),
        "batched_at": _several("The same, with the batch in this input only."),
    },
    lambda every, some: some or every,
)


def translated(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters in `ARGUMENTS` are given by the options that these have."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()

    def call(**given: Any) -> None:
        made = {}
        for name in (p.name for p in parameters):
            argument = ARGUMENTS.get(name, Argument({name: None}, lambda value: value))
            made[name] = argument.made(*(given[option] for option in argument.options))
        command(**made)

    described = []
    for p in parameters:
        if p.name in ARGUMENTS:
            described += described_options(ARGUMENTS[p.name], p)
        else:
            described.append(p.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    call.__signature__ = inspect.Signature(described)  # type: ignore[attr-defined]
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


def described_options(argument: Argument, parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """The options for a parameter, as parameters with their defaults."""
    described = []
    for option, kind in argument.options.items():
        optional = type(None) in get_args(kind.__origin__)
        default = parameter.default if option == parameter.name else False
        described.append(described_as(option, kind, None if optional else default))
    return described


def described_as(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """A parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def argument_of(transform: Callable[..., Any], parameter: inspect.Parameter) -> Argument:
    """How a parameter of a transform is given."""
    name = parameter.name
    if name == "batched" and parameter.default is False:
        return _BLOCKS
    kind = (get_type_hints(Options) | get_type_hints(transform))[name]
    members = get_args(kind)
    one = kind == Place  # a tensor, by its name
    if name in ARGUMENTS and not one:
        return ARGUMENTS[name]
    words = _documented(transform, name)
    number = str in members and not {int, float}.isdisjoint(members)  # or "input:NAME"
    word = get_origin(kind) is not Literal and any(get_origin(m) is Literal for m in members)
    if number or word:
        text = str | None if parameter.default is None else str
        return Argument({name: Annotated[text, typer.Option(help=words)]}, number_or_word)
    if not one and any(get_origin(member) is Sequence for member in members):
        return Argument({name: _several(words)}, several)  # names of tensors
    if one:
        kind = str | None
    elif get_origin(kind) is Literal:
        kind = str  # the transform refuses other words
    return Argument({name: Annotated[kind, typer.Option(help=words)]}, lambda given: given)


def _documented(function: Callable[..., Any], parameter: str) -> str:
    """What a docstring says of a parameter, or that of the transform it refers to, in one line."""
    text = inspect.getdoc(function) or ""
    found = re.search(rf"^    {parameter}: (.*(?:\n {{8}}.*)*)", text, re.MULTILINE)
    if found:
        return " ".join(found[1].split())
    named = [n for n in re.findall(r"As for `(\w+)`", text) if n in TRANSFORMS]
    return next((words for n in named if (words := _documented(TRANSFORMS[n], parameter))), "")
