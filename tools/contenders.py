"""What the benchmark compares, and the process that each contender runs in.

As a script this is a worker: it reads one JSON command a line and answers with one JSON line. In
between it sleeps, blocked on its pipe. It runs in the contender's own Python environment, so peers
are imported only where they are used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx

# A sample takes at least this long, so that the clock's own cost does not count.
_SAMPLE_SECONDS = 0.002
# A call that takes as long is not repeated to warm anything.
_LONG_SECONDS = 1.0


class Contender:
    """A way to compute the gradient of a net, or an explanation.

    Args:
        task: `net` (its name), `model` (the net's file), `weights` (an .npz file of what it
            learns), `file` (where the gradient's file goes), `feeds` (an .npz file of the inputs,
            with the output gradient under "ograd" if one is imposed), `wrt` (names of tensors),
            `output` (name of the output), `kind` (what is computed), `rows` (the most rows that
            an explanation computes at a time, or None), `threads`.
    """

    label: ClassVar[str]
    environment: ClassVar[str] = ""  # the folder of its own Python environment, if it needs one
    package: ClassVar[str]  # what has to be importable
    options: Mapping[str, Any] = {}  # of a session of onnxruntime

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        feeds = dict(np.load(task["feeds"]))
        self.ograd: np.ndarray | None = feeds.pop("ograd", None)
        self.feeds: dict[str, np.ndarray] = feeds

    def build(self) -> onnx.ModelProto | None:
        """The gradient's model, or None where there is no such thing."""
        return None

    def open(self) -> Callable[[], Mapping[str, Any]]:
        """Everything before the first call; returns the call. Its results are by tensor name."""
        raise NotImplementedError

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What a call returned, as arrays of the tensors' shapes."""
        return {name: np.asarray(value) for name, value in results.items()}

    def session(self, path: str, outputs: list[str] | None, names: list[str], **feeds: Any) -> Any:
        """A call of onnxruntime with its default options, but for `self.options`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.task["threads"]
        options.log_severity_level = 3
        for name, value in self.options.items():
            if "." in name:
                options.add_session_config_entry(name, value)
            else:
                setattr(options, name, value)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = self.feeds | feeds
        return lambda: dict(zip(names, session.run(outputs, given), strict=True))


class Forward(Contender):
    """onnxruntime on the net itself: the unit of the floor."""

    label, package = "forward", "onnxruntime"

    def open(self) -> Any:
        return self.session(self.task["model"], [self.task["output"]], ["forward"])

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {}


class OnnxGrad(Contender):
    """This package, its file run on onnxruntime as docs/deploy.md says."""

    label, package = "onnxgrad", "onnxruntime"
    options: Mapping[str, Any] = {"enable_mem_pattern": False, "enable_mem_reuse": False}

    def build(self) -> onnx.ModelProto:
        import onnxgrad

        imposed = self.ograd is not None
        return onnxgrad.gradient(self.task["model"], self.task["wrt"], ograd=imposed, forward=False)

    def open(self) -> Any:
        # No such name is taken in these nets.
        names = [f"{name}_grad" for name in self.task["wrt"]]
        seeds = {} if self.ograd is None else {f"{self.task['output']}_ograd": self.ograd}
        if self._packing_is_for_nothing():
            self.options = {**self.options, "session.disable_prepacking": "1"}
        call = self.session(self.task["file"], names, self.task["wrt"], **seeds)
        if sys.platform == "linux":
            getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
        return call

    def _packing_is_for_nothing(self) -> bool:
        """Whether a second copy of large weights makes products no faster, as with 512 rows."""
        rows = math.prod(next(iter(self.feeds.values())).shape[:2])
        return rows >= 512 and Path(self.task["file"]).stat().st_size > 2**28


class ThroughNet(Contender):
    """This package's `Net`, which builds the gradient itself."""

    label, package = "Net", "onnxruntime"

    def open(self) -> Any:
        import onnxgrad as og

        net = og.Net(self.task["model"], threads=self.task["threads"])
        feeds: dict[Any, Any] = dict(self.feeds)
        if self.ograd is not None:
            feeds[og.NetPortGradient(self.task["output"])] = self.ograd
        request = [og.NetPortGradient(name) for name in self.task["wrt"]]
        return lambda: net(feeds, request)


