"""The diagnosis of a file, and its page."""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxgrad.graph.errors import printable
from onnxgrad.runtimes.ports import Port
from onnxgrad.verify.table import aligned


@dataclass(frozen=True)
class Weights:
    """The tensors that a file holds.

    Attributes:
        tensors, numbers, bytes: How many there are, how many numbers they have, and their size.
        dtypes: Their bytes by dtype.
        files: Their bytes by file; "" stands for the model's own.
        trainable_tensors, trainable_numbers: Those that training changes.
    """

    tensors: int
    numbers: int
    bytes: int
    dtypes: dict[str, int]
    files: dict[str, int]
    trainable_tensors: int
    trainable_numbers: int


@dataclass(frozen=True)
class Blocked:
    """Nodes of one operator that have no gradient.

    Attributes:
        operator: Its name, with the domain of one that is not of the standard.
        nodes: The names of the nodes.
        reason: Why.
        next: What to do about it.
    """

    operator: str
    nodes: tuple[str, ...]
    reason: str
    next: str


@dataclass(frozen=True)
class Differentiated:
    """What comes of differentiating with respect to some tensors.

    Attributes:
        wrt, of: The tensors.
        possible: Whether there is a gradient for some of `wrt`.
        nodes: By operator, the nodes on the way that have a rule.
        blocked: Those that have none.
        unreached: The tensors of `wrt` that no gradient reaches.
        caution: What to know of a gradient that means next to nothing, or an empty string.
        error: Why the question cannot be answered, or an empty string.
    """

    wrt: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    possible: bool = False
    nodes: dict[str, int] = dataclasses.field(default_factory=dict)
    blocked: tuple[Blocked, ...] = ()
    unreached: tuple[str, ...] = ()
    caution: str = ""
    error: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What is known of a file before anything is built of it. `str` gives a page to read.

    Attributes:
        file: Its path; "" for a model in memory.
        producer: What has written it.
        opsets: Its opsets by domain; "" is that of the standard.
        ir_version: Its IR version.
        nodes: How many nodes it has, those of branches and functions too.
        inputs, outputs: Its ports: name, dtype and shape.
        weights: The tensors that it holds.
        quantised: By kind ("QDQ", "QOperator", "dynamic", "4-bit"), the nodes that tell so.
        softmax: By output that is a Softmax, the tensor before it.
        classes: The output that is taken for scores by class, by its shape or as it is a Softmax;
            "" for none.
        embeddings: By input of integers, the tensor of what they pick from a table of weights.
        random: By operator, the nodes that draw anew in each run.
        dropouts: How many Dropouts pass their input on, as they do outside of training.
        beyond: The nodes of operators that are not of the standard, by operator.
        unknown: Those among them that are known neither here nor to the model itself.
        inputs_gradient, weights_gradient: What comes of differentiating with respect to the inputs
            (or `wrt`), and to the weights.
        straight_through: The same as `inputs_gradient` with straight_through=True, of a quantised
            net that has no gradient without, or one that means nothing; else None.
        unranked: The tensors of which nothing tells how many axes they have.
        result_opset, result_ir_version: Those of a file with gradients; None where none is built.
        runtimes: By runtime, the first release that takes such a file; None if none is known to.
        commands: Commands that make something of a file on disk; none where an option has asked
            about other tensors, or in another way.
        calls: Calls of Python that do so; in the same cases.
    """

    file: str
    producer: str
    opsets: dict[str, int]
    ir_version: int
    nodes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: Weights
    quantised: dict[str, int]
    softmax: dict[str, str]
    classes: str
    embeddings: dict[str, str]
    random: dict[str, int]
    dropouts: int
    beyond: dict[str, int]
    unknown: tuple[str, ...]
    inputs_gradient: Differentiated
    weights_gradient: Differentiated
    straight_through: Differentiated | None
    unranked: tuple[str, ...]
    result_opset: int | None
    result_ir_version: int | None
    runtimes: dict[str, str | None]
    commands: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether something can be differentiated, and nothing on the way is refused."""
        every = self.inputs_gradient, self.weights_gradient, self.straight_through
        known = [d for d in every if d is not None]
        return any(d.possible for d in known) and not any(d.blocked for d in known)

    def as_dict(self) -> dict[str, Any]:
        """The same for machines: dictionaries, lists, texts and numbers, as JSON has them.

        The keys are the attributes. A port has "name", "dtype" and "shape"; a dtype is a text.
        """
        return _plain(dataclasses.asdict(self)) | {"ok": self.ok}

    def page(self, advice: Callable[[str], str] = str) -> str:
        """The page to read.

        Args:
            advice: Puts what the page says into the words of another caller than Python.
        """
        return "\n".join(printable(line) for line in _lines(self, advice))

    def __str__(self) -> str:
        return self.page()


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.name if isinstance(value, np.dtype) else value


