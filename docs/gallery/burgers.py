"""A net that solves an equation

Burgers' equation, u_t + u u_x = 0.02 u_xx, makes a shock of a sine. The net knows no solution: it
learns from the equation's residual alone, with derivatives that are outputs of its own file.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

EPOCHS = 400  # small: 1
net = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
burgers (float[N, 1] t, float[N, 1] x) => (float[N, 1] u) <float pi = {3.14159265}> {
    tx = Concat<axis = 1>(t, x)  a1 = MatMul(tx, w1)  c1 = Add(a1, b1)  h1 = Tanh(c1)
    a2 = MatMul(h1, w2)  h2 = Tanh(a2)  a3 = MatMul(h2, w3)  h3 = Tanh(a3)  free = MatMul(h3, w4)
    angle = Mul(pi, x)  sine = Sin(angle)  later = Mul(t, sine)  change = Mul(later, free)
    u = Sub(change, sine) }""")  # -sin(pi x) at t = 0, and 0 at both ends, whatever the net is
rng, shapes = np.random.default_rng(0), {"w1": (2, 32), "b1": (1, 32), "w2": (32, 32)}
for name, n in (shapes | {"w3": (32, 32), "w4": (32, 1)}).items():
    w = rng.normal(0, n[0] ** -0.5, n).astype("f")
    net.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
model = og.gradient(og.gradient(net, ["t", "x"], of="u"), "x", of="x_grad")
names = ["u", "t_grad", "x_grad", "x_grad_grad"]
model = og.attach(model, lambda op, u, t, x, xx: {"residual": t + u * x - 0.02 * xx}, names)
points = rng.uniform([0, -1, 0], [1, 1, 0], (4096, 3)).astype("f")
trainer = og.train.Trainer(model, og.losses.mse("residual"), og.train.Adam())
rate = og.train.schedules.cosine(5e-3, 16 * EPOCHS)
trainer.fit(tuple(np.split(points, 3, axis=1)), EPOCHS, batch_size=256, schedule=rate)
t, x = np.meshgrid(np.linspace(0, 1, 100, dtype="f"), np.linspace(-1, 1, 100, dtype="f"))
u = og.Net(trainer.export())({"t": t.reshape(-1, 1), "x": x.reshape(-1, 1)})["u"].reshape(t.shape)
_, (left, right) = plt.subplots(1, 2, width_ratios=[1, 1.2])
left.pcolormesh(t, x, u, cmap="RdBu_r")
left.set(xlabel="time t", ylabel="place x")
right.plot(x[:, 0], u[:, [0, 25, 50, 99]], label=["t = 0", "t = 0.25", "t = 0.5", "t = 1"])
right.legend()
plt.savefig("burgers.png")
