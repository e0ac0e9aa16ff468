"""A net that knows where it does not know

A net fits noisy points. The gradient of its answer to each of them tells how firmly they hold the
weights (Laplace's approximation), and so how sure each answer is: less where no point was seen.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

EPOCHS = 2000  # small: 1
NOISE = 0.1
model = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
curve (float[N, 1] x) => (float[N, 1] y) {
    a1 = Gemm(x, w1, b1)  h1 = Tanh(a1)  a2 = Gemm(h1, w2, b2)  h2 = Tanh(a2)  y = Gemm(h2, w3, b3)
}""")
rng = np.random.default_rng(0)
for k, (a, b) in enumerate([(1, 16), (16, 16), (16, 1)], 1):
    for name, shape in {"w": (a, b), "b": (b,)}.items():
        w = rng.normal(0, a**-0.5, shape).astype("f")
        model.graph.initializer.append(onnx.numpy_helper.from_array(w, f"{name}{k}"))
x = np.concatenate([rng.uniform(-4, -1, 20), rng.uniform(1.5, 3.5, 20)])[:, None].astype("f")
y = (np.sin(1.5 * x) + rng.normal(0, NOISE, x.shape)).astype("f")
trainer = og.train.Trainer(model, og.losses.mse("y"), og.train.Adam(lr=0.01, weight_decay=1e-4))
trainer.fit((x, y), EPOCHS, batch_size=40)

net, line = og.Net(trainer.export()), np.linspace(-6, 6, 300, dtype="f")[:, None]
seen, asked = (
    np.concatenate([g.reshape(len(p), -1) for g in net.per_example_gradient(p).values()], axis=1)
    for p in (x, line)
)
weights = np.linalg.inv(seen.T @ seen / NOISE**2 + np.eye(seen.shape[1]))
doubt = np.sqrt(np.einsum("ni,ij,nj->n", asked, weights, asked) + NOISE**2)
answer = net(line)[:, 0]
for width in (1, 2):
    plt.fill_between(
        line[:, 0], answer - width * doubt, answer + width * doubt, alpha=0.2, color="C0"
    )
plt.plot(line, answer)
plt.plot(x, y, "o", color="C1", ms=5)
plt.ylim(-4, 4)
plt.savefig("doubt.png")
