"""Groups of weights, which are trained in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from onnxgrad.train.optimizers import Optimizer


@dataclass(frozen=True)
class Group:
    """Weights that are trained in their own way, as a parameter group of torch.optim.

    Args:
        params: A pattern of names, as "encoder.*", or several.
        lr_scale: A factor of the learning rate.
        weight_decay: In the place of the optimizer's; None for the optimizer's.
        frozen: They are not trained.
    """

    params: str | Sequence[str]
    lr_scale: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False

    def holds(self, name: str) -> bool:
        """Whether a weight is of this group."""
        patterns = [self.params] if isinstance(self.params, str) else self.params
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    def optimizer(self, general: Optimizer) -> Optimizer:
        """The optimizer of its weights."""
        return (
            general
            if self.weight_decay is None
            else replace(general, weight_decay=self.weight_decay)
        )


def group_of(groups: Sequence[Group], name: str) -> Group:
    """The first group that holds a weight; else one that changes nothing."""
    return next((group for group in groups if group.holds(name)), Group(name))
