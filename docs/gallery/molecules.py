"""Atoms moved by the gradient of an energy

The file holds an energy, that of Lennard-Jones, and the forces are its negative gradient. A square
of atoms melts. Kinetic (above) and potential energy change, their sum stays: forces are exact.
"""

import matplotlib.pyplot as plt
import numpy as np
from onnxscript import DOUBLE, script
from onnxscript import opset21 as op

import onnxgrad as og


@script(default_opset=op)
def energy(x: DOUBLE["N", 2]) -> DOUBLE:
    d = op.Unsqueeze(x, [1]) - op.Unsqueeze(x, [0])
    r2 = op.ReduceSum(d * d, [2], keepdims=0)
    s = 1.0 / (r2 + op.EyeLike(r2)) ** 3.0  # an atom and itself: s² - s = 0
    return 2.0 * op.ReduceSum(s * s - s, keepdims=0)


STEPS = 5000  # small: 50
x, dt = 1.12 * np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2), 0.004
v = np.random.default_rng(1).normal(0, 0.65, x.shape)
run = og.Net(energy.to_model_proto()).bind(x, [og.Value("return_val"), og.NetPortGradient("x")])
path, energies, slope = [], [], run()[1]
for _ in range(STEPS):  # velocity Verlet; a run reads x where it lies
    v -= dt / 2 * slope
    x += dt * v
    potential, slope = run()
    v -= dt / 2 * slope
    path.append(x.copy())
    energies.append(((v * v).sum() / 2, (v * v).sum() / 2 + potential, potential.copy()))
plt.subplot(1, 2, 1, aspect="equal", xticks=[], yticks=[])
plt.plot(*np.transpose(path, (2, 0, 1)), lw=0.3, alpha=0.6)
plt.scatter(*path[-1].T, s=190, color="#2f6fde", edgecolor="white", zorder=3)
plt.subplot(1, 2, 2, title=f"energies: their sum moves by {np.ptp(energies, axis=0)[1]:.3f}")
plt.plot(energies, lw=1.2)
plt.savefig("molecules.png")
