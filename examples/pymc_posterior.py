"""The posterior of a model of decisions, whose likelihood is a net in a file.

HSSM samples with nets of such a kind: a trial goes in, its parameters and what was seen, and its
log-likelihood comes out. Here a decision takes the time that a Brownian motion of drift v takes to
reach the height a. The density of that time is known (Wald's, the inverse Gaussian): the net is
fitted to it, and the sample can be compared with the true posterior.

    pip install "onnxgrad[cpu,pymc]"
    python examples/pymc_posterior.py
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper as nh
import pymc as pm
import pytensor.tensor as pt

from onnxgrad import bridges

LOW, HIGH = np.array([0.5, 0.6]), np.array([2.5, 1.8])  # of v and a


def log_density(v, a, t):
    """Wald's log-density of the time t, for a drift v and a height a."""
    return np.log(a) - 0.5 * np.log(2 * np.pi * t**3) - (a - v * t) ** 2 / (2 * t)


def net(units: int = 128, seed: int = 0) -> onnx.ModelProto:
    """A net of one hidden layer, for one trial (v, a, t), whose last layer fits the log-density."""
    rng = np.random.default_rng(seed)
    v, a = rng.uniform(LOW, HIGH, (20_000, 2)).T
    t = rng.wald(a / v, a**2)
    centre, scale = np.array([1.5, 1.2, 0.0]), np.array([1.0, 0.6, 1.2])
    first = rng.normal(size=(3, units)) * 0.7
    shift = rng.normal(size=units)
    hidden = np.tanh((np.stack([v, a, np.log(t)], 1) - centre) / scale @ first + shift)
    last = np.linalg.lstsq(hidden, log_density(v, a, t), rcond=1e-9)[0]
    weights = {"centre": centre, "scale": scale, "W": first, "b": shift, "L": last[:, None]}
    nodes = [
        oh.make_node("Split", ["trial"], ["v", "a", "t"], axis=1, num_outputs=3),
        oh.make_node("Log", ["t"], ["log_t"]),
        oh.make_node("Concat", ["v", "a", "log_t"], ["x"], axis=1),
        oh.make_node("Sub", ["x", "centre"], ["moved"]),
        oh.make_node("Div", ["moved", "scale"], ["scaled"]),
        oh.make_node("Gemm", ["scaled", "W", "b"], ["z"]),
        oh.make_node("Tanh", ["z"], ["h"]),
        oh.make_node("MatMul", ["h", "L"], ["log_likelihood"]),
    ]
    graph = oh.make_graph(
        nodes,
        "wald",
        [oh.make_tensor_value_info("trial", onnx.TensorProto.FLOAT, [1, 3])],
        [oh.make_tensor_value_info("log_likelihood", onnx.TensorProto.FLOAT, [1, 1])],
        [nh.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)


def model(likelihood: onnx.ModelProto, times: np.ndarray) -> pm.Model:
    """The model: uniform priors, and the net for all trials at once."""
    log_likelihood = bridges.pytensor.op(likelihood)
    with pm.Model() as decisions:
        v = pm.Uniform("v", LOW[0], HIGH[0])
        a = pm.Uniform("a", LOW[1], HIGH[1])
        trials = pt.stack([pt.full_like(times, v), pt.full_like(times, a), times], axis=1)
        each = log_likelihood(pt.cast(trials, "float32"))
        pm.Potential("likelihood", pt.cast(each, "float64").sum())
    return decisions


def exact(times: np.ndarray, count: int = 300) -> dict[str, tuple[float, float]]:
    """The mean and the standard deviation of each parameter, by sums over a grid."""
    grid = np.linspace(LOW, HIGH, count)
    v, a = np.meshgrid(*grid.T, indexing="ij")
    log = sum(log_density(v, a, t) for t in times)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    means = {name: (weight * x).sum() for name, x in {"v": v, "a": a}.items()}
    return {
        name: (means[name], np.sqrt((weight * (x - means[name]) ** 2).sum()))
        for name, x in {"v": v, "a": a}.items()
    }


def main(trials: int = 2000, draws: int = 1000, tune: int = 500, chains: int = 2) -> dict:
    """By parameter: mean and deviation of the sample, and those of the true posterior."""
    times = np.random.default_rng(1).wald(1.2 / 1.5, 1.2**2, trials)  # of v = 1.5, a = 1.2
    with model(net(), times):
        sampled = pm.sample(draws, tune=tune, chains=chains, random_seed=2, progressbar=False)
    found = {}
    for name, expected in exact(times).items():
        values = sampled.posterior[name].to_numpy()
        found[name] = (values.mean(), values.std()), expected
        print(f"{name}: {values.mean():.3f} ± {values.std():.3f}, exactly", end=" ")
        print(f"{expected[0]:.3f} ± {expected[1]:.3f}")
    return found


if __name__ == "__main__":
    main()
