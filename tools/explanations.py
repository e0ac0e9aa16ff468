"""The section of docs/performance.md on explanations: captum's figures beside this package's."""

from __future__ import annotations

from typing import Any

from sections import Section

TITLE = "## Explanations beside captum"
# How many points of a path are computed at a time, where not all are.
ROWS = 4
# What the nets are made with; those of a quick run are small.
SIZES: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "bert": {"layers": 12, "classes": 2, "tokens": 64},
}
QUICK: dict[str, dict[str, Any]] = {
    "resnet50": {"size": 64},
    "bert": {"layers": 2, "classes": 2, "tokens": 16, "width": 64},
}
HEAD = ["explanation", "threads", "onnxgrad, ms", "captum, ms", "of captum", "onnxgrad, MB",
        "captum, MB", "difference", "load"]  # fmt: skip

TEXT = f"""\
Integrated gradients of 50 steps and Grad-CAM, by this package's file in onnxruntime and by captum
on a twin of the net in PyTorch. They are measured as gradients are: attributions are compared
first (the difference is relative, in the Euclidean norm), the two take turns in processes of their
own, on one thread the time is that of the process and on two the wall clock's. The load is the
machine's average when the row began. Peak memory is that of the process, libraries too.

Paths are computed as one batch of 50 points, or with `internal_batch_size={ROWS}` on both sides.
BERT-base reads 64 tokens and has a classifier of the first one. Its Grad-CAM is that of the tensor
before the last block, ResNet-50's that of the tensor before the pooling."""


SECTION = Section(TITLE, TEXT, HEAD, SIZES, QUICK)
