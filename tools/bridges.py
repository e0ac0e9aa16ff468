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
A call of a bridge beside the framework's own function of the same net, or for scipy one that is
written by hand in numpy. The net is models/mlp.onnx: 403 weights in three layers, so small that the
time of a call is what is around the net. Results are compared first. Both are called in turns in
one process on one thread; the figure is the median CPU time of a call. The overhead is what the
bridge takes more; where it is negative the bridge is faster."""

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


@bridge(".venv-bridges")
def jax(batch: int) -> Calls:
    import jax
    import jax.numpy as jnp

    from onnxgrad import bridges

    net = bridges.jax.function(NET, threads=1)
    w = net.params

    def twin(x: Any, params: Any = w) -> Any:
        p = params.__getitem__
        h = jnp.tanh(x @ p("fc1.weight").T + p("fc1.bias"))
        h = jnp.maximum(h @ p("fc2.weight").T + p("fc2.bias"), 0)
        return h @ p("fc3.weight").T + p("fc3.bias")

    x = jax.random.normal(jax.random.key(0), (batch, 4))

    def calls(net: Any) -> list[Callable[[], Any]]:
        of_input = jax.grad(lambda x: net(x).sum())
        of_weights = jax.grad(lambda w: net(x, params=w).sum())
        second = jax.grad(lambda x: (of_input(x) ** 2).sum())
        given = [(net, x), (of_input, x), (lambda w: list(of_weights(w).values()), w), (second, x)]
        compiled = [(jax.jit(f), a) for f, a in given]
        return [lambda f=f, a=a: jax.block_until_ready(f(a)) for f, a in compiled]  # type: ignore[misc]

    names = ["forward", "gradient of the input", "gradient of the weights", "second order"]
    return dict(zip(names, zip(calls(net), calls(twin), strict=True), strict=True))


@bridge(".venv-bridges")
def pytensor(batch: int) -> Calls:
    import numpy as np
    import pytensor
    import pytensor.tensor as pt

    import onnxgrad as og
    from onnxgrad import bridges

    net = bridges.pytensor.op(NET)
    w = bridges.pytensor.op(NET, trainable=og.ALL).weights
    x = np.random.default_rng(0).standard_normal((batch, 4), np.float32)

    def twin(x: Any) -> Any:
        h = pt.tanh(x @ w["fc1.weight"].T + w["fc1.bias"])
        h = pt.maximum(h @ w["fc2.weight"].T + w["fc2.bias"], np.float32(0))
        return h @ w["fc3.weight"].T + w["fc3.bias"]

    def calls(net: Any) -> list[Callable[[], Any]]:
        given = pt.matrix(dtype="float32")
        y = net(given)
        first = pytensor.grad(y.sum(), given)
        second = pytensor.grad((first**2).sum(), given)
        compiled = [pytensor.function([given], z, trust_input=True) for z in (y, first, second)]
        return [lambda f=f: f(x) for f in compiled]  # type: ignore[misc]

    names = ["forward", "gradient of the input", "second order"]
    return dict(zip(names, zip(calls(net), calls(twin), strict=True), strict=True))


@bridge()
def art(batch: int) -> Calls:
    """Beside ART's own classifier of PyTorch's net."""
    import numpy as np
    import onnx
    import torch
    from art.estimators.classification import PyTorchClassifier
    from torch import nn

    from onnxgrad import bridges

    torch.set_num_threads(1)
    parts = [nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)]
    twin = nn.Sequential(*parts)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(NET).graph.initializer}
    names = [f"fc{k}.{kind}" for k in (1, 2, 3) for kind in ("weight", "bias")]
    values = [torch.tensor(weights[name]) for name in names]
    twin.load_state_dict(dict(zip(twin.state_dict(), values, strict=True)))
    loss = nn.CrossEntropyLoss(reduction="sum")
    ours = bridges.art.Classifier(NET, threads=1)
    theirs = PyTorchClassifier(twin, loss, (4,), 3, device_type="cpu")
    x = np.random.default_rng(0).standard_normal((batch, 4)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[np.arange(batch) % 3]
    return {
        "predict": (lambda: ours.predict(x, 256), lambda: theirs.predict(x, 256)),
        "loss_gradient": (
            lambda: ours.loss_gradient(x, y, batch_size=256),
            lambda: theirs.loss_gradient(x, y),
        ),
        "class_gradient": (
            lambda: ours.class_gradient(x, batch_size=256),
            lambda: theirs.class_gradient(x),
        ),
    }


@bridge()
def scipy(batch: int) -> Calls:
    """Beside the same function in numpy, written by hand."""
    import numpy as np
    import onnx

    import onnxgrad as og

    net = og.to_double(NET)
    held = {t.name: onnx.numpy_helper.to_array(t) for t in net.graph.initializer}
    (w1, b1), (w2, b2), (w3, b3) = ((held[f"fc{k}.weight"], held[f"fc{k}.bias"]) for k in (1, 2, 3))
    x = np.random.default_rng(0).standard_normal((batch, 4))
    f = og.bridges.scipy.objective(net, feeds={"input": x}, scalar=True, threads=1)

    def numpy(flat: Any) -> tuple[Any, Any]:
        one = np.tanh(flat.reshape(x.shape) @ w1.T + b1)
        two = one @ w2.T + b2
        value = np.maximum(two, 0) @ w3.T + b3
        slope = (w3.sum(0) * (two > 0)) @ w2
        return value.sum(), ((slope * (1 - one * one)) @ w1).ravel()

    flat = x.ravel()
    return {"value and gradient": (lambda: f(flat), lambda: numpy(flat))}


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
