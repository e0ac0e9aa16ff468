"""This package's side: gradients in their ways, on onnxruntime."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gpu.plan import Way

CPU = "CPUExecutionProvider"


def halved(model: onnx.ModelProto) -> None:
    """Make a net of float32 one of float16: its inputs, weights, constants and outputs."""
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    constants = [a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))


class Ours:
    """A way of this package to compute a gradient, or onnxruntime's way to run the net."""

    def __init__(self, way: Way, task: Mapping[str, Any]) -> None:
        self.way, self.task = way, task
        self.on_gpu = task["device"] == "cuda"
        if self.on_gpu:
            import onnxruntime
            import torch  # noqa: F401  brings the libraries of CUDA

            onnxruntime.preload_dlls()
        self.half = task["precision"] == "float16"
        dtype = np.float16 if self.half else np.float32
        feeds = {k: v.astype(dtype) if v.dtype == np.float32 else v
                 for k, v in np.load(task["feeds"]).items()}  # fmt: skip
        self.seed = feeds.pop("ograd", None)
        self.feeds, self.dtype = feeds, dtype
        self.names = list(task["wrt"])

    def build(self) -> dict[str, Any]:
        """Build what is run, in memory."""
        import onnxgrad
        from onnxgrad.emit import targets

        self.model = onnx.load(self.task["model"])
        if self.half:
            halved(self.model)
        start = time.perf_counter()
        if self.way.target and self.way.arrays != "net":
            trial = replace(targets.target_of(self.way.target), **self.way.changes)
            targets._TARGETS["trial"] = trial
            given: Any = {"ograd": self.seed is not None, "forward": False, "target": "trial"}
            self.model = onnxgrad.gradient(self.model, self.names, **given)
        return {"build": time.perf_counter() - start, "nodes": len(self.model.graph.node)}

    def providers(self) -> list[Any]:
        """onnxruntime's providers, in order of preference."""
        if not self.on_gpu:
            return [CPU]
        tf32 = str(int(self.task["precision"] == "tf32"))
        cuda = ("CUDAExecutionProvider", {"use_tf32": tf32, **self.way.options})
        if self.way.provider == cuda[0]:
            return [cuda, CPU]
        own = {"trt_fp16_enable": str(int(self.half)), "trt_engine_cache_enable": "0"}
        return [(self.way.provider, own), cuda, CPU]

    def session(self, **options: Any) -> Any:
        """The loaded model.

        Raises:
            RuntimeError: onnxruntime has quietly left out the provider.
        """
        import onnxruntime

        given = onnxruntime.SessionOptions()
        given.log_severity_level = 3
        given.intra_op_num_threads = self.task["threads"]
        for name, value in options.items():
            setattr(given, name, value)
        providers = self.providers()
        model = self.model.SerializeToString()
        session = onnxruntime.InferenceSession(model, given, providers=providers)
        wanted = providers[0][0] if self.on_gpu else CPU
        if session.get_providers()[0] != wanted:
            raise RuntimeError(f"onnxruntime left out {wanted}: {session.get_providers()}")
        return session

    def open(self) -> Callable[[], Any]:
        """Load; returns the call."""
        if self.way.arrays == "net":
            return self._bound_net()
        session, feeds = self.session(), dict(self.feeds)
        if self.way.target and self.seed is not None:
            feeds[f"{self.task['output']}_ograd"] = self.seed
        outputs = [f"{n}_grad" for n in self.names] if self.way.target else [self.task["output"]]
        if self.way.arrays == "host":
            return lambda: session.run(outputs, feeds)
        binding, results = self._bind(session, feeds, outputs)

        def call() -> Any:
            session.run_with_iobinding(binding)
            return results

        return call

    def _bind(self, session: Any, feeds: Mapping[str, Any], outputs: list[str]) -> tuple[Any, Any]:
        """Inputs and outputs at fixed places of the device."""
        import onnxruntime

        place, device = onnxruntime.OrtValue, self.task["device"]
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, place.ortvalue_from_numpy(array, device, 0))
        shapes = {port.name: port.shape for port in session.get_outputs()}
        results = [
            place.ortvalue_from_shape_and_type(shapes[n], self.dtype, device, 0) for n in outputs
        ]
        for name, value in zip(outputs, results, strict=True):
            binding.bind_ortvalue_output(name, value)
        return binding, results

    def _bound_net(self) -> Callable[[], Any]:
        import onnxgrad as og

        net = og.Net(self.model, providers=self.providers(), threads=self.task["threads"])
        feeds: dict[Any, Any] = dict(self.feeds)
        if self.seed is not None:
            feeds[og.NetPortGradient(self.task["output"])] = self.seed
        bound = net.bind(feeds, [og.NetPortGradient(name) for name in self.names])
        return lambda: list(bound().values())

    def numbers(self, results: Any) -> dict[str, np.ndarray]:
        """Gradients by name."""
        if not self.way.target:
            return {}
        arrays = [r if isinstance(r, np.ndarray) else r.numpy() for r in results]
        return dict(zip(self.names, arrays, strict=True))

    def profile(self) -> dict[str, Any]:
        """Which nodes ran on the CPU, and what was copied, in a run after the first."""
        prefix = str(Path(self.task["folder"]) / "profile")
        session = self.session(enable_profiling=True, profile_file_prefix=prefix)
        feeds = dict(self.feeds)
        if self.seed is not None:
            feeds[f"{self.task['output']}_ograd"] = self.seed
        for _ in range(2):
            session.run(None, feeds)
        return fallbacks(json.loads(Path(session.end_profiling()).read_text()))


def fallbacks(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a profile of two runs tells: nodes a run, those on the CPU, and copies between devices.

    Returns:
        `nodes` by provider; `cpu` and `copies`, by operator; and `share`, the part of the nodes'
        time that those on the CPU took.
    """
    runs, nodes, times = 2, Counter(), Counter()
    cpu: Counter[str] = Counter()
    copies: Counter[str] = Counter()
    for event in events:
        args = event.get("args", {})
        if event.get("cat") != "Node" or "provider" not in args or "op_name" not in args:
            continue
        provider, operator = args["provider"], args["op_name"]
        nodes[provider] += 1
        times[provider] += event["dur"]
        if operator.startswith("Memcpy"):
            copies[operator] += 1
        elif provider == CPU:
            cpu[operator] += 1

    def per_run(counts: Mapping[str, int]) -> dict[str, int]:
        return {name: count // runs for name, count in counts.items()}

    share = times[CPU] / max(1, sum(times.values()))
    return {"nodes": per_run(nodes), "cpu": per_run(cpu), "copies": per_run(copies), "share": share}
