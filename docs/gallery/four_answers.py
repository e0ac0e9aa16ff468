"""Why a cat? Four answers

One file holds the classifier and four explanations of what it sees, which share a forward pass.
Grad-CAM finds the face; the finer the method, the more it is the eyes and the nose.
"""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np

import onnxgrad as og

PATH = "models/efficientnet_lite0.onnx"
POINTS = 20  # small: 2
explain = og.explain
methods = {
    "Grad-CAM": partial(explain.grad_cam, interpolate=True),
    "Layer-CAM": partial(explain.layer_cam, layer="blocks.4", interpolate=True),
    "Integrated gradients": partial(
        explain.integrated_gradients, n_steps=POINTS, internal_batch_size=5
    ),
    "Guided Grad-CAM": explain.guided_grad_cam,
}
net = og.Net(explain.several(PATH, methods))
x = explain.image("models/cat.jpg", net, mean=127, std=128)
_, *maps = net(x).values()
grey = x[0].mean(axis=0)

_, axes = plt.subplots(2, 2, figsize=(6.4, 4.6))
for axis, title, heat in zip(axes.flat, methods, maps, strict=True):
    heat = heat[0] if heat.ndim == 3 else np.abs(heat[0]).sum(axis=0)
    axis.imshow(grey, cmap="gray", aspect=2 / 3)
    axis.imshow(heat, cmap="inferno", alpha=0.7, vmax=np.percentile(heat, 99.5), aspect=2 / 3)
    axis.set_title(title)
    axis.axis("off")
plt.savefig("four_answers.png")
