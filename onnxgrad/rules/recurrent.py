"""RNN, GRU and LSTM: the gates of all steps in bulk, a Scan of what is truly recurrent.

The forward node stays as it is. Its output Y, shifted by one step, is the state before each step,
so the gates of all steps come from one product. Given them, a step backward is linear in the
cotangents of the states: its coefficients are computed in bulk, and the body of the Scan holds the
products with them and with R. The gradients of X, W, R and B are products over all steps, after it.

Where that product costs more than the steps of a Scan, the forward pass of an LSTM or GRU becomes
one, which keeps the gates' arguments; the forward node goes.

The reverse direction is the forward one on reversed sequences. A sequence that ends early has no
seeds beyond its end, so its cotangents are zero there by themselves; those of its final states are
seeds of its last step. One of length 0 has final states of zero, as in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import scan
from onnxgrad.emit.tensor import Tensor

Tensors = dict[str, Tensor]


@rule("RNN")
def _(
    op, node, X, W, R, B, sequence_lens, initial_h, Y, g_Y, g_Y_h, wanted,
    activations, activation_alpha, activation_beta, clip, direction, layout,
):  # fmt: skip
    acts = _activations(op, activations, activation_alpha, activation_beta, clip, by_place=True)
    tensors = {"X": X, "W": W, "R": R, "B": B, "initial_h": initial_h}
    tensors |= {"Y": Y, "g_Y": g_Y, "g_Y_h": g_Y_h}

    def cell(run: _Run, k: int) -> Tensors:
        return _rnn(run, acts[k])

    return _backward(op, node, tensors, sequence_lens, direction, layout, wanted, cell)


@rule("GRU")
def _(
    op, node, X, W, R, B, sequence_lens, initial_h, Y, g_Y, g_Y_h, wanted,
    activations, activation_alpha, activation_beta, clip, direction, layout, linear_before_reset,
):  # fmt: skip
    names = activations or ["Sigmoid", "Tanh"] * 2
    acts = _activations(op, names, activation_alpha, activation_beta, clip)
    tensors = {"X": X, "W": W, "R": R, "B": B, "initial_h": initial_h}
    tensors |= {"Y": Y, "g_Y": g_Y, "g_Y_h": g_Y_h}

    def cell(run: _Run, k: int) -> Tensors:
        return _gru(run, acts[2 * k : 2 * k + 2], bool(linear_before_reset))

    return _backward(op, node, tensors, sequence_lens, direction, layout, wanted, cell)


@rule("LSTM")
def _(
    op, node, X, W, R, B, sequence_lens, initial_h, initial_c, P, Y, g_Y, g_Y_h, g_Y_c, wanted,
    activations, activation_alpha, activation_beta, clip, direction, input_forget, layout,
):  # fmt: skip
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * 2
    acts = _activations(op, names, activation_alpha, activation_beta, clip)
    tensors = {"X": X, "W": W, "R": R, "B": B, "P": P}
    tensors |= {"initial_h": initial_h, "initial_c": initial_c}
    tensors |= {"Y": Y, "g_Y": g_Y, "g_Y_h": g_Y_h, "g_Y_c": g_Y_c}

    def cell(run: _Run, k: int) -> Tensors:
        return _lstm(run, acts[3 * k : 3 * k + 3], bool(input_forget))

    return _backward(op, node, tensors, sequence_lens, direction, layout, wanted, cell)


# -- cells: their equations, and the coefficients of a step backward -------------------------------


def _rnn(run: _Run, f: _Activation) -> Tensors:
    """H' = f(x + h)."""
    a = run.arguments()

    def back(op, dH, K, g_Y):
        d = dH * K
        return [op.Gemm(d, run.R, g_Y)], [d]

    dH, g_Y = run.seeds(run.g_Y, run.g_Y_h)
    (dH,), (d,) = scan(run.op, back, [dH], [f.slope(a, run.Y), g_Y], backwards=True)
    return run.gradients(d, d, [(d, run.H)]) | {"initial_h": dH}


