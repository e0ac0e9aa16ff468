"""A pendulum learns to stand

A Scan simulates a pendulum, and the gradient runs back through its hundred steps. Adam finds
pushes, each too weak to lift it, by which it swings to and fro, rises and stays. Below: the pushes.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

ROUNDS = 3000  # small: 3
model = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
swing (double[2] start, double[T] push, double[T, 1] weight) => (double[T, 2] states, double cost)
<double dt = {0.05}, double g = {9.81}, double most = {5}, double little = {0.02}> {
    end, states = Scan<num_scan_inputs = 1, body = step (s, p) => (s1, s2) {
        angle, speed = Split<num_outputs = 2>(s)  sine = Sin(angle)  pull = Mul(g, sine)
        soft = Tanh(p)  u = Mul(most, soft)  force = Sub(u, pull)  change = Mul(dt, force)
        faster = Add(speed, change)  turn = Mul(dt, faster)  further = Add(angle, turn)
        s1 = Concat<axis = 0>(further, faster)  s2 = Identity(s1) }> (start, push)
    angles, speeds = Split<num_outputs = 2, axis = 1>(states)  low = Cos(angles)
    squares = Mul(speeds, speeds)  fast = Mul(little, squares)  bad = Add(low, fast)
    costs = Mul(weight, bad)  cost = ReduceSum<keepdims = 0>(costs) }""")
net, m, v, time = og.Net(model), 0, 0, np.arange(100) / 20
feeds = {"start": np.zeros(2), "push": np.random.default_rng(1).normal(0, 0.1, 100)}
feeds["weight"] = time[:, None] / 5 + 10 * (time[:, None] > 4.5)
for t in range(1, ROUNDS):
    slope = net(feeds, og.NetPortGradient("push"), of="cost")
    m, v = 0.9 * m + 0.1 * slope, 0.99 * v + 0.01 * slope**2
    feeds["push"] -= 0.05 * m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.99**t) + 1e-12)
angle = net(feeds)["states"][:, 0]
x, y = 1.6 * time + np.sin(angle), -np.cos(angle)
plt.plot([1.6 * time, x], [0 * y, y], color="#c5cad1", lw=0.8)
plt.scatter(x, y, c=time, s=45, cmap="plasma", zorder=3)
plt.fill_between(1.6 * time, np.tanh(feeds["push"]) - 2.3, -2.3, color="#2f6fde", alpha=0.5)
plt.axis("equal")
plt.axis("off")
plt.savefig("pendulum.png")
