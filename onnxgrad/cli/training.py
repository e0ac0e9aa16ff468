"""The commands under `onnxgrad train`: step, fit and export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from onnxgrad import losses, train
from onnxgrad.cli.files import read_example
from onnxgrad.cli.options import (
    Argument,
    Model,
    Output,
    argument_of,
    described_as,
    described_options,
    number_or_word,
    several,
)
from onnxgrad.cli.printing import say
from onnxgrad.cli.tables import show_ports
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.runtimes.registry import on_cpu
from onnxgrad.train import schedules
from onnxgrad.train.checkpoints import state_in
from onnxgrad.train.data import read_arrays

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)

_OPTIMIZERS = {
    name.lower(): kind
    for name, kind in vars(train).items()
    if isinstance(kind, type) and issubclass(kind, train.Optimizer) and kind is not train.Optimizer
}


def loss_of(loss: str, of: str | None) -> Any:
    """The loss to minimise.

    Raises:
        ArgumentError: `of` is given for a tensor of the model.
    """
    if loss in losses.__all__:
        return getattr(losses, loss)(of)
    if of is not None:
        raise ArgumentError(f"--loss is one of {', '.join(losses.__all__)}, not {loss!r}")
    return loss


def optimizer_of(name: str, lr: float | None, settings: list[str] | None) -> train.Optimizer:
    """The optimizer of a name.

    Raises:
        ArgumentError: There is none, or it has no such setting.
    """
    if name.lower() not in _OPTIMIZERS:
        raise ArgumentError(
            f"--optimizer: no {name!r}.{nearest(name, _OPTIMIZERS)} "
            f"Optimizers: {', '.join(_OPTIMIZERS)}"
        )
    given = {} if lr is None else {"lr": lr}
    return _made("--setting", _OPTIMIZERS[name.lower()], given | _pairs(settings))


def _made(option: str, kind: Callable[..., Any], given: dict[str, Any]) -> Any:
    known = signature(kind).parameters
    if unknown := [name for name in given if name not in known]:
        near = nearest(unknown[0], known)
        raise ArgumentError(f"{option}: no {unknown[0]!r}.{near} Known: {', '.join(known)}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ArgumentError(f"{option}: {error}") from error


def _pairs(texts: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE each, the values numbers, numbers in brackets, true or false, or words."""
    found = {}
    for text in texts or []:
        name, separator, value = text.partition("=")
        if not separator:
            raise ArgumentError(f"{text!r} is not NAME=VALUE")
        read = number_or_word(value)
        found[name] = tuple(read) if isinstance(read, list) else read
    return found


def _private(settings: list[str] | None) -> train.DPSGD | None:
    return _made("--privacy", train.DPSGD, _pairs(settings)) if settings else None


def _option(kind: Any, help: str, *names: str, default: bool = True) -> Any:
    return Annotated[kind, typer.Option(*names, help=help, show_default=default)]


# What is given in another way than for transforms.
_ARGUMENTS = {
    "loss": Argument(
        {
            "loss": _option(
                str,
                "The loss, such as cross_entropy, with its labels as an input 'labels'; or a "
                "tensor of the model that is minimised.",
                default=False,
            ),
            "loss_of": _option(
                str | None, "The tensor that --loss is of. Default: the one output.", default=False
            ),
        },
        loss_of,
    ),
    "optimizer": Argument(
        {
            "optimizer": _option(str, f"One of {', '.join(_OPTIMIZERS)}."),
            "lr": _option(
                float | None, "The learning rate. Default: the optimizer's.", default=False
            ),
            "setting": _option(
                list[str] | None,
                "Another argument of the optimizer, as in betas=[0.9,0.99]. Repeat for several.",
                default=False,
            ),
        },
        optimizer_of,
    ),
    "wrt": Argument(
        {
            "wrt": _option(
                list[str] | None,
                "A weight to train. Repeat for several. Default: every trainable one that the "
                "loss depends on.",
                default=False,
            )
        },
        several,
    ),
    "groups": Argument(
        {
            "frozen": _option(
                list[str] | None,
                "A pattern of the names of weights that are not trained. Repeat for several.",
                default=False,
            )
        },
        lambda patterns: [train.Group(pattern, frozen=True) for pattern in patterns or []],
    ),
    "privacy": Argument(
        {
            "privacy": _option(
                list[str] | None,
                "An argument of DP-SGD, as in noise_multiplier=1.1. Repeat for several.",
                default=False,
            )
        },
        _private,
    ),
}