def with_saved_outputs(graph: onnx.GraphProto) -> None:
    """Add the outputs that onnxruntime-training's rules ask for, and that need not be there."""
    for k, node in enumerate(graph.node):
        wanted = {"LayerNormalization": 3, "SoftmaxCrossEntropyLoss": 2}.get(node.op_type, 0)
        node.output.extend(f"saved_{k}_{n}" for n in range(len(node.output), wanted))


def without_flatten(graph: onnx.GraphProto) -> None:
    """Make each Flatten a Reshape, which does the same behind a pooling."""
    flat = onnx.numpy_helper.from_array(np.array([0, -1]), "bench_flat")
    for node in [n for n in graph.node if n.op_type == "Flatten"]:
        node.op_type = "Reshape"
        del node.attribute[:]
        node.input.append(flat.name)
    graph.initializer.append(flat)


class Training(Contender):
    """The gradient builder of onnxruntime-training, run by its own runtime."""

    label, package, environment = "onnxruntime-training", "onnxruntime", ".venv-training"

    def build(self) -> onnx.ModelProto:
        from onnxruntime.capi import _pybind_state as state

        model, output, wrt = onnx.load(self.task["model"]), self.task["output"], self.task["wrt"]
        graph = model.graph
        with_saved_outputs(graph)
        loss = output
        if self.ograd is not None:
            loss = "bench_loss"
            seed = onnx.helper.make_tensor_value_info("bench_ograd", 1, self.ograd.shape)
            graph.input.append(seed)
            graph.node.append(onnx.helper.make_node("Mul", [output, seed.name], ["bench_dot"]))
            graph.node.append(onnx.helper.make_node("ReduceSum", ["bench_dot"], [loss], keepdims=0))
            graph.output.append(onnx.helper.make_tensor_value_info(loss, 1, []))
        builder = state.GradientGraphBuilder(model.SerializeToString(), {loss}, set(wrt), loss)
        builder.build()
        built = onnx.load_from_string(builder.get_model())
        del built.graph.output[:]
        infos = [onnx.helper.make_tensor_value_info(f"{name}_grad", 1, None) for name in wrt]
        built.graph.output.extend(infos)
        return built

    def open(self) -> Any:
        wrt = self.task["wrt"]
        seeds = {} if self.ograd is None else {"bench_ograd": self.ograd}
        return self.session(self.task["file"], [f"{name}_grad" for name in wrt], wrt, **seeds)


class OnnxAd(Contender):
    """onnx-ad, for inputs only: it does not differentiate with respect to parameters."""

    label, package = "onnx-ad", "onnx_ad"

    def build(self) -> onnx.ModelProto:
        import onnx_ad

        model, wrt = onnx.load(self.task["model"]), self.task["wrt"]
        known = {value.name for value in model.graph.input}
        if not known.issuperset(wrt):
            raise NotImplementedError("inputs only")
        built = onnx_ad.reverse(model, inputs=wrt, layout="onnx", prefix="adj_")
        keep = [value for value in built.graph.output if value.name.startswith("adj_")]
        del built.graph.output[:]
        built.graph.output.extend(keep)
        return built

    def open(self) -> Any:
        wrt, output = self.task["wrt"], self.task["output"]
        seed = np.ones((), np.float32) if self.ograd is None else self.ograd
        feeds = {f"adj_{output}": seed[..., None]}
        return self.session(self.task["file"], [f"adj_{name}" for name in wrt], wrt, **feeds)

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: value[..., 0] for name, value in results.items()}


