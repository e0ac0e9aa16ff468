"""The table of expansions, which replace operators by others, and its decorator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import RuleError
from onnxgrad.graph.marks import ITEMS
from onnxgrad.graph.schemas import split_name

Function = Callable[..., Any]

_TABLE: dict[tuple[str, str], Function] = {}

_REMARKS: dict[tuple[str, str], str] = {}

# The operators that onnxruntime has for the CPU.
_ON_CPU: set[tuple[str, str]] = set()

# The attributes of an operator that hold names of tensors.
_NAMING: dict[tuple[str, str], tuple[str, ...]] = {}


def expansion(
    *names: str, remark: str = "", naming: tuple[str, ...] = (), on_cpu: bool = True
) -> Callable[[Function], Function]:
    """Declare the decorated function as the expansion of operators.

    Args:
        names: ``"domain::Op"`` each.
        remark: A remark for the user, in a few words.
        on_cpu: Whether onnxruntime has the operator for the CPU. If so, a net that has it keeps it
            where the gradient does not need its parts.
        naming: Attributes that hold names of tensors, which become operands after the others.

    Raises:
        RuleError: An operator has an expansion already.
    """

    def decorate(function: Function) -> Function:
        for name in names:
            key = split_name(name)
            if key in _TABLE:
                raise RuleError(f"the expansion of {name} is declared twice")
            _TABLE[key], _REMARKS[key] = function, remark
            if on_cpu:
                _ON_CPU.add(key)
            if naming:
                _NAMING[key] = naming
        return function

    return decorate


def items(sequence: Tensor) -> list[Tensor] | None:
    """The elements of a sequence; None where they are not known one by one."""
    return ITEMS.of(sequence.value)


def _with_own() -> None:
    """Import the package's own expansions, which fill the table; Gradient's is a transform."""
    importlib.import_module("onnxgrad.expansions")
    importlib.import_module("onnxgrad.transforms.lower")


def expandable() -> dict[tuple[str, str], str]:
    """The remark on every operator with an expansion, by its domain and name."""
    _with_own()
    return dict(sorted(_REMARKS.items()))


def module_of(domain: str, op_type: str) -> str:
    """The module that declares the expansion of an operator, such as "onnxgrad.expansions.ml"."""
    _with_own()
    return _TABLE[domain, op_type].__module__


def expansion_of(node: ir.Node) -> Function | None:
    """The expansion of a node's operator, if there is one."""
    _with_own()
    return _TABLE.get((node.domain, node.op_type))


def is_on_cpu(node: ir.Node) -> bool:
    """Whether onnxruntime has an operator that has an expansion for the CPU."""
    _with_own()
    return (node.domain, node.op_type) in _ON_CPU


def naming_of(node: ir.Node) -> tuple[str, ...]:
    """The attributes of a node's operator that hold names of tensors."""
    _with_own()
    return _NAMING.get((node.domain, node.op_type), ())
