"""What privacy costs

DP-SGD clips the gradient of each example and adds noise, so that no single example can be read off
the weights. The more noise, the more private the net, and the less it knows.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

RUNS = 5  # small: 1
NOISES = [0.1, 0.3, 1, 3, 10, 30]  # small: [1]
net = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
moons (float[N, 2] x) => (float[N, 2] score) {
    a1 = Gemm(x, w1, b1)  h1 = Tanh(a1)  score = MatMul(h1, w2) }""")
rng = np.random.default_rng(0)
for name, n in {"w1": (2, 16), "b1": (16,), "w2": (16, 2)}.items():
    w = rng.normal(0, n[0] ** -0.5, n).astype("f")
    net.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
turn, y = rng.uniform(0, np.pi, (1000, 1)), np.arange(1000) % 2
x = np.hstack([np.cos(turn), np.sin(turn)]) * (1 - 2 * y[:, None]) + np.outer(y, [1, 0.5])
x = (x + rng.normal(0, 0.15, x.shape)).astype("f")

loss, accuracy = og.losses.cross_entropy("score"), {"right": og.train.accuracy("score")}
for noise in NOISES:
    for seed in range(RUNS):
        privacy = og.train.DPSGD(noise_multiplier=noise, max_grad_norm=0.5, seed=seed)
        options = {"metrics": accuracy, "privacy": privacy}
        trainer = og.train.Trainer(net, loss, og.train.Adam(lr=0.02), **options)
        trainer.fit((x[:500], y[:500]), 20, batch_size=50)
        right = trainer.evaluate((x[500:], y[500:]))["right"]
        plt.plot(noise, 100 * right, "o", color="C0", alpha=0.6, ms=9)
plt.xscale("log")
plt.xlabel("noise multiplier")
plt.ylabel("% of others right, five trainings each")
plt.savefig("private.png")