class OnnxSim(Contender):
    """onnxsim's backward pass, which knows 46 operators; a Flatten is given it as a Reshape."""

    label, package, environment = "onnxsim", "onnxsim", ".venv-onnxsim"
    opset: ClassVar[int] = 17  # that of the nodes that it emits

    def build(self) -> onnx.ModelProto:
        from onnxsim import graph_grad, qat_graph

        model = onnx.load(self.task["model"])
        without_flatten(model.graph)
        model = onnx.version_converter.convert_version(model, self.opset)
        graph, output = (
            onnx.shape_inference.infer_shapes(model, data_prop=True).graph,
            "bench_ograd",
        )
        known = (*graph.input, *graph.value_info, *graph.output)
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known}
        shapes |= {t.name: list(t.dims) for t in graph.initializer}
        builder, wrt = qat_graph.GraphBuilder(prefix="bench_"), self.task["wrt"]
        seed = builder.const(1.0) if self.ograd is None else output
        of = {self.task["output"]: seed}
        found = graph_grad.build_backward(builder, graph.node, shapes, of, wrt)
        if self.ograd is not None:
            value = onnx.helper.make_tensor_value_info(output, 1, self.ograd.shape)
            model.graph.input.append(value)
        model.graph.node.extend(builder.nodes)
        model.graph.initializer.extend(builder.initializer)
        model.functions.extend(builder.functions)
        domains = {f.domain for f in builder.functions}
        model.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in domains)
        del model.graph.output[:]
        for name in wrt:
            model.graph.node.append(
                onnx.helper.make_node("Identity", [found[name]], [f"{name}_grad"])
            )
            model.graph.output.append(onnx.helper.make_tensor_value_info(f"{name}_grad", 1, None))
        model.ir_version = 8
        return model

    def open(self) -> Any:
        wrt = self.task["wrt"]
        seeds = {} if self.ograd is None else {"bench_ograd": self.ograd}
        return self.session(self.task["file"], [f"{name}_grad" for name in wrt], wrt, **seeds)


class Torch(Contender):
    """PyTorch's autograd on a twin of the net."""

    label, package = "torch", "torch"

    def compiled(self, twin: Callable[..., Any]) -> Callable[..., Any]:
        return twin

    def open(self) -> Any:
        import torch
        import twins

        torch.set_num_threads(self.task["threads"])
        weights = {k: torch.from_numpy(v) for k, v in np.load(self.task["weights"]).items()}
        weights = twins.to_torch(weights)
        inputs = {k: torch.tensor(v) for k, v in self.feeds.items()}
        wanted = inputs if set(self.task["wrt"]) <= set(inputs) else weights
        wanted = {k: v.requires_grad_() for k, v in wanted.items() if v.is_floating_point()}
        seed = None if self.ograd is None else torch.tensor(self.ograd)
        twin = self.compiled(twins.TWINS[self.task["net"]])
        tensors = list(wanted.values())

        def call() -> dict[str, Any]:
            y = twin(weights, *inputs.values())
            return dict(zip(wanted, torch.autograd.grad(y, tensors, seed), strict=True))

        self.back = twins.to_onnx
        return call

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.back(dict(results)).items()}


