"""Training where only the .onnx exists: steps as files, which any runtime of ONNX runs."""

from onnxgrad.train import schedules
from onnxgrad.train.adapters import lora, merge, save_adapter
from onnxgrad.train.artifacts import artifacts
from onnxgrad.train.export import export
from onnxgrad.train.groups import Group
from onnxgrad.train.metrics import accuracy
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
from onnxgrad.train.stopping import EarlyStopping
from onnxgrad.train.trainer import Trainer

__all__ = [
    "DPSGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "EarlyStopping",
    "Group",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Trainer",
    "accuracy",
    "artifacts",
    "export",
    "lora",
    "merge",
    "save_adapter",
    "schedules",
    "step",
]