def _gru(run: _Run, activations: Sequence[_Activation], linear: bool) -> Tensors:
    """H' = (1 - z) n + z H, of n = g(x + r h), or n = g(x + (r H) R) if not linear before reset.

    A step ends with one Gemm: identities stacked below R let through what is not to pass it.
    """
    op = run.op
    f, g = activations
    Rz, Rr, Rn = _split(run.R, 3, axis=0)
    bn = None if run.Rb is None else _split(run.Rb, 3)[2]

    def arguments(x, H, product):
        xz, xr, xn = _split(x, 3)
        hz, hr, hn = _split(product(H, run.R, run.Rb), 3)
        az, ar = xz + hz, xr + hr
        if not linear:
            hn = product(f(ar) * H, Rn, bn)
        return az, ar, hn, xn + (f(ar) * hn if linear else hn)

    def step(op, H, x):
        kept = arguments(x, H, lambda x, W, plus: op.Gemm(x, W, plus, transB=1))
        az, _, _, an = kept
        z = f(az)
        H = (1 - z) * g(an) + z * H
        return [H], [H, *kept]

    outputs: Tensors = {}
    x = run.product(run.X, run.W, run.Wb)
    if run.by_steps:
        (Y_h,), (run.Y, az, ar, hn, an) = scan(op, step, [run.start(run.initial_h)], [x])
        outputs = {"Y": run.Y, "Y_h": Y_h}
    else:
        az, ar, hn, an = arguments(x, run.H, run.product)
    H, z, r, n = run.H, f(az), f(ar), g(an)

    kz, kn = (H - n) * f.slope(az, z), (1 - z) * g.slope(an, n)
    kr = (kn * hn if linear else H) * f.slope(ar, r)
    one = op.EyeLike(Rn)
    stack = op.Concat(Rz, Rr, Rn if linear else one, one, axis=0)

    def back(op, dH, K, kn, g_Y):
        dn = dH * kn
        e = dH if linear else op.MatMul(dn, Rn)
        d = op.Concat(dH, e, e, dH, axis=-1) * K
        return [op.Gemm(d, stack, g_Y)], [d, dn]

    dH, g_Y = run.seeds(run.g_Y, run.g_Y_h)
    K = op.Concat(kz, kr, kn * r if linear else r, z, axis=-1)
    (dH,), (d, dn) = scan(op, back, [dH], [K, kn, g_Y], backwards=True)
    dz, dr, dhn, _ = _split(d, 4)
    dx = op.Concat(dz, dr, dn, axis=-1)
    if linear:
        dh = op.Concat(dz, dr, dhn, axis=-1)
        found = run.gradients(dx, dh, [(dh, H)])
    else:
        found = run.gradients(dx, dx, [(op.Concat(dz, dr, axis=-1), H), (dn, r * H)])
    return found | {"initial_h": dH} | outputs


