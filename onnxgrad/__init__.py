"""onnxgrad: any ONNX net in, an ONNX net out that also computes gradients."""

from onnxgrad import rules as _rules  # noqa: F401  fills the table of rules
from onnxgrad.api import gradient, vjp
from onnxgrad.check import check
from onnxgrad.errors import (
    ArgumentError,
    ConstantSumWarning,
    FeedError,
    ModelError,
    NoRuleError,
    OnnxGradError,
    RuleError,
    RuntimeMissingError,
    SaveError,
    UnknownNameError,
    UnreachableError,
)
from onnxgrad.family import family
from onnxgrad.inspect import inspect
from onnxgrad.io import save
from onnxgrad.lower import lower
from onnxgrad.names import ALL
from onnxgrad.net import Net, NetPortGradient
from onnxgrad.registry import elementwise, forget, not_implemented, rule, zero
from onnxgrad.transforms import hessian, hvp, jacobian, jvp, per_example_gradient, vmap

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
    "RuleError",
    "RuntimeMissingError",
    "SaveError",
    "UnknownNameError",
    "UnreachableError",
    "check",
    "elementwise",
    "family",
    "forget",
    "gradient",
    "hessian",
    "hvp",
    "inspect",
    "jacobian",
    "jvp",
    "lower",
    "not_implemented",
    "per_example_gradient",
    "rule",
    "save",
    "vjp",
    "vmap",
    "zero",
]
