"""RNN, GRU and LSTM by the standard's equations, one sequence and one step at a time; and Scan.

onnx's own recurrent operators ignore sequence_lens, activations and clip, and its Scan goes in one
direction only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxgrad.runtimes.ports import Array

# By name: the function of x, alpha and beta, and the defaults of alpha and beta if it takes them.
ACTIVATIONS: dict[str, tuple[Callable[..., Array], Sequence[float]]] = {
    "Relu": (lambda x: np.maximum(x, 0), []),
    "Tanh": (np.tanh, []),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), []),
    "Softsign": (lambda x: x / (1 + abs(x)), []),
    "Softplus": (lambda x: np.log1p(np.exp(x)), []),
    "LeakyRelu": (lambda x, a: np.where(x >= 0, x, a * x), [0.01]),
    "ThresholdedRelu": (lambda x, a: np.where(x > a, x, 0), [1]),
    "Elu": (lambda x, a: np.where(x >= 0, x, a * np.expm1(x)), [1]),
    "Affine": (lambda x, a, b: a * x + b, [1, 0]),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), [1, 1]),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), [0.2, 0.5]),
}


def _with(function: Callable[..., Array], arguments: Sequence[float]) -> Callable[[Array], Array]:
    return lambda x: function(x, *arguments)


class Recurrent(OpRun):
    """The part that the three share; a subclass has the default activations and the cell."""

    op_domain = ""
    default: Sequence[str] = ()

    def functions(
        self, directions: int, names: Sequence[str] | None, alphas: Array, betas: Array
    ) -> Iterator[Callable[[Array], Array]]:
        """The activations; each that has an alpha or a beta takes the next of the list."""
        alpha, beta = iter([] if alphas is None else alphas), iter([] if betas is None else betas)
        for name in names or [*self.default] * directions:
            function, defaults = ACTIVATIONS[name]
            arguments = [next(a, d) for a, d in zip((alpha, beta), defaults, strict=False)]
            yield _with(function, arguments)

    def _run(
        self, X, W, R, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None,
        activation_alpha=None, activation_beta=None, activations=None, clip=None,
        direction="forward", hidden_size=None, layout=0, input_forget=0, linear_before_reset=0,
    ):  # fmt: skip
        D, H = R.shape[0], R.shape[2]
        if layout:
            X = X.swapaxes(0, 1)
            initial_h, initial_c = (
                None if s is None else s.swapaxes(0, 1) for s in (initial_h, initial_c)
            )
        T, N, _ = X.shape
        B = np.zeros((D, 2 * R.shape[1])) if B is None else B
        P = np.zeros((D, 3 * H)) if P is None else P
        start = [np.zeros((D, N, H)) if s is None else s for s in (initial_h, initial_c)]
        lens = [T] * N if sequence_lens is None else sequence_lens
        own = [*self.functions(D, activations, activation_alpha, activation_beta)]
        each = len(self.default)
        Y, last = np.zeros((T, D, N, H), X.dtype), np.zeros((2, D, N, H), X.dtype)
        self._clip = (lambda x: x) if clip is None else (lambda x: np.clip(x, -clip, clip))
        self._coupled, self._linear = input_forget, linear_before_reset
        for d in range(D):
            cell = own[each * d : each * (d + 1)]
            for n in range(N):
                h, c = start[0][d, n], start[1][d, n]
                backwards = direction == "reverse" or d
                for t in reversed(range(lens[n])) if backwards else range(lens[n]):
                    h, c = self.step(X[t, n], h, c, W[d], R[d], *np.split(B[d], 2), P[d], *cell)
                    Y[t, d, n], last[:, d, n] = h, (h, c)
        if layout:
            Y, last = Y.transpose(2, 0, 1, 3), last.swapaxes(1, 2)
        return tuple(y.astype(X.dtype) for y in (Y, *last))[: len(self.onnx_node.output)]

    def step(self, x, h, c, W, R, Wb, Rb, P, *functions):
        raise NotImplementedError


class RNN(Recurrent):
    default = ("Tanh",)

    def step(self, x, h, c, W, R, Wb, Rb, P, f):
        return f(self._clip(W @ x + R @ h + Wb + Rb)), c


class GRU(Recurrent):
    default = ("Sigmoid", "Tanh")

    def step(self, x, h, c, W, R, Wb, Rb, P, f, g):
        xz, xr, xn = np.split(W @ x + Wb, 3)
        hz, hr, hn = np.split(R @ h + Rb, 3)
        z, r = f(self._clip(xz + hz)), f(self._clip(xr + hr))
        hn = r * hn if self._linear else np.split(R, 3)[2] @ (r * h) + np.split(Rb, 3)[2]
        return (1 - z) * g(self._clip(xn + hn)) + z * h, c


class LSTM(Recurrent):
    default = ("Sigmoid", "Tanh", "Tanh")

    def step(self, x, h, c, W, R, Wb, Rb, P, f, g, k):
        ai, ao, af, ac = np.split(W @ x + R @ h + Wb + Rb, 4)
        pi, po, pf = np.split(P, 3)
        i = f(self._clip(ai + pi * c))
        forget = 1 - i if self._coupled else f(self._clip(af + pf * c))
        c = forget * c + i * g(self._clip(ac))
        return f(self._clip(ao + po * c)) * k(c), c


class Scan(OpRun):
    op_domain = ""
    body: Any  # the evaluator sets it
    _run_body: Any

    def need_context(self) -> bool:
        return True

    def _run(
        self, *args, context=None, body=None, num_scan_inputs=None, scan_input_axes=None,
        scan_input_directions=None, scan_output_axes=None, scan_output_directions=None,
        attributes=None,
    ):  # fmt: skip
        n = len(args) - num_scan_inputs
        states, m = list(args[:n]), len(self.body.output_names) - n
        read = [
            np.flip(np.moveaxis(x, axis, 0), 0) if backwards else np.moveaxis(x, axis, 0)
            for x, axis, backwards in zip(
                args[n:],
                scan_input_axes or [0] * num_scan_inputs,
                scan_input_directions or [0] * num_scan_inputs,
                strict=True,
            )
        ]
        written: list[list[Array]] = [[] for _ in range(m)]
        for slices in zip(*read, strict=True):
            formal = zip(self.body.input_names, [*states, *slices], strict=True)
            results = self._run_body({**(context or {}), **dict(formal)})
            states = list(results[:n])
            for to, slice_ in zip(written, results[n:], strict=True):
                to.append(slice_)
        stacks = [
            np.moveaxis(np.stack(slices[::-1] if backwards else slices), 0, axis)
            for slices, axis, backwards in zip(
                written, scan_output_axes or [0] * m, scan_output_directions or [0] * m, strict=True
            )
        ]
        return (*states, *stacks)


OPS: list[type[OpRun]] = [GRU, LSTM, RNN, Scan]
