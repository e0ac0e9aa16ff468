"""A family of files for solvers: a model, its adjoint and the forward derivative of the adjoint.

CasADi's ONNX backend looks for files of these names and this layout beside a model. It reads a
tensor as a matrix of r x c: a scalar or vector as a column, a matrix as it is, a tensor of more
axes flattened to a column. n seeds of such a value are one matrix of r x (n c), side by side.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.subgraphs import merged, scan
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import pull
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, SaveError
from onnxgrad.graph.facts import Dim, dims_of
from onnxgrad.graph.guard import guarded
from onnxgrad.transforms.asked import float_outputs
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options, uncollected


@guarded
@uncollected()
def family(
    model: Any, folder: str | os.PathLike[str], *, name: str | None = None, example: Any = None
) -> list[str]:
    """Write a model and the derivatives that a solver needs, where CasADi finds them.

    `f.onnx` is the model as it is. `adj_f.onnx` has its inputs and an input `adj_<y>` for each
    floating-point output, its outputs and an output `adj_<x>` for each floating-point input: the
    gradients, for as many seeds at once as are given, `nadj`. `fwd_adj_f.onnx` has in addition the
    inputs `fwd_<x>` and `fwd_adj_<y>` and the outputs `fwd_adj_<x>`: the derivatives of the
    adjoint along `nfwd` directions, which with `fwd_adj_<y>` zero are Hessian-vector products.

    Seeds and results are matrices, as docs/solvers.md says. Where the name of an input or output of
    the model already begins with `adj_`, the prefix is `adj2_` and so on, and `fwd_` likewise.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        folder: Where to write; it is made if it does not exist.
        name: The `f` above; by default the name of the model's file, else of its graph.
        example: As for `gradient`.

    Returns:
        The paths of the model, of the adjoint, and of the forward derivative of the adjoint.

    Raises:
        ModelError: The model cannot be read or is not valid.
        ArgumentError: A name is taken, or `name` is no name of a file.
        NoRuleError: An operator on the path has no gradient rule.
        SaveError: A file cannot be written.
    """
    source = io.load(model)
    name = _file_name(model, source) if name is None else name
    if not name or os.path.basename(name) != name:
        raise ArgumentError(f"{name!r} is no name of a file in the folder, without its ending")
    members = {
        name: source,
        f"adj_{name}": _adjoint(source, example, forward=False),
        f"fwd_adj_{name}": _adjoint(source, example, forward=True),
    }
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise SaveError(
            f"Cannot make the folder {os.fspath(folder)!r}: {error.strerror}."
        ) from error
    paths = {os.path.join(os.fspath(folder), f"{stem}.onnx"): m for stem, m in members.items()}
    for path, member in paths.items():
        io.save(member, path)
    return list(paths)


def _file_name(model: Any, source: ir.Model) -> str:
    if isinstance(model, str | os.PathLike):
        return os.path.splitext(os.path.basename(os.fspath(model)))[0]
    return os.path.basename(source.graph.name or "") or "f"


def _adjoint(source: ir.Model, example: Any, forward: bool) -> ir.Model:
    """The adjoint; with `forward` also its forward derivatives along directions."""
    net = io.load(source)
    options = Options(of=float_outputs(net), unreachable="zeros", example=example)
    job = Job(net, None, options)
    op, inputs, outputs = job.op, job.wrt, job.of
    job.trace(outputs, inputs)
    adj, fwd = _Prefix(net.graph, "adj"), _Prefix(net.graph, "fwd")
    seeds = {y: _new_input(op, y, [adj]) for y in outputs}
    reads = [_unstack(m, op.tensor(y), [_count(m, op.tensor(y))]) for y, m in seeds.items()]
    directions: list[Tensor] = []
    if forward:
        moved = {x: _new_input(op, x, [fwd]) for x in inputs}
        count = _count(moved[inputs[0]], op.tensor(inputs[0]))
        directions = [_unstack(m, op.tensor(x), [count]) for x, m in moved.items()]
        for y, m in seeds.items():
            both = _new_input(op, y, [fwd, adj])
            reads.append(_unstack(both, op.tensor(y), [count, _count(m, op.tensor(y))]))

    def adjoint(inner: Builder, given: dict[ir.Value, Tensor], nodes: Sequence[ir.Node]) -> Any:
        found = pull(inner, given, inputs, nodes)
        return [found.get(x) or shapes.full_like(inner.tensor(x), 0) for x in inputs]

    def seed(inner: Builder, *slices: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """One seed: the adjoint, which is then pulled back along all directions."""
        first = adjoint(inner, dict(zip(outputs, slices, strict=False)), list(op.graph))

        def direction(deeper: Builder, *along: Tensor) -> tuple[list[Tensor], list[Tensor]]:
            """The derivative of the adjoint: its gradient, by the symmetry of the Hessian."""
            values = [*first, *map(deeper.tensor, outputs)]
            given = merged(deeper, zip(values, along, strict=True))
            return [], adjoint(deeper, given, [*op.graph, *inner.graph])

        if not forward:
            return [], first
        along = [inner.tensor(d.value) for d in directions] + list(slices[len(outputs) :])
        return [], [*first, *scan(inner, direction, [], along, hoists=True)[1]]

    stacks = scan(op, seed, [], reads, hoists=True)[1]
    results = {}
    for k, stack in enumerate(stacks):
        x, prefixes = inputs[k % len(inputs)], [adj] if k < len(inputs) else [fwd, adj]
        results[_name(op, x, prefixes)] = _matrix(stack, op.tensor(x), prefixes)
    job.finish(results)
    return net


class _Prefix:
    """The prefix of the names of seeds, and the name of the dimension that counts them."""

    def __init__(self, graph: ir.Graph, kind: str) -> None:
        taken = 0
        for value in (*graph.inputs, *graph.outputs):
            head, line, _ = (value.name or "").partition("_")
            number = head.removeprefix(kind)
            if line and head.startswith(kind) and (not number or number.isdecimal()):
                taken = max(taken, int(number or 1))
        self.name = f"{kind}{taken + 1}" if taken else kind
        self.count = f"n{self.name}"


def _name(op: Builder, value: ir.Value, prefixes: Sequence[_Prefix]) -> str:
    name = "_".join([*(p.name for p in prefixes), value.name or ""])
    if name in op.names.taken:
        raise ArgumentError(f"{name!r} is the name of a tensor of the net, and of a seed or result")
    return name


def _new_input(op: Builder, value: ir.Value, prefixes: Sequence[_Prefix]) -> Tensor:
    name = _name(op, value, prefixes)
    op.names.taken.add(name)
    shape = _matrix_shape(value, prefixes)
    seeds = ir.Value(name=name, type=value.type, shape=ir.Shape(shape))
    op.graph.inputs.append(seeds)
    return op.tensor(seeds)


def _matrix_shape(value: ir.Value, prefixes: Sequence[_Prefix]) -> list[Dim]:
    """The declared shape of seeds of a value. The name of a product is made of its factors'."""
    shape = dims_of(value) or ()
    rows: Dim = math.prod(d for d in shape if isinstance(d, int)) if len(shape) != 2 else shape[0]
    if len(shape) == 1:
        rows = shape[0]
    elif len(shape) > 2 and not all(isinstance(d, int) for d in shape):
        rows = f"{prefixes[-1].name}_{value.name}_rows"
    columns: Dim = shape[1] if len(shape) == 2 else 1
    if columns is None:
        return [rows, None]
    factors = [p.count for p in prefixes]
    if columns != 1:
        factors.append(f"x{columns}" if isinstance(columns, int) else columns)
    return [rows, "_".join(factors)]


