"""The section of docs/performance.md on real files: gradients beside forward passes and a peer."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from contenders import Contender, Forward
from sections import Section

from tests.real_models import BY_NAME, floats, protein, resized

# Feeds as large as the models meet in use, where those of the tests are smaller.
FEEDS = {
    "ch_PP-OCRv4_det_infer": floats(x=(1, 3, 320, 320)),
    "ch_PP-OCRv4_rec_infer": floats(x=(1, 3, 48, 320)),
    "ch_ppocr_mobile_v2.0_cls_infer": floats(x=(1, 3, 48, 192)),
    "onet": floats(input_3=(8, 48, 48, 3)),
    "rnet": floats(input_2=(16, 24, 24, 3)),
    "pnet": floats(input_1=(1, 160, 120, 3)),
    "bak_ovr": floats(input_1=(1, 900, 161)),
    "sig": floats(input_1=(1, 900, 161)),
    "Run_1663829550_Stage_0": floats(input=(1, 3, 100, 160), h0=(4, 1, 64)),
    "Run_1663915512_Stage_0": floats(input=(1, 3, 100, 160), h0=(4, 1, 64)),
    "Run_1668423760_Stage_0": floats(input=(1, 3, 100, 160), h0=(4, 1, 96)),
    "plcmos_v2": floats(degraded_audio=(1, 1, 100, 257), rater_embed=(1, 64)),
    "best_v2_carbons": protein,
}
SIZES: dict[str, dict[str, Any]] = {
    name: {} for name, case in BY_NAME.items() if not case.twin and case.is_installed()
}
QUICK = {name: {} for name in ("silero_vad_v6", "rnet") if name in SIZES}
PEER = "onnx2torch"
HEAD = ["model", "threads", "forward, ms", "gradient, ms", "of forward", "onnx2torch, of forward",
        "of onnx2torch", "difference", "load"]  # fmt: skip

TEXT = """\
The gradient of a random combination of the outputs with respect to the floating-point inputs, of
the real models that the tests' packages ship (`make real-models`), with feeds as large as these
models meet in use. They are measured as gradients are; "of forward" is the time over that of the
model's own forward pass in the same onnxruntime, of which 2 is the floor. The peer is the same file
through onnx2torch (`make onnx2torch`) and PyTorch's autograd; a dash is a file that it does not
take, or whose numbers it gets wrong, and why is said below; or it was not asked."""

SECTION = Section("## Real files", TEXT, HEAD, SIZES, QUICK)


def author(name: str, folder: Path) -> dict[str, Any]:
    """Write a model that has what is differentiated as outputs, and its feeds; a worker's task."""
    import onnxruntime

    case = BY_NAME[name]
    feeds = FEEDS.get(name, case.feeds)(np.random.default_rng(0))
    model, path = resized(onnx.load(case.path()), feeds), folder / f"{name}.onnx"
    for output in case.of:
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, 1, None))
    onnx.save(model, path)
    outputs = [*(case.of or (o.name for o in model.graph.output))]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    values = dict(zip(outputs, session.run(outputs, feeds), strict=True))
    outputs = [y for y in outputs if values[y].dtype == np.float32]
    rng = np.random.default_rng(1)
    seeds = {y: rng.standard_normal(values[y].shape, dtype=np.float32) for y in outputs}
    np.savez(folder / "feeds.npz", **feeds)
    np.savez(folder / "seeds.npz", **seeds)
    np.savez(folder / "values.npz", **{y: values[y] for y in outputs})
    files = {k: str(folder / f"{k}.npz") for k in ("feeds", "seeds", "values")}
    task = {"net": name, "kind": "real", "model": str(path), "wrt": None, "rows": None}
    return task | files | {"outputs": outputs}


class RealForward(Forward):
    """onnxruntime on the file itself."""

    def open(self) -> Any:
        outputs = self.task["outputs"]
        return self.session(self.task["model"], outputs, outputs)


class RealGradient(Contender):
    """This package, its file run on onnxruntime."""

    label, package = "onnxgrad", "onnxruntime"

    def build(self) -> onnx.ModelProto:
        import onnxgrad

        outputs = self.task["outputs"]
        return onnxgrad.gradient(self.task["model"], of=outputs, ograd=True, forward=False)

    def open(self) -> Any:
        props = {p.key: p.value for p in onnx.load(self.task["file"]).metadata_props}
        wrt, ograds = (json.loads(props[f"onnxgrad.{key}"]) for key in ("gradients", "ograds"))
        seeds = np.load(self.task["seeds"])
        given = {ograds[y]: seeds[y] for y in self.task["outputs"]}
        return self.session(self.task["file"], [*wrt.values()], [*wrt], **given)


class OnnxToTorch(Contender):
    """The file as a module of PyTorch, and autograd."""

    label, package = PEER, "torch"  # onnx2torch is imported in a way of its own

    def open(self) -> Callable[[], dict[str, Any]]:
        import torch

        torch.set_num_threads(self.task["threads"])
        model = onnx.load(self.task["model"])
        names = [o.name for o in model.graph.output]
        module = _onnx2torch().convert(model).eval().requires_grad_(False)
        inputs = [torch.tensor(self.feeds[port.name]) for port in model.graph.input]
        floating = {
            port.name: x.requires_grad_()
            for port, x in zip(model.graph.input, inputs, strict=True)
            if x.is_floating_point()
        }
        seeds, values = np.load(self.task["seeds"]), np.load(self.task["values"])

        def outputs() -> list[Any]:
            found = module(*inputs)
            found = dict(
                zip(names, found if isinstance(found, list | tuple) else [found], strict=True)
            )
            return [found[y] for y in self.task["outputs"]]

        for y, found in zip(self.task["outputs"], outputs(), strict=True):
            if not np.allclose(found.detach().numpy(), values[y], rtol=1e-2, atol=1e-3):
                raise ValueError(f"another value of {y} than onnxruntime's")
        imposed = [torch.tensor(seeds[y]) for y in self.task["outputs"]]

        def call() -> dict[str, Any]:
            found = torch.autograd.grad(outputs(), list(floating.values()), imposed)
            return dict(zip(floating, found, strict=True))

        return call

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in results.items()}


def _onnx2torch() -> ModuleType:
    """The package. It imports torchvision, which nothing here needs, and which may be missing."""
    missing = importlib.util.find_spec("torchvision") is None
    names = ("torchvision", "torchvision.ops") if missing else ()
    for name in names:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].roi_align = None  # type: ignore[attr-defined]
    try:
        return importlib.import_module("onnx2torch")
    finally:
        for name in names:
            del sys.modules[name]


READERS: dict[str, type[Contender]] = {c.label: c for c in (RealForward, RealGradient, OnnxToTorch)}
