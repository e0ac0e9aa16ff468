"""A model repository of the Triton Inference Server: models side by side, on shared weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxgrad.graph import io
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError, ModelError, SaveError
from onnxgrad.graph.shared import write_together
from onnxgrad.graph.stage import staged
from onnxgrad.runtimes.ports import Port

__all__ = ["repository"]

# As model_config.proto of Triton names them.
_TYPES = {
    ir.DataType.BOOL: "BOOL",
    ir.DataType.UINT8: "UINT8",
    ir.DataType.UINT16: "UINT16",
    ir.DataType.UINT32: "UINT32",
    ir.DataType.UINT64: "UINT64",
    ir.DataType.INT8: "INT8",
    ir.DataType.INT16: "INT16",
    ir.DataType.INT32: "INT32",
    ir.DataType.INT64: "INT64",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.FLOAT: "FP32",
    ir.DataType.DOUBLE: "FP64",
    ir.DataType.STRING: "STRING",
    ir.DataType.BFLOAT16: "BF16",
}


_VERSION = "1"


def repository(
    models: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    max_batch_size: int = 32,
    max_queue_delay: int = 1000,
) -> None:
    """Write models for Triton's backend onnxruntime, each as its version 1.

        parallel.triton.repository(
            {"predict": "net.onnx", "explain": explain.saliency("net.onnx")}, "repository")

    Weights of 1 KiB and more lie on the disk once for all of the models, in a file beside them in
    the folder of the first one's version. The versions of the others are links to that folder;
    where the system has no links, copies.

    Args:
        models: By the name that clients ask for: a path, an `onnx.ModelProto`, its bytes or an
            `onnx_ir.Model`.
        folder: The repository; it is made where it is missing. Other models in it stay.
        max_batch_size: The most examples of a run. The server puts requests that wait together
            into one run, where all inputs and outputs of a model have one batch axis, in front and
            of any size; elsewhere it runs each request by itself. 0 for always by itself, as is
            needed where a result depends on the other examples: the gradient of a mean over the
            batch is one.
        max_queue_delay: How long a request waits for others, in microseconds.

    Raises:
        OnnxGradError: A model cannot be read.
        ModelError: The rank of an input or output is not declared, or Triton has no such dtype.
        ArgumentError: A name cannot be that of a folder, or a number makes no sense.
        SaveError: The folder cannot be written, or has a model of such a name.
    """
    _require_names(models)
    for what, number in (("max_batch_size", max_batch_size), ("max_queue_delay", max_queue_delay)):
        counted(what, number)
    nets = {name: io.load(model) for name, model in models.items()}
    configs = {
        name: _config(name, net, max_batch_size, max_queue_delay) for name, net in nets.items()
    }
    target = Path(os.path.realpath(os.fspath(folder)))
    if taken := [name for name in nets if (target / name).exists()]:
        raise SaveError(
            f"Cannot write {str(target / taken[0])!r}: it is there already. Remove it, or write "
            "elsewhere."
        )
    if not target.parent.is_dir():
        raise SaveError(f"Cannot write {str(target)!r}: there is no folder {str(target.parent)!r}.")
    with staged(target.parent, str(target)) as stage:
        first, *others = nets
        place = stage / first / _VERSION
        place.mkdir(parents=True)
        write_together({f"{n}.onnx": net for n, net in nets.items()}, place, external=True)
        for name in others:
            (stage / name).mkdir()
            _link(os.path.join("..", first, _VERSION), stage / name / _VERSION)
        for name, config in configs.items():
            (stage / name / "config.pbtxt").write_text(config, encoding="utf-8")
        target.mkdir(exist_ok=True)
        for name in nets:
            os.replace(stage / name, target / name)


def _require_names(models: Mapping[str, Any]) -> None:
    if not models:
        raise ArgumentError("a repository needs a model")
    for name in models:
        if not name or name != os.path.basename(name) or name.startswith("."):
            raise ArgumentError(f"a model's name is that of its folder, which {name!r} cannot be")


def _link(folder: str, place: Path) -> None:
    """A link to a folder; a copy where the system has none."""
    try:
        os.symlink(folder, place, target_is_directory=True)
    except OSError:
        shutil.copytree(place.parent / folder, place)


def _config(name: str, net: ir.Model, most: int, delay: int) -> str:
    """The text of config.pbtxt."""
    graph = net.graph
    inputs = [v for v in graph.inputs if v.name not in graph.initializers]
    batched = most > 0 and _one_batch(inputs, graph.outputs)
    lines = [
        f"name: {_text(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {_text(f'{name}.onnx')}",
        f"max_batch_size: {most if batched else 0}",
        *(_port("input", v, batched) for v in inputs),
        *(_port("output", v, batched) for v in graph.outputs),
    ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay} }}")
    return "\n".join(lines) + "\n"


def _one_batch(inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> bool:
    """Whether the first axis of all of them is one batch of any size."""
    first = [(Port.of(v).shape or (0,))[0] for v in (*inputs, *outputs)]
    names = {size for size in first if size is not None}
    return not any(isinstance(size, int) for size in first) and len(names) <= 1


def _port(kind: str, value: ir.Value, batched: bool) -> str:
    """An input or output of the configuration.

    Raises:
        ModelError: Its rank is not known, or Triton has no such dtype.
    """
    shape = Port.of(value).shape
    if shape is None or value.dtype not in _TYPES or not isinstance(value.type, ir.TensorType):
        raise ModelError(
            f"the {kind} {value.name!r} cannot be served: Triton's configuration needs a tensor of "
            f"a declared rank, and this is {value.type} of shape {value.shape}"
        )
    sizes = [size if isinstance(size, int) else -1 for size in shape[batched:]]
    dims = f"dims: {sizes}" if sizes else "dims: [ 1 ] reshape { shape: [ ] }"
    return (
        f"{kind} [ {{ name: {_text(value.name)} data_type: TYPE_{_TYPES[value.dtype]} {dims} }} ]"
    )


def _text(name: str | None) -> str:
    return json.dumps(name or "", ensure_ascii=False)
