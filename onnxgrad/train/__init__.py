"""Training where only the .onnx exists: steps as files, which any runtime of ONNX runs."""

from onnxgrad.train.adapters import lora, merge, save_adapter
from onnxgrad.train.groups import Group
from onnxgrad.train.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)
from onnxgrad.train.privacy import DPSGD
from onnxgrad.train.steps import step

__all__ = [
    "DPSGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Group",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "lora",
    "merge",
    "save_adapter",
    "step",
]
