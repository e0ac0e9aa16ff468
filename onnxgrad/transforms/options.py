"""What all transforms share: their options, and how a model goes in and comes out.

An option is added here: to `Options` with its default, and to the dictionary of the transforms that
take it. Signatures, the command line and `Net` follow.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_type_hints,
    overload,
)

import onnx
import onnx_ir as ir
from typing_extensions import TypedDict

from onnxgrad.emit.targets import TargetName
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.names import All
from onnxgrad.heads.head import Head
from onnxgrad.passes.written import require_opset

# Graph inputs, by their names.
Inputs: TypeAlias = str | Sequence[str]
# Tensors: a name, or a sequence of names and of positions, as in ["x", ["layer1", 0, "weight"]].
# A position is a sequence of names and indices. Any, because mypy infers such a list, where it is
# first given to a variable, as one of objects.
TensorSpecs: TypeAlias = str | Sequence[str | Sequence[Any]]
# What is differentiated: tensors, heads, or a sequence of both.
Of: TypeAlias = TensorSpecs | Head | Sequence[Any] | None
Wrt: TypeAlias = TensorSpecs | All | None
# The kinds of models that are accepted, besides `onnx_ir.Model`.
Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto
Unreachable = Literal["error", "zeros"]


class Traced(TypedDict, total=False):
    """The options that say what depends on what."""

    straight_through: StraightThrough
    constant: TensorSpecs | None
    example: Any


class Common(Traced, total=False):
    """The options of every transform that differentiates."""

    of: Of
    forward: bool
    unreachable: Unreachable
    target: TargetName
    opset: int | None


class Kept(Common, total=False):
    """The options of a transform with one backward pass."""

    values: Of
    checkpoints: bool | int | TensorSpecs
    minus: bool | TensorSpecs


class Imposed(Common, total=False):
    """The options of a transform of a scalar, for which an output gradient can be imposed."""

    ograd: bool | Of


class Full(Kept, Imposed, total=False):
    """All of them."""


@dataclass(frozen=True)
class Options:
    """The options of one differentiation, as `gradient` describes them.

    Raises:
        ArgumentError: One has a value that it cannot have.
    """

    of: Of = None
    ograd: bool | Of = False
    forward: bool = True
    values: Of = None
    unreachable: Unreachable = "error"
    straight_through: StraightThrough = False
    constant: TensorSpecs | None = None
    checkpoints: bool | int | TensorSpecs = False
    minus: bool | TensorSpecs = False
    example: Any = None
    target: TargetName = "cpu"
    opset: int | None = None

    def __post_init__(self) -> None:
        if self.unreachable not in ("error", "zeros"):
            raise ArgumentError(f"unreachable is 'error' or 'zeros', not {self.unreachable!r}")
        if self.opset is not None:
            require_opset(self.opset)


P = ParamSpec("P")
T = TypeVar("T")


class Transform(Protocol[P]):
    """A public transform: model in, model of the same kind out.

    For a path it is a `ModelProto`; of more than 2 GB, which that cannot hold, an `onnx_ir.Model`.
    """

    __name__: str

    # This one first: where protobuf has no types, a ModelProto passes for any class.
    @overload
    def __call__(self, model: Source, *args: P.args, **kwargs: P.kwargs) -> onnx.ModelProto: ...

    @overload
    def __call__(self, model: ir.Model, *args: P.args, **kwargs: P.kwargs) -> ir.Model: ...


# Every transform by its name; each is a command of the command line too.
TRANSFORMS: dict[str, Transform[Any]] = {}


def transform(function: Callable[Concatenate[ir.Model, P], None]) -> Transform[P]:
    """A public transform, made of a function that changes a private copy of the model in place."""
    public = published(function)
    TRANSFORMS[public.__name__] = public
    return public


def published(
    function: Callable[Concatenate[ir.Model, P], None], options: type[Any] = Options
) -> Transform[P]:
    """A function from model to model, made of one that changes a private copy in place.

    Args:
        options: The data class of its options, which tells their defaults.
    """

    @functools.wraps(function)
    def build(model: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        with uncollected():
            net = io.load(model)
            function(net, *args, **kwargs)
            return io.like(net, model)

    return cast(Transform[P], spelt_out(build, options))


def spelt_out(function: Callable[P, T], options: type[Any] = Options) -> Callable[P, T]:
    """A function of a model whose signature lists its options one by one, with their defaults."""
    defaults = {field.name: field.default for field in fields(options)}
    first, *rest = inspect.signature(function).parameters.values()
    named = inspect.Parameter.KEYWORD_ONLY
    own = [p for p in rest if p.kind is not inspect.Parameter.VAR_KEYWORD]
    listed: list[inspect.Parameter] = []
    if len(own) < len(rest):
        taken = get_args(get_type_hints(function)[rest[-1].name])[0].__annotations__
        listed = [
            inspect.Parameter(name, named, default=default, annotation=taken[name].__forward_arg__)
            for name, default in defaults.items()
            if name in taken
        ]
    model = first.replace(name="model", annotation="Source | ir.Model")
    parameters = [model, *listed, *own]
    signature = inspect.Signature(sorted(parameters, key=lambda p: p.kind))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        given = signature.bind(*args, **kwargs)  # raises for an option that the function lacks
        return checked(*given.args, **given.kwargs)

    checked = guarded(function, signature.parameters)

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's collector of cycles rest.

    The collector would walk through the growing graph many times.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
