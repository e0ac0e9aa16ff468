"""The commands that look at a net or run it: run, check, doctor, inspect and tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import typer

from onnxgrad.cli.files import ports_of, read, read_example, write
from onnxgrad.cli.many import each, items_of, naming
from onnxgrad.cli.options import Dims, Inputs, Model, Rows, tensors_or_all, translated
from onnxgrad.cli.printing import fail, in_options, say
from onnxgrad.cli.random_feeds import random, sizes_of
from onnxgrad.cli.tables import show_results, table
from onnxgrad.graph import io
from onnxgrad.graph.names import ALL, All
from onnxgrad.heads.head import Head, parted
from onnxgrad.run.net import Net, NetPortGradient, Value, outputs_by_name
from onnxgrad.run.values import emit
from onnxgrad.runtimes.ports import Port
from onnxgrad.verify.check import check as check_gradients
from onnxgrad.verify.doctor import doctor as diagnose
from onnxgrad.verify.inspect import inspect as inspect_model
from onnxgrad.verify.limits import RUNTIMES, obstacles
from onnxgrad.verify.tensors import tensors_of

Grad = Annotated[
    list[str] | None,
    typer.Option(
        help="A tensor whose gradient to compute, or 'all'. Repeat for several.",
        show_default=False,
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="An .npz file for all results. For a folder of inputs, a pattern or --rows a name "
        "with {}, as 'results/{}.npz', for a file each. Those that are there already stay, so "
        "that a run which was cut off goes on.",
        show_default=False,
    ),
]


@translated
def run(
    model: Model,
    inputs: Inputs = None,
    grad: Grad = None,
    of: Any = None,
    values: Any = None,
    straight_through: Any = False,
    constant: Any = None,
    output: Results = None,
    rows: Rows = None,
) -> None:
    """Run a net, and its gradients."""
    net = Net(model, straight_through=straight_through, constant=constant)
    heads = parted(of)[1]
    added = {name: Port(name, None, None) for head in heads for name in head.inputs}

    def read_inputs(texts: list[str]) -> dict[str, Any]:
        return read(added | net.ports, [*net.inputs, *added], texts)

    def results(feeds: dict[str, Any]) -> dict[str, Any]:
        return _results(net, feeds, tensors_or_all(grad), of, [*(values or []), *heads])

    items = items_of(inputs or [], rows, read_inputs)
    if items is not None:
        options = {"grad": grad, "of": of, "values": values, "rows": rows}
        options |= {"straight_through": straight_through, "constant": constant}
        for item, path in each(items, output, model, options):
            with naming(item):
                write(path, results(item.feeds(read_inputs)))
        return
    if output is not None:
        io.writable(output)
    found = results(read_inputs(inputs or []))
    show_results(found)
    if output is not None:
        write(output, found)
        say(f"Wrote {output}.")


def _results(
    net: Net,
    feeds: dict[str, Any],
    wrt: list[str] | All | None,
    of: list[str | Head] | None,
    values: list[str | Head],
) -> dict[str, Any]:
    """The outputs of a net, and the values and gradients that are asked for, by name."""
    own = {name: array for name, array in feeds.items() if name in net.ports}
    results = outputs_by_name(net, own)
    if values:
        results |= net(feeds, [Value(one) for one in values])
    if wrt is None:
        return results
    names = [ALL] if isinstance(wrt, All) else wrt
    gradients = net(feeds, [NetPortGradient(name) for name in names], of=of)
    return results | {f"{name}_grad": value for name, value in gradients.items()}


@translated
def check(
    model: Model,
    inputs: Inputs = None,
    wrt: Any = None,
    of: Any = None,
    constant: Any = None,
    dim: Dims = None,
    seed: Annotated[int, typer.Option(help="Seeds random inputs and directions.")] = 0,
) -> None:
    """Compare the gradient with finite differences. Inputs that are not given are random."""
    net = io.load(model)
    with_heads = io.load(net)
    emit(with_heads, of)
    more, required = ports_of(with_heads)
    ports = ports_of(net)[0] | more
    feeds = read(ports, required, inputs or [], missing=True)
    sizes = sizes_of(dim or [], ports)
    rng = np.random.default_rng(seed)
    for name in required:
        if name not in feeds:
            feeds[name] = random(ports[name], sizes, rng)
    report = check_gradients(net, feeds, wrt, of=of, constant=constant, seed=seed)
    say(str(report))
    if not report:
        wrong = [row.name for row in report.rows if row.verdict == "wrong"]
        reason = f"wrong at {', '.join(wrong)}" if wrong else "finite differences confirm none"
        fail(f"The check failed: {reason}.")


def _runs_on(net: ir.Model, runtime: str) -> None:
    """Print what a runtime lacks of a file."""
    found = obstacles(net, runtime)
    if not found:
        say(f"Nothing in the file is known to stop {runtime}.")
        return
    rows = table("what", "effect", "where")
    for o in found:
        more = ", ..." if len(o.where) > 3 else ""
        rows.add_row(o.what, o.effect, ", ".join(o.where[:3]) + more)
    say(rows)
    if any(o.effect != "runs on the CPU" for o in found):
        fail(f"The file is not for {runtime} as it is: docs/runtimes.md says what to do.")


@translated
def doctor(
    model: Model,
    wrt: Any = None,
    of: Any = None,
    straight_through: Any = False,
    constant: Any = None,
    example: Any = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it for machines.")] = False,
) -> None:
    """Say what a file is and what can be made of it."""
    found = diagnose(
        model,
        wrt,
        of,
        straight_through=straight_through,
        constant=constant,
        example=read_example(model, example),
    )
    say(json.dumps(found.as_dict(), indent=2) if as_json else found.page(in_options))
    if not found.ok:
        fail("Not everything can be differentiated: the page says what stands in the way.")


@translated
def inspect(
    model: Model,
    wrt: Any = None,
    of: Any = None,
    straight_through: Any = False,
    constant: Any = None,
    example: Any = None,
    runs_on: Annotated[
        str | None,
        typer.Option(
            help=f"List what a runtime lacks of the file as it is: {', '.join(RUNTIMES)}.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the operators on the path and their rules."""
    source = io.load(model)
    if runs_on is not None:
        _runs_on(source, runs_on)
        return
    report = inspect_model(
        source,
        wrt,
        of,
        straight_through=straight_through,
        constant=constant,
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


def tensors(
    model: Model,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Part of a tensor's, a node's or an operator's name, with * and ?. Default: all.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the tensors that options can name."""
    found = tensors_of(model)
    say(str(found if pattern is None else found.matching(pattern)))
