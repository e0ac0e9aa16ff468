"""What is measured on a GPU, and in which order: the most telling first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

# By net, what it is made with in a quick run.
QUICK: dict[str, dict[str, Any]] = {
    "resnet50": {"size": 64},
    "mobilenet_v2": {"size": 64},
    "unet": {"size": 32},
    "bert": {"layers": 2, "width": 64, "tokens": 16},
    "gpt2": {"layers": 2, "width": 64, "tokens": 16},
    "lstm": {"steps": 8},
}
NETS = tuple(QUICK)
CONVOLUTIONS = ("resnet50", "mobilenet_v2", "unet")
TRANSFORMERS = ("bert", "gpt2")
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
BATCHES, QUICK_BATCHES = (1, 32), (1, 2)
PRECISIONS = ("tf32", "float16", "float32")


@dataclass(frozen=True)
class Cell:
    """A gradient: of which net, of what, and in which numbers."""

    net: str
    batch: int
    kind: str  # input or parameters
    precision: str

    def __str__(self) -> str:
        return f"{self.net}, batch {self.batch}, {self.kind}, {self.precision}"


@dataclass(frozen=True)
class Way:
    """A way to compute one.

    Attributes:
        library: The process that it runs in: onnxgrad, torch or torch.compile.
        target: What the file is built for; none for the net's own forward pass.
        changes: Fields of that target with other contents.
        provider, options: Of onnxruntime's CUDA provider, and other providers in front of it.
        arrays: Where inputs and results are: "device" or "host", or "net" for `Net.bind`.
        nets: Those that it is tried with.
        cuda: Whether there is no such thing without a GPU.
    """

    name: str
    library: str = "onnxgrad"
    target: str = "cuda"
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    provider: str = "CUDAExecutionProvider"
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    arrays: str = "device"
    nets: Sequence[str] = NETS
    cuda: bool = False


FORWARD = Way("forward", target="")
OURS = Way("onnxgrad")
TORCH, COMPILED = PEERS = (Way("torch", "torch"), Way("torch.compile", "torch.compile"))
TENSORRT = Way("TensorRT", provider="TensorrtExecutionProvider", cuda=True)

# Each is the way `onnxgrad` with one thing changed.
VARIANTS = (
    Way("target cpu", target="cpu"),
    Way("CUDA graph", options={"enable_cuda_graph": "1"}, cuda=True, nets=NETS[:-1]),
    Way("NHWC", options={"prefer_nhwc": "1"}, cuda=True, nets=CONVOLUTIONS),
    Way("arrays of the host", arrays="host"),
    Way("Net.bind", arrays="net", nets=("resnet50", "bert")),
    Way("product_masks", changes={"product_masks": True}, nets=CONVOLUTIONS),
    Way("flipped_filters", changes={"flipped_filters": True}, nets=CONVOLUTIONS),
    Way("one_hot_taps 0", changes={"one_hot_taps": 0}, nets=CONVOLUTIONS),
    Way("transposed_batch off", changes={"transposed_batch": False}, nets=CONVOLUTIONS),
    Way("windows_of_fewer off", changes={"windows_of_fewer": False}, nets=CONVOLUTIONS),
    Way("searched_window 4", changes={"searched_window": 4}, nets=("unet",)),
    Way("product_sums", changes={"product_sums": FLOATS}, nets=(*TRANSFORMERS, "lstm", "resnet50")),
    Way("transposed_rows", changes={"transposed_rows": True}, nets=(*TRANSFORMERS, "lstm")),
    Way("scan_from_batch 1", changes={"scan_from_batch": 1}, nets=("lstm",)),
    Way("cuDNN heuristic", options={"cudnn_conv_algo_search": "HEURISTIC"}, cuda=True,
        nets=CONVOLUTIONS),
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Ways that are compared in one cell, in turns."""

    cell: Cell
    ways: tuple[Way, ...]


def _cell(net: str, batch: int, kind: str, precision: str) -> Cell:
    # The inputs of a language model are integers.
    return Cell(net, batch, "parameters" if net == "gpt2" else kind, precision)


def _tried(cells: Sequence[Cell], at_once: int) -> Iterator[list[Job]]:
    """The package's variants, a few at a time, as each of them needs its memory."""
    fitting = {cell: [way for way in VARIANTS if cell.net in way.nets] for cell in cells}
    for start in range(0, max(map(len, fitting.values())), at_once):
        parts = {cell: tuple(ways[start : start + at_once]) for cell, ways in fitting.items()}
        yield [Job(cell, (OURS, *part)) for cell, part in parts.items() if part]


def _all(nets: Sequence[str], batches: tuple[int, int], together: int) -> Iterator[list[Job]]:
    small, large = batches
    most, least = (large, "parameters"), (small, "input")
    others = ((small, "parameters"), (large, "input"))
    both, compared, compiled = (most, least), (FORWARD, OURS, TORCH), (OURS, COMPILED)
    plan = [
        *((*which, "tf32", compared) for which in both),
        *((*which, "float16", compared) for which in both),
        *((*which, "tf32", VARIANTS) for which in both),
        *((*which, "tf32", compiled) for which in both),
        *((*which, "float16", compiled) for which in both),
        *((*which, "float32", compared) for which in both),
        *((*which, p, compared) for p in PRECISIONS for which in others),
        *((*which, "float16", (OURS, TENSORRT)) for which in both),
        *((*which, p, compiled) for p in PRECISIONS for which in others),
        *((*which, "float32", compiled) for which in both),
    ]
    for batch, kind, precision, ways in plan:
        for k in range(0, len(nets), together):
            cells = [_cell(net, batch, kind, precision) for net in nets[k : k + together]]
            if ways is VARIANTS:
                yield from _tried(cells, at_once=3)
            else:
                yield [Job(cell, ways) for cell in cells]


def waves(nets: Sequence[str], batches: tuple[int, int], together: int) -> Iterator[list[Job]]:
    """Jobs that are prepared at the same time, and then measured one by one.

    Args:
        batches: A small one and a large one.
        together: How many nets fit into the device's memory at the same time.
    """
    seen: set[Job] = set()
    for wave in _all(nets, batches, together):
        if fresh := [job for job in wave if job not in seen]:
            seen.update(fresh)
            yield fresh


WAYS = {way.name: way for way in (FORWARD, OURS, *PEERS, *VARIANTS, TENSORRT)}
