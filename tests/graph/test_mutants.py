"""Mutants of small nets: each gives a gradient that the checker accepts, or an `OnnxGradError`.

`make fuzz` looks at 20,000 others.
"""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("no other system limits the memory of a process", allow_module_level=True)

from tests.mutants import FINE, Workers


def test_mutants() -> None:
    found = list(Workers(2).judge(range(300)))
    assert len(found) == 300
    assert not [one for one in found if one[1] not in FINE]
    outcomes = [outcome for _, outcome, _ in found]
    assert outcomes.count("made") > 20 and outcomes.count("refused") > 100
    assert "right" in outcomes
    # Where a mistake is refused by the guard alone, a refusal in words of its own is missing.
    assert outcomes.count("guarded") < 6
