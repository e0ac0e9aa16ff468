"""RNN, GRU and LSTM: their rules, and what is done for each of their directions.

The forward node stays as it is. Its output Y, shifted by one step, is the state before each step,
so the arguments of all gates come from one product in bulk, and a Scan backward holds only what is
truly recurrent (`recurrent_cells`). The gradients of X, W, R and B are products over all steps,
after it (`recurrent_direction`).

Where the product in bulk costs more than the steps of a Scan, the forward pass of an LSTM or GRU
becomes a Scan too, which keeps the values of the gates; it takes the place of the node. A single
step is always computed so, without a Scan.

The reverse direction is the forward one on reversed sequences. A sequence that ends early has no
seeds beyond its end, so its cotangents are zero there by themselves; those of its final states are
seeds of its last step. A sequence of length 0 has final states of zero, as in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.rules.recurrent_activations import activations_of
from onnxgrad.rules.recurrent_cells import gru, lstm, rnn
from onnxgrad.rules.recurrent_direction import Direction, Tensors


@rule("RNN")
def _(
    op, node, X, W, R, B, sequence_lens, initial_h, Y, g_Y, g_Y_h, wanted,
    activations, activation_alpha, activation_beta, clip, direction, layout,
):  # fmt: skip
    acts = activations_of(op, activations, activation_alpha, activation_beta, clip, by_place=True)
    tensors = {"X": X, "W": W, "R": R, "B": B, "initial_h": initial_h}
    tensors |= {"Y": Y, "g_Y": g_Y, "g_Y_h": g_Y_h}

    def cell(one: Direction, k: int) -> Tensors:
        return rnn(one, acts[k])

    return _backward(op, node, tensors, sequence_lens, direction, layout, wanted, cell)


@rule("GRU")
def _(
    op, node, X, W, R, B, sequence_lens, initial_h, Y, g_Y, g_Y_h, wanted,
    activations, activation_alpha, activation_beta, clip, direction, layout, linear_before_reset,
):  # fmt: skip
    names = activations or ["Sigmoid", "Tanh"] * 2
    acts = activations_of(op, names, activation_alpha, activation_beta, clip)
    tensors = {"X": X, "W": W, "R": R, "B": B, "initial_h": initial_h}
    tensors |= {"Y": Y, "g_Y": g_Y, "g_Y_h": g_Y_h}

    def cell(one: Direction, k: int) -> Tensors:
        return gru(one, acts[2 * k : 2 * k + 2], bool(linear_before_reset))

    return _backward(op, node, tensors, sequence_lens, direction, layout, wanted, cell)


@rule("LSTM")
def _(
    op, node, X, W, R, B, sequence_lens, initial_h, initial_c, P, Y, g_Y, g_Y_h, g_Y_c, wanted,
    activations, activation_alpha, activation_beta, clip, direction, input_forget, layout,
):  # fmt: skip
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * 2
    acts = activations_of(op, names, activation_alpha, activation_beta, clip)
    tensors = {"X": X, "W": W, "R": R, "B": B, "P": P}
    tensors |= {"initial_h": initial_h, "initial_c": initial_c}
    tensors |= {"Y": Y, "g_Y": g_Y, "g_Y_h": g_Y_h, "g_Y_c": g_Y_c}

    def cell(one: Direction, k: int) -> Tensors:
        return lstm(one, acts[3 * k : 3 * k + 3], bool(input_forget))

    return _backward(op, node, tensors, sequence_lens, direction, layout, wanted, cell)


# -- directions and layout -------------------------------------------------------------------------

_OUTPUTS = ("Y", "Y_h", "Y_c")
_SEQUENCES = {"X", "Y", "g_Y"}
_WEIGHTS = {"W", "R", "B", "P"}


def _backward(
    op: Builder,
    node: ir.Node,
    tensors: dict[str, Tensor | None],
    sequence_lens: Tensor | None,
    direction: str,
    layout: int,
    wanted: Collection[Any],
    cell: Callable[[Direction, int], Tensors],
) -> Tensors:
    """The cotangents of the wanted operands, those of each direction by `cell`.

    Where `cell` gives outputs too, these take the place of the node's.
    """
    present = {name: t for name, t in tensors.items() if t is not None}
    if layout:
        present["X"] = op.Transpose(present["X"], perm=[1, 0, 2])
    steps, batch = shapes.dim(present["X"], 0), shapes.dim(present["X"], 1)
    lens = _lengths(op, sequence_lens, steps)

    def reverse(x: Tensor) -> Tensor:
        if lens is None:
            return shapes.reversed_along(x, 0)
        return op.ReverseSequence(x, lens, time_axis=0, batch_axis=1)

    many = isinstance(batch, int) and batch >= op.target.scan_from_batch
    by_steps = lens is None and (many or steps == 1) and op.holds(present["Y"])
    columns = None if lens is None else op.Unsqueeze(lens, op.const([0]))
    reversals = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    found: dict[str, list[Tensor]] = {}
    for k, is_reverse in enumerate(reversals):
        own = {n: _select(t, n, k, len(reversals), layout) for n, t in present.items()}
        if is_reverse:
            own |= {n: reverse(t) for n, t in own.items() if n in _SEQUENCES}
        for name, t in cell(Direction(op, wanted, columns, by_steps, **own), k).items():
            if name in wanted or name in _OUTPUTS:
                in_order = reverse(t) if is_reverse and name in _SEQUENCES else t
                found.setdefault(name, []).append(in_order)
    whole = {name: _join(op, name, ts, layout) for name, ts in found.items()}
    if outputs := [whole.pop(name) for name in _OUTPUTS if name in whole]:
        op.replace(node, outputs)
    return whole


def _lengths(op: Builder, sequence_lens: Tensor | None, steps: Size) -> Tensor | None:
    """The lengths as int64; None where all are known to be full, as exporters write them."""
    if sequence_lens is None:
        return None
    known = sequence_lens.const
    if isinstance(steps, int) and known is not None and (known == steps).all():
        return None
    return op.Cast(sequence_lens, to=ir.DataType.INT64)


def _axis(name: str, layout: int) -> int:
    """The axis of a tensor that counts the directions."""
    if name in _WEIGHTS:
        return 0
    return layout + 1 if name in _SEQUENCES else layout


def _select(x: Tensor, name: str, k: int, directions: int, layout: int) -> Tensor:
    """One direction of an operand or output, the time axis first."""
    op, axis = x.op, _axis(name, layout)
    if name == "X":
        return x
    x = op.Squeeze(x, op.const([axis])) if directions == 1 else op.Gather(x, op.const(k), axis=axis)
    return op.Transpose(x, perm=[1, 0, 2]) if layout and name in _SEQUENCES else x


def _join(op: Builder, name: str, found: list[Tensor], layout: int) -> Tensor:
    """The cotangent of an operand, or an output, from its parts of each direction."""
    if name == "X":
        return op.Transpose(op.sum(found), perm=[1, 0, 2]) if layout else op.sum(found)
    axis = 1 if name == "Y" else _axis(name, layout)
    parts = [op.Unsqueeze(t, op.const([axis])) for t in found]
    whole = shapes.joined(parts, axis)
    return op.Transpose(whole, perm=[2, 0, 1, 3]) if layout and name == "Y" else whole
