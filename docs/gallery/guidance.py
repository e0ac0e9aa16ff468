"""A classifier guides a diffusion

Noise becomes samples by the gradient of a log density. A classifier's gradient draws each sample to
the class of its colour, the stronger the larger the scale; both gradients are one file.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

STEPS = 200  # small: 5
density = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
density (float[N, 2] x, float width) => (float[N, 1] log_p)
<int64[1] one = {1}, int64[1] two = {2}> {
    row = Unsqueeze(x, one)  d = Sub(row, centres)  z = Div(d, width)  z2 = Mul(z, z)
    far = ReduceSum<keepdims = 0>(z2, two)  near = Neg(far)
    log_p = ReduceLogSumExp(near, one) }""")
classifier = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
classifier (float[N, 2] x) => (float[N, 8] logits) {
    t = Transpose(centres)  logits = MatMul(x, t) }""")
ring = np.exp(1j * np.pi / 4 * np.arange(8))
centres = 3 * np.stack([ring.real, ring.imag], -1).astype("f")
for net in (density, classifier):
    net.graph.initializer.append(onnx.numpy_helper.from_array(centres, "centres"))
score = og.gradient(density, "x", forward=False)
guided = og.adversarial.guidance(score, classifier, prediction="score", forward=False)
net, rng, target = og.Net(guided), np.random.default_rng(0), np.arange(800) % 8
for k, scale in enumerate((0, 0.3, 3)):
    x = rng.normal(0, 2, (800, 2)).astype("f")
    for width in np.geomspace(3, 0.6, STEPS, dtype="f"):
        g = net({"x": x, "width": width, "target": target, "scale": np.float32(scale)})
        noise = rng.standard_normal(x.shape, "f")
        x = x + 0.05 * width**2 * g + np.sqrt(np.float32(0.1)) * width * noise
    plt.subplot(1, 3, k + 1, title=f"scale {scale}", aspect="equal", xticks=[], yticks=[])
    plt.scatter(*x.T, c=target, s=4, cmap="hsv", vmax=8)
plt.savefig("guidance.png")
