"""A net that knows where it does not know

A net fits noisy points. The gradient of its answer to each of them tells how firmly they hold the
weights (Laplace's approximation), and so how sure each answer is: less where no point was seen.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

EPOCHS = 2000  # small: 1
model = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
curve (float[N, 1] x) => (float[N, 1] y) {
    a1 = Gemm(x, w1, b1)  h1 = Tanh(a1)  a2 = Gemm(h1, w2, b2)  h2 = Tanh(a2)  y = MatMul(h2, w3)
}""")
rng, shapes = np.random.default_rng(0), {"w1": (1, 16), "b1": (16,), "w2": (16, 16), "b2": (16,)}
for name, n in (shapes | {"w3": (16, 1)}).items():
    w = rng.normal(0, n[0] ** -0.5, n).astype("f")
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
x = np.concatenate([rng.uniform(-4, -1, 20), rng.uniform(1.5, 3.5, 20)])[:, None].astype("f")
y = (np.sin(1.5 * x) + rng.normal(0, 0.1, x.shape)).astype("f")
trainer = og.train.Trainer(model, og.losses.mse("y"), og.train.Adam(lr=0.01, weight_decay=1e-4))
trainer.fit((x, y), EPOCHS, batch_size=40)

net, line = og.Net(trainer.export()), np.linspace(-6, 6, 300, dtype="f")[:, None]
grads = [net.per_example_gradient(p).values() for p in (x, line)]
seen, asked = (np.hstack([g.reshape(len(g), -1) for g in each]) for each in grads)
weights = np.linalg.inv(seen.T @ seen / 0.1**2 + np.eye(seen.shape[1]))
doubt = np.sqrt(np.einsum("ni,ij,nj->n", asked, weights, asked) + 0.1**2)
answer = net(line)[:, 0]
for width in (1, 2):
    low, high = answer - width * doubt, answer + width * doubt
    plt.fill_between(line[:, 0], low, high, alpha=0.2, color="C0")
plt.plot(line, answer)
plt.plot(x, y, "o", color="C1", ms=5)
plt.savefig("doubt.png")
