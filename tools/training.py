"""The section of docs/performance.md on training: whole steps beside those of the peers."""

from __future__ import annotations

from typing import Any

from sections import Section

LARGE = 8
# Losses of three steps differ by less.
TOLERANCE = 1e-3
SIZES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mobilenet_v2": {},
    "bert": {"layers": 12, "classes": 10},
}
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mobilenet_v2": {"size": 64},
    "bert": {"layers": 2, "classes": 10, "tokens": 16, "width": 64},
}
PEERS = ["torch", "torch.compile", "onnxruntime-training", "onnxsim"]
HEAD = [
    "step",
    "threads",
    *(f"{label}, ms" for label in ("onnxgrad", *PEERS)),
    "of best peer",
    "optimizer, %",
    *(f"{label}, MB" for label in ("onnxgrad", *PEERS)),
    "difference",
    "load",
]

TEXT = """\
A whole step of training: forward and backward pass, and AdamW of all weights, with the mean
cross-entropy of 10 classes (MobileNetV2: 1000). They are measured as gradients are; in the place of
gradients, the losses of three steps on one batch are compared first, of which the difference is
relative. The load is the machine's average when the row began, peak memory that of the process,
libraries too.

This package's file runs on the stock onnxruntime. Its state stays in the runtime's memory: a step
reads a weight at one place and writes it to another, and the two change roles; the moments, which
nothing but their own update reads, are written in place. torch runs a twin of the net and AdamW
with `fused=True`, its fastest, torch.compile also that twin and its loss. onnxruntime-training runs
its own artifacts, onnxsim its own step in the same onnxruntime; its Adam has no weight decay.
"optimizer" is the part of this package's step that its gradient's file, with the weights as inputs,
does not take. A dash is what was not measured; what a peer refused is said below."""

SECTION = Section("## Training", TEXT, HEAD, SIZES, QUICK)
