"""The section of docs/performance.md on bridges: a call beside the framework's own of the same net.

A bridge is measured in the environment of its framework: `python tools/bridges.py torch` prints
what it took. Another bridge is one more function with `@bridge`.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sections import Section

ROOT = Path(__file__).resolve().parents[1]
NET = str(ROOT / "models" / "mlp.onnx")
BATCHES = (1, 256)

TITLE = "## Bridges beside the frameworks"
HEAD = ["bridge", "call", "bridge, us", "framework, us", "overhead, us", "of framework"]
TEXT = """\
A call of a bridge beside the framework's own function of the same net, models/mlp.onnx: 403 weights
in three layers, so small that the time of a call is what is around the net. Results are compared
first. Both are called in turns in one process on one thread; the figure is the median CPU time of a
call. The overhead is what the bridge takes more; where it is negative the bridge is faster."""

SECTION = Section(TITLE, TEXT, HEAD, {}, {})

# By the name of a call, the bridge's and the framework's own, each without arguments. Results are
# arrays, or lists of them.
Calls = Mapping[str, tuple[Callable[[], Any], Callable[[], Any]]]


@dataclass(frozen=True)
class Bridge:
    """A bridge to measure.

    Attributes:
        calls: Makes the calls for a batch.
        environment: The folder of the environment that has the framework; "" for the present one.
    """

    calls: Callable[[int], Calls]
    environment: str


BRIDGES: dict[str, Bridge] = {}


def bridge(environment: str = "") -> Callable[[Callable[[int], Calls]], Callable[[int], Calls]]:
    """List a bridge under the name of the function that makes its calls."""

    def listed(calls: Callable[[int], Calls]) -> Callable[[int], Calls]:
        BRIDGES[calls.__name__] = Bridge(calls, environment)
        return calls

    return listed


@bridge()
def torch(batch: int) -> Calls:
    import torch
    from torch import nn

    from onnxgrad import bridges

    torch.set_num_threads(1)
    layer = bridges.torch.layer(NET, threads=1)
    fixed = bridges.torch.layer(NET, threads=1, trainable=None)
    parts = [nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    twin = nn.Sequential(*parts)
    twin.load_state_dict(dict(zip(twin.state_dict(), layer.state_dict().values(), strict=True)))
    frozen = copy.deepcopy(twin).requires_grad_(False)
    x = torch.randn(batch, 4)
    moved = x.clone().requires_grad_()

    def forward(net: Any) -> Any:
        with torch.no_grad():
            return net(x)

    def of_input(net: Any) -> Any:
        return torch.autograd.grad(net(moved).sum(), moved)[0]

    def of_weights(net: Any) -> Any:
        return torch.autograd.grad(net(x).sum(), list(net.parameters()))

    def second(net: Any) -> Any:
        (g,) = torch.autograd.grad(net(moved).sum(), moved, create_graph=True)
        return torch.autograd.grad((g * g).sum(), moved)[0]

    return {
        "forward": (lambda: forward(fixed), lambda: forward(frozen)),
        "gradient of the input": (lambda: of_input(fixed), lambda: of_input(frozen)),
        "gradient of the weights": (lambda: of_weights(layer), lambda: of_weights(twin)),
        "second order": (lambda: second(fixed), lambda: second(frozen)),
    }


def microseconds(
    ours: Callable[[], Any], theirs: Callable[[], Any], seconds: float
) -> tuple[float, float]:
    """The median CPU times of two calls that take turns."""
    for _ in range(20):
        ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    end, count = time.perf_counter() + seconds, 20
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, found in zip((ours, theirs), times, strict=True):
            start = time.process_time()
            for _ in range(count):
                call()
            found.append((time.process_time() - start) / count * 1e6)
    return statistics.median(times[0]), statistics.median(times[1])


def compare(name: str, ours: Any, theirs: Any) -> None:
    """Raise where the results of a call differ."""
    import numpy as np

    several = isinstance(ours, list | tuple)
    for a, b in zip(ours, theirs, strict=True) if several else [(ours, theirs)]:
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-5, err_msg=name)


def measure(name: str, quick: bool) -> dict[str, tuple[float, float]]:
    """By call, the microseconds of a bridge and of its framework, in a process of its own.

    Raises:
        RuntimeError: It cannot be measured here.
    """
    own = BRIDGES[name].environment
    python = str(ROOT / own / "bin" / "python") if own else sys.executable
    command = [python, str(ROOT / "tools" / "bridges.py"), name, *["--quick"] * quick]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip().splitlines()[-1:]}")
    return {call: tuple(times) for call, times in json.loads(run.stdout).items()}


def table(measured: Mapping[str, Mapping[str, tuple[float, float]]]) -> list[list[str]]:
    """The lines of the table, by bridge and call."""
    return [
        [
            name,
            call,
            f"{ours:.0f}",
            f"{theirs:.0f}",
            f"{ours - theirs:+.0f}",
            f"{ours / theirs:.2f}",
        ]
        for name, calls in measured.items()
        for call, (ours, theirs) in calls.items()
    ]


def main(name: str, quick: bool) -> None:
    """Measure a bridge here, and print what it took."""
    found = {}
    for batch in BATCHES[: 1 if quick else None]:
        for call, (ours, theirs) in BRIDGES[name].calls(batch).items():
            compare(call, ours(), theirs())
            times = microseconds(ours, theirs, 0.05 if quick else 3)
            found[f"{call}, batch {batch}"] = times
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1], "--quick" in sys.argv)
