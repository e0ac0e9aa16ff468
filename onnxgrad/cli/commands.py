"""The commands that look at a net or run it: run, check and inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnxgrad.cli.files import ports_of, read, read_example, write
from onnxgrad.cli.options import (
    Constant,
    Dims,
    Example,
    Inputs,
    Model,
    Of,
    StraightThrough,
    Wrt,
    every_or,
    several,
    tensors,
)
from onnxgrad.cli.printing import fail, in_options, say, show_results, table
from onnxgrad.cli.random_feeds import random, sizes_of
from onnxgrad.graph import io
from onnxgrad.graph.names import ALL, All
from onnxgrad.run.net import Net, NetPortGradient
from onnxgrad.verify.check import check as check_gradients
from onnxgrad.verify.inspect import inspect as inspect_model


def run(
    model: Model,
    inputs: Inputs = None,
    grad: Annotated[
        list[str] | None,
        typer.Option(
            help="A tensor whose gradient to compute, or 'all'. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    of: Of = None,
    straight_through: StraightThrough = None,
    constant: Constant = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="An .npz file for all results.", show_default=False),
    ] = None,
) -> None:
    """Run a net, and its gradients."""
    if output is not None:
        io.writable(output)
    through = every_or("all", straight_through)
    net = Net(model, straight_through=through, constant=several(constant))
    results = _results(net, read(net.ports, net.inputs, inputs or []), tensors(grad), several(of))
    show_results(results)
    if output is not None:
        write(output, results)
        say(f"Wrote {output}.")


def _results(
    net: Net, feeds: dict[str, Any], wrt: list[str] | All | None, of: list[str] | None
) -> dict[str, Any]:
    """The outputs of a net, and the gradients that are asked for, by name."""
    found = net(feeds)
    results = found if isinstance(found, dict) else {net.outputs[0]: found}
    if wrt is None:
        return results
    names = [ALL] if isinstance(wrt, All) else wrt
    gradients = net(feeds, [NetPortGradient(name) for name in names], of=of)
    return results | {f"{name}_grad": value for name, value in gradients.items()}


def check(
    model: Model,
    inputs: Inputs = None,
    wrt: Wrt = None,
    of: Of = None,
    constant: Constant = None,
    dim: Dims = None,
    seed: Annotated[int, typer.Option(help="Seeds random inputs and directions.")] = 0,
) -> None:
    """Compare the gradient with finite differences. Inputs that are not given are random."""
    net = io.load(model)
    ports, required = ports_of(net)
    feeds = read(ports, required, inputs or [], missing=True)
    sizes = sizes_of(dim or [], ports)
    rng = np.random.default_rng(seed)
    for name in required:
        if name not in feeds:
            feeds[name] = random(ports[name], sizes, rng)
    report = check_gradients(
        net, feeds, tensors(wrt), of=several(of), constant=several(constant), seed=seed
    )
    say(str(report))
    if not report:
        wrong = [row.name for row in report.rows if row.verdict == "wrong"]
        reason = f"wrong at {', '.join(wrong)}" if wrong else "finite differences confirm none"
        fail(f"The check failed: {reason}.")


def inspect(
    model: Model,
    wrt: Wrt = None,
    of: Of = None,
    straight_through: StraightThrough = None,
    constant: Constant = None,
    example: Example = None,
) -> None:
    """List the operators on the path and their rules."""
    source = io.load(model)
    report = inspect_model(
        source,
        tensors(wrt),
        several(of),
        straight_through=every_or("all", straight_through),
        constant=several(constant),
        example=read_example(source, example),
    )
    rows = table("operator", "count", "state", "reason")
    for row in report:
        name = f"{row.domain}::{row.operator}" if row.domain else row.operator
        rows.add_row(name, str(row.count), row.state, row.reason)
    say(rows)
    if not report.ok:
        fail("Some operators on the path have no gradient rule.")
    if report.unreached:
        say(f"No gradient reaches {', '.join(report.unreached)}.")
    if report.caution:
        say(in_options(report.caution))
