"""The cells of RNN, GRU and LSTM: the equations of a step forward and backward.

The forward equations are those under "Equations" on the operators' pages in the standard
(https://onnx.ai/onnx/operators), with its names for weights and gates but for two: n is the hidden
gate `ht` of a GRU, and F the forget gate `ft` of an LSTM. H and C are the states before a step, H'
and C' those after it, a the argument of a gate, and ⊙ the product of elements. In the backward
equations dv is the cotangent of v. They go from the last step to the first, and dY is what the
cotangent of the output Y adds to that of a state.

Given the values of all steps, the backward equations are linear in the cotangents of the states. So
each cell computes the coefficients k of all steps in bulk, and the body of its Scan holds the
products with them and with R alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from onnxgrad.emit import shapes
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.subgraphs import scan
from onnxgrad.emit.tensor import Tensor
from onnxgrad.rules.recurrent_activations import Activation
from onnxgrad.rules.recurrent_direction import Direction, Tensors, split

# -- RNN -------------------------------------------------------------------------------------------


def rnn(one: Direction, f: Activation) -> Tensors:
    """The cotangents of an RNN's operands.

    Forward:

        a  = X Wᵀ + Wb + H Rᵀ + Rb
        H' = f(a)

    Backward:

        da = dH' ⊙ f'(a)
        dH = da R + dY
    """
    k = f.slope(one.arguments(), one.Y)

    def back(op, dH, k, g_Y):
        da = dH * k
        return [op.Gemm(da, one.R, g_Y)], [da]

    dH, g_Y = one.seeds(one.g_Y, one.g_Y_h)
    (dH,), (da,) = scan(one.op, back, [dH], [k, g_Y], backwards=True)
    return one.gradients(da, da, [(da, one.H)]) | {"initial_h": dH}


# -- GRU -------------------------------------------------------------------------------------------


class _GruGates(NamedTuple):
    """The gates of a GRU, and hn, the part of an that the recurrence makes."""

    z: Tensor
    r: Tensor
    hn: Tensor
    n: Tensor


class _GruForward(NamedTuple):
    """What a GRU's backward pass reads of all steps: H, the gates and their arguments.

    These, az, ar and an, are None where it does not read them. The outputs are those of the forward
    pass by steps, else none.
    """

    H: Tensor
    gates: _GruGates
    a: Sequence[Tensor | None]
    outputs: Tensors


def gru(one: Direction, activations: Sequence[Activation], linear: bool) -> Tensors:
    """The cotangents of a GRU's operands; `linear` is the attribute linear_before_reset.

    Forward:

        z  = f(az)    az = X Wzᵀ + Wbz + H Rzᵀ + Rbz
        r  = f(ar)    ar = X Wrᵀ + Wbr + H Rrᵀ + Rbr
        n  = g(an)    an = X Wnᵀ + Wbn + (r ⊙ H) Rnᵀ + Rbn
           if linear: an = X Wnᵀ + Wbn + r ⊙ hn,  hn = H Rnᵀ + Rbn
        H' = (1 - z) ⊙ n + z ⊙ H

    Backward, e being the cotangent of r ⊙ H:

        dan = dH' ⊙ (1 - z) ⊙ g'(an)
        daz = dH' ⊙ (H - n) ⊙ f'(az)
        dar = e ⊙ H ⊙ f'(ar),  e = dan Rn
        dH  = daz Rz + dar Rr + e ⊙ r + dH' ⊙ z + dY

    and if linear:

        dar = dan ⊙ hn ⊙ f'(ar)
        dH  = daz Rz + dar Rr + (dan ⊙ r) Rn + dH' ⊙ z + dY

    dH is one Gemm. What R does not multiply passes it through identities that are stacked below R.
    """
    f, g = activations
    H, gates, a, outputs = _gru_forward(one, f, g, linear)
    op = one.op
    Rz, Rr, Rn = split(one.R, 3, axis=0)
    identity = op.EyeLike(Rn)
    stack = op.Concat(Rz, Rr, Rn if linear else identity, identity, axis=0)

    def coefficients(H, z, r, hn, n, az, ar, an):
        kn = (1 - z) * g.slope(an, n)
        kz = (H - n) * f.slope(az, z)
        kr = (kn * hn if linear else H) * f.slope(ar, r)
        return [op.Concat(kz, kr, kn * r if linear else r, z, axis=-1), kn]

    def back(op, dH, k, kn, g_Y):
        dan = dH * kn
        e = dH if linear else op.MatMul(dan, Rn)
        d = op.Concat(dH, e, e, dH, axis=-1) * k
        return [op.Gemm(d, stack, g_Y)], [d, dan]

    def cotangents(d, dan):
        daz, dar, dhn, _ = split(d, 4)
        of_H = [daz, dar, dhn] if linear else [daz, dar]
        return [op.Concat(daz, dar, dan, axis=-1), op.Concat(*of_H, axis=-1)]

    dH, g_Y = one.seeds(one.g_Y, one.g_Y_h)
    k = one.in_bulk(coefficients, H, *gates, *a)
    (dH,), (d, dan) = scan(op, back, [dH], [*k, g_Y], backwards=True)
    dx, dh = one.in_bulk(cotangents, d, dan)
    blocks = [(dh, H)] if linear else [(dh, H), (dan, gates.r * H)]
    found = one.gradients(dx, dh if linear else dx, blocks)
    return found | {"initial_h": dH} | outputs


def _gru_forward(one: Direction, f: Activation, g: Activation, linear: bool) -> _GruForward:
    """The values of all steps: in bulk from the output Y, or by a Scan in place of the node."""
    Rn = split(one.R, 3, axis=0)[2]
    Wb, Rb = one.biases
    bn = None if Rb is None else split(Rb, 3)[2]

    def gates(
        x: Tensor, H: Tensor, product: Callable[..., Tensor]
    ) -> tuple[_GruGates, list[Tensor]]:
        """The gates, and the arguments az, ar and an."""
        xz, xr, xn = split(x, 3)
        hz, hr, hn = split(product(H, one.R, Rb), 3)
        az, ar = xz + hz, xr + hr
        r = f(ar)
        if not linear:
            hn = product(r * H, Rn, bn)
        an = xn + (r * hn if linear else hn)
        return _GruGates(f(az), r, hn, g(an)), [az, ar, an]

    def step(op, H, x):
        found, a = gates(x, H, lambda x, W, plus: op.Gemm(x, W, plus, transB=1))
        H = (1 - found.z) * found.n + found.z * H
        return [H], [H, *found, *(a if reads else [])]

    x, start = one.product(one.inputs, one.W, Wb), one.start(one.initial_h)
    if not one.by_steps:
        return _GruForward(one.H, *gates(x, one.H, one.product), {})
    reads = f.reads_argument or g.reads_argument
    (Y_h,), (Y, z, r, hn, n, *a) = scan(one.op, step, [start], [x])
    outputs = {"Y": Y, "Y_h": Y_h}
    return _GruForward(one.before(Y, start), _GruGates(z, r, hn, n), a or [None] * 3, outputs)


# -- LSTM ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LstmCell:
    """The functions and peepholes of an LSTM, and its forward equations.

    The gates i, o and F lie side by side in s, as their arguments do in a: each function and slope
    of them is one node.
    """

    f: Activation
    g: Activation
    h: Activation
    coupled: bool
    P: Tensor | None
    states: Size

    @property
    def reads_arguments(self) -> bool:
        """Whether the backward pass reads the arguments of the gates, beside their values."""
        return self.f.reads_argument or self.g.reads_argument

    def parted(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The arguments of the gates, and that of c."""
        sizes = shapes.vector(a, [self.states * 3, self.states])
        return a.op.Split(a, sizes, axis=-1, outputs=2)

    def peeped(self, a: Tensor, C: Tensor, C_new: Tensor) -> Tensor:
        """The arguments of the gates with what the peepholes add."""
        return a if self.P is None else a + C.op.Concat(C, C_new, C, axis=-1) * self.P

    def gates(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """i, o and F; where i and F are coupled, F is what i leaves."""
        i, o, F = split(s, 3)
        return i, o, 1 - i if self.coupled else F

    def step(self, a: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s, o, c and C' of the arguments of a step and the state C before it."""
        a, ac = self.parted(a)
        c = self.g(ac)
        if self.P is None:
            s = self.f(a)
            i, o, F = self.gates(s)
            return s, o, c, C * F + i * c
        (ai, ao, aF), (Pi, Po, PF) = split(a, 3), split(self.P, 3)
        i = self.f(ai + C * Pi)
        F = 1 - i if self.coupled else self.f(aF + C * PF)
        C = C * F + i * c
        o = self.f(ao + C * Po)
        return C.op.Concat(i, o, F, axis=-1), o, c, C


class _LstmForward(NamedTuple):
    """What an LSTM's backward pass reads of all steps: states, and the values of the gates.

    Their arguments, without peepholes, are None where it does not read them. The outputs are those
    of the forward pass by steps, else none.
    """

    H: Tensor
    C: Tensor
    C_new: Tensor
    a: Tensor | None
    s: Tensor  # i, o and F
    c: Tensor
    t: Tensor  # h(C')
    outputs: Tensors


class _LstmCoefficients(NamedTuple):
    """What the cotangents of an LSTM's states are multiplied with, at all steps."""

    gates: Tensor  # ki, ko, kF and kc side by side
    into_C: Tensor  # from dH' to dC'
    through_C: Tensor  # from dC' to dC


def lstm(one: Direction, activations: Sequence[Activation], coupled: bool) -> Tensors:
    """The cotangents of an LSTM's operands; `coupled` is the attribute input_forget.

    Forward:

        i  = f(ai)    ai = X Wiᵀ + Wbi + H Riᵀ + Rbi + Pi ⊙ C
        F  = f(aF)    aF = X WFᵀ + WbF + H RFᵀ + RbF + PF ⊙ C     if coupled: F = 1 - i
        c  = g(ac)    ac = X Wcᵀ + Wbc + H Rcᵀ + Rbc
        C' = F ⊙ C + i ⊙ c
        o  = f(ao)    ao = X Woᵀ + Wbo + H Roᵀ + Rbo + Po ⊙ C'
        H' = o ⊙ h(C')

    where the arguments of f and g are clipped, and that of h is not. Backward, dC'' being the
    cotangent of C' that comes from later steps:

        dao = dH' ⊙ h(C') ⊙ f'(ao)
        dC' = dH' ⊙ o ⊙ h'(C') + dao ⊙ Po + dC''
        dai = dC' ⊙ c ⊙ f'(ai)                   if coupled: dai = dC' ⊙ (c - C) ⊙ f'(ai)
        daF = dC' ⊙ C ⊙ f'(aF)                   if coupled: daF = 0
        dac = dC' ⊙ i ⊙ g'(ac)
        dH  = dai Ri + dao Ro + daF RF + dac Rc + dY
        dC  = dC' ⊙ F + dai ⊙ Pi + daF ⊙ PF
    """
    f, g, h = activations
    cell = _LstmCell(f, g, h.unclipped(), coupled, one.P, shapes.dim(one.R, 1))
    forward = _lstm_by_steps(one, cell) if one.by_steps else _lstm_in_bulk(one, cell)
    _, *values, _ = forward
    k = one.in_bulk(partial(_lstm_coefficients, cell), *values)
    op = one.op

    def back(op, dH, dC, gates, into_C, through_C, g_Y, g_C):
        dC = dH * into_C + dC
        d = op.Concat(dC, dH, dC, dC, axis=-1) * gates
        dC = dC * through_C
        return [op.Gemm(d, one.R, g_Y), dC if g_C is None else dC + g_C], [d]

    dH, g_Y = one.seeds(one.g_Y, one.g_Y_h)
    dC, g_C = one.seeds(None, one.g_Y_c)
    (dH, dC), (d,) = scan(op, back, [dH, dC], [*k, g_Y, g_C], backwards=True)
    found = one.gradients(d, d, [(d, forward.H)])
    if "P" in one.wanted:
        dai, dao, daF, _ = split(d, 4)
        products = op.Concat(dai * forward.C, dao * forward.C_new, daF * forward.C, axis=-1)
        found["P"] = shapes.reduce_sum(products, [0, 1])
    return found | {"initial_h": dH, "initial_c": dC} | forward.outputs


def _lstm_coefficients(
    cell: _LstmCell,
    C: Tensor,
    C_new: Tensor,
    a: Tensor | None,
    s: Tensor,
    c: Tensor,
    t: Tensor,
) -> _LstmCoefficients:
    """The factors in the backward equations, from the values of all steps."""
    op, (i, o, F), of_gates, of_c = C.op, cell.gates(s), None, None
    if a is not None:
        of_gates, of_c = cell.parted(a)
        of_gates = cell.peeped(of_gates, C, C_new)
    slopes = op.Concat(cell.f.slope(of_gates, s), cell.g.slope(of_c, c), axis=-1)
    into_i, into_F = (c - C, shapes.full_like(C, 0)) if cell.coupled else (c, C)
    k = op.Concat(into_i, t, into_F, i, axis=-1) * slopes
    into_C = o * cell.h.slope(C_new, t)
    if cell.P is None:
        return _LstmCoefficients(k, into_C, F)
    (ki, ko, kF, _), (Pi, Po, PF) = split(k, 4), split(cell.P, 3)
    return _LstmCoefficients(k, into_C + ko * Po, F + ki * Pi + kF * PF)


def _lstm_by_steps(one: Direction, cell: _LstmCell) -> _LstmForward:
    """The forward pass as a Scan, which takes the place of the node."""

    def step(op, H, C, x):
        a = op.Gemm(H, one.R, x, transB=1)
        s, o, c, C = cell.step(a, C)
        t = cell.h(C)
        return [o * t, C], [o * t, C, s, c, t, *([a] if cell.reads_arguments else [])]

    H, C = one.start(one.initial_h), one.start(one.initial_c)
    x = one.product(one.inputs, one.W, one.bias)
    (Y_h, Y_c), (Y, C_new, s, c, t, *a) = scan(one.op, step, [H, C], [x])
    outputs = {"Y": Y, "Y_h": Y_h, "Y_c": Y_c}
    H, C = one.before(Y, H), one.before(C_new, C)
    return _LstmForward(H, C, C_new, a[0] if a else None, s, c, t, outputs)


def _lstm_in_bulk(one: Direction, cell: _LstmCell) -> _LstmForward:
    """The arguments of all steps from the output Y; a Scan of C alone, which the node lacks."""
    start, a = one.start(one.initial_c), one.arguments()
    of_gates, of_c = cell.parted(a)
    c = cell.g(of_c)

    def peeping(op, C, a):
        *_, C = cell.step(a, C)
        return [C], [C]

    def step(op, C, F, added):
        kept = C * F
        return [kept + added], [kept]

    if cell.P is None:  # no state is read
        s = cell.f(of_gates)
        i, _, F = cell.gates(s)
        _, (kept,) = scan(one.op, step, [start], [F, i * c])
        C_new = kept + i * c
        C = one.before(C_new, start)
    else:
        _, (C_new,) = scan(one.op, peeping, [start], [a])
        C = one.before(C_new, start)
        s = cell.f(cell.peeped(of_gates, C, C_new))
    return _LstmForward(one.H, C, C_new, a, s, c, cell.h(C_new), {})
