"""Atoms moved by the gradient of an energy

The file holds an energy, that of Lennard-Jones, and the forces are its gradient, negated. A square of atoms melts into a
drop; the total energy stays where it was, as it does only where forces are exact.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from onnxscript import DOUBLE, script
from onnxscript import opset21 as op

import onnxgrad as og

STEPS = 50 if os.getenv("SMALL") else 5000


@script(default_opset=op)
def lennard_jones(x: DOUBLE["N", 2]) -> DOUBLE:
    d = op.Unsqueeze(x, [1]) - op.Unsqueeze(x, [0])
    r2 = op.ReduceSum(d * d, [2], keepdims=0)
    s = 1.0 / (r2 + op.EyeLike(r2)) ** 3.0  # an atom and itself: s² - s = 0
    return 2.0 * op.ReduceSum(s * s - s, keepdims=0)


grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2) * 1.12
x, v, dt = grid.copy(), np.random.default_rng(1).normal(0, 0.65, grid.shape), 0.004
net = og.Net(lennard_jones.to_model_proto())
run, path, energies = net.bind(x, [og.Value("return_val"), og.NetPortGradient("x")]), [], []
slope = run()[1]
for _ in range(STEPS):  # velocity Verlet; a run reads x and writes the slope where they lie
    v -= dt / 2 * slope
    x += dt * v
    potential, slope = run()
    v -= dt / 2 * slope
    path.append(x.copy())
    energies.append((potential + (v * v).sum() / 2, potential.copy(), (v * v).sum() / 2))
_, (left, right) = plt.subplots(1, 2, width_ratios=[1, 1.3])
left.plot(*np.transpose(path, (2, 0, 1)), lw=0.3, alpha=0.6)
