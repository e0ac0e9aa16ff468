"""What is asked for: the tensors that the arguments of a transform stand for."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxgrad.engine.budget import in_bytes
from onnxgrad.graph import maps
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import by_name, is_float
from onnxgrad.graph.names import All, parameters, resolve_all
from onnxgrad.heads.head import Head, parted
from onnxgrad.transforms.metadata import results
from onnxgrad.transforms.options import Options, TensorSpecs, Wrt


@dataclass(frozen=True)
class Asked:
    """The tensors that the arguments of a transform stand for, by name.

    Attributes:
        of_heads, value_heads: The heads in `of`, and those in `values`.
        heads: All heads, and what each reads.
        budget: The bytes that `checkpoints` gives in place of names.
        minus: Those of `wrt` whose gradient is given with its sign changed.
    """

    wrt: list[str]
    of: list[str]
    of_heads: list[Head]
    value_heads: list[Head]
    heads: dict[Head, list[str]]
    budget: int | None
    constant: list[str]
    checkpoints: list[str]
    values: list[str]
    minus: list[str]

    @classmethod
    def resolve(cls, net: ir.Model, wrt: Wrt, options: Options) -> Asked:
        """Resolve them in the model as the caller has it, whose nodes a position counts."""
        default = outputs_of(net)
        specs, heads = parted(options.of)
        given, more = parted(options.values)
        of = [] if heads and not specs else of_names(net, specs)
        of, of_heads = _contributing(net, options, of, heads)
        constant = resolve_all(net, options.constant) if options.constant else []
        kept = options.checkpoints
        sources = _wrt_names(net, wrt, constant)
        budget = None if isinstance(kept, str) and kept in by_name(net.graph) else in_bytes(kept)
        return cls(
            sources,
            of,
            of_heads,
            more,
            {head: head.resolve(net, default) for head in [*of_heads, *more]},
            budget,
            constant,
            [] if isinstance(kept, bool) or budget else resolve_all(net, kept),
            resolve_all(net, given) if given else [],
            _minus(net, options.minus, sources),
        )

    @property
    def names(self) -> list[str]:
        """All of them."""
        read = [name for names in self.heads.values() for name in names]
        return [*self.wrt, *self.of, *read, *self.constant, *self.checkpoints, *self.values]


def _contributing(
    net: ir.Model, options: Options, of: list[str], heads: list[Head]
) -> tuple[list[str], list[Head]]:
    """What of `of` contributes: where an output gradient is imposed on some, those alone."""
    if isinstance(options.ograd, bool):
        return of, heads
    specs, some = parted(options.ograd)
    names = [] if some and not specs else resolve_all(net, specs)
    for one in (*names, *some):
        if options.of is not None and one not in (*of, *heads):
            among = ", ".join(map(str, (*of, *heads)))
            raise ArgumentError(f"ograd names {one!r}, which is not among of: {among}")
    return names, some


def _wrt_names(net: ir.Model, wrt: Wrt, constant: list[str]) -> list[str]:
    """The names of `wrt`; `ALL` and None leave out the tensors that are constant."""
    if wrt is not None and not isinstance(wrt, All):
        names = resolve_all(net, wrt)
        if both := [repr(name) for name in names if name in constant]:
            raise ArgumentError(f"{', '.join(both)} cannot be in wrt and in constant")
        return names
    names = [*float_inputs(net), *(parameters(net) if wrt else ())]
    names = [name for name in names if name not in constant]
    if not names and wrt is None:
        raise ArgumentError(
            "the model has no floating-point input; name weights or inner tensors, such as the "
            "embeddings of tokens, to differentiate with respect to in wrt"
        )
    return names


def _minus(net: ir.Model, minus: bool | TensorSpecs, wrt: list[str]) -> list[str]:
    """The names of `wrt` whose gradient is given with its sign changed."""
    if isinstance(minus, bool):
        return wrt if minus else []
    names = resolve_all(net, minus)
    if others := [repr(name) for name in names if name not in wrt]:
        among = ", ".join(map(repr, wrt))
        raise ArgumentError(f"minus names {', '.join(others)}, which is not among wrt: {among}")
    return names


def float_inputs(net: ir.Model) -> list[str]:
    """The names of the inputs that can have a gradient and are no weights."""
    known = net.graph.initializers
    return [v.name for v in net.graph.inputs if is_float(v) and v.name and v.name not in known]


def float_outputs(net: ir.Model) -> list[str]:
    """The names of the outputs that can have a gradient.

    Raises:
        ArgumentError: There is none.
    """
    names = outputs_of(net)
    if not names:
        sources = [repr(s) for v in net.graph.outputs if (s := maps.source_of(v))]
        such = f", such as {', '.join(sources)}, which its maps are made of" if sources else ""
        raise ArgumentError(
            f"the model has no floating-point output; name an inner tensor in of{such}"
        )
    return names


def outputs_of(net: ir.Model) -> list[str]:
    """The names of the outputs that can have a gradient; there may be none."""
    names = [v.name for v in net.graph.outputs if (is_float(v) or v.type is None) and v.name]
    return list(dict.fromkeys(names))


def of_names(net: ir.Model, of: TensorSpecs | None = None) -> list[str]:
    """The names of `of` without its heads; of None those that are differentiated by default.

    Raises:
        ArgumentError: There is no floating-point output.
        UnknownNameError: There is no such tensor.
    """
    return (results(net) or float_outputs(net)) if of is None else resolve_all(net, of)
