"""Schedules: the learning rate as a function of the step, counted from 0.

Names, arguments and numbers are those of torch.optim.lr_scheduler, each of which has a closed form.
A schedule is any function from a step to a rate; these are the usual ones.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal

from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError

Schedule = Callable[[int], float]


def linear(
    lr: float, total_iters: int, *, start_factor: float = 1 / 3, end_factor: float = 1.0
) -> Schedule:
    """A straight line from ``lr * start_factor`` to ``lr * end_factor``: a warm-up, or a decay.

    Args:
        lr: The rate that the factors are of.
        total_iters: The step that the line ends at; from then on the rate stays.
        start_factor, end_factor: The factors.

    Raises:
        ArgumentError: `total_iters` is no whole number from 1 on.

    Example:
        >>> warm_up = og.train.schedules.linear(0.1, 4, start_factor=0.5)
        >>> [round(warm_up(step), 4) for step in range(6)]
        [0.05, 0.0625, 0.075, 0.0875, 0.1, 0.1]
    """
    counted("total_iters", total_iters, 1)

    def rate(step: int) -> float:
        done = min(step, total_iters) / total_iters
        return lr * (start_factor + (end_factor - start_factor) * done)

    return rate


def cosine(lr: float, T_max: int, *, eta_min: float = 0.0) -> Schedule:
    """Half a period of a cosine from `lr` down to `eta_min` (Loshchilov and Hutter 2017).

    Args:
        lr: The first rate.
        T_max: The step at which the rate is `eta_min`. After it the cosine goes on.
        eta_min: The least rate.

    Raises:
        ArgumentError: `T_max` is no whole number from 1 on.
    """
    counted("T_max", T_max, 1)
    return lambda step: eta_min + (lr - eta_min) * (1 + math.cos(math.pi * step / T_max)) / 2


def step(lr: float, step_size: int, *, gamma: float = 0.1) -> Schedule:
    """The rate times `gamma` after every `step_size` steps.

    Args:
        lr: The first rate.
        step_size: After how many steps it changes.
        gamma: What it is then multiplied with.

    Raises:
        ArgumentError: `step_size` is no whole number from 1 on.

    Example:
        >>> rate = og.train.schedules.step(0.8, 2, gamma=0.5)
        >>> [rate(step) for step in range(5)]
        [0.8, 0.8, 0.4, 0.4, 0.2]
    """
    counted("step_size", step_size, 1)
    return lambda step: lr * gamma ** (step // step_size)


def one_cycle(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """A rate that rises to `max_lr` and falls again, below its first value (Smith and Topin 2018).

    Args:
        max_lr: The largest rate.
        total_steps: The number of steps. After them the rate stays at the least.
        pct_start: The part of the steps in which the rate rises.
        anneal_strategy: "cos" or "linear", the form of each way.
        div_factor: The first rate is ``max_lr / div_factor``.
        final_div_factor: The last one is the first one divided by this.
        three_phase: Come down to the first rate as steeply as it rose, and then to the last one.

    Raises:
        ArgumentError: `total_steps` is no whole number from 1 on, `pct_start` is not between 0
            and 1, or there is no such strategy.

    Example:
        >>> rate = og.train.schedules.one_cycle(1.0, 10, anneal_strategy="linear")
        >>> [round(rate(step), 2) for step in range(10)]
        [0.04, 0.52, 1.0, 0.86, 0.71, 0.57, 0.43, 0.29, 0.14, 0.0]
    """
    counted("total_steps", total_steps, 1)
    if not 0 <= pct_start <= 1:
        raise ArgumentError(f"pct_start is between 0 and 1, not {pct_start!r}")
    if anneal_strategy not in ("cos", "linear"):
        raise ArgumentError(f"anneal_strategy is 'cos' or 'linear', not {anneal_strategy!r}")
    first = max_lr / div_factor
    last = first / final_div_factor
    top = pct_start * total_steps - 1
    ways = [(top, first, max_lr), (total_steps - 1, max_lr, last)]
    if three_phase:
        ways = [ways[0], (2 * top, max_lr, first), (total_steps - 1, first, last)]

    def rate(step: int) -> float:
        begin, step = 0.0, min(step, total_steps - 1)
        for end, start, goal in ways:
            if step <= end or end == ways[-1][0]:
                return _between(start, goal, (step - begin) / (end - begin or 1), anneal_strategy)
            begin = end
        return last

    return rate


def sequence(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """One schedule after another, each counting its own steps from 0.

    Args:
        schedules: The schedules.
        milestones: The step at which each but the first begins.

    Raises:
        ArgumentError: There are not as many milestones, or they do not grow.

    Example:
        >>> s = og.train.schedules
        >>> rate = s.sequence([s.linear(1e-3, 100), s.cosine(1e-3, 900)], [100])
    """
    if len(milestones) != len(schedules) - 1 or list(milestones) != sorted(set(milestones)):
        raise ArgumentError(
            f"{len(schedules)} schedules need {len(schedules) - 1} milestones in growing order, "
            f"not {list(milestones)}"
        )

    def rate(step: int) -> float:
        k = bisect_right(milestones, step)
        return schedules[k](step - milestones[k - 1] if k else step)

    return rate


def _between(start: float, end: float, part: float, strategy: str) -> float:
    if strategy == "linear":
        return (end - start) * part + start
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))
