"""Gradients against finite differences: `check`, for any net and any rule.

Along a direction d the gradient g of a scalar f says how fast f changes, <g, d>. Central
differences say it too, without any rule. Two directions are tried for each tensor: a random one,
which sees any wrong element, and the gradient itself, along which f changes fastest. Both sides run
in double precision where a runtime can, so that an error of 0.1 % stands out of the rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxgrad.declare.registry import declared
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.facts import all_nodes
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.names import resolve, resolve_all
from onnxgrad.heads.head import Head
from onnxgrad.passes.inference import infer
from onnxgrad.passes.normalise import inline_holders
from onnxgrad.passes.opsets import inline
from onnxgrad.run.feeds import Feeder, fitting
from onnxgrad.run.values import emit
from onnxgrad.runtimes.ports import Port
from onnxgrad.runtimes.protocol import Runtime
from onnxgrad.runtimes.registry import on_cpu
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.metadata import GRADIENTS, OGRADS, table
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt
from onnxgrad.verify.check_report import CheckReport
from onnxgrad.verify.differences import STEPS, compare
from onnxgrad.verify.sides import Case, Precision, gradients, inner_terms, moved_net


@guarded
def check(
    model: io.ModelLike,
    feeds: Any,
    wrt: Wrt = None,
    *,
    of: Of = None,
    ograd: bool | Mapping[str, Any] = True,
    constant: TensorSpecs | None = None,
    precision: Precision = "auto",
    seed: int = 0,
) -> CheckReport:
    """Compare gradients with central finite differences along two directions per tensor.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        feeds: The input's value where there is one, else a dict by input name, of the inputs'
            dtypes and shapes; those that heads add are among them.
        wrt: As for `gradient`: the tensors to check, `ALL`, or None for the floating-point inputs.
        of: As for `gradient`: the tensors, heads and losses to differentiate; None for all
            floating-point outputs.
        ograd: True to impose a random gradient on each tensor of `of`, which sees more than their
            sum (a softmax always adds up to one). False for the sum of all elements, or a dict of
            the arrays to impose, by tensor name or head.
        constant: As for `gradient`: tensors that keep their values while others are moved.
        precision: "auto" takes double precision where onnxruntime has the kernels, or else the
            net is small enough for onnx's reference evaluator, and float32 otherwise. The other
            two force the differences; "float64" lets the gradients take the reference before
            float32, however long that takes.
        seed: Seeds the random directions.

    Returns:
        A report that is true if no gradient is wrong and at least one is confirmed.

    Raises:
        ModelError, ArgumentError, UnknownNameError, UnreachableError, NoRuleError: As `gradient`.
        FeedError: An input of a wrong name, dtype or shape, or none given.
        ArgumentError: The net is random, so that differences mean nothing.
    """
    return check_on(
        on_cpu(),
        model,
        feeds,
        wrt,
        of=of,
        ograd=ograd,
        constant=constant,
        precision=precision,
        seed=seed,
    )


def check_on(
    runtimes: Mapping[str, Runtime],
    model: io.ModelLike,
    feeds: Any,
    wrt: Wrt = None,
    *,
    of: Of = None,
    ograd: bool | Mapping[str, Any] = True,
    constant: TensorSpecs | None = None,
    precision: Precision = "auto",
    seed: int = 0,
) -> CheckReport:
    """`check` on given runtimes, of the names "onnxruntime" and "reference" or of one of them."""
    if precision not in ("auto", *STEPS):
        raise ArgumentError(f"precision is 'auto', 'float64' or 'float32', not {precision!r}.")
    net = io.load(model)
    if any(map(_is_misrun, all_nodes(net.graph))):
        runtimes = {k: r for k, r in runtimes.items() if k != "onnxruntime"} or runtimes
    imposed = _imposed(net, ograd) if isinstance(ograd, Mapping) else {}
    case = _case(runtimes, net, feeds, wrt, of, list(imposed), constant, precision)
    given = dict(zip(case.of, imposed.values(), strict=True)) if imposed else {}
    moved = moved_net(case)
    rng = np.random.default_rng(seed)
    for name, y in zip(case.of, moved.outputs, strict=True):
        if name in given and np.shape(given[name]) != y.shape:
            raise FeedError(f"ograd {name!r} has the shape {np.shape(given[name])}, not {y.shape}.")
        chosen = given.get(name, rng.standard_normal(y.shape) if ograd else np.ones(y.shape))
        # Both sides see the same seed, which the gradient may take in single precision.
        moved.seeds.append(np.asarray(chosen, np.float32).astype(np.float64))
    seeds = dict(zip(case.of, moved.seeds, strict=True)) if ograd else {}
    found = gradients(case, seeds)
    inner = functools.cache(lambda: inner_terms(case, seeds))
    rows = [
        compare(name, found.gradients[name], found.precision, moved, rng, inner)
        for name in case.wrt
    ]
    return CheckReport(
        tuple(rows),
        f"gradients in {found.precision} on {found.runtime}, "
        f"differences in {moved.precision} on {moved.runtime}",
    )


def _is_misrun(node: ir.Node) -> bool:
    """Whether onnxruntime 1.32 computes a node wrong: a DFT from half a spectrum of any length."""
    flags = ("inverse", "onesided")
    return node.op_type == "DFT" and all(
        (a := node.attributes.get(f)) is not None and a.as_int() for f in flags
    )


def _imposed(net: ir.Model, ograd: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is imposed by tensor name, then by head."""
    heads = {one: g for one, g in ograd.items() if isinstance(one, Head)}
    return {resolve(net, one): g for one, g in ograd.items() if one not in heads} | heads


def _case(
    runtimes: Mapping[str, Runtime],
    net: ir.Model,
    feeds: Any,
    wrt: Wrt,
    of: Of,
    imposed: list[Any],
    constant: TensorSpecs | None,
    precision: Precision,
) -> Case:
    """What is checked, with all names resolved; the net is prepared in place.

    Raises what `gradient` raises: refusals come from the net as it is.
    """
    feeder = Feeder(net)
    fed = feeder.plain(feeds, of)
    own = fed.values
    # This one is only asked what it differentiates.
    built = gradient(
        net, wrt, of=of, ograd=imposed or True, forward=False, constant=constant, example=own
    )
    names, outputs = (list(table(built, key)) for key in (GRADIENTS, OGRADS))
    ports = {value.name: Port.of(value) for value in built.graph.inputs}
    added = {n: fitting(ports[n], v, feeder.ports, own) for n, v in fed.added.items() if n in ports}
    held = resolve_all(net, constant) if constant else []
    emit(net, of, [*names, *held], example=own)
    _prepare(net)
    return Case(runtimes, net, names, outputs, held, own | added, precision)


def _prepare(net: ir.Model) -> None:
    """Functions inlined, constants where they can be moved, dtypes known; else the net as it is."""
    inline(net, lambda f: declared(f.domain, f.name))
    inline_holders(net)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(net)
    common.LiftSubgraphInitializersToMainGraphPass()(net)
    infer(net)