class _Arguments(NamedTuple):
    """The options for parameters of a function, and the arguments that are made of them."""

    by_name: dict[str, Argument]
    described: list[Parameter]

    @classmethod
    def of(cls, function: Callable[..., Any], without: Sequence[str]) -> _Arguments:
        found, described = {}, []
        for p in list(signature(function).parameters.values())[1:]:
            if p.name in without:
                continue
            argument = found[p.name] = _ARGUMENTS.get(p.name) or argument_of(function, p)
            described += described_options(argument, p)
        return cls(found, [_with_default(d) for d in described])

    def made(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments, of the values of all options."""
        return {p: a.made(*(given[o] for o in a.options)) for p, a in self.by_name.items()}


def _with_default(parameter: Parameter) -> Parameter:
    return parameter.replace(default="adamw") if parameter.name == "optimizer" else parameter


_STEP = _Arguments.of(train.step, without=("of",))
_TRAINED = _Arguments.of(train.step, without=("of", "forward", "grad_norm", "finite", "seed"))


def step(model: str, output: Path, **given: Any) -> None:
    """Write a model that computes one training step."""
    source = io.load(model)
    io.writable(output)
    io.require_apart(model, io.data_files(source), [output], "a step")
    given["example"] = read_example(source, given["example"])
    result = train.step(source, **_STEP.made(given))
    io.save(result, output)
    show_ports(source, result)
    say(f"Wrote {output}: {len(result.graph)} nodes, before {len(source.graph)}.")


Schedule = Literal["constant", "linear", "cosine", "one_cycle"]

_FIT = {
    "epochs": (_option(int, "How many epochs in all, those before a --resume counted."), 1),
    "batch_size": (
        _option(int | None, "Examples of a step. Default: the model's, or 32.", default=False),
        None,
    ),
    "shuffle": (_option(bool, "Draw the order of the examples in each epoch."), True),
    "drop_last": (_option(bool, "Leave out the last batch where it is smaller."), False),
    "validation": (
        _option(Path | None, "An .npz file to evaluate after each epoch.", default=False),
        None,
    ),
    "accuracy": (_option(bool, "Give the accuracy of what --loss-of names too."), False),
    "schedule": (
        _option(
            Schedule,
            "The rate over all steps, from --lr: linear to 0, a cosine to 0, or one cycle that "
            "has --lr at its top.",
        ),
        "constant",
    ),
    "warm_up": (_option(int, "The steps in which the rate rises to --lr first."), 0),
    "patience": (
        _option(
            int | None,
            "Stop when the validation's loss, or the loss without one, has not fallen for so many "
            "epochs, and go back to the best.",
            default=False,
        ),
        None,
    ),
    "checkpoint": (_option(Path | None, "A file to write after each epoch.", default=False), None),
    "resume": (_option(bool, "Go on from the file of --checkpoint, where it is there."), False),
    "seed": (_option(int, "Seeds the order of the examples, and what Dropout drops."), 0),
    "runtime": (_option(str, "What runs it: onnxruntime, or reference."), "onnxruntime"),
    "threads": (_option(int | None, "Threads within an operator.", default=False), None),
    "progress": (_option(bool | None, "Show a bar. Default: on a terminal.", default=False), None),
}


def fit(model: str, data: Path, output: Path, **given: Any) -> None:
    """Train a model on the arrays of an .npz file, by input name, and write the trained one."""
    own = {name: given.pop(name) for name in _FIT}
    given["example"] = read_example(model, given["example"])
    made = _TRAINED.made(given)
    io.writable(output)
    _require_other(output, data, own["checkpoint"], own["validation"])
    metrics = {"accuracy": train.accuracy(given["loss_of"])} if own["accuracy"] else None
    made |= {name: own[name] for name in ("seed", "runtime", "threads")}
    optimizer = made["optimizer"]
    trainer = train.Trainer(model, metrics=metrics, **made)
    checkpoint = own["checkpoint"]
    if own["resume"]:
        if checkpoint is None:
            raise ArgumentError("--resume needs a --checkpoint")
        if checkpoint.exists():
            trainer.resume(checkpoint)
    arrays = read_arrays(data)
    steps = trainer.steps_of(arrays, own["batch_size"], drop_last=own["drop_last"])
    trainer.fit(
        arrays,
        own["epochs"],
        schedule=_schedule(own, optimizer.lr, steps),
        early_stopping=_stopping(own),
        callbacks=[_show],
        validation=own["validation"],
        checkpoint=checkpoint,
        **{name: own[name] for name in ("batch_size", "shuffle", "drop_last", "progress")},
    )
    trainer.save(output)
    say(f"Wrote {output}, after {trainer.steps} steps.")


def _require_other(output: Path, *others: Path | None) -> None:
    """Check that the output does not replace another file that the command is given.

    Raises:
        ArgumentError: It does.
    """
    if any(other is not None and other.resolve() == output.resolve() for other in others):
        raise ArgumentError(f"--output {str(output)!r} would replace another file that is given")


def _schedule(own: dict[str, Any], lr: float, steps: int) -> schedules.Schedule:
    """The schedule that options ask for, for a number of steps of an epoch."""
    warm, total = own["warm_up"], own["epochs"] * steps
    left = max(total - warm, 1)
    main: schedules.Schedule
    if own["schedule"] == "linear":
        main = schedules.linear(lr, left, start_factor=1, end_factor=0)
    elif own["schedule"] == "cosine":
        main = schedules.cosine(lr, left)
    elif own["schedule"] == "one_cycle":
        main = schedules.one_cycle(lr, left)
    else:
        main = schedules.linear(lr, left, start_factor=1)
    if not warm:
        return main
    return schedules.sequence([schedules.linear(lr, warm, start_factor=1 / warm), main], [warm])


def _stopping(own: dict[str, Any]) -> train.EarlyStopping | None:
    if own["patience"] is None:
        return None
    monitor = "loss" if own["validation"] is None else "val_loss"
    return train.EarlyStopping(monitor=monitor, patience=own["patience"], restore_best=True)


def _show(trainer: train.Trainer, record: dict[str, float]) -> None:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in record.items())
    say(f"epoch {trainer.epoch}  {numbers}")


def export(
    model: Model,
    state: Annotated[
        Path,
        typer.Argument(
            help="What holds the weights: a checkpoint, or an .npz file.", show_default=False
        ),
    ],
    output: Output,
) -> None:
    """Write a model as it was, with the weights of a state."""
    io.writable(output)
    _require_other(output, state)
    if state.suffix == ".npz":
        arrays = read_arrays(state)
    else:
        arrays = state_in(io.load(state), next(iter(on_cpu().values())), str(state))
    io.save(train.export(io.load(model), arrays), output)
    say(f"Wrote {output}.")


def _described(command: Any, described: list[Parameter]) -> Any:
    command.__signature__ = Signature([described_as("model", Model), *described])
    return command


_DATA = Annotated[
    Path, typer.Argument(help="An .npz file of arrays by input name.", show_default=False)
]
app.command()(_described(step, [described_as("output", Output), *_STEP.described]))
app.command()(
    _described(
        fit,
        [
            described_as("data", _DATA),
            described_as("output", Output),
            *_TRAINED.described,
            *(described_as(name, kind, default) for name, (kind, default) in _FIT.items()),
        ],
    )
)
app.command()(export)
