"""Newton's method in a curved valley

Gradient descent creeps along Rosenbrock's valley. With the exact Hessian, which is a file as the
gradient is, Newton's method follows its bend to the star in a few steps.
"""

import matplotlib.pyplot as plt
import numpy as np
from onnxscript import DOUBLE, script
from onnxscript import opset21 as op

import onnxgrad as og


@script(default_opset=op)
def rosenbrock(p: DOUBLE[2]) -> DOUBLE:
    x, y = op.Split(p, num_outputs=2)
    return op.Squeeze(100.0 * (y - x * x) * (y - x * x) + (1.0 - x) * (1.0 - x))


net, start = og.Net(rosenbrock.to_model_proto()), np.array([-1.2, 1.0])
newton, slow = [start], [start]
while np.abs(slope := net.gradient(newton[-1])).max() > 1e-6:
    step = np.linalg.solve(net.hessian(newton[-1]), slope)
    while net(newton[-1] - step) > net(newton[-1]):  # too far: the valley bends
        step /= 2
    newton.append(newton[-1] - step)
for _ in range(500):
    slow.append(slow[-1] - 0.0015 * net.gradient(slow[-1]))

x, y = np.meshgrid(np.linspace(-1.6, 1.6, 200), np.linspace(-0.6, 1.8, 150))
height = np.log1p(100 * (y - x**2) ** 2 + (1 - x) ** 2)
plt.contourf(x, y, height, 24, cmap="Blues_r", alpha=0.8)
plt.plot(*np.transpose(slow), color="#e9a820", label=f"gradient descent, {len(slow) - 1} steps")
plt.plot(*np.transpose(newton), "o-", color="#e4572e", label=f"Newton, {len(newton) - 1} steps")
plt.plot(1, 1, "*", color="white", markersize=16, markeredgecolor="black")
plt.axis((-1.6, 1.6, -0.6, 1.8))
plt.legend(loc="upper center")
plt.savefig("newton.png")
