"""Schedules give the numbers of torch.optim.lr_scheduler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxgrad as og
from onnxgrad.train import schedules

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")


def by_torch(make: Any, steps: int, lr: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


S = torch.optim.lr_scheduler
CASES = [
    ("linear", (7,), {}, lambda o: S.LinearLR(o, total_iters=7), 12),
    (
        "linear", (5,), {"start_factor": 1.0, "end_factor": 0.2},
        lambda o: S.LinearLR(o, 1.0, 0.2, total_iters=5), 12,
    ),
    ("cosine", (10,), {}, lambda o: S.CosineAnnealingLR(o, 10), 25),
    ("cosine", (9,), {"eta_min": 0.01}, lambda o: S.CosineAnnealingLR(o, 9, eta_min=0.01), 20),
    ("step", (3,), {}, lambda o: S.StepLR(o, 3), 12),
    ("step", (4,), {"gamma": 0.5}, lambda o: S.StepLR(o, 4, gamma=0.5), 12),
    *(
        (
            "one_cycle", (total,), options,
            lambda o, n=total, k=options: S.OneCycleLR(o, 0.1, n, **k), total,
        )
        for total in (10, 37)
        for options in (
            {}, {"anneal_strategy": "linear"}, {"three_phase": True}, {"pct_start": 0.4},
            {"div_factor": 10, "final_div_factor": 100, "three_phase": True, "pct_start": 0.25},
        )
    ),
]  # fmt: skip


def _id(argument: Any) -> str | None:
    """The same in every process that collects the tests, so none of a function's address."""
    return None if callable(argument) else str(argument)


@pytest.mark.parametrize("name, args, options, make, steps", CASES, ids=_id)
def test_as_torch(name: str, args: Any, options: Any, make: Any, steps: int) -> None:
    rate = getattr(schedules, name)(0.1, *args, **options)
    expected = by_torch(make, steps, 0.1)
    assert len(set(expected)) > 2
    np.testing.assert_allclose([rate(k) for k in range(steps)], expected, rtol=1e-9, atol=1e-15)


def test_a_sequence_as_torch() -> None:
    s = schedules
    rate = s.sequence([s.linear(0.1, 4), s.cosine(0.1, 6), s.step(0.1, 2)], [4, 10])

    def make(optimizer: Any) -> Any:
        parts = [S.LinearLR(optimizer, total_iters=4), S.CosineAnnealingLR(optimizer, 6)]
        return S.SequentialLR(optimizer, [*parts, S.StepLR(optimizer, 2)], [4, 10])

    found = [rate(k) for k in range(16)]
    np.testing.assert_allclose(found, by_torch(make, 16, 0.1), rtol=1e-9, atol=1e-15)


def test_after_the_last_step_the_rate_stays() -> None:
    rate = schedules.one_cycle(0.1, 10)
    assert rate(9) == rate(10) == rate(100) == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: schedules.linear(0.1, 0), "total_iters"),
        (lambda: schedules.cosine(0.1, -1), "T_max is a whole number, 1 or more, not -1"),
        (lambda: schedules.step(0.1, 0), "step_size"),
        (lambda: schedules.one_cycle(0.1, 0), "total_steps"),
        (lambda: schedules.one_cycle(0.1, 5, pct_start=2), "pct_start"),
        (lambda: schedules.one_cycle(0.1, 5, anneal_strategy="sine"), "anneal_strategy"),
        (lambda: schedules.sequence([schedules.cosine(0.1, 3)], [3]), "milestones"),
        (lambda: schedules.sequence([schedules.cosine(0.1, 3)] * 3, [4, 2]), "milestones"),
    ],
)
def test_mistakes(make: Any, says: str) -> None:
    with pytest.raises(og.ArgumentError, match=says):
        make()
