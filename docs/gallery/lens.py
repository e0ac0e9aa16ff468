"""A lens ground by derivatives

Snell's law tells where rays go behind a curve of glass. By the exact Jacobian of that, Gauss and
Newton's method grinds a flat window into a lens, aspherical as a sharp focus needs it.
"""

import matplotlib.pyplot as plt
import numpy as np
from onnxscript import DOUBLE, script
from onnxscript import opset21 as op

import onnxgrad as og


@script(default_opset=op)
def trace(c: DOUBLE[4], y: DOUBLE["N"]):  # from heights y, through a glass of index 1.5 onto x = 2
    c1, c2, c3, c4 = op.Split(c, num_outputs=4)
    q = y * y
    glass = c1 * q + c2 * q**2.0 + c3 * q**3.0 + c4 * q**4.0  # the x at which the ray leaves it
    slope = y * (2.0 * c1 + 4.0 * c2 * q + 6.0 * c3 * q**2.0 + 8.0 * c4 * q**3.0)
    w = 1.0 / op.Sqrt(1.0 + slope * slope)
    a = op.Sqrt(1.0 - 2.25 * (1.0 - w * w)) - 1.5 * w
    hit = y - (2.0 - glass) * a * w * slope / (1.5 + a * w)
    return hit, glass


net, y, c = og.Net(trace.to_model_proto()), np.linspace(-0.7, 0.7, 29), np.zeros(4)
_, axes = plt.subplots(1, 3, sharey=True)
for step in range(41):
    feeds = {"c": c, "y": y}
    hit, glass = net(feeds).values()
    if step in (0, 4, 40):
        axis = axes[(0, 4, 40).index(step)]
        axis.plot([y * 0 - 0.7, glass, y * 0 + 2], [y, y, hit], color="#e9a820", lw=0.8, zorder=0)
        axis.fill_betweenx(y, -0.5, glass, color="#a9c8ff", alpha=0.8)
        axis.set_title(f"after {step} steps\nspot {np.sqrt((hit**2).mean()):.5f}")
        axis.axis("off")
    c -= 0.3 * np.linalg.lstsq(net.jacobian(feeds, "c", of="hit"), hit, rcond=None)[0]
plt.savefig("lens.png")
