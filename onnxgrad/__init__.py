"""onnxgrad: any ONNX net in, an ONNX net out that also computes gradients."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxgrad import expansions as _expansions  # noqa: F401  fill the tables
from onnxgrad import heads, losses
from onnxgrad import rules as _rules  # noqa: F401
from onnxgrad.declare.registry import elementwise, forget, not_implemented, rule, zero
from onnxgrad.graph.errors import (
    ArgumentError,
    ConstantSumWarning,
    FeedError,
    ModelError,
    NoRuleError,
    OnnxGradError,
    QuantizedWarning,
    RuleError,
    RuntimeMissingError,
    SaveError,
    SoftmaxWarning,
    TrainingError,
    UnknownNameError,
    UnreachableError,
)
from onnxgrad.graph.io import save
from onnxgrad.graph.names import ALL
from onnxgrad.run.net import Net, NetPortGradient, Value
from onnxgrad.transforms.attach import attach
from onnxgrad.transforms.batch import per_example_gradient, vmap
from onnxgrad.transforms.casadi import family
from onnxgrad.transforms.double import to_double
from onnxgrad.transforms.forward import hvp, jvp
from onnxgrad.transforms.gradient import gradient, vjp
from onnxgrad.transforms.jacobian import hessian, jacobian
from onnxgrad.transforms.lower import lower
from onnxgrad.verify.check import check
from onnxgrad.verify.doctor import doctor
from onnxgrad.verify.inspect import inspect

if TYPE_CHECKING:
    from onnxgrad import adversarial, bridges, explain, train

__version__ = "0.1.0"

__all__ = [
    "ALL",
    "ArgumentError",
    "ConstantSumWarning",
    "FeedError",
    "ModelError",
    "Net",
    "NetPortGradient",
    "NoRuleError",
    "OnnxGradError",
    "QuantizedWarning",
    "RuleError",
    "RuntimeMissingError",
    "SaveError",
    "SoftmaxWarning",
    "TrainingError",
    "UnknownNameError",
    "UnreachableError",
    "Value",
    "adversarial",
    "attach",
    "bridges",
    "check",
    "doctor",
    "elementwise",
    "explain",
    "family",
    "forget",
    "gradient",
    "heads",
    "hessian",
    "hvp",
    "inspect",
    "jacobian",
    "jvp",
    "losses",
    "lower",
    "not_implemented",
    "per_example_gradient",
    "rule",
    "save",
    "to_double",
    "train",
    "vjp",
    "vmap",
    "zero",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """The parts that are imported only where they are used."""
    if name in ("adversarial", "bridges", "explain", "train"):
        return importlib.import_module(f"onnxgrad.{name}")
    raise AttributeError(f"module 'onnxgrad' has no attribute {name!r}")
