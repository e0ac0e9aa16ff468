"""Groups of weights, which are trained in their own way."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.train.arguments import require_number
from onnxgrad.train.optimizers import Optimizer


@dataclass(frozen=True)
class Group:
    """Weights that are trained in their own way, as a parameter group of torch.optim.

    Args:
        params: A pattern of names, as "encoder.*", or several. A name stands for itself too, also
            one with brackets.
        lr_scale: A factor of the learning rate.
        weight_decay: In the place of the optimizer's; None for the optimizer's.
        frozen: They are not trained.

    Raises:
        ArgumentError: A pattern is no text, or a number is negative or not finite.
    """

    params: str | Sequence[str]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.params, str | Sequence) or not self.patterns:
            raise ArgumentError(f"params of a Group are patterns of names, not {self.params!r}")
        if others := [p for p in self.patterns if not isinstance(p, str)]:
            raise ArgumentError(f"params of a Group are patterns of names, not {others[0]!r}")
        require_number("lr_scale", self.lr_scale)
        if self.weight_decay is not None:
            require_number("weight_decay", self.weight_decay)

    @property
    def patterns(self) -> Sequence[str]:
        """The patterns of names."""
        return [self.params] if isinstance(self.params, str) else self.params

    def holds(self, name: str) -> bool:
        """Whether a weight is of this group."""
        return any(fits(name, pattern) for pattern in self.patterns)

    def optimizer(self, general: Optimizer) -> Optimizer:
        """The optimizer of its weights."""
        return (
            general
            if self.weight_decay is None
            else replace(general, weight_decay=self.weight_decay)
        )


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern stands for a name."""
    return name == pattern or fnmatchcase(name, pattern)


def listed(groups: Any) -> list[Group]:
    """One group or several as a list.

    Raises:
        ArgumentError: One is none.
    """
    found = [groups] if isinstance(groups, Group) else groups
    if not isinstance(found, Sequence) or not all(isinstance(g, Group) for g in found):
        raise ArgumentError(f"groups are of onnxgrad.train, as Group('encoder.*'), not {groups!r}")
    return list(found)


def require_found(groups: Sequence[Group], names: Collection[str]) -> None:
    """Check that each pattern stands for a weight.

    Args:
        names: Those of all weights.

    Raises:
        ArgumentError: One stands for none.
    """
    for pattern in (p for group in groups for p in group.patterns):
        if not any(fits(name, pattern) for name in names):
            raise ArgumentError(f"groups: no weight fits {pattern!r}.{nearest(pattern, names)}")


def group_of(groups: Sequence[Group], name: str) -> Group:
    """The first group that holds a weight; else one that changes nothing."""
    return next((group for group in groups if group.holds(name)), Group(name))
