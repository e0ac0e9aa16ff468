"""A cat's dream

DeepDream: the photo climbs along the gradient of the strength with which an inner block responds to
it, and the block draws what it looks for. Early blocks dream of textures, late ones of eyes.
"""

import matplotlib.pyplot as plt
import numpy as np

import onnxgrad as og

STEPS = 60  # small: 1
net = og.Net("models/efficientnet_lite0.onnx")
photo = og.explain.image("models/cat.jpg", net, mean=127, std=128)
rng = np.random.default_rng(0)
_, axes = plt.subplots(1, 3, figsize=(7.2, 2.1))
for axis, layer in zip(axes, ["blocks.2", "blocks.6", "blocks.10"], strict=True):
    x = photo.copy()
    for _ in range(STEPS):
        shift = tuple(rng.integers(-16, 17, 2))
        x = np.roll(x, shift, axis=(2, 3))
        slope = net(x, og.NetPortGradient("image"), of=og.heads.norm(layer))
        x = np.clip(x + 0.02 * slope / np.abs(slope).mean(), -1, 1)
        x = np.roll(x, (-shift[0], -shift[1]), axis=(2, 3))
    axis.imshow(x[0].transpose(1, 2, 0) / 2 + 0.5, aspect=2 / 3)
    axis.set_title(layer)
    axis.axis("off")
plt.savefig("dream.png")