def _lstm(run: _Run, activations: Sequence[_Activation], input_forget: bool) -> Tensors:
    """C' = F C + i c and H' = o h(C'); peepholes add P C to the arguments of i and F, P C' to o's.

    h alone is of an argument that is not clipped.
    """
    op = run.op
    f, g, h = activations
    h = h.unclipped()
    P = Pi, Po, PF = (None,) * 3 if run.P is None else _split(run.P, 3)
    start = run.start(run.initial_c)
    outputs: Tensors = {}
    if run.by_steps:
        outputs, a, C_new = _forward(run, f, g, h, start, P, input_forget)
        run.Y = outputs["Y"]
    else:
        a = run.arguments()
        C_new = _cell_states(f, g, start, a, P, input_forget)
    ai, ao, aF, ac = _split(a, 4)
    c, C = g(ac), run.before(C_new, start)
    ai, aF, ao = _peep(ai, C, Pi), _peep(aF, C, PF), _peep(ao, C_new, Po)
    i, F = _input_and_forget(f, ai, aF, input_forget)
    o, t = f(ao), h(C_new)

    ko, kc = t * f.slope(ao, o), i * g.slope(ac, c)
    ki = (c - C if input_forget else c) * f.slope(ai, i)
    kF = shapes.full_like(C, 0) if input_forget else C * f.slope(aF, F)
    into_C = _peep(o * h.slope(C_new, t), ko, Po)
    through_C = _peep(_peep(F, ki, Pi), kF, PF)

    def back(op, dH, dC, K, into_C, through_C, g_Y, g_C):
        dC = dH * into_C + dC
        d = op.Concat(dC, dH, dC, dC, axis=-1) * K
        dC = dC * through_C
        return [op.Gemm(d, run.R, g_Y), dC if g_C is None else dC + g_C], [d]

    dH, g_Y = run.seeds(run.g_Y, run.g_Y_h)
    dC, g_C = run.seeds(None, run.g_Y_c)
    read = [op.Concat(ki, ko, kF, kc, axis=-1), into_C, through_C, g_Y, g_C]
    (dH, dC), (d,) = scan(op, back, [dH, dC], read, backwards=True)
    found = run.gradients(d, d, [(d, run.H)])
    if "P" in run.wanted:
        di, do, dF, _ = _split(d, 4)
        seen = op.Concat(di * C, do * C_new, dF * C, axis=-1)
        found["P"] = shapes.reduce_sum(seen, [0, 1])
    return found | {"initial_h": dH, "initial_c": dC} | outputs


def _forward(run: _Run, f, g, h, start, P, input_forget: bool) -> tuple[Tensors, Tensor, Tensor]:
    """The forward pass by steps: its outputs, and all steps' arguments of the gates and C'."""
    Pi, Po, PF = P

    def step(op, H, C, x):
        a = op.Gemm(H, run.R, x, transB=1)
        ai, ao, aF, ac = _split(a, 4)
        C = _next_cell(f, C, ai, aF, g(ac), Pi, PF, input_forget)
        H = f(_peep(ao, C, Po)) * h(C)
        return [H, C], [H, C, a]

    x = run.product(run.X, run.W, run.bias)
    final, (Y, C_new, a) = scan(run.op, step, [run.start(run.initial_h), start], [x])
    return dict(zip(_OUTPUTS, [Y, *final], strict=True)), a, C_new


def _cell_states(f, g, start, a, P, input_forget: bool) -> Tensor:
    """The states C' of all steps, which the forward node does not give out."""
    Pi, _, PF = P
    ai, _, aF, ac = _split(a, 4)
    c = g(ac)
    if Pi is None:
        i, F = _input_and_forget(f, ai, aF, input_forget)
        added = i * c

        def step(op, C, F, added):
            kept = C * F
            return [kept + added], [kept]

        _, (kept,) = scan(c.op, step, [start], [F, added])
        return kept + added

    def peeping(op, C, ai, aF, c):
        C = _next_cell(f, C, ai, aF, c, Pi, PF, input_forget)
        return [C], [C]

    return scan(c.op, peeping, [start], [ai, aF, c])[1][0]


def _next_cell(f, C, ai, aF, c, Pi, PF, input_forget: bool) -> Tensor:
    """C' = F C + i c."""
    i, F = _input_and_forget(f, _peep(ai, C, Pi), _peep(aF, C, PF), input_forget)
    return C * F + i * c


def _input_and_forget(
    f: _Activation, ai: Tensor, aF: Tensor, input_forget: bool
) -> tuple[Tensor, Tensor]:
    """The gates i and F; coupled, what is let in is forgotten."""
    i = f(ai)
    return i, 1 - i if input_forget else f(aF)


def _peep(a: Tensor, C: Tensor, P: Tensor | None) -> Tensor:
    """a + P C; a where there is no peephole."""
    return a if P is None else a + C * P


def _split(x: Tensor, parts: int, axis: int = -1) -> tuple[Tensor, ...]:
    return x.op.Split(x, axis=axis, num_outputs=parts, outputs=parts)


