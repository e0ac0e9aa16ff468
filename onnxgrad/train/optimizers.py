"""Optimizers: one equation each, for a weight w, its gradient g, the rate, and the step count t.

Names, defaults and equations are those of torch.optim; Lion's are those of Chen et al. 2023. `s`
holds the state of a weight, which an equation reads and replaces. Numbers that the count and the
rate alone tell are scalars of double precision: 1 - β^t has no digits to spare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.train.arguments import require_number

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """What turns a gradient into a new weight.

    Args:
        lr: The learning rate that is proposed: a step takes it as an input.
        weight_decay: The factor of the weight that is added to its gradient.
        maximize: Climb.

    Raises:
        ArgumentError: A number is negative or not finite, or a beta is not below 1.
    """

    scalars: ClassVar[tuple[str, ...]] = ()

    lr: float = 1e-3
    weight_decay: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ArgumentError(f"{name} is True or False, not {value!r}")
            elif name == "betas":
                if not isinstance(value, Sequence) or len(value) != 2:
                    raise ArgumentError(f"betas are two numbers, as (0.9, 0.999), not {value!r}")
                for beta in value:
                    require_number("each of betas", beta)
                    if beta >= 1:
                        raise ArgumentError(f"each of betas is below 1, not {beta!r}")
            else:
                require_number(name, value)

    def state(self) -> dict[str, float]:
        """The state of a weight: its names, and the number that each tensor is filled with first.

        A tensor has the weight's shape, but that of `scalars` a lone number.
        """
        return {}

    @property
    def decouples(self) -> bool:
        """Whether weight decay shrinks the weight itself, not by way of the gradient."""
        return False

    @abstractmethod
    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        """The new weight. The entries of `s` are replaced by the next ones.

        Args:
            w: The weight.
            g: Its gradient, of the same dtype and shape.
            rate: The learning rate, a scalar of double precision.
            t: The number of this step, counted from 1, a scalar of double precision.
            s: The state.
        """

    def __call__(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        """The new weight, after weight decay."""
        g = -g if self.maximize else g
        if self.weight_decay and self.decouples:
            w = w * _as(w, 1 - rate * self.weight_decay)
        elif self.weight_decay:
            g = g + w * self.weight_decay
        return self.update(w, g, rate, t, s)


def _as(like: Tensor, scalar: Tensor) -> Tensor:
    return like.op.cast(scalar, like.dtype)


def _power(base: float, exponent: Tensor) -> Tensor:
    op = exponent.op
    return op.Pow(op.const(base, like=exponent), exponent)


def _mean(mean: Tensor, x: Tensor, beta: float) -> Tensor:
    """The running mean once it has seen x."""
    return mean * beta + x * (1 - beta)


def _moments(g: Tensor, betas: tuple[float, float], s: State) -> tuple[Tensor, Tensor]:
    """m and v, the running means of the gradient and of its square."""
    m = s["exp_avg"] = _mean(s["exp_avg"], g, betas[0])
    v = s["exp_avg_sq"] = _mean(s["exp_avg_sq"], g * g, betas[1])
    return m, v


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """w - lr b, with b = momentum b + (1 - dampening) g, which is g at first.

    With `nesterov` it is g + momentum b in the place of b.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ArgumentError("nesterov needs a momentum, and no dampening")

    def state(self) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if self.momentum else {}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        if self.momentum:
            b = s["momentum_buffer"] * self.momentum + g * (1 - self.dampening)
            if self.dampening:
                b = w.op.Where(t.equals(1), g, b)
            s["momentum_buffer"] = b
            g = g + b * self.momentum if self.nesterov else b
        return w - _as(w, rate) * g


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """w - lr m̂ / (√v̂ + eps), with m̂ = m / (1 - β₁^t) and v̂ = v / (1 - β₂^t).

    With `amsgrad` it is the largest v so far in the place of v.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def state(self) -> dict[str, float]:
        more = {"max_exp_avg_sq": 0.0} if self.amsgrad else {}
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0} | more

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        op = w.op
        m, v = _moments(g, self.betas, s)
        if self.amsgrad:
            v = s["max_exp_avg_sq"] = op.Max(s["max_exp_avg_sq"], v)
        root = op.Sqrt(1 - _power(self.betas[1], t))
        size = rate * root / (1 - _power(self.betas[0], t))
        return w - m * _as(w, size) / (op.Sqrt(v) + _as(w, root * self.eps))


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam, with the decay (1 - lr weight_decay) w of the weight itself."""

    weight_decay: float = 1e-2

    @property
    def decouples(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Adamax(Optimizer):
    """w - lr m / ((1 - β₁^t) u), with u = max(β₂ u, |g| + eps)."""

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def state(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        op = w.op
        m = s["exp_avg"] = _mean(s["exp_avg"], g, self.betas[0])
        u = s["exp_inf"] = op.Max(s["exp_inf"] * self.betas[1], op.Abs(g) + self.eps)
        return w - m * _as(w, rate / (1 - _power(self.betas[0], t))) / u


@dataclass(frozen=True, kw_only=True)
class NAdam(Optimizer):
    """w - lr (μ' m / (1 - Πμ μ') + (1 - μ) g / (1 - Πμ)) / (√v̂ + eps).

    With μ = β₁ (1 - 0.96^(t momentum_decay) / 2), μ' that of the next step, and Πμ the product of
    all so far.
    """

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum_decay: float = 4e-3
    scalars: ClassVar[tuple[str, ...]] = ("mu_product",)
    decoupled_weight_decay: bool = False

    def state(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0, "mu_product": 1.0}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        op = w.op
        mu, following = (
            (1 - _power(0.96, n * self.momentum_decay) * 0.5) * self.betas[0] for n in (t, t + 1)
        )
        product = op.cast(s["mu_product"], t.dtype) * mu
        s["mu_product"] = op.cast(product, s["mu_product"].dtype)
        m, v = _moments(g, self.betas, s)
        denominator = op.Sqrt(v / _as(w, 1 - _power(self.betas[1], t))) + self.eps
        ahead = m * _as(w, rate * following / (1 - product * following))
        now = g * _as(w, rate * (1 - mu) / (1 - product))
        return w - (ahead + now) / denominator

    @property
    def decouples(self) -> bool:
        return self.decoupled_weight_decay


@dataclass(frozen=True, kw_only=True)
class RAdam(Optimizer):
    """w - lr m̂ r √(1 - β₂^t) / (√v + eps) where ρ > 5, else w - lr m̂.

    With ρ∞ = 2 / (1 - β₂) - 1, ρ = ρ∞ - 2 t β₂^t / (1 - β₂^t) and
    r² = (ρ - 4) (ρ - 2) ρ∞ / ((ρ∞ - 4) (ρ∞ - 2) ρ).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decoupled_weight_decay: bool = False

    def state(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        op = w.op
        m, v = _moments(g, self.betas, s)
        powers = _power(self.betas[1], t)
        limit = 2 / (1 - self.betas[1]) - 1
        size = rate / (1 - _power(self.betas[0], t))
        if limit <= 5:  # which ρ stays below
            return w - m * _as(w, size)
        rho = limit - t * powers * 2 / (1 - powers)
        safe = op.Where(rho > 5, rho, op.const(5, like=rho))
        square = (safe - 4) * (safe - 2) * (limit / ((limit - 4) * (limit - 2))) / safe
        adapted = m * _as(w, size * op.Sqrt(square * (1 - powers))) / (op.Sqrt(v) + self.eps)
        return w - op.Where(rho > 5, adapted, m * _as(w, size))

    @property
    def decouples(self) -> bool:
        return self.decoupled_weight_decay


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """w - lr / (1 + (t - 1) lr_decay) g / (√Σ + eps), with Σ the sum of all g²."""

    lr: float = 1e-2
    lr_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def state(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        total = s["sum"] = s["sum"] + g * g
        if self.lr_decay:
            rate = rate / ((t - 1) * self.lr_decay + 1)
        return w - g * _as(w, rate) / (w.op.Sqrt(total) + self.eps)


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """w - lr g / (√v + eps), with v = alpha v + (1 - alpha) g².

    With `centered` it is v - m² in the place of v, m being the running mean of g. With `momentum`
    it is w - lr b, with b = momentum b + g / (√v + eps).
    """

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def state(self) -> dict[str, float]:
        names = ["square_avg"]
        names += ["momentum_buffer"] if self.momentum else []
        names += ["grad_avg"] if self.centered else []
        return dict.fromkeys(names, 0.0)

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        v = s["square_avg"] = _mean(s["square_avg"], g * g, self.alpha)
        if self.centered:
            m = s["grad_avg"] = _mean(s["grad_avg"], g, self.alpha)
            v = v - m * m
        step = g / (w.op.Sqrt(v) + self.eps)
        if self.momentum:
            step = s["momentum_buffer"] = s["momentum_buffer"] * self.momentum + step
        return w - step * _as(w, rate)


@dataclass(frozen=True, kw_only=True)
class Adadelta(Optimizer):
    """w - lr d, with d = g √(u + eps) / √(v + eps), v and u the running means of g² and d²."""

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6

    def state(self) -> dict[str, float]:
        return {"square_avg": 0.0, "acc_delta": 0.0}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        op = w.op
        v = s["square_avg"] = s["square_avg"] * self.rho + g * g * (1 - self.rho)
        d = op.Sqrt(s["acc_delta"] + self.eps) / op.Sqrt(v + self.eps) * g
        s["acc_delta"] = s["acc_delta"] * self.rho + d * d * (1 - self.rho)
        return w - d * _as(w, rate)


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """(1 - lr weight_decay) w - lr sign(β₁ m + (1 - β₁) g), then m = β₂ m + (1 - β₂) g."""

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)

    def state(self) -> dict[str, float]:
        return {"exp_avg": 0.0}

    def update(self, w: Tensor, g: Tensor, rate: Tensor, t: Tensor, s: State) -> Tensor:
        direction = w.op.Sign(_mean(s["exp_avg"], g, self.betas[0]))
        s["exp_avg"] = _mean(s["exp_avg"], g, self.betas[1])
        return w - direction * _as(w, rate)

    @property
    def decouples(self) -> bool:
        return True


def known(optimizer: Any) -> Optimizer:
    """An optimizer.

    Raises:
        ArgumentError: It is none.
    """
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"optimizer is one of onnxgrad.train, as Adam(), not {optimizer!r}")
    return optimizer
