"""Figures that compare the package with itself: building, sessions, memory, calls, other orders.

Each runs in a worker process of its own; see tools/contenders.py.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FIGURES: dict[str, Callable[..., dict[str, Any]]] = {}


def figure(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """List a figure; its docstring is its title."""
    FIGURES[function.__name__] = function
    return function


def _seconds(call: Callable[[], Any], times: int = 3) -> float:
    """The least CPU time of a call."""
    found = []
    for _ in range(times):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def _interleaved(
    calls: dict[str, Callable[[], Any]], seconds: float, quantile: float = 0.5
) -> dict[str, float]:
    """The median CPU time of each call, one after the other in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(found.values()))) < 3:
        for name, call in calls.items():
            found[name].append(_seconds(call, 1))
    return {name: float(np.quantile(times, quantile)) for name, times in found.items()}


def _run(model: Any, seed: int = 0, **feeds: np.ndarray) -> Callable[[], Any]:
    """A call of onnxruntime on a model, on one thread; inputs that are not given are random."""
    import onnx_ir as ir
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    text = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)
    for value in session.get_inputs():
        if value.name not in feeds:
            feeds[value.name] = rng.standard_normal(value.shape, dtype=np.float32)
    return lambda: session.run(None, feeds)


@figure
def building(quick: bool = False) -> dict[str, Any]:
    """Seconds to build a gradient (CPU time)."""
    import nets

    import onnxgrad as og

    found = {}
    for name in ("mlp",) if quick else ("resnet50", "bert"):
        model = nets.NETS[name]()
        weights = [v for v in model.graph.initializers if v.endswith((".weight", ".bias"))]
        found[f"{name}, input"] = _seconds(lambda model=model: og.gradient(model))
        found[f"{name}, parameters"] = _seconds(lambda m=model, w=weights: og.gradient(m, w))
    for nodes in (100, 200) if quick else (1_000, 5_000, 10_000, 20_000):
        model = nets.chain(nodes)
        found[f"chain of {nodes:,} nodes"] = _seconds(lambda model=model: og.gradient(model), 1)
    return found


@figure
def sessions(quick: bool = False) -> dict[str, Any]:
    """Seconds to make a session of onnxruntime (CPU time)."""
    import nets

    import onnxgrad as og

    found = {}
    for name in ("mlp",) if quick else ("resnet50", "bert"):
        model = nets.NETS[name]()
        weights = [v for v in model.graph.initializers if v.endswith((".weight", ".bias"))]
        found[f"{name}, forward"] = _seconds(lambda model=model: _run(model), 1)
        for kind, wrt in (("input", None), ("parameters", weights)):
            gradient = og.gradient(model, wrt, forward=False)
            found[f"{name}, {kind}"] = _seconds(lambda model=gradient: _run(model), 1)
    return found


def _resident() -> float:
    """Memory in use, in MB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _in_child(work: Callable[[], float]) -> float:
    """How much `work`'s memory is above that of before, in a process forked for it alone."""
    here, there = os.pipe()
    if not os.fork():
        try:
            before = _resident()
            os.write(there, repr(work() - before).encode())
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(here) as answer:
        return float(answer.read())


@figure
def sharing(quick: bool = False) -> dict[str, Any]:
    """Memory in use by a forward and a gradient session, in MB."""
    import nets
    import onnxruntime  # noqa: F401  its own size does not count

    import onnxgrad as og

    name = "mlp" if quick else "bert"
    model = nets.NETS[name]()
    x = model.graph.inputs[0]
    value = np.ones([int(d) for d in x.shape], np.float32)  # type: ignore[union-attr]

    def shared(gradient: bool = True) -> float:
        net = og.Net(model, threads=1)
        net(value)
        if gradient:
            net(value, og.NetPortGradient(x.name))
        return _resident()

    def apart() -> float:
        calls = [_run(m, **{x.name: value}) for m in (model, og.gradient(model))]
        for call in calls:
            call()
        return _resident()

    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values()) / 1e6
    return {
        f"weights of {name}": weights,
        "Net, forward only": _in_child(lambda: shared(False)),
        "Net, forward and input gradient": _in_child(shared),
        "two plain sessions": _in_child(apart),
    }


@figure
def checkpoints(quick: bool = False) -> dict[str, Any]:
    """Memory in use after a gradient of all parameters, in MB, and its CPU time in seconds."""
    import nets

    import onnxgrad as og

    sizes = {"layers": 2, "width": 64, "batch": 2} if quick else {"width": 256, "batch": 32}
    model = nets.NETS["bert"](**sizes)
    weights = [v for v in model.graph.initializers if v.endswith((".weight", ".bias"))]
    found = {}
    for title, kept in (("everything kept", False), ("checkpoints=True", True)):
        gradient = og.gradient(model, weights, forward=False, checkpoints=kept)

        def used(gradient: Any = gradient) -> float:
            call = _run(gradient)
            call()
            call()
            return _resident()

        found[f"encoder, batch {sizes['batch']}, {title}, MB"] = _in_child(used)
        found[f"encoder, batch {sizes['batch']}, {title}, s"] = _seconds(_run(gradient))
    return found


