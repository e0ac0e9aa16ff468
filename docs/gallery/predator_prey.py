"""A differential equation fitted to what was seen

Hares and lynxes by Lotka and Volterra, in a Scan of 2000 steps. Its Jacobian, taken forward through
them, tells how four rates move the curves: from noisy counts, Gauss and Newton's method finds them.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

STEPS = 2000  # small: 200
model = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
animals (double[4] rates, double[T] dt) => (double[2] end, double[T, 2] animals)
<double[2] start = {1, 0.6}> {
    a, b, c, d = Split<num_outputs = 4>(rates)
    end, animals = Scan<num_scan_inputs = 1, body = step (s, h) => (s1, s2) {
        hares, lynxes = Split<num_outputs = 2>(s)  met = Mul(hares, lynxes)
        born = Mul(a, hares)  eaten = Mul(b, met)  more = Sub(born, eaten)
        fed = Mul(c, met)  died = Mul(d, lynxes)  change = Sub(fed, died)
        both = Concat<axis = 0>(more, change)  moved = Mul(h, both)
        s1 = Add(s, moved)  s2 = Identity(s1) }> (start, dt)
}""")
net, time, seen = og.Net(model), np.linspace(0, 12, STEPS), slice(STEPS // 40, None, STEPS // 20)
feeds = {"rates": np.array([1.1, 1.0, 0.8, 0.7]), "dt": np.full(STEPS, 12 / STEPS)}
counts = net(feeds)["animals"][seen] + np.random.default_rng(3).normal(0, 0.06, (20, 2))
feeds["rates"], curves = np.array([1.0, 1.1, 0.7, 0.7]), []
for _ in range(12):
    curves.append(net(feeds)["animals"])
    j = net.jacobian(feeds, "rates", of="animals", mode="forward")[seen].reshape(-1, 4)
    feeds["rates"] += 0.7 * np.linalg.lstsq(j, (counts - curves[-1][seen]).ravel(), rcond=None)[0]
for k, (animal, color) in enumerate({"hares": "#2a9d8f", "lynxes": "#e4572e"}.items()):
    plt.plot(time, curves[0][:, k], "--", color=color, alpha=0.4)
    plt.plot(time, curves[-1][:, k], color=color, label=animal)
    plt.plot(time[seen], counts[:, k], "o", color=color)
plt.title("rates " + " ".join(f"{r:.2f}" for r in feeds["rates"]) + ", in truth 1.1 1.0 0.8 0.7")
plt.legend()
plt.savefig("predator_prey.png")
