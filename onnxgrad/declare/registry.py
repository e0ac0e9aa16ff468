"""The table of gradient rules and the decorators that fill it.

A rule is a function whose parameters have the standard's names for the operator's operands,
outputs and attributes. The engine passes what the signature asks for, and nothing else:

    @rule("Gemm", "C")
    def _(op, g, beta):
        return g * beta

Besides those names a rule may ask for

    op          the builder, which emits nodes: ``op.MatMul(a, b)``
    g           the cotangent of the first output, never absent
    g_<output>  the cotangent of that output, None where absent; for a variadic one a list
    i           the position within a variadic operand
    node        the `onnx_ir.Node` itself, for what has no name
    wanted      for a rule of the whole node: the operands whose cotangents are asked for, a set of
                names and, for what is variadic, of pairs (name, position)
    captures    the outer values that the node's graphs use, as a list; they are operands too
    pull        ``pull(op, seeds, sources)``, the backward pass of the graph that `op` emits to

The names are checked against the operator's schema when the rule is declared. The package's own
rules are in the table before anything is asked of it or declared.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx

from onnxgrad.emit.chosen import narrowed
from onnxgrad.graph.errors import RuleError
from onnxgrad.graph.schemas import Schema, joined_name, schema_of, split_name

State = Literal["rule", "zero", "none"]

Function = Callable[..., Any]

_SPECIAL = {"op", "g", "i", "node", "wanted", "captures", "pull", "matters"}


@dataclass
class Entry:
    """All that is known of one operator's derivative."""

    domain: str
    op_type: str
    schema: Schema
    # The module that declares it, such as "onnxgrad.rules.activation".
    module: str
    # Operand name -> function; the name "" is the rule of the whole node.
    functions: dict[str, tuple[Function, tuple[str, ...]]] = field(default_factory=dict)
    # Operand name -> reason; the name "" stands for all operands without an entry of their own.
    zeros: dict[str, str] = field(default_factory=dict)
    nones: dict[str, str] = field(default_factory=dict)
    broadcast: bool = False
    # Declared by the user of the package, not by its own rules.
    users: bool = False

    @property
    def name(self) -> str:
        return joined_name(self.domain, self.op_type)

    def operand_state(self, operand: str) -> tuple[State, str]:
        """Whether the operand has a rule, a zero derivative or none, with the reason."""
        for key in (operand, ""):
            if key in self.functions:
                return "rule", ""
            if key in self.zeros:
                return "zero", self.zeros[key]
            if key in self.nones:
                return "none", self.nones[key]
        return "none", f"no rule for operand {operand!r}"

    @property
    def state(self) -> tuple[State, str]:
        """The state of the operator as a whole: a rule for any operand makes it "rule"."""
        if self.functions:
            return "rule", "; ".join(
                f"{operand}: {reason}" for operand, reason in (self.zeros | self.nones).items()
            )
        for state, table in (("zero", self.zeros), ("none", self.nones)):
            if table:
                return state, next(iter(table.values()))  # type: ignore[return-value]
        return "none", "no rule"


_TABLE: dict[tuple[str, str], Entry] = {}

# Further entries of operators, which count where a straight-through gradient is asked for.
_STRAIGHT: dict[tuple[str, str], Entry] = {}

# Operators that only move the elements of those operands that have a rule.
_MOVING: set[tuple[str, str]] = set()

# The operators for which a straight-through gradient is asked; True stands for all.
Asked = str | Collection[str] | bool


def _with_own() -> None:
    """Import the package's own rules, which fill the table."""
    importlib.import_module("onnxgrad.rules")


def lookup(domain: str, op_type: str, straight_through: bool = False) -> Entry | None:
    """The entry of an operator, or None; its straight-through rules take the place of others."""
    entry, straight = _both(domain, op_type)
    if not straight_through or straight is None:
        return entry
    if entry is None:
        return straight
    return dataclasses.replace(
        entry,
        functions=entry.functions | straight.functions,
        broadcast=straight.broadcast,
    )


