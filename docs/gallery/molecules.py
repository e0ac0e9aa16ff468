"""Atoms moved by the gradient of an energy

The file holds an energy, that of Lennard-Jones, and the forces are its negative gradient. A square
of atoms melts into a drop; its total energy stays, as it does only where forces are exact.
"""

import matplotlib.pyplot as plt
import numpy as np
from onnxscript import DOUBLE, script
from onnxscript import opset21 as op

import onnxgrad as og

STEPS = 5000  # small: 50


@script(default_opset=op)
def lennard_jones(x: DOUBLE["N", 2]) -> DOUBLE:
    d = op.Unsqueeze(x, [1]) - op.Unsqueeze(x, [0])
    r2 = op.ReduceSum(d * d, [2], keepdims=0)
    s = 1.0 / (r2 + op.EyeLike(r2)) ** 3.0  # an atom and itself: s² - s = 0
    return 2.0 * op.ReduceSum(s * s - s, keepdims=0)


x, dt = 1.12 * np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2), 0.004
v = np.random.default_rng(1).normal(0, 0.65, x.shape)
net = og.Net(lennard_jones.to_model_proto())
run, path, energies = net.bind(x, [og.Value("return_val"), og.NetPortGradient("x")]), [], []
_, slope = run()
for _ in range(STEPS):  # velocity Verlet; a run reads x and writes the slope where they lie
    v -= dt / 2 * slope
    x += dt * v
    potential, slope = run()
    v -= dt / 2 * slope
    path.append(x.copy())
    kinetic = (v * v).sum() / 2
    energies.append((kinetic, kinetic + potential, potential.copy()))
_, (left, right) = plt.subplots(1, 2, width_ratios=[1, 1.3])
left.plot(*np.transpose(path, (2, 0, 1)), lw=0.3, alpha=0.6)
left.scatter(*path[-1].T, s=190, color="#2f6fde", edgecolor="white", zorder=3)
left.set(aspect="equal", xticks=[], yticks=[])
right.plot(energies, lw=1.2, label=["kinetic", "total", "potential"])
right.set(title=f"energy: the total changes by {np.ptp(energies, axis=0)[1]:.3f}", xlabel="step")
right.legend(loc="center right")
plt.savefig("molecules.png")