# -- the page --------------------------------------------------------------------------------------

_WIDTH, _LABEL = 80, 11


def _lines(found: Diagnosis, advice: Callable[[str], str]) -> Iterator[str]:
    """The lines of the page: a label for each section, and its texts beside it."""
    sections = {
        "File": _file(found),
        "Inputs": _ports(found.inputs),
        "Outputs": _ports(found.outputs),
        "Weights": _weights(found.weights),
        "Gradients": [*_gradients(found)],
        "To know": [*_notes(found)],
        "Result": [*_result(found)],
        "Next": [*found.commands, *(f"in Python: {call}" for call in found.calls)],
    }
    for label, texts in sections.items():
        for k, text in enumerate(texts):
            whole = label in ("Inputs", "Outputs", "Next")
            for j, line in enumerate([text] if whole else _wrapped(advice(text))):
                yield f"{'' if k or j else label:{_LABEL}}{line}".rstrip()


def _file(found: Diagnosis) -> list[str]:
    domains = {domain or "ai.onnx": version for domain, version in found.opsets.items()}
    opset = domains.pop("ai.onnx", "?")
    others = f" ({', '.join(f'{d} {v}' for d, v in domains.items())})" if domains else ""
    parts = [f"opset {opset}{others}", f"IR version {found.ir_version}"]
    parts.append(_many(found.nodes, "node"))
    if found.producer:
        parts.append(f"made by {found.producer}")
    return [*filter(None, [found.file]), ", ".join(parts)]


def _ports(ports: Sequence[Port]) -> list[str]:
    return aligned([(port.name, *port.texts()) for port in ports]) if ports else ["none"]


def _weights(found: Weights) -> list[str]:
    if not found.tensors:
        return ["none"]
    dtypes = ", ".join(f"{name} {_size(n)}" for name, n in found.dtypes.items())
    places = [
        f"{_size(size)} in {os.path.basename(file) if file else 'the file itself'}"
        for file, size in found.files.items()
    ]
    trained = (
        f"training changes {_many(found.trainable_numbers, 'number')} in "
        f"{_many(found.trainable_tensors, 'tensor')}"
    )
    return [
        f"{_many(found.numbers, 'number')} in {_many(found.tensors, 'tensor')}: "
        f"{', '.join(places)}",
        f"by dtype: {dtypes}",
        trained if found.trainable_tensors else "training changes none of them",
    ]


def _gradients(found: Diagnosis) -> Iterator[str]:
    inputs, weights = found.inputs_gradient, found.weights_gradient
    many = _many(len(weights.wrt), "weight") if weights.wrt else "the weights"
    yield from _gradient(f"with respect to {_listed(inputs.wrt) or 'the inputs'}", inputs)
    if through := found.straight_through:
        can = "can be built" if through.possible else "cannot be built either"
        yield f"- with straight_through=True: {can}"
    if weights.possible or weights.error not in ("", inputs.error) or weights.blocked:
        yield from _gradient(f"with respect to {many}", weights, but=inputs.blocked)