def _sizes(value: Tensor) -> tuple[Size, Size]:
    """The rows and columns that a tensor is read as."""
    if value.rank == 2:
        return shapes.dim(value, 0), shapes.dim(value, 1)
    return shapes.count(value), 1


def _count(seeds: Tensor, value: Tensor) -> Size:
    """The number of seeds of a value in a matrix."""
    return shapes.dim(seeds, 1) // _sizes(value)[1]


def _unstack(seeds: Tensor, value: Tensor, counts: Sequence[Size]) -> Tensor:
    """The seeds in a matrix as a tensor with a new first axis for each of `counts`.

    The last of `counts` is that of the first axis.
    """
    rows, columns = _sizes(value)
    blocks = shapes.reshape(seeds, [rows, *counts, columns])
    transposed = seeds.op.Transpose(blocks, perm=_permutation(len(counts)))
    return shapes.reshape(transposed, [*reversed(counts), *shapes.dims(value)])


def _matrix(stack: Tensor, value: Tensor, prefixes: Sequence[_Prefix]) -> Tensor:
    """The inverse of `_unstack`: a stack of results as a matrix."""
    rows, columns = _sizes(value)
    counts = [shapes.dim(stack, k) for k in range(len(prefixes))]
    blocks = shapes.reshape(stack, [*counts, rows, columns])
    transposed = stack.op.Transpose(blocks, perm=_permutation(len(counts)))
    matrix = shapes.reshape(transposed, [rows, shapes.product([*counts, columns])])
    matrix.value.shape = ir.Shape(_matrix_shape(value.value, prefixes))
    return matrix


def _permutation(counts: int) -> list[int]:
    """The permutation from [row, counts ..., column] to [reversed counts ..., row, column]."""
    return [*reversed(range(counts + 1)), counts + 1]
