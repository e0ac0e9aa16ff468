"""The process of a contender on the device; it answers commands as tools/contenders.py does."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from contenders import serve  # noqa: E402

from gpu.plan import WAYS  # noqa: E402

# So many elements of a tensor are compared, evenly spread.
SAMPLED = 1 << 16
# A turn has so many calls at least, whatever they take.
CALLS = 3
# Of a profile, the kernels that take most.
KERNELS = 12


def sample(array: np.ndarray) -> np.ndarray:
    """Elements of a tensor, evenly spread."""
    return array.reshape(-1)[:: max(1, array.size // SAMPLED)].astype(np.float64)


class Worker:
    """Answers to the commands, one method each."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], Any]] = {}
        self.sides: dict[str, Any] = {}

    def device(self, name: str) -> dict[str, Any]:
        """What the device is, its memory in GB and the versions of what runs on it.

        Raises:
            RuntimeError: There is no such device, or onnxruntime is built for another.
        """
        import onnxruntime
        import torch

        versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        if name != "cuda":
            return {"name": "the CPU", "memory": 0.0, "versions": versions}
        known = onnxruntime.get_available_providers()
        if "CUDAExecutionProvider" not in known:
            raise RuntimeError(f"this onnxruntime has no CUDA provider: {known}")
        gpu = torch.cuda.get_device_properties(0)
        versions |= {"CUDA": torch.version.cuda, "driver's providers": ", ".join(known)}
        return {"name": gpu.name, "memory": gpu.total_memory / 1e9, "versions": versions}

    def open(self, label: str, path: str, reference: str = "", **task: Any) -> dict[str, Any]:
        """Build, load and run for the first time; write the results.

        Args:
            path, reference: Where the gradients go, and those in float32 if they are asked for.
        """
        way = WAYS[label]
        if way.library == "onnxgrad":
            from gpu.ours import Ours as Side
        else:
            from gpu.theirs import Theirs as Side
        side = Side(way, task)
        facts = side.build()
        start = time.perf_counter()
        call = side.open()
        facts["open"] = time.perf_counter() - start
        start = time.perf_counter()
        results = call()
        facts["first"] = time.perf_counter() - start
        np.savez(path, **{k: sample(v) for k, v in side.numbers(results).items()})
        if reference:
            np.savez(reference, **{k: sample(v) for k, v in side.reference().items()})
        self.calls[label], self.sides[label] = call, side
        return facts

    def time(self, label: str, seconds: float) -> dict[str, Any]:
        """The times of calls, each of which waits for the device."""
        call, times = self.calls[label], []
        call()
        end = time.perf_counter() + seconds
        while len(times) < CALLS or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return {"times": times}

    def profile(self, label: str) -> dict[str, Any]:
        """Which nodes ran on the CPU, and what was copied."""
        return self.sides[label].profile()

    def kernels(self, label: str) -> dict[str, Any]:
        """The GPU's kernels in a call that take most: name, milliseconds, number; and their sum."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            self.calls[label]()
        found = [e for e in profiler.key_averages() if e.self_device_time_total]
        found.sort(key=lambda event: -event.self_device_time_total)
        busy = sum(e.self_device_time_total for e in found) / 1e3
        most = [[e.key[:90], e.self_device_time_total / 1e3, e.count] for e in found[:KERNELS]]
        return {"busy_ms": busy, "kernels": sum(e.count for e in found), "most": most}

    def close(self) -> dict[str, Any]:
        """Give back what was opened."""
        self.calls.clear()
        self.sides.clear()
        gc.collect()
        if "gpu.theirs" in sys.modules:
            sys.modules["gpu.theirs"].free()
        return {}


if __name__ == "__main__":
    serve(Worker())