def _both(domain: str, op_type: str) -> tuple[Entry | None, Entry | None]:
    """The entry of an operator, and that of its straight-through rules."""
    _with_own()
    key = "" if domain == "ai.onnx" else domain, op_type
    return _TABLE.get(key), _STRAIGHT.get(key)


def mark_as_own() -> None:
    """Mark all entries declared so far as the package's own; later ones count as the user's."""
    for entry in (*_TABLE.values(), *_STRAIGHT.values()):
        entry.users = False


def declared(domain: str, op_type: str, straight_through: Asked = False) -> bool:
    """Whether the user has declared an operator; straight-through rules count if asked for."""
    entry, straight = _both(domain, op_type)
    if entry is not None and entry.users:
        return True
    if straight is None or not straight.users:
        return False
    if isinstance(straight_through, bool):
        return straight_through
    asked = [straight_through] if isinstance(straight_through, str) else straight_through
    return straight.name in asked


def straight_through() -> list[str]:
    """The operators that have a straight-through rule: ``"Op"`` or ``"domain::Op"``."""
    _with_own()
    return sorted(entry.name for entry in _STRAIGHT.values())


def two_ways(domain: str, op_type: str) -> set[str]:
    """The operands of an operator that have a derivative, and another one straight through."""
    entry, straight = _both(domain, op_type)
    if entry is None or straight is None:
        return set()
    return entry.functions.keys() & straight.functions.keys()


def moving(names: Iterable[str]) -> None:
    """Declare operators that only move elements.

    Behind them a rounded integer is still a rounded integer. Their rules apply to it as to a
    floating-point number.
    """
    _MOVING.update(map(split_name, names))


def is_moving(domain: str, op_type: str) -> bool:
    """Whether an operator only moves elements."""
    _with_own()
    return (domain, op_type) in _MOVING


def entries() -> list[Entry]:
    """Every entry, by domain and operator."""
    _with_own()
    return [_TABLE[key] for key in sorted(_TABLE)]


def forget(name: str) -> None:
    """Remove all that was declared for an operator, so that it can be declared anew.

    Args:
        name: ``"Op"`` or ``"domain::Op"``.
    """
    _with_own()
    _TABLE.pop(split_name(name), None)
    _STRAIGHT.pop(split_name(name), None)
    _MOVING.discard(split_name(name))


def _entry(
    name: str,
    inputs: Sequence[str] | None,
    outputs: Sequence[str] | None,
    straight_through: bool = False,
) -> Entry:
    _with_own()
    domain, op_type = split_name(name)
    table = _STRAIGHT if straight_through else _TABLE
    if (domain, op_type) not in table:
        schema = schema_of(domain, op_type)
        if schema is None:
            if not domain:
                raise RuleError(
                    f"{op_type!r} is not an operator of the installed onnx {onnx.__version__}. "
                    f"For one of your own write 'domain::{op_type}'."
                )
            schema = Schema(tuple(inputs or ("x",)), tuple(outputs or ("y",)), {})
        table[domain, op_type] = Entry(domain, op_type, schema, _declaring_module())
    return table[domain, op_type]


