"""Look at mutants of small nets: each has to give a gradient that the checker accepts, or an error.

    python tools/fuzz.py                          20,000 mutants, and exit code 1 if any is a defect
    python tools/fuzz.py --first 20000 -n 500     others
    python tools/fuzz.py --show 1234              what becomes of one; writes it to out/mutants

Every fourth gradient is compared with central differences as well. A mutant is told by its number
(tests/mutants.py), and judged in a process with limits of time and memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.mutants import FINE, Workers, judge, mutant  # noqa: E402


def main() -> int:
    """Judge mutants, print the defects and a count of the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=20_000, help="how many mutants")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--strict", action="store_true", help="list what only the guard refuses")
    parser.add_argument("--show", type=int, help="only this mutant, in this process")
    given = parser.parse_args()
    if given.show is not None:
        return _show(given.show)
    until = time.monotonic() + 60 * given.minutes
    outcomes: Counter[str] = Counter()
    for number, outcome, why in Workers(given.jobs).judge(
        range(given.first, given.first + given.n), until
    ):
        outcomes[outcome] += 1
        if outcome not in FINE or (given.strict and outcome == "guarded"):
            print(f"mutant {number} {outcome}: {why.strip()}\n", flush=True)
        if outcomes.total() % 1000 == 0:
            print(f"{outcomes.total()} mutants: {dict(outcomes)}", flush=True)
    print(f"{outcomes.total()} mutants: {dict(outcomes)}")
    return int(any(outcome not in FINE for outcome in outcomes))


def _show(number: int) -> int:
    content = mutant(number)
    folder = ROOT / "out" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}.onnx").write_bytes(content)
    outcome, why = judge(content, differences=True)
    print(f"mutant {number} {outcome}: {why}")
    return int(outcome not in FINE)


if __name__ == "__main__":
    sys.exit(main())
