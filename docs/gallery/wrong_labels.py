"""The examples that are wrong

Of two hundred examples twelve have the wrong label. The gradient of each tells how much it holds
the net where it is (Koh and Liang 2017, with the Fisher matrix): look at the largest dots.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

EPOCHS = 60  # small: 1
model = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
moons (float[N, 2] x) => (float[N, 2] score) {
    a1 = Gemm(x, w1, b1)  h1 = Tanh(a1)  a2 = Gemm(h1, w2, b2)  h2 = Tanh(a2)
    score = MatMul(h2, w3) }""")
rng = np.random.default_rng(0)
for name, n in {"w1": (2, 16), "b1": (1, 16), "w2": (16, 16), "b2": (1, 16), "w3": (16, 2)}.items():
    w = rng.normal(0, n[0] ** -0.5, n).astype("f")
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
turn, truth = rng.uniform(0, np.pi, (200, 1)), np.arange(200) % 2
x = np.hstack([np.cos(turn), np.sin(turn)]) * (1 - 2 * truth[:, None]) + np.outer(truth, [1, 0.5])
x = (x + rng.normal(0, 0.15, x.shape)).astype("f")
labels = np.where(np.arange(200) < 12, 1 - truth, truth)
trainer = og.train.Trainer(model, og.losses.cross_entropy("score"), og.train.AdamW(lr=0.02))
trainer.fit((x, labels), EPOCHS)
loss = og.losses.cross_entropy("score", reduction="none")
net, feeds = og.Net(og.attach(trainer.export(), loss)), {"x": x, "labels": labels}
g = [each.reshape(200, -1) for each in net.per_example_gradient(feeds, of="loss").values()]
g = np.hstack(g)
influence = np.einsum("ni,ij,nj->n", g, np.linalg.inv(g.T @ g + 0.1 * np.eye(g.shape[1])), g)
plt.scatter(*x.T, s=10 + 300 * influence, c=labels, cmap="coolwarm", alpha=0.8)
plt.plot(*x[:12].T, "o", mfc="none", mec="black", ms=18, mew=1.2, label="wrong label")
plt.title(f"of the 12 largest {np.sum(np.argsort(influence)[-12:] < 12)} are wrong")
plt.legend()
plt.axis("off")
plt.savefig("wrong_labels.png")