def _declaring_module() -> str:
    """The name of the module that calls a decorator of this one."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    return frame.f_globals["__name__"] if frame is not None else ""


def _parameters(entry: Entry, function: Function) -> tuple[str, ...]:
    schema = entry.schema
    known = _SPECIAL | set(schema.inputs) | set(schema.outputs) | set(schema.attributes)
    known |= {f"g_{o}" for o in schema.outputs}
    names = tuple(inspect.signature(function).parameters)
    if schema_of(entry.domain, entry.op_type) is not None:  # else any other name is an attribute
        for name in names:
            if name not in known:
                raise RuleError(
                    f"rule for {entry.name}: parameter {name!r} is neither an operand, an output "
                    f"nor an attribute of the operator. Known: {', '.join(sorted(known))}."
                )
    return names


def _declare(entry: Entry, table: dict[str, Any], operand: str, what: Any) -> None:
    if operand and operand not in entry.schema.inputs:
        raise RuleError(
            f"{entry.name} has no operand {operand!r}; it has {', '.join(entry.schema.inputs)}."
        )
    for taken in (entry.functions, entry.zeros, entry.nones):
        if operand in taken:
            raise RuleError(
                f"{entry.name}, operand {operand or '(all)'!r}, is declared twice. "
                f"Call onnxgrad.forget({entry.name!r}) first to replace it."
            )
    table[operand] = what
    entry.users = True


def rule(
    name: str,
    *operands: str,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    broadcast: bool = False,
    straight_through: bool = False,
) -> Callable[[Function], Function]:
    """Declare the decorated function as the gradient rule of an operator.

    Args:
        name: ``"Gemm"``, or ``"com.acme::Ramp"`` for an operator of your own.
        operands: The operands it is the rule of; it returns the cotangent of that operand, with the
            operand's dtype and rank. With none named it is the rule of the whole node and returns
            a dict from operand name, or from (name, position) for what is variadic, to cotangent.
        inputs, outputs: The formal names, for an operator that onnx has no schema of; ("x",) and
            ("y",) if left out.
        broadcast: The rule returns cotangents of the output's shape; the engine sums them over the
            axes along which the operand was broadcast.
        straight_through: It counts only where a straight-through gradient is asked for.

    Raises:
        RuleError: unknown operator, operand or parameter name, or declared twice.
    """

    def decorate(function: Function) -> Function:
        entry = _entry(name, inputs, outputs, straight_through)
        entry.broadcast |= broadcast
        for operand in operands or ("",):
            _declare(entry, entry.functions, operand, (function, _parameters(entry, function)))
        return function

    return decorate


def elementwise(
    name: str,
    function: Function | None = None,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    straight_through: bool = False,
    **operands: Function,
) -> Any:
    """Declare an element-wise operator by its derivative dy/dx; the engine multiplies and sums.

    Args:
        name: ``"Tanh"``, or ``"com.acme::Ramp"`` for an operator of your own.
        function: dy/dx for the first operand. It returns a tensor, a Python number, or a tensor of
            booleans, which passes the cotangent where it is true. Without it, a decorator is given.
        inputs, outputs: The formal names, for an operator that onnx has no schema of.
        straight_through: It counts only where a straight-through gradient is asked for.
        operands: dy/dx by operand name, for operators of several operands.

    Raises:
        RuleError: unknown operator, operand or parameter name, or declared twice.
    """
    if function is None and not operands:
        return functools.partial(
            elementwise, name, inputs=inputs, outputs=outputs, straight_through=straight_through
        )
    entry = _entry(name, inputs, outputs, straight_through)
    if function is not None:
        operands[entry.schema.inputs[0]] = function
    entry.broadcast = True
    for operand, derivative in operands.items():
        names = _parameters(entry, derivative)
        extra = tuple(n for n in ("op", "g") if n not in names)

        def cotangent(
            *args: Any, _f: Function = derivative, _names: tuple[str, ...] = names, _all: Any = None
        ) -> Any:
            given, whole = narrowed(dict(zip(_all, args, strict=True)))
            g = given["op"].scale(given["g"], _f(**{n: given[n] for n in _names}))
            return None if g is None else whole(g)

        signature = names + extra
        bound = functools.partial(cotangent, _all=signature)
        _declare(entry, entry.functions, operand, (bound, signature))
    return function


def zero(names: str | Iterable[str], *operands: str, reason: str) -> None:
    """Declare that the derivative is zero wherever it exists (with respect to `operands`, or all).

    Args:
        names: One operator's name, or several.
        operands: Operand names; none for all that have no entry of their own.
        reason: Why, in a few words: it is shown to the user.
    """
    for name in [names] if isinstance(names, str) else names:
        entry = _entry(name, None, None)
        for operand in operands or ("",):
            _declare(entry, entry.zeros, operand, reason)


def not_implemented(names: str | Iterable[str], *operands: str, reason: str) -> None:
    """Declare that there is no rule (with respect to `operands`, or at all), and why.

    Args:
        names: One operator's name, or several.
        operands: Operand names; none for all that have no entry of their own.
        reason: Why, in a few words: it is shown to the user who is refused.
    """
    for name in [names] if isinstance(names, str) else names:
        entry = _entry(name, None, None)
        for operand in operands or ("",):
            _declare(entry, entry.nones, operand, reason)
