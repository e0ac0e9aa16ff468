"""Weights of one bit

All weights of the hidden layers are -1 or 1. Rounded after its training, a net of floats errs; the
third one was trained through the rounding, with gradients that pass straight through it.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

EPOCHS = 150  # small: 1
text = """
<ir_version: 10, opset_import: ["" : 21]>
moons (float[N, 2] x) => (float[N, 2] score) {
    s1 = Sign(w1)  a1 = MatMul(x, s1)  c1 = Add(a1, b1)  h1 = Relu(c1)
    s2 = Sign(w2)  a2 = MatMul(h1, s2)  c2 = Add(a2, b2)  h2 = Relu(c2)  score = MatMul(h2, w3) }"""
bits, floats = (onnx.parser.parse_model(t) for t in (text, text.replace("Sign", "Identity")))
rng = np.random.default_rng(0)
for name, n in {"w1": (2, 32), "b1": (32,), "w2": (32, 32), "b2": (32,), "w3": (32, 2)}.items():
    w = onnx.numpy_helper.from_array(rng.normal(0, 0.2, n).astype("f"), name)
    floats.graph.initializer.append(w)
bits.graph.initializer.extend(floats.graph.initializer)
turn, label = rng.uniform(0, np.pi, (400, 1)), np.arange(400) % 2
x = np.hstack([np.cos(turn), np.sin(turn)]) * (1 - 2 * label[:, None]) + np.outer(label, [1, 0.5])
x = (x + rng.normal(0, 0.1, x.shape)).astype("f")
loss, adam = og.losses.cross_entropy("score"), og.train.Adam(lr=0.01)
before = og.train.Trainer(floats, loss, adam)
before.fit((x, label), EPOCHS)
through = og.train.Trainer(bits, loss, adam, straight_through=["Sign"])
through.fit((x, label), EPOCHS)
a, b = np.meshgrid(np.linspace(-1.7, 2.7, 150), np.linspace(-1.2, 1.7, 100))
for k, net in enumerate((before.export(), og.train.export(bits, before.state), through.export())):
    s = og.Net(net)(np.stack([a, b], -1).reshape(-1, 2).astype("f"))
    plt.subplot(1, 3, k + 1, title=["floats", "then rounded", "trained through rounding"][k])
    plt.contourf(a, b, (s[:, 1] > s[:, 0]).reshape(a.shape), cmap="coolwarm", alpha=0.4)
    plt.scatter(*x.T, c=label, cmap="coolwarm", s=3)
    plt.axis("off")
plt.savefig("rounding.png")