# -- one direction ---------------------------------------------------------------------------------


@dataclass
class _Run:
    """One direction: its steps in the order in which they are taken, the time axis first."""

    op: Builder
    wanted: Collection[Any]
    lens: Tensor | None  # int64, of shape [1, N]; None where every sequence lasts to the end
    by_steps: bool  # whether the forward pass may become a Scan
    X: Tensor
    W: Tensor
    R: Tensor
    Y: Tensor
    B: Tensor | None = None
    P: Tensor | None = None
    initial_h: Tensor | None = None
    initial_c: Tensor | None = None
    g_Y: Tensor | None = None
    g_Y_h: Tensor | None = None
    g_Y_c: Tensor | None = None

    def __post_init__(self) -> None:
        self.Wb: Tensor | None
        self.Rb: Tensor | None
        self.Wb, self.Rb = (None, None) if self.B is None else _split(self.B, 2, axis=0)
        # Of X and R: as few Shape nodes as may be.
        self.steps, self.batch = shapes.dim(self.X, 0), shapes.dim(self.X, 1)
        self.zeros = shapes.full(self.X, [self.batch, shapes.dim(self.R, 1)], 0)
        if self.lens is not None:
            op = self.op
            times = op.Unsqueeze(shapes.arange(op, self.steps), op.const([1]))
            self.valid = op.Unsqueeze(times < self.lens, op.const([2]))
            self.last = op.Unsqueeze(times.equals(self.lens - 1), op.const([2]))
            # What lies beyond an end may be anything; a product with 0 would not keep NaN out.
            self.X = op.Where(self.valid, self.X, op.const(0, like=self.X))

    @property
    def H(self) -> Tensor:
        """The states before each step."""
        return self.before(self.Y, self.start(self.initial_h))

    @property
    def bias(self) -> Tensor | None:
        """Wb + Rb."""
        return None if self.Wb is None or self.Rb is None else self.Wb + self.Rb

    def start(self, initial: Tensor | None) -> Tensor:
        """An initial state: [N, H], zeros where it is not given."""
        return self.zeros if initial is None else initial

    def before(self, after: Tensor, start: Tensor) -> Tensor:
        """The states before each step, given those after it."""
        op = self.op
        first = op.Unsqueeze(start, op.const([0]))
        return op.typed(op.Concat(first, shapes.part(after, 0, -1), axis=0), after)

    def product(self, x: Tensor, W: Tensor, plus: Tensor | None) -> Tensor:
        """x W + plus, of all steps; a Gemm adds at less cost than an Add."""
        op = self.op
        if plus is not None and plus.rank == 3:
            plus = op.Flatten(plus, axis=2)
        y = op.Gemm(op.Flatten(x, axis=2), W, plus, transB=1)
        return shapes.reshape(y, [self.steps, self.batch, shapes.dim(y, 1)])

    def arguments(self) -> Tensor:
        """X W + Wb + H R + Rb, of all steps."""
        return self.product(self.H, self.R, self.product(self.X, self.W, self.bias))

    def seeds(self, steps: Tensor | None, final: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The cotangent that a state has after the last step, and what is added before each step.

        Args:
            steps: The cotangents of the state after each step, as an output of the node.
            final: Those of the final state.
        """
        op = self.op
        if self.lens is not None:
            parts = [] if steps is None else [op.mask(steps, self.valid)]
            if final is not None:
                parts.append(op.mask(op.Unsqueeze(final, op.const([0])), self.last))
            steps, final = op.sum(parts) if parts else None, None
        if steps is None:
            return self.start(final), None
        last = op.Gather(steps, op.const(-1), axis=0)
        return last if final is None else last + final, self.before(steps, self.zeros)

    def gradients(
        self, dx: Tensor, dh: Tensor, recurrent: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensors:
        """The cotangents of X, W, B and R.

        Args:
            dx, dh: Those of X W + Wb and of H R + Rb, of all steps.
            recurrent: Rows of R by rows: the cotangents of their products, and what they multiply.
        """
        op, found = self.op, {}
        if "X" in self.wanted:
            found["X"] = op.MatMul(dx, self.W)
        if "W" in self.wanted:
            found["W"] = _outer(dx, self.X)
        if "R" in self.wanted:
            rows = [_outer(d, seen) for d, seen in recurrent]
            found["R"] = rows[0] if len(rows) == 1 else op.Concat(*rows, axis=0)
        if "B" in self.wanted:
            found["B"] = op.Concat(*(shapes.reduce_sum(d, [0, 1]) for d in (dx, dh)), axis=0)
        return found


def _outer(d: Tensor, x: Tensor) -> Tensor:
    """The sum of d xᵀ over all steps and sequences."""
    return d.op.Gemm(d.op.Flatten(d, axis=2), d.op.Flatten(x, axis=2), transA=1)


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
    cell: Callable[[_Run, int], Tensors],
) -> Tensors:
    """The cotangents of the wanted operands, each direction by `cell`.

    Outputs that it gives too take the place of the node's.
    """
    present = {name: t for name, t in tensors.items() if t is not None}
    if layout:
        present["X"] = op.Transpose(present["X"], perm=[1, 0, 2])
    steps, batch = shapes.dim(present["X"], 0), shapes.dim(present["X"], 1)
    known = None if sequence_lens is None else sequence_lens.const
    if isinstance(steps, int) and known is not None and (known == steps).all():
        sequence_lens = None  # as exporters write where there is nothing to say
    lens = None if sequence_lens is None else op.Cast(sequence_lens, to=ir.DataType.INT64)
    full = op.Expand(shapes.vector(present["X"], [steps]), shapes.vector(present["X"], [batch]))

    def reverse(x: Tensor) -> Tensor:
        return op.ReverseSequence(x, full if lens is None else lens, time_axis=0, batch_axis=1)

    by_steps = lens is None and isinstance(batch, int) and batch >= op.target.stepped_from
    by_steps = by_steps and op.holds(present["Y"])
    found: dict[str, list[Tensor]] = {}
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    for k, is_reverse in enumerate(backwards):
        own = {n: _select(t, n, k, len(backwards), layout) for n, t in present.items()}
        if is_reverse:
            own |= {n: reverse(t) for n, t in own.items() if n in _SEQUENCES}
        columns = None if lens is None else op.Unsqueeze(lens, op.const([0]))
        for name, g in cell(_Run(op, wanted, columns, by_steps, **own), k).items():
            if name in wanted or name in _OUTPUTS:
                turned = is_reverse and name in _SEQUENCES
                found.setdefault(name, []).append(reverse(g) if turned else g)
    whole = {name: _join(op, name, ts, layout) for name, ts in found.items()}
    if outputs := [whole.pop(name) for name in _OUTPUTS if name in whole]:
        op.instead(node, outputs)
    return whole


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
    """The cotangent of an operand, or an output, from those that each direction gave."""
    if name == "X":
        return op.Transpose(op.sum(found), perm=[1, 0, 2]) if layout else op.sum(found)
    axis = 1 if name == "Y" else _axis(name, layout)
    parts = [op.Unsqueeze(t, op.const([axis])) for t in found]
    whole = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)
    return op.Transpose(whole, perm=[2, 0, 1, 3]) if layout and name == "Y" else whole


# -- activations -----------------------------------------------------------------------------------


def _either(op: Builder, condition: Tensor, yes: Any, no: Any, like: Tensor) -> Tensor:
    yes, no = (v if isinstance(v, Tensor) else op.const(v, like=like) for v in (yes, no))
    return op.Where(condition, yes, no)


# Value, slope, and arguments with their defaults; None is one on which runtimes do not agree. At a
# kink the slope is what activation.py gives the operator of that name.
_KINDS: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], dict[str, float | None]]] = {
    "sigmoid": (lambda op, x: op.Sigmoid(x), lambda op, x, y: y * (1 - y), {}),
    "tanh": (lambda op, x: op.Tanh(x), lambda op, x, y: 1 - y * y, {}),
    "relu": (lambda op, x: op.Relu(x), lambda op, x, y: y > 0, {}),
    "softplus": (lambda op, x: op.Softplus(x), lambda op, x, y: op.Sigmoid(x), {}),
    "softsign": (
        lambda op, x: op.Softsign(x),
        lambda op, x, y: (1 - op.Abs(y)) * (1 - op.Abs(y)),
        {},
    ),
    "affine": (
        lambda op, x, alpha, beta: x * alpha + beta,
        lambda op, x, y, alpha, beta: shapes.full_like(x, alpha),
        {"alpha": None, "beta": None},
    ),
    "leakyrelu": (
        lambda op, x, alpha: op.LeakyRelu(x, alpha=alpha),
        lambda op, x, y, alpha: _either(op, x > 0, 1, alpha, x),
        {"alpha": 0.01},
    ),
    "thresholdedrelu": (
        lambda op, x, alpha: op.ThresholdedRelu(x, alpha=alpha),
        lambda op, x, y, alpha: x > alpha,
        {"alpha": None},
    ),
    "scaledtanh": (
        lambda op, x, alpha, beta: op.Tanh(x * beta) * alpha,
        lambda op, x, y, alpha, beta: (1 - op.Tanh(x * beta) * op.Tanh(x * beta)) * (alpha * beta),
        {"alpha": None, "beta": None},
    ),
    "hardsigmoid": (
        lambda op, x, alpha, beta: op.HardSigmoid(x, alpha=alpha, beta=beta),
        lambda op, x, y, alpha, beta: op.Cast((y > 0) & (y < 1), to=y.dtype) * alpha,
        {"alpha": 0.2, "beta": 0.5},
    ),
    "elu": (
        lambda op, x, alpha: op.Elu(x, alpha=alpha),
        lambda op, x, y, alpha: _either(op, x > 0, 1, y + alpha, x),
        {"alpha": 1.0},
    ),
}


@dataclass(frozen=True)
class _Activation:
    """An activation function of an argument that is clipped first; it passes at both bounds."""

    kind: str
    arguments: dict[str, float]
    clip: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.clip is not None:
            x = x.op.Clip(x, x.op.const(-self.clip, like=x), x.op.const(self.clip, like=x))
        return _KINDS[self.kind][0](x.op, x, **self.arguments)

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """dy/dx as numbers."""
        op = x.op
        slope = op.cast(_KINDS[self.kind][1](op, x, y, **self.arguments), x.dtype)
        return slope if self.clip is None else op.mask(slope, op.Abs(x) <= self.clip)

    def unclipped(self) -> _Activation:
        """The same without the clip."""
        return replace(self, clip=None)


def _activations(
    op: Builder,
    names: Sequence[str],
    alphas: Sequence[float] | None,
    betas: Sequence[float] | None,
    clip: float | None,
    by_place: bool = False,
) -> list[_Activation]:
    """The activations with their arguments, which each takes in turn from the lists if it has any.

    With `by_place` the list has one for each, taken or not, and no defaults: so runtimes read RNN.
    """
    lists = {"alpha": alphas or [], "beta": betas or []}
    taken = {"alpha": 0, "beta": 0}
    found = []
    for place, name in enumerate(names):
        kind = name.lower()
        if kind not in _KINDS:
            op.refuse(f"it has no activation function {name!r}")
        arguments = {}
        for argument, default in _KINDS[kind][2].items():
            k = place if by_place else taken[argument]
            taken[argument] += 1
            if k < len(lists[argument]):
                arguments[argument] = lists[argument][k]
            elif default is not None and not by_place:
                arguments[argument] = default
            else:
                op.refuse(
                    f"runtimes do not agree on the default {argument} of its activation {name!r}; "
                    f"set the attribute activation_{argument}"
                )
        found.append(_Activation(kind, arguments, clip))
    return found
