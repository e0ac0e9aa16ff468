"""The public names and the modules that have them, for the imports and for type checkers."""

from . import adversarial, bridges, explain, heads, losses, parallel, train
from .declare.registry import elementwise, forget, not_implemented, rule, zero
from .graph.errors import (
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
from .graph.io import save
from .graph.names import ALL
from .run.net import Net
from .run.requests import NetPortGradient, Value
from .transforms.attach import attach
from .transforms.batch import per_example_gradient, vmap
from .transforms.casadi import family
from .transforms.double import to_double
from .transforms.forward import hvp, jvp
from .transforms.gradient import gradient, vjp
from .transforms.jacobian import hessian, jacobian
from .transforms.lower import lower
from .verify.check import check
from .verify.doctor import doctor
from .verify.inspect import inspect

__version__: str

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
    "parallel",
    "per_example_gradient",
    "rule",
    "save",
    "to_double",
    "train",
    "vjp",
    "vmap",
    "zero",
]