def _gradient(what: str, found: Differentiated, but: Sequence[Blocked] = ()) -> Iterator[str]:
    """What comes of it; `but` has been said already."""
    if found.error:
        yield f"{what}: none, as {found.error}"
        return
    asked = f"of {_listed(found.of)} {what}"
    if found.possible:
        nodes = (
            f"{_many(sum(found.nodes.values()), 'node')} of {_many(len(found.nodes), 'operator')}"
        )
        yield f"{asked}: can be built, through {nodes}"
    else:
        yield f"{asked}: CANNOT be built"
    for one in found.blocked:
        if one not in but:
            nodes = _many(len(one.nodes), "node")
            yield f"- {one.operator} ({nodes}: {_listed(one.nodes)}): {one.reason}. {one.next}"
    if found.unreached:
        yield f"- no gradient reaches {_listed(found.unreached)}"


def _notes(found: Diagnosis) -> Iterator[str]:
    for output, scores in found.softmax.items():
        yield (
            f"- {output!r} is a Softmax. Its probabilities add up to one, so the gradient of their "
            f"sum is nothing: take the scores before it, {scores!r}."
        )
    if found.classes and found.classes not in found.softmax and found.commands:
        yield (
            f"- {found.classes!r} is taken for scores by class below, by its shape. If it is none, "
            "leave out --of-class and pgd, and take --loss mse."
        )
    whole = [p.name for p in found.inputs if p.dtype is not None and p.dtype.kind in "iub"]
    if whole:
        picked = _listed(found.embeddings.values())
        yield f"- Whole numbers have no gradient: {_listed(whole)}." + (
            f" What they pick from tables has one: {picked}." if picked else ""
        )
    if found.quantised:
        kinds = ", ".join(f"{kind} at {_many(n, 'node')}" for kind, n in found.quantised.items())
        yield f"- It is quantised: {kinds}." + (
            " Gradients end where numbers are rounded, or flow through scales alone, which is next "
            "to nothing; with straight_through=True they pass."
            if found.straight_through
            else " Gradients can be built all the same." * found.inputs_gradient.possible
        )
    if found.unranked:
        yield (
            f"- No operator tells the number of axes of {_listed(found.unranked)}. Most rules do "
            "without; where one needs it, pass feeds in example=, with which the net runs once."
        )
    yield from _drawn(found)
    if found.beyond:
        yield f"- Not of the standard: {_counted(found.beyond)}. " + (
            f"{_listed(found.unknown)}: no gradient is known, and none is needed off the paths. "
            "What runs the file has to have it."
            if found.unknown
            else "With target='portable' the standard's take their places."
            if all(name.startswith("com.microsoft::") for name in found.beyond)
            else "What runs the file has to have it."
        )
    for caution in dict.fromkeys((found.inputs_gradient.caution, found.weights_gradient.caution)):
        if caution and not found.softmax and not found.straight_through:
            yield f"- {caution}"


def _drawn(found: Diagnosis) -> Iterator[str]:
    if found.random:
        drawn = _counted(found.random)
        yield f"- Each run draws anew ({drawn}). What is drawn is a constant to the gradient."
    if found.dropouts:
        dropouts = _many(found.dropouts, "Dropout")
        yield f"- Nothing is dropped by {dropouts}, unless a training step is asked to."


def _result(found: Diagnosis) -> Iterator[str]:
    if found.result_opset is None:
        return
    takers = [f"{name} {version}" for name, version in found.runtimes.items() if version]
    known = f": {', '.join(takers)} and later take it" if takers else ""
    yield f"opset {found.result_opset}, IR version {found.result_ir_version}{known}"
    if others := [name for name, version in found.runtimes.items() if version is None]:
        yield f"no release of {' and '.join(others)} is known to take it"


def _wrapped(text: str) -> list[str]:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(
        text,
        _WIDTH - _LABEL,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _listed(names: Iterable[str], most: int = 4) -> str:
    quoted = [repr(name) for name in names]
    left = len(quoted) - most
    return ", ".join(quoted[:most]) + (f" and {left} more" if left > 0 else "")


def _counted(nodes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in nodes.items())


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _size(count: int) -> str:
    """Bytes as a person reads them."""
    size, units = float(count), ["B", "kB", "MB", "GB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