@figure
def calls(quick: bool = False) -> dict[str, Any]:
    """What a call of Net costs, on the MLP (microseconds of CPU time)."""
    import nets

    import onnxgrad as og

    model, x = nets.mlp(), np.ones((1, 64), np.float32)
    net, request = og.Net(model, threads=1), og.NetPortGradient("x")
    plain = {
        "onnxruntime, forward": _run(model, x=x),
        "onnxruntime, gradient": _run(og.gradient(model, forward=False), x=x),
    }
    own = {"Net, forward": lambda: net(x), "Net, gradient": lambda: net(x, request)}
    own["Net.bind, gradient"] = net.bind(x, request)

    def many(call: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: [call() for _ in range(200)]

    timed = {name: many(call) for name, call in {**plain, **own}.items()}
    found = _interleaved(timed, 0.2 if quick else 5)
    found = {name: seconds / 200 * 1e6 for name, seconds in found.items()}
    for kind in ("forward", "gradient"):
        found[f"Net adds, {kind}"] = found[f"Net, {kind}"] - found[f"onnxruntime, {kind}"]
    floor = 2 * found["onnxruntime, forward"]
    for who in ("onnxruntime", "Net", "Net.bind"):
        found[f"{who}, gradient, over the floor"] = found[f"{who}, gradient"] / floor
    return found


@figure
def orders(quick: bool = False) -> dict[str, Any]:
    """Other transforms, on one thread (CPU time over that of the one named)."""
    import nets

    import onnxgrad as og

    found: dict[str, Any] = {}
    sizes: dict[str, dict[str, Any]] = {
        "lstm": {"steps": 16 if quick else 256},
        "bert": {"layers": 1 if quick else 2},
        "unet": {"size": 16 if quick else 64},
    }
    for name, options in sizes.items():
        model = nets.NETS[name](**options)
        models = {"forward": model, "gradient": og.gradient(model, forward=False)}
        for transform in (og.hvp, og.jvp):
            try:
                models[transform.__name__] = transform(model, forward=False)
            except og.OnnxGradError as error:
                found[f"{name}, {transform.__name__}"] = str(error)[:120]
        timed = {kind: _run(m) for kind, m in models.items()}
        took = _interleaved(timed, 0.2 if quick else 5)
        found[f"{name}, gradient / forward"] = took["gradient"] / took["forward"]
        if "hvp" in took:
            found[f"{name}, hvp / gradient"] = took["hvp"] / took["gradient"]
        if "jvp" in took:
            found[f"{name}, jvp / forward"] = took["jvp"] / took["forward"]
    return found


@figure
def recurrent(quick: bool = False) -> dict[str, Any]:
    """The backward pass of 256 recurrent steps alone, on one thread (CPU time over the forward's).

    It is the gradient's file less its forward node.
    """
    import nets

    import onnxgrad as og

    operators: dict[str, dict[str, Any]] = {
        "LSTM": {"operator": "LSTM", "gates": 4},
        "LSTM, bidirectional": {"operator": "LSTM", "gates": 4, "direction": "bidirectional"},
        "GRU": {"operator": "GRU", "gates": 3},
        "GRU, linear before reset": {"operator": "GRU", "gates": 3, "linear_before_reset": 1},
        "RNN": {"operator": "RNN", "gates": 1},
    }
    steps, batches, widths = (4, (1,), (8,)) if quick else (256, (1, 8), (64, 128))
    rng = np.random.default_rng(0)
    found = {}
    for name, options in operators.items():
        for batch, width in ((b, w) for w in widths for b in batches):
            model = nets.recurrent(width=width, **options)
            directions = 1 + ("direction" in options)
            feeds = {
                "x": rng.standard_normal((steps, batch, width), dtype=np.float32),
                "y_ograd": rng.standard_normal((steps, directions, batch, width), dtype=np.float32),
            }
            timed = {"forward": _run(model, x=feeds["x"])}
            for kind, wrt in (("input", ["x"]), ("all operands", ["x", "W", "R", "B"])):
                timed[kind] = _run(og.gradient(model, wrt, ograd=True, forward=False), **feeds)
            took = _interleaved(timed, 0.1 if quick else 3, quantile=0)
            for kind in list(timed)[1:]:
                cell = f"{name}, batch {batch}, width {width}, {kind}"
                found[cell] = took[kind] / took["forward"] - 1
    return found


@figure
def jacobians(quick: bool = False) -> dict[str, Any]:
    """A Jacobian of m rows, over m gradients (CPU time)."""
    import nets

    import onnxgrad as og

    found = {}
    for name, make in (("mlp", nets.mlp), ("unet", lambda: nets.unet(size=16))):
        if quick and name != "mlp":
            continue
        model = make()
        for rows in (2, 5, 10):
            head = _first(model, rows)
            gradient = og.gradient(head, ograd=True, forward=False)
            timed = {"g": _run(gradient), "j": _run(og.jacobian(head, mode="reverse"))}
            took = _interleaved(timed, 0.2 if quick else 3)
            found[f"{name}, m = {rows}"] = took["j"] / (rows * took["g"])
    return found


def _first(model: Any, rows: int) -> Any:
    """The net with the first elements of its output as the only output."""
    import onnx_ir as ir

    from onnxgrad.emit.builder import Builder

    model = model.clone()
    op = Builder(model.graph)
    op.scope = "head"
    flat = op.Reshape(op.tensor(model.graph.outputs[0]), op.const([-1]))
    head = op.Slice(flat, op.const([0]), op.const([rows]))
    model.graph.outputs.clear()
    head.value.name = "head"
    head.value.shape = ir.Shape([rows])
    model.graph.outputs.append(head.value)
    return model
