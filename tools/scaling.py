"""What a step costs that workers on this machine share: the table of docs/parallel.md.

python tools/scaling.py    # with Ray: in .venv-ray, see `make ray`
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import onnx
import ray

import onnxgrad as og
from onnxgrad import parallel

BATCH, STEPS, ROUNDS = 64, 8, 5
WIDTHS = {0.1: 256, 1: 960, 10: 3136}  # by millions of weights, the width of two layers


def net(width: int) -> onnx.ModelProto:
    """Two layers of a width; all but 11 numbers for each unit are the weights between them."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        net (float[N, 10] x) => (float[N, 1] y) {
            a = Gemm(x, u)  b = Tanh(a)  c = Gemm(b, v)  d = Tanh(c)  y = Gemm(d, w) }""")
    for name, shape in {"u": (10, width), "v": (width, width), "w": (width, 1)}.items():
        array = rng.standard_normal(shape, dtype=np.float32) / np.float32(width) ** 0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def milliseconds(model: onnx.ModelProto, workers: int) -> float:
    """The time of a step in the middle of an epoch; without workers that of the trainer alone."""
    trainer = og.train.Trainer(model, og.losses.mse(), og.train.SGD(), threads=1)
    x = np.ones((BATCH, 10), np.float32)
    begun: list[float] = []

    class Timed:
        def __iter__(self):
            for _ in range(STEPS + 2):
                begun.append(time.perf_counter())
                yield x, x[:, :1]

    if workers:
        parallel.ray.fit(trainer, Timed(), 1, workers=workers)
    else:
        trainer.fit(Timed(), 1)
    return 1e3 * statistics.median(np.diff(begun)[1:])


def main() -> None:
    """Print the table; the kinds take turns, so that what else the machine does meets all."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    print("| weights | exchanged by each of 2 | trainer alone | 1 worker | 2 workers |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for millions, width in WIDTHS.items():
        model, found = net(width), {0: [], 1: [], 2: []}
        for _ in range(ROUNDS):
            for workers, times in found.items():
                times.append(milliseconds(model, workers))
        alone, one, two = (statistics.median(times) for times in found.values())
        sent = 4 * (width * width + 11 * width) / 1e6
        times = " | ".join(f"{number:.1f} ms" for number in (alone, one, two))
        print(f"| {millions:g} million | {sent:.1f} MB | {times} |")


if __name__ == "__main__":
    main()
