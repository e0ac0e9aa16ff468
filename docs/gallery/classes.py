"""What the net calls a goldfish

Three pictures that began as noise, and climbed the gradient of the score of one class each, in one
batch. What the net looks for comes out: fins, seeds in furrows, long veils.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import onnxgrad as og

STEPS = 250  # small: 1
names = Path("models/imagenet_classes.txt").read_text().splitlines()
wanted = ["goldfish", "strawberry", "jellyfish"]
targets = [names.index(name) for name in wanted]
net, rng = og.Net("models/efficientnet_lite0.onnx"), np.random.default_rng(0)
score = og.heads.class_score("logits", target=targets)
x = rng.normal(0, 0.1, (3, 3, 224, 224)).astype("f")
for step in range(STEPS):
    y, z = rng.integers(-24, 25, 2)
    x = np.roll(x, (y, z), (2, 3))
    g = net(x, og.NetPortGradient("image"), of=score)
    x += 0.1 * (1 - step / STEPS) * g / g.std(axis=(1, 2, 3), keepdims=True)
    smooth = sum(np.roll(x, s, a) for s in (-1, 1) for a in (2, 3)) / 4
    x = np.clip(0.9 * x + 0.1 * smooth, -1, 1)
    x = np.roll(x, (-y, -z), (2, 3))
_, axes = plt.subplots(1, 3)
for axis, name, picture in zip(axes, wanted, x, strict=True):
    low, high = np.percentile(picture, [0.1, 99.9])
    axis.imshow(np.clip((picture.transpose(1, 2, 0) - low) / (high - low), 0, 1))
    axis.set_title(name)
    axis.axis("off")
plt.savefig("classes.png")
