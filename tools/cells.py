"""What a benchmark measures: nets with their weights and feeds, in files that workers read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contenders
import explanations
import nets
import numpy as np
import onnx
import onnx_ir as ir
import real
import training

# A name of the net, and what it takes: the larger batch, and the size that is symbolic there.
LARGE = {"resnet50": 8, "mobilenet_v2": 8, "bert": 4, "gpt2": 2, "unet": 8, "lstm": 16, "mlp": 256}
SYMBOLIC = {"lstm": ("steps", 256), "bert": ("tokens", 128)}


@dataclass(frozen=True)
class Cell:
    """One thing to measure."""

    net: str
    batch: int
    kind: str  # input, parameters, an explanation or training
    symbolic: bool = False
    rows: int | None = None  # the most that an explanation computes at a time

    def __str__(self) -> str:
        symbolic = ", symbolic" if self.symbolic else ""
        rows = "" if self.rows is None else f", {self.rows} rows at a time"
        return f"{self.net}, batch {self.batch}{symbolic}, {self.kind}{rows}"


def author(cell: Cell, folder: Path, seed: float = 1, **options: Any) -> dict[str, Any]:
    """Write the cell's net, its weights and its feeds; what the workers are told of them.

    Args:
        seed: How large the output's gradient is.
        options: What the net is made with, beside its batch.
    """
    if cell.kind == "real":
        return real.author(cell.net, folder)
    stem = folder / f"{cell.net}-{cell.batch}{'-symbolic' * cell.symbolic}"
    model, weights, feeds = f"{stem}.onnx", f"{folder}/{cell.net}.npz", f"{stem}.npz"
    if not Path(model).exists():
        sizes: dict[str, Any] = {"batch": cell.batch, **options}
        if cell.symbolic:
            sizes |= {SYMBOLIC[cell.net][0] if cell.net in SYMBOLIC else "batch": "N"}
        ir.save(nets.NETS[cell.net](**sizes), model)
    proto = onnx.load(model)
    learned = json.loads(next(m.value for m in proto.metadata_props if m.key == "weights"))
    if not Path(weights).exists():
        arrays = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        np.savez(weights, **{name: arrays[name] for name in learned})
    rng = np.random.default_rng(1)
    free = SYMBOLIC[cell.net][1] if cell.net in SYMBOLIC else cell.batch
    values = {v.name: _values(rng, v, free) for v in proto.graph.input}
    floats = [name for name, value in values.items() if value.dtype == np.float32]
    output = proto.graph.output[0]
    sizes_of_output = [d.dim_value for d in output.type.tensor_type.shape.dim]
    if cell.kind == "training":
        values["labels"] = rng.integers(0, sizes_of_output[1], sizes_of_output[0])
    elif sizes_of_output:  # a loss needs no output gradient
        values["ograd"] = _values(rng, output, free) * np.float32(seed)
    np.savez(feeds, **values)
    return {
        "net": cell.net,
        "model": model,
        "weights": weights,
        "feeds": feeds,
        "output": output.name,
        "wrt": learned if cell.kind in ("parameters", "training") else floats,
        "kind": cell.kind,
        "rows": cell.rows,
        "layers": options.get("layers"),
    }


def _values(rng: np.random.Generator, value: onnx.ValueInfoProto, free: int) -> np.ndarray:
    shape = [d.dim_value or free for d in value.type.tensor_type.shape.dim]
    if value.type.tensor_type.elem_type == onnx.TensorProto.INT64:
        return rng.integers(0, 1000, shape)
    return rng.standard_normal(shape, dtype=np.float32)


def cells(names: list[str], batches: str, kinds: list[str], symbolic: bool) -> Iterator[Cell]:
    """What there is to measure of these nets."""
    for net in names:
        for kind in kinds:
            if kind == "input" and net == "gpt2":
                continue  # its inputs are integers
            sizes = {"none": [], "1": [1], "large": [LARGE[net]], "all": [1, LARGE[net]]}
            for batch in sizes[batches] if batches in sizes else [int(batches)]:
                yield Cell(net, batch, kind)
            if symbolic and net != "gpt2":
                yield Cell(net, 1, kind, symbolic=True)


def explained_cells(names: list[str], batches: str = "all") -> Iterator[Cell]:
    """The explanations of these nets that are measured; they are of one example."""
    paths, maps = contenders.EXPLANATIONS
    for net in explanations.SIZES:
        if net not in names:
            continue
        yield Cell(net, 1, paths)
        yield Cell(net, 1, paths, rows=explanations.ROWS)
        yield Cell(net, 1, maps)


def training_cells(names: list[str], batches: str = "all") -> Iterator[Cell]:
    """The nets whose training is measured."""
    sizes = {"all": [1, training.LARGE], "none": [1, training.LARGE], "1": [1]}
    for net in training.SIZES:
        for batch in sizes.get(batches, [training.LARGE]):
            if net in names:
                yield Cell(net, batch, "training")


def real_cells(names: list[str], batches: str = "all") -> Iterator[Cell]:
    """The real models that are installed."""
    return (Cell(name, 1, "real") for name in names if name in real.SIZES)
