"""What all explanations share: their options, the score that they explain, and their results."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Concatenate, ParamSpec

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.targets import TargetName
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import Rules
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.heads.head import Head
from onnxgrad.heads.scores import class_score
from onnxgrad.heads.targets import Target
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.metadata import ATTRIBUTIONS, describe
from onnxgrad.transforms.options import (
    Of,
    Options,
    TensorSpecs,
    Traced,
    Transform,
    Unreachable,
    Wrt,
    published,
)
from onnxgrad.transforms.probabilities import before_softmax, say_before

P = ParamSpec("P")


class Explaining(Traced, total=False):
    """The options of every explanation."""

    of: Of
    target: Target | None
    forward: bool
    unreachable: Unreachable
    runs_on: TargetName


@dataclass(frozen=True)
class ExplainOptions:
    """The options of an explanation, as `saliency` describes them."""

    of: Of = None
    target: Target | None = "argmax"
    forward: bool = True
    unreachable: Unreachable = "error"
    straight_through: StraightThrough = False
    constant: TensorSpecs | None = None
    example: Any = None
    runs_on: TargetName = "cpu"


# The options of a differentiation that an explanation has under the same name and meaning; its own
# `of` is a score, and its `target` a class.
_SHARED = {f.name for f in fields(Options)} & {f.name for f in fields(ExplainOptions)} - {
    "of",
    "target",
}

# Every method by its name.
METHODS: dict[str, Transform[Any]] = {}


def method(
    function: Callable[Concatenate[ir.Model, P], None],
    options: type[ExplainOptions] = ExplainOptions,
) -> Transform[P]:
    """A public explanation, made of a function that changes a private copy of the model.

    Args:
        options: The data class of its options, which tells their defaults.
    """
    public = published(function, options)
    METHODS[public.__name__] = public
    return public


def called(method: Any) -> functools.partial[ir.Model]:
    """An explanation with arguments of its own, as another one takes it.

    Args:
        method: A public explanation, or a `functools.partial` of one.

    Raises:
        ArgumentError: It is none, or has an argument that the other one gives.
    """
    given = method if isinstance(method, functools.partial) else None
    if given is None and callable(method):
        given = functools.partial(method)
    if given is None or given.args or given.func not in METHODS.values():
        raise ArgumentError(
            "a method is a function of onnxgrad.explain, or a functools.partial of one with named "
            f"arguments, not {method!r}"
        )
    shared = {"wrt", *(field.name for field in fields(ExplainOptions))}
    if misplaced := sorted(shared & set(given.keywords)):
        raise ArgumentError(
            f"{misplaced[0]!r} belongs to what is around {given.func.__name__}: give it there"
        )
    return given


def explained(
    call: functools.partial[ir.Model], net: ir.Model, wrt: Sequence[str], options: dict[str, Any]
) -> ir.Model:
    """What an explanation makes of a net, with those options of the one around it that it takes."""
    taken = inspect.signature(call.func).parameters
    given = {"wrt": list(wrt), **options} if wrt else options
    return call(net, **{name: value for name, value in given.items() if name in taken})


class Explanation:
    """One explanation: the score that is explained, and its gradients.

    Args:
        net: A private model, which is changed.
        wrt: As for `saliency`.
        kind: The data class of its options.
        options: As for `saliency`.

    Attributes:
        job: The differentiation of the score.
    """

    def __init__(
        self,
        net: ir.Model,
        wrt: Wrt = None,
        *,
        kind: type[ExplainOptions] = ExplainOptions,
        **options: Any,
    ) -> None:
        self.options = given = kind(**options)
        self.of = score_of(net, given.of, given.target)
        shared = {name: getattr(given, name) for name in _SHARED}
        self.job = Job(net, wrt, Options(of=self.of, target=given.runs_on, **shared))

    @property
    def op(self) -> Builder:
        """What emits at the end of the net."""
        return self.job.op

    def gradients(
        self, rules: Rules | None = None, op: Builder | None = None
    ) -> dict[ir.Value, Tensor]:
        """The gradients of the score, summed over the examples, with respect to `wrt`.

        Args:
            rules: Rules of operators in the place of their own, for these gradients alone.
            op: Emits them, as to an inner graph; by default at the end of the net.
        """
        op = op or self.op
        seeds = {y: op.tensor(g.value) for y, g in self.job.seeds()[0].items()}
        return self.job.pull(seeds, op=op, rules=rules)

    def finish(self, attributions: Mapping[ir.Value, Tensor], delta: Tensor | None = None) -> None:
        """List the attributions as outputs, and say in the metadata what they belong to.

        Args:
            attributions: By tensor.
            delta: The convergence delta, another output.
        """
        wrt = [v.name or "" for v in attributions]
        results = {f"{v.name}_attribution": t for v, t in attributions.items()}
        self.job.finish(results | ({} if delta is None else {"convergence_delta": delta}))
        names = dict(zip(wrt, self.job.results, strict=False))
        describe(self.job.net, {ATTRIBUTIONS: names})

    def finish_joint(self, values: Sequence[ir.Value], attribution: Tensor) -> None:
        """The same for one attribution that belongs to several tensors, named after the first."""
        names = [v.name or "" for v in values]
        self.job.finish({f"{names[0]}_attribution": attribution})
        describe(self.job.net, {ATTRIBUTIONS: dict.fromkeys(names, *self.job.results)})


class MovedExplanation(Explanation):
    """An explanation of a net that is explained at other points too.

    Attributes:
        spare: A copy of the model as the caller has it.
    """

    def __init__(self, net: ir.Model, wrt: Wrt = None, **options: Any) -> None:
        self.spare = net.clone()
        super().__init__(net, wrt, **options)


def score_of(net: ir.Model, of: Of, target: Target | None) -> Of:
    """What an explanation differentiates: a head, or the tensors themselves.

    For a net that ends in a Softmax and no `of` it is the score before the Softmax, and it says so.

    Raises:
        ArgumentError: There are several tensors to choose the class of.
    """
    if isinstance(of, Head):
        return of
    if of is None and (logits := before_softmax(net)):
        say_before(logits)
        of = logits
    if target is None:
        return of
    if isinstance(of, list | tuple) and len(of) == 1 and not isinstance(of[0], int):
        of = of[0]
    if isinstance(of, list | tuple) and any(isinstance(one, Head) for one in of):
        raise ArgumentError("a head has its own target: give one head, or the name of a tensor")
    return class_score(of, target)
