"""A head: a formula of tensors of a net, whose result can be differentiated."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.targets import TargetName
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError, RuleError
from onnxgrad.graph.facts import Dim, by_name
from onnxgrad.graph.names import resolve

# One tensor of a net: its name or its position; None for its one floating-point output.
Place: TypeAlias = str | tuple[str | int, ...] | None


@dataclass(frozen=True)
class Head:
    """A formula of tensors of a net, which stands wherever a tensor to differentiate is named.

    Two heads with equal fields are equal.

    Args:
        name: What its result is called.
        of: The tensors that it reads: names or positions; None for the net's one output.
        formula: Its result, called with a builder, those tensors and the options.
        options: The arguments of the formula, by name.
        inputs: The names of the graph inputs that it adds, such as "labels".
    """

    name: str
    of: tuple[Place, ...]
    formula: Callable[..., Tensor]
    options: tuple[tuple[str, Any], ...] = ()
    inputs: tuple[str, ...] = ()

    def __call__(self, op: Builder, *tensors: Tensor) -> dict[str, Tensor]:
        """The result by its name: what `attach` takes for a function."""
        return {self.name: self.formula(op, *tensors, **dict(self.options))}

    def __repr__(self) -> str:
        of = ", ".join(repr(list(p) if isinstance(p, tuple) else p) for p in self.of)
        return (
            f"{self.name}({', '.join([of, *(f'{k}={reprlib.repr(v)}' for k, v in self.options)])})"
        )

    def named(self, name: str) -> Head:
        """The same head with another name, which is that of its result.

        Raises:
            ArgumentError: It is no name.

        Example:
            >>> first = og.attach("models/mlp.onnx", og.heads.norm("v_Tanh_1"))
            >>> model = og.attach(first, og.heads.norm("logits").named("logits_norm"))
            >>> [y.name for y in model.graph.output]
            ['logits', 'norm', 'logits_norm']
        """
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"a head is named by a text, not {name!r}")
        return replace(self, name=name)

    def resolve(self, net: ir.Model, default: Sequence[str]) -> list[str]:
        """The names of the tensors that it reads.

        Args:
            net: The model as the caller has it, whose nodes a position counts.
            default: The net's floating-point outputs.

        Raises:
            ArgumentError: It names no tensor, and the net has several outputs.
            UnknownNameError: There is no such tensor.
        """
        if None in self.of and len(default) != 1:
            raise ArgumentError(
                f"the net has several outputs, {', '.join(map(repr, default))}: name the one that "
                f"{self.name} is of"
            )
        return [default[0] if place is None else resolve(net, place) for place in self.of]

    def emit(self, op: Builder, tensors: Sequence[Tensor]) -> ir.Value:
        """Emit the formula; its result is a value of its own.

        Raises:
            ArgumentError: The tensors do not have the dtype or the axes that it asks for.
        """
        op.scope = self.name
        try:
            result = self.formula(op, *tensors, **dict(self.options))
        except RuleError as error:
            names = ", ".join(repr(t.value.name) for t in tensors)
            raise ArgumentError(f"{self.name} does not fit {names}: {error}") from error
        value = op.copied(result, f"{self.name}/Identity")
        value.name = op.names.fresh(self.name)
        return value


def emit_heads(
    graph: ir.Graph, heads: Mapping[Head, Sequence[str]], target: TargetName = "cpu"
) -> dict[Head, ir.Value]:
    """Emit heads at the end of a normalised graph, each of the tensors of the given names.

    Raises:
        ArgumentError: A tensor has been removed, or does not fit.
    """
    if not heads:
        return {}
    op, values = Builder(graph, target=target), by_name(graph)
    found = {}
    for head, read in heads.items():
        if missing := [repr(name) for name in read if name not in values]:
            raise ArgumentError(f"{head.name}: no tensor {', '.join(missing)} in the main graph")
        found[head] = head.emit(op, [op.tensor(values[name]) for name in read])
    return found


def make(name: str, of: Any, formula: Callable[..., Tensor], **options: Any) -> Head:
    """A head, whose arguments are made hashable.

    Args:
        of: A tensor's name or position, None, or a tuple of several of these.
    """
    places = of if isinstance(of, tuple) else (of,)
    inputs = tuple(str(v) for v in map(added, options.values()) if v is not None)
    given = tuple((key, _frozen(value)) for key, value in options.items())
    return Head(name, tuple(map(_frozen, places)), formula, given, inputs)


@dataclass(frozen=True)
class Input:
    """An argument that is a new graph input.

    Args:
        name: Its name.
        renamed: The argument that gives it another name, as a caller writes it.
    """

    name: str
    renamed: str

    def added(self, op: Builder, shape: Sequence[Dim] | None, dtype: Any) -> Tensor:
        """The graph input.

        Raises:
            ArgumentError: The net has a tensor of its name.
        """
        return op.input(self.name, shape, dtype, renamed=self.renamed)


def input_of(given: Any, argument: str, name: str | None = None) -> Input | None:
    """The graph input that "input" or "input:NAME" stands for, if an argument is one of these.

    Args:
        argument: Its name.
        name: That of the graph input for "input", by default the argument's.
    """
    if not isinstance(given, str) or given.partition(":")[0] != "input":
        return None
    return Input(given.partition(":")[2] or name or argument, f"{argument}='input:NAME'")


def added(option: Any) -> str | None:
    """The name of the graph input that an argument stands for, if it does."""
    return option.name if isinstance(option, Input) else None


def parted(of: Any) -> tuple[Any, list[Head]]:
    """What is to be differentiated, parted in names and heads; the names as they were given."""
    if isinstance(of, Head):
        return [], [of]
    if isinstance(of, list | tuple) and any(isinstance(one, Head) for one in of):
        heads = [one for one in of if isinstance(one, Head)]
        return [one for one in of if not isinstance(one, Head)], heads
    return of, []


def _frozen(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
