"""Einsum: the labels in an equation, and the node for tensors with labels."""

from __future__ import annotations

from collections.abc import Sequence

from onnxgrad.emit.tensor import Tensor

ELLIPSIS = "..."

# The labels of a tensor's axes; an ellipsis is one label.
Labels = list[str]


def parse(equation: str) -> tuple[list[Labels], Labels]:
    """The labels of the operands and of the output."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_labels(term) for term in left.split(",")]
    if arrow:
        return terms, _labels(right)
    every = [a for term in terms for a in term]
    once = sorted(a for a in set(every) if every.count(a) == 1 and a != ELLIPSIS)
    return terms, [ELLIPSIS] * (ELLIPSIS in every) + once


def _labels(term: str) -> Labels:
    before, dots, after = term.partition(ELLIPSIS)
    return [*before, *([dots] if dots else []), *after]


def einsum(terms: Sequence[tuple[Labels, Tensor]], result: Labels) -> Tensor:
    """The Einsum of (labels, tensor) pairs."""
    if [a for a, _ in terms] == [result]:
        return terms[0][1]
    equation = ",".join("".join(a) for a, _ in terms) + "->" + "".join(result)
    return terms[0][1].op.Einsum(*(t for _, t in terms), equation=equation)