class Compiled(Torch):
    """torch.compile on that twin."""

    label = "torch.compile"

    def compiled(self, twin: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        return torch.compile(twin, dynamic=False)


CONTENDERS: dict[str, type[Contender]] = {
    c.label: c for c in (Forward, OnnxGrad, ThroughNet, Torch, Compiled, Training, OnnxAd, OnnxSim)
}


# -- explanations ----------------------------------------------------------------------------------

STEPS, TARGET = 50, 1


class Explained(Contender):
    """This package's explanation, its file run on onnxruntime."""

    label, package = "onnxgrad", "onnxruntime"

    def build(self) -> onnx.ModelProto:
        from onnxgrad import explain

        model, options = self.task["model"], {"target": TARGET, "forward": False}
        if self.task["kind"] == "integrated gradients":
            rows = self.task["rows"]
            return explain.integrated_gradients(
                model, n_steps=STEPS, internal_batch_size=rows, **options
            )
        if self.task["net"] == "resnet50":
            return explain.grad_cam(model, **options)
        tokens, layers = next(iter(self.feeds.values())).shape[1], self.task["layers"]
        places = {"tokens": (1, tokens), "class_tokens": 0}
        return explain.grad_cam(model, f"layer{layers - 2}", **places, **options)

    def open(self) -> Any:
        return self.session(self.task["file"], None, ["attribution"])

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Maps as rows of places: captum has an axis of one channel."""
        return {name: np.asarray(t).reshape(len(t), -1) for name, t in results.items()}


class Captum(Explained):
    """Captum on a twin of the net."""

    label, package = "captum", "captum"

    def build(self) -> None:
        return None

    def open(self) -> Any:
        import torch
        import twins
        from captum.attr import IntegratedGradients, LayerGradCam

        torch.set_num_threads(self.task["threads"])
        weights = {k: torch.from_numpy(v) for k, v in np.load(self.task["weights"]).items()}
        net = twins.in_parts(self.task["net"], weights)
        (x,) = (torch.tensor(v) for v in self.feeds.values())
        if self.task["kind"] == "integrated gradients":
            options = {"n_steps": STEPS, "internal_batch_size": self.task["rows"]}
            attribute = functools.partial(IntegratedGradients(net).attribute, **options)
        else:
            x.requires_grad_()  # or nothing that a net without Parameters computes has a gradient
            cam = LayerGradCam(net, net[0])
            attribute = functools.partial(cam.attribute, relu_attributions=True)
        return lambda: {"attribution": attribute(x, target=TARGET).detach()}


EXPLAINERS: dict[str, type[Contender]] = {c.label: c for c in (Explained, Captum)}
EXPLANATIONS = ("integrated gradients", "Grad-CAM")


def contender_of(label: str, kind: str) -> type[Contender]:
    """Who is called so where this kind of thing is computed."""
    if kind == "training":
        from steps import STEPPERS

        return STEPPERS[label]
    if kind == "real":
        from real import READERS

        return READERS[label]
    return (EXPLAINERS if kind in EXPLANATIONS else CONTENDERS)[label]


# -- the worker ------------------------------------------------------------------------------------


def _memory(key: str) -> float:
    """An entry of this process's status, in MB; not everywhere is there one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


class Worker:
    """Answers to the commands, one method each."""

    def __init__(self) -> None:
        self.contender: Contender
        self.call: Callable[[], Mapping[str, Any]]
        self.results: Mapping[str, Any] = {}
        self.calls, self.took = 1, 0.0

    def build(self, label: str, **task: Any) -> dict[str, Any]:
        """Build and write the gradient's file. Imports do not count."""
        contender = contender_of(label, task["kind"])(task)
        ours = ("onnxgrad.rules", "onnxgrad.transforms.lower", "onnxgrad.transforms.gradient")
        for module in ours if label in ("onnxgrad", "Net") else [contender.package]:
            importlib.import_module(module)
        start, cpu = time.perf_counter(), time.process_time()
        model = contender.build()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        if model is None:
            return {}
        onnx.save(model, task["file"])
        size = Path(task["file"]).stat().st_size / 1e6
        return {"build": seconds, "build_cpu": cpu, "nodes": len(model.graph.node), "file": size}

    def open(self, label: str, **task: Any) -> dict[str, Any]:
        """Load, and run for the first time."""
        self.contender = contender_of(label, task["kind"])(task)
        start = time.perf_counter()
        self.call = self.contender.open()
        opened = time.perf_counter()
        self.results = self.call()
        first = time.perf_counter()
        self.took = first - opened
        if self.took < _LONG_SECONDS:
            self.call()
            self.took = time.perf_counter() - first
        self.calls = max(1, round(_SAMPLE_SECONDS / self.took))
        return {"open": opened - start, "first": first - opened}

    def gradients(self, path: str) -> dict[str, Any]:
        """Write the results of the first run to an .npz file."""
        results = self.contender.gradients(self.results)
        np.savez(path, **results)
        return {"names": list(results)}

    def time(self, seconds: float) -> dict[str, Any]:
        """Samples of the time of a call, on the process's clock and on the wall's."""
        if self.took < _LONG_SECONDS:
            self.call()
        cpu, wall = [], []
        end = time.perf_counter() + seconds
        while not cpu or time.perf_counter() < end:
            start, used = time.perf_counter(), time.process_time()
            for _ in range(self.calls):
                self.call()
            cpu.append((time.process_time() - used) / self.calls)
            wall.append((time.perf_counter() - start) / self.calls)
        return {"cpu": cpu, "wall": wall}

    def memory(self) -> dict[str, Any]:
        """The highest use of memory so far, and while a call runs."""
        whole = _memory("VmHWM")
        _forget_peak()
        self.call()
        return {"peak": whole, "running": _memory("VmHWM")}

    def figure(self, name: str, **options: Any) -> dict[str, Any]:
        """One of the figures of tools/figures.py."""
        import figures

        return figures.FIGURES[name](**options)


def serve(worker: Any) -> None:
    """Answer commands, by the methods of their names, until the pipe closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # whatever a peer raises is a result: it cannot do this net
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    serve(Worker())
